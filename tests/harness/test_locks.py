import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import leases
from harness.leases import LostLock, check_leases, confirm_leases
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

WITHOUT_FLOCK = """
import fcntl, sys, time
from pathlib import Path
from harness.locks import take_lock

def no_flock(*_):
    raise OSError(38, "Function not implemented")

fcntl.flock = no_flock
print("held" if take_lock(Path(sys.argv[1])) else "refused", flush=True)
time.sleep(60)
"""


@pytest.fixture
def without_flock():
    """Starts a process that takes a lock where flock does not work; returns whether it holds it."""
    processes = []

    def start(path):
        command = [sys.executable, "-c", WITHOUT_FLOCK, str(path)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True))
        return processes[-1].stdout.readline() == "held\n"

    start.processes = processes
    yield start
    for process in processes:
        process.kill()
        process.communicate()


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


@pytest.mark.linux
def test_a_lease_keeps_those_with_flock_out(tmp_path, without_flock):
    path = tmp_path / "lock"
    assert without_flock(path)
    for leased in (True, False):
        assert take_lock(path, leased=leased) is None
    assert is_locked(path)
    other = hold_in_background(path)
    time.sleep(1.0)
    assert other.poll() is None  # it waits
    without_flock.processes[0].kill()
    assert other.wait() == 0
    with take_lock(path, leased=True, seconds=1.0):
        pass


def hold_in_background(path):
    code = HOLD.replace("time.sleep(60)", "pass")
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.DEVNULL, cwd=ROOT
    )


@pytest.mark.linux
def test_a_flock_keeps_those_without_out(tmp_path, without_flock):
    path = tmp_path / "lock"
    with take_lock(path, leased=True):
        assert is_locked(path) and not without_flock(path)
    assert not is_locked(path) and without_flock(path)


def write_lease(path, **record):
    record = {"host": "h", "machine": "other", "pid": 1, "token": "t"} | record
    path.write_text(json.dumps(record))


def test_a_killed_run_goes_on_at_once_on_another_machine(tmp_path):
    """Who has the flock knows that nobody else has, however fresh the lease."""
    path = tmp_path / "lock"
    for options in ({"leased": True}, {}):
        path.touch()
        write_lease(tmp_path / "lock.lease", flock=True)
        started = time.monotonic()
        assert not is_locked(path)
        with take_lock(path, **options), locked(tmp_path / "other"):
            assert time.monotonic() - started < 1
        write_lease(tmp_path / "lock.lease")
        assert is_locked(path)


def test_a_copy_of_a_folder_that_is_held_is_free(tmp_path):
    (tmp_path / "run").mkdir()
    with take_lock(tmp_path / "run" / "lock", leased=True):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        assert not is_locked(tmp_path / "copy" / "lock")
        with take_lock(tmp_path / "copy" / "lock", leased=True):
            pass


def test_a_server_may_be_short_of_locks_for_a_moment(tmp_path, monkeypatch):
    original, left = fcntl.flock, [2]

    def flock(*args):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        return original(*args)

    monkeypatch.setattr("fcntl.flock", flock)
    with take_lock(tmp_path / "lock"):
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
        left[0] = 2
        assert is_locked(tmp_path / "lock")


def test_with_flock_a_lease_that_cannot_be_renewed_ends_nothing(tmp_path, monkeypatch):
    """A full disk, or a folder that has moved: the run says which, in its own words."""
    with take_lock(tmp_path / "lock", leased=True):
        now = leases._clock()
        monkeypatch.setattr(leases, "_clock", lambda: now + 1000)

        def full(*_, **__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr("harness.lease_files.write", full)
            check_leases()
        (tmp_path / "lock.lease").unlink()
        confirm_leases()
        assert not (tmp_path / "lock.lease").exists()  # not made again in another's folder


@pytest.mark.parametrize("leased", [True, False])
def test_a_lease_is_read_before_a_save(tmp_path, monkeypatch, leased):
    """A machine that was paused, with its clocks, cannot know otherwise."""
    if not leased:
        monkeypatch.setattr("fcntl.flock", lambda *_: os.close(-1))
        monkeypatch.setattr("harness.locks._NO_FLOCK", (errno.EBADF,))
    with take_lock(tmp_path / "lock", leased=leased):
        confirm_leases()
        write_lease(tmp_path / "lock.lease")
        check_leases()  # its last heartbeat is not long ago
        with pytest.raises(LostLock, match="process 1 on h has it"):
            confirm_leases()


@pytest.mark.linux
def test_leases_expire_while_a_machine_is_suspended(monkeypatch):
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 2.0}.__getitem__)
    assert leases._clock() == 2.0


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_lease_that_a_crash_left_empty_is_nobodys_where_there_is_flock(tmp_path, content):
    (tmp_path / "lock.lease").write_bytes(content)
    with take_lock(tmp_path / "lock", leased=True) as lock:
        assert lock is not None


def test_a_pipe_is_no_lock(tmp_path):
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(OSError, match="is a pipe"):
        take_lock(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock")
