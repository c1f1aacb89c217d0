"""Real processes: one that dies or fails ends the others, with one line and its own exit code."""

import signal

import pytest

from tests.parallel.processes import finish, start, wait_for

SCRIPT = "tests/parallel/one_of_several.py"


def lines_of(output):
    """Returns what a process said besides its steps."""
    ours = ("together", "stepping", "[Gloo]")
    return [line for line in output.splitlines() if line and not line.startswith(ours)]


@pytest.mark.parametrize("dead", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_kill_9_ends_the_others_with_75(tmp_path, dead):
    mark = tmp_path / "stepping"
    processes = start(SCRIPT, [f"--mark={mark}"], 3)
    wait_for(mark.exists, processes)
    processes[dead].send_signal(signal.SIGKILL)
    codes, outputs = finish(processes, seconds=20)
    assert codes == [-9 if i == dead else 75 for i in range(3)], outputs
    for output in outputs[:dead] + outputs[dead + 1 :]:
        (line,) = lines_of(output)
        assert line.endswith(
            f"process {dead} has died, or its machine cannot be reached; run the same command again"
        )


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "code"), [("config", 2), ("bug", 1)])
@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_one_ends_all_with_its_code(kind, code, failing):
    codes, outputs = finish(start(SCRIPT, [f"--fails={kind}:{failing}"], 2), seconds=60)
    assert codes == [code] * 2, outputs
    why = {"config": "config.data.name='x': wrong here", "bug": "TypeError: a bug"}[kind]
    (line,) = lines_of(outputs[1 - failing])
    assert line.endswith(f"process {failing} has ended with exit code {code}: {why}")
    assert lines_of(outputs[failing])[-1].endswith(why)
    assert ("Traceback" in outputs[failing]) == (kind == "bug")


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_process_ends_the_others_by_the_watchdog(tmp_path, stopped):
    mark = tmp_path / "stepping"
    processes = start(SCRIPT, [f"--mark={mark}", "--watchdog_seconds=8"], 3)
    wait_for(mark.exists, processes)
    processes[stopped].send_signal(signal.SIGSTOP)
    others = processes[:stopped] + processes[stopped + 1 :]
    codes, outputs = finish(others, seconds=40)
    assert codes == [70, 70], outputs
    assert all("in process_allgather" in output for output in outputs)
    assert all("nothing has moved for " in output for output in outputs), outputs
    processes[stopped].send_signal(signal.SIGCONT)  # it hears of the end, and does not go on alone
    codes, outputs = finish([processes[stopped]], seconds=40)
    assert codes[0] in (70, 75), outputs


@pytest.mark.slow
def test_a_process_that_is_stopped_at_the_end_is_not_waited_for():
    flags = ["--steps=2", "--fails=sleeps:1", "--watchdog_seconds=4"]
    first, sleeping = start(SCRIPT, flags, 2)
    codes, (output,) = finish([first], seconds=60)
    sleeping.kill()
    finish([sleeping])
    assert codes == [70] and "in gather" in output, output


@pytest.mark.slow
def test_an_end_in_good_order():
    codes, outputs = finish(start(SCRIPT, ["--steps=5"], 4), seconds=60)
    assert codes == [0] * 4, outputs
    assert [lines_of(output) for output in outputs] == [["done"]] * 4
