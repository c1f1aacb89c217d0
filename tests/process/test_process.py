"""Streams that cannot be written, and Ctrl-C, in real processes."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parallel.connections import free_port

ROOT = Path(__file__).parents[2]
SCRIPTS = [ROOT / "train.py", ROOT / "evaluate.py", *sorted((ROOT / "tools").glob("[!_]*.py"))]

# What a script does first, then main; as quick as a process can be.
PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from process.streams import *
guard_streams()
{before}
try:
    for number in range(20_000):
        print("line", number)
    print("note", file=sys.stderr, flush=True)
    {body}
    flush_streams()
finally:
    go_on_without_output()
open({done!r}, "w").write("done")
"""


@pytest.fixture
def program(tmp_path):
    def start(redirection, *, before="", body="pass"):
        """Runs it in a shell; returns exit code, stderr, and whether it came to its end."""
        (tmp_path / "done").unlink(missing_ok=True)
        text = PROGRAM.format(root=str(ROOT), before=before, body=body, done=str(tmp_path / "done"))
        (tmp_path / "program.py").write_text(text)
        line = f"{sys.executable} {tmp_path / 'program.py'} {redirection}"
        shell = ["bash", "-c", f"set -o pipefail; {line}"]
        result = subprocess.run(shell, capture_output=True, text=True, timeout=60)
        return result.returncode, result.stderr, (tmp_path / "done").exists()

    return start


UNWRITABLE = ["| head -1", ">&-", "> /dev/full", "1< /dev/null"]


@pytest.mark.parametrize("stderr", ["", "2>&-", "2> /dev/full"])
@pytest.mark.parametrize("stdout", ["", *UNWRITABLE])
def test_a_run_goes_on(program, stdout, stderr):
    where = f"{stderr} {stdout}"
    code, text, is_done = program(where, before="go_on_without_output()")
    assert (code, is_done) == (0, True)
    assert "Traceback" not in text and "Exception" not in text
    if not stderr:
        is_said = stdout not in ("", ">&-")
        assert text.count("going on without it") == is_said and "note" in text


@pytest.mark.parametrize(
    ("where", "code", "message"),
    [
        ("| head -1", 141, r"^$"),
        ("1< /dev/null", 141, r"^$"),
        ("> /dev/full", 1, r"^\S+program.py: stdout cannot be written: No space left on device$"),
        (">&-", 0, r"^note$"),  # nobody wants it
        ("2>&- > /dev/full", 1, r"^$"),
        ("2> /dev/full > /dev/null", 0, r"^$"),
    ],
)
def test_output_that_a_script_is_for(program, where, code, message):
    result, text, is_done = program(where)
    assert (result, is_done) == (code, code == 0)
    assert re.search(message, text.strip()), text


def test_an_oserror_of_a_file_is_no_excuse(program):
    """Code that expects a file to fail must not take the stream's failure for it."""
    body = "\n    try:\n        print('x' * 10**6, flush=True)\n    except OSError:\n        pass"
    assert program("> /dev/full", body=body)[:1] == (1,)


def test_what_is_held_back_is_lost_on_a_full_disk_only_with_a_word(program):
    """Python would find out at its very end, and exit with 120."""
    code, text, _ = program("> /dev/full", before="sys.stdout.write('a')\nrange = lambda _: ()")
    assert code == 1 and text.endswith("stdout cannot be written: No space left on device\n")


def test_numbers_of_closed_streams_are_taken(program):
    """The next file opened would get them, and what is printed would go into it."""
    body = "assert open('/dev/zero').fileno() > 2; os.write(1, b'lost'); os.write(2, b'lost')"
    assert program(">&- 2>&- <&-", body=body) == (0, "", True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_script_is_guarded_before_its_slow_imports(script):
    text = script.read_text()
    if "commandline.run(" not in text:
        pytest.skip("no command line")
    head = text.split("import process.first", 1)
    assert len(head) == 2, "the script lacks it"
    before = re.findall(r"^(?:import|from) (\w+)", head[0], re.M)
    assert set(before) <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("script", "number", "code", "words"),
    [
        ("evaluate.py", signal.SIGINT, 130, "stopped"),
        ("train.py", signal.SIGINT, 130, "stopped"),
        ("train.py", signal.SIGTERM, 75, "SIGTERM: nothing to save; the same command resumes"),
        ("train.py", signal.SIGUSR1, 75, "SIGUSR1: nothing to save; the same command resumes"),
        ("evaluate.py", signal.SIGTERM, -15, ""),
    ],
)
def test_signals_while_a_script_starts(script, number, code, words):
    """With nothing imported yet but what catches them."""
    program = f"""
import os, runpy, signal, sys
sys.path.insert(0, {str(ROOT)!r})
real = __import__
def strike(name, *args, **options):
    if name == "jax":
        os.kill(os.getpid(), {int(number)})
    return real(name, *args, **options)
__builtins__.__import__ = strike
sys.argv = [{script!r}]
runpy.run_path({str(ROOT / script)!r}, run_name="__main__")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    said = words and f"{ROOT / script}: {words}"
    found = result.stderr.replace(f"{ROOT / script}: starting ...\n", "").strip()
    assert (result.returncode, found) == (code, said)


def test_a_signal_while_a_run_waits_for_its_other_processes(one_device):
    """What JAX waits in calls no handler; a thread that watches sees it."""
    flags = [f"--coordinator=127.0.0.1:{(port := free_port())}", "--num_processes=2"]
    flags += ["--process_id=0", "--config=configs/digits_nest.py:debug", "--workdir=/nowhere/run"]
    command = [sys.executable, "train.py", *flags]
    process = subprocess.Popen(command, cwd=ROOT, env=one_device, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(1200):  # until it listens
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR2)
        assert process.wait(10) == 75
        assert process.stderr.read().endswith(
            "SIGUSR2: nothing to save; the same command resumes\n"
        )
    finally:
        process.kill()
        process.stderr.close()


def test_ctrl_c_in_a_recipe(tmp_path, one_device):
    """Before main, in what reads the command line."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text("import os, signal\ndef get_config():\n    os.kill(os.getpid(), 2)\n")
    command = [sys.executable, "train.py", f"--config={recipe}"]
    result = subprocess.run(command, cwd=ROOT, env=one_device, capture_output=True, text=True)
    assert result.returncode == 128 + signal.SIGINT, result.stderr
    assert result.stderr.splitlines()[-1] == "train.py: stopped"
