import subprocess
import sys
from pathlib import Path

from harness.locks import is_locked, locked, take_lock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from harness.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(path):
    """Starts a process that holds a lock."""
    command = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_keeps_others_out_until_it_is_closed(tmp_path):
    path = tmp_path / "lock"
    assert not is_locked(path)  # it is not there
    with take_lock(path):
        assert is_locked(path) and take_lock(path) is None and take_lock(path, seconds=0.05) is None
    assert not is_locked(path)


def test_a_lock_ends_with_its_process_however(tmp_path):
    for path in (tmp_path / "lock", tmp_path):  # a file, a folder
        process = hold(path)
        assert is_locked(path) if path.is_file() else True
        process.kill()
        process.wait()
        with locked(path):  # does not wait
            pass


def test_a_lock_is_waited_for(tmp_path):
    process = hold(tmp_path / "lock")
    assert take_lock(tmp_path / "lock", seconds=0.1) is None
    process.kill()
    process.wait()
    with take_lock(tmp_path / "lock", seconds=1.0):
        pass
