import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.errors import ConfigError, Interrupted
from sweeps import start as starting
from sweeps.launchers import devices
from sweeps.launchers.local import Local
from sweeps.runs import name_runs, read_runs
from sweeps.states import note_end, note_start, state_of
from tests.sweeps.fake_job import fake
from workdirs.claims import is_claimed

LAUNCH = Path(__file__).with_name("launch_fake.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fake_runs(monkeypatch):
    monkeypatch.setattr("sweeps.runs.Run.command", fake)
    monkeypatch.setattr(starting, "check_runs", lambda runs: None)


def seeds(number, **fixed):
    return name_runs("r.py", fixed, [{"seed": str(seed)} for seed in range(number)])


def finals(folder):
    return {path.parent.name: path.read_text() for path in sorted(folder.glob("*/DONE"))}


def starts(folder):
    return {path.parent.name: len(path.read_text()) for path in folder.glob("*/starts")}


def launch(folder, parallel, number, steps=10, *more):
    numbers = map(str, (parallel, number, steps))
    command = [sys.executable, str(LAUNCH), str(folder), *numbers, *more]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True
    )


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def children_of(folder):
    records = [json.loads(p.read_text()) for p in (folder / "states").glob("*.json")]
    return [record["pid"] for record in records if "exit_code" not in record]


def is_amid_a_run(folder):
    left = [p for p in folder.glob("*/metrics.jsonl") if not (p.parent / "DONE").exists()]
    return any(1 <= len(path.read_text().splitlines()) <= 6 for path in left)


def kill_everything(folder, process):
    process.kill()
    process.wait()
    for pid in children_of(folder):
        os.kill(pid, signal.SIGKILL)


def test_stopped_twice_a_sweep_ends_as_an_undisturbed_one(tmp_path):
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    assert launch(undisturbed, 4, 12).wait() == 0
    process = launch(stopped, 4, 12)
    wait_for(lambda: len(finals(stopped)) >= 2 and is_amid_a_run(stopped))
    kill_everything(stopped, process)
    killed = len(finals(stopped))
    assert killed < 8
    process = launch(stopped, 4, 12)
    wait_for(lambda: len(finals(stopped)) > killed + 1 and is_amid_a_run(stopped))
    process.send_signal(signal.SIGINT)
    assert process.wait() == Interrupted.exit_code
    done = finals(stopped)
    assert len(done) < 12
    statuses = {state_of(stopped, run).status for run in read_runs(stopped)}
    assert {"done", "interrupted"} <= statuses <= {"done", "interrupted", "waiting"}
    assert launch(stopped, 4, 12).wait() == 0
    assert finals(stopped) == finals(undisturbed) and len(finals(stopped)) == 12
    assert not list(stopped.glob("*/trained_again"))


def test_only_what_is_not_done_starts(tmp_path):
    runs = seeds(3)
    starting.start(tmp_path, runs, Local(parallel=3))
    starting.start(tmp_path, runs, Local(parallel=3))
    assert starts(tmp_path) == {run.name: 1 for run in runs}
    starting.start(tmp_path, seeds(4), Local(parallel=3))  # one seed more
    assert starts(tmp_path) == {run.name: 1 for run in seeds(4)}
    assert [run.name for run in read_runs(tmp_path)] == [run.name for run in seeds(4)]


@pytest.mark.parametrize("code", [1, 2, 3])
def test_a_failed_run_ends_no_other_and_starts_again_on_demand(tmp_path, code, capsys):
    runs = seeds(2) + name_runs("r.py", {"fail": str(code)}, [{"steps": "10"}])
    states = starting.start(tmp_path, runs, Local(parallel=1))
    assert [states[run.name].status for run in runs] == ["done", "done", "failed"]
    assert states["steps=10"].last_line == "it cannot go on"
    states = starting.start(tmp_path, runs, Local(parallel=1))
    assert "1 failed; --retry_failed: these again" in capsys.readouterr().out
    assert starts(tmp_path)["steps=10"] == 1
    starting.start(tmp_path, runs, Local(parallel=1), retry_failed=True)
    assert starts(tmp_path) == {"seed=0": 1, "seed=1": 1, "steps=10": 2}


def test_a_run_that_something_kills_is_failed_and_says_so(tmp_path):
    runs = seeds(1, steps="1000")
    process = launch_in_thread(tmp_path, runs)
    wait_for(lambda: children_of(tmp_path))
    os.kill(children_of(tmp_path)[0], signal.SIGKILL)
    process.join()
    state = state_of(tmp_path, runs[0])
    assert state.status == "failed" and state.last_line.startswith("killed by signal 9")


def launch_in_thread(folder, runs, **options):
    thread = threading.Thread(
        target=starting.start, args=(folder, runs, Local(parallel=1)), kwargs=options
    )
    thread.start()
    return thread


def test_orphans_of_a_killed_launcher_are_waited_for_and_not_started_twice(tmp_path):
    process = launch(tmp_path, 2, 2, steps=60)
    wait_for(lambda: len(list(tmp_path.glob("*/metrics.jsonl"))) == 2)
    process.kill()  # its runs go on
    process.wait()
    assert {state_of(tmp_path, run).status for run in read_runs(tmp_path)} == {"running"}
    assert launch(tmp_path, 2, 2, steps=60).wait() == 0
    assert starts(tmp_path) == {"seed=0": 1, "seed=1": 1} and len(finals(tmp_path)) == 2


def test_two_launchers_are_refused(tmp_path):
    process = launch(tmp_path, 1, 3)
    wait_for(lambda: list(tmp_path.glob("*/metrics.jsonl")))
    with pytest.raises(ConfigError, match="another launcher is at work"):
        starting.start(tmp_path, seeds(3, steps="10"), Local(parallel=1))
    assert process.wait() == 0


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (seeds(2), "its run seed=2 is not among these"),
        (seeds(3, steps="5"), r"its run seed=0 is .* there, .* now"),
        (name_runs("r.py", {}, [{"depth": "1"}]), "its run seed=0 is not among these"),
        (name_runs("other.py", {}, [{"seed": str(i)} for i in range(3)]), r"r\.py.*other\.py"),
    ],
)
def test_the_folder_of_another_sweep_is_refused(tmp_path, other, problem):
    starting.start(tmp_path, seeds(3), Local(parallel=3))
    before = (tmp_path / "runs.jsonl").read_text()
    with pytest.raises(ConfigError, match=f"holds another sweep.*{problem}"):
        starting.start(tmp_path, other, Local(parallel=1))
    assert (tmp_path / "runs.jsonl").read_text() == before


def test_states_of_runs_that_never_began_or_are_half_written(tmp_path):
    run = seeds(1)[0]
    assert state_of(tmp_path, run).status == "waiting"
    note_start(tmp_path, run, os.getpid())
    assert state_of(tmp_path, run).status == "running"
    note_end(tmp_path, run, 75)
    (tmp_path / run.name).mkdir()
    lines = ['{"kind": "eval", "step": 3, "top1_accuracy": 0.5}', "torn", '{"kind": "ev']
    (tmp_path / run.name / "metrics.jsonl").write_text("\n".join(lines))
    state = state_of(tmp_path, run)
    assert (state.status, state.step, state.metrics["top1_accuracy"]) == ("interrupted", 3, 0.5)
    (tmp_path / run.name / "DONE").write_text("{")
    assert state_of(tmp_path, run).status == "failed"
    (tmp_path / "states" / f"{run.name}.json").write_text("nonsense")
    (tmp_path / run.name / "DONE").unlink()
    assert state_of(tmp_path, run).status == "interrupted"


def test_a_number_of_a_process_that_is_used_again_is_not_the_run(tmp_path):
    run = seeds(1)[0]
    note_start(tmp_path, run, os.getpid())
    path = tmp_path / "states" / f"{run.name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "process_start": 1}))
    assert state_of(tmp_path, run).status == "interrupted"


class Later:
    """A launcher that returns at once, as those of schedulers do."""

    def launch(self, folder, runs):
        pass


def test_a_launcher_that_was_slower_to_check_does_not_overwrite_a_manifest(tmp_path, monkeypatch):
    other = name_runs("r.py", {}, [{"depth": "1"}])

    def checked_meanwhile(runs):
        monkeypatch.setattr(starting, "check_runs", lambda runs: None)
        starting.start(tmp_path, other, Later())

    monkeypatch.setattr(starting, "check_runs", checked_meanwhile)
    with pytest.raises(ConfigError, match="holds another sweep"):
        starting.start(tmp_path, seeds(2), Later())
    assert read_runs(tmp_path) == other


def test_the_time_of_a_run_that_was_killed_ends_with_what_it_wrote_last(tmp_path):
    run = seeds(1)[0]
    note_start(tmp_path, run, os.getpid())
    path = tmp_path / "states" / f"{run.name}.json"
    begun = time.time() - 1e6
    record = json.loads(path.read_text()) | {"started": begun, "pid": 2**22}
    path.write_text(json.dumps(record))
    log = tmp_path / f"{run.name}.log"
    log.touch()
    os.utime(log, (begun + 90, begun + 90))
    assert state_of(tmp_path, run).seconds == pytest.approx(90.0, abs=0.01)
    note_start(tmp_path, run, os.getpid())  # the next attempt goes on from there
    assert 89.9 <= state_of(tmp_path, run).seconds < 100.0


def test_an_evaluation_far_up_the_log_still_counts(tmp_path):
    run = seeds(1)[0]
    (tmp_path / run.name).mkdir()
    lines = ['{"kind": "eval", "step": 1, "top1_accuracy": 0.5}']
    lines += [json.dumps({"kind": "train", "step": n, "loss": 1.0}) for n in range(2, 500)]
    (tmp_path / run.name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert state_of(tmp_path, run).metrics == {"top1_accuracy": 0.5}


def test_looking_whether_a_run_trains_takes_no_time(tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = time.monotonic()
        assert all(is_claimed(tmp_path) for _ in range(20))
        assert time.monotonic() - started < 0.3


def test_a_launcher_under_nohup_outlives_the_terminal(tmp_path):
    command = [sys.executable, str(LAUNCH), str(tmp_path), "1", "1", "40"]
    process = subprocess.Popen(
        ["nohup", *command], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    wait_for(lambda: list(tmp_path.glob("*/metrics.jsonl")))
    process.send_signal(signal.SIGHUP)
    assert process.wait() == 0 and len(finals(tmp_path)) == 1


def test_ctrl_c_ends_runs_that_were_taken_over(tmp_path):
    process = launch(tmp_path, 1, 1, 4000)
    wait_for(lambda: list(tmp_path.glob("*/metrics.jsonl")))
    process.kill()
    process.wait()
    process = launch(tmp_path, 1, 1, 4000)
    wait_for(lambda: is_claimed(tmp_path))  # its own lock
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait() == Interrupted.exit_code
    wait_for(lambda: state_of(tmp_path, read_runs(tmp_path)[0]).status == "interrupted")


ODD = ("a[1]*?", "a b#%&=\\'\n\x1b", os.fsdecode(b"-\xff"))


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_odd_folders(tmp_path, name):
    folder = tmp_path / name
    states = starting.start(folder, seeds(2), Local(parallel=2))
    assert [state.status for state in states.values()] == ["done", "done"]
    assert [run.name for run in read_runs(folder)] == list(states)


def test_launchers_and_their_options_are_checked():
    for name, options, problem in (
        ("lokal", {}, "did you mean 'local'"),
        ("local", {"paralel": "2"}, r"--launch\.paralel.*did you mean 'parallel'"),
        ("local", {"parallel": "two"}, r"--launch\.parallel='two': of type str"),
        ("local", {"parallel": "0"}, "1 or more"),
        ("print", {"parallel": "2"}, r"--launch\.parallel"),
    ):
        with pytest.raises(ConfigError, match=problem):
            starting.create_launcher(name, options)


def test_gpus_are_shared_out(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,5,7")

    def visible(parallel):
        return [s.environment["CUDA_VISIBLE_DEVICES"] for s in devices.share_out(parallel)]

    assert visible(None) == ["0", "2", "5", "7"]
    assert visible(2) == ["0,2", "5,7"]
    assert visible(1) == ["0,2,5,7"]
    assert visible(6) == ["0", "2", "5", "7", "0", "2"]
    shared = devices.share_out(8)[0].environment["XLA_PYTHON_CLIENT_MEM_FRACTION"]
    assert float(shared) * 2 <= 0.75


def test_chips_of_a_tpu_are_shared_out(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(devices, "find_gpus", lambda: [])
    monkeypatch.setattr(devices, "find_tpu_chips", lambda: ["0", "1", "2", "3"])
    shares = devices.share_out(None)
    assert [share.environment["TPU_VISIBLE_CHIPS"] for share in shares] == ["0", "1", "2", "3"]
    assert devices.share_out(1)[0].environment == {}
    with pytest.raises(ConfigError, match="a chip for each of 4"):
        devices.share_out(2)


@pytest.mark.linux
def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5, 6})
    assert [share.cores for share in devices.share_out(3)] == [(0, 1), (2, 3), (4, 5)]
    assert [share.cores for share in devices.share_out(None)] == [()]
    assert [share.cores for share in devices.share_out(8)] == [()] * 8
