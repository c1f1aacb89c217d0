"""Leases stand in for locks where flock does not work; real processes hold them here."""

import concurrent.futures
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import lease_files, leases
from harness.files import Appended, replacing, write_text
from harness.leases import LostLock, check_leases, take_lease
from harness.locks import is_locked, locked, take_lock

ROOT = Path(__file__).parents[2]
HOLD = """
import fcntl, sys, time
from pathlib import Path
from harness import leases
from harness.files import write_text
from harness.locks import take_lock

def no_flock(*_):
    raise OSError(38, "Function not implemented")

fcntl.flock = no_flock
path, machine, leases.HEARTBEAT, leases.EXPIRY = sys.argv[1], sys.argv[2], 0.1, 1.0
if machine:
    leases.machine = lambda: machine
lock = take_lock(Path(path))
print("held" if lock else "refused", flush=True)
for number in range(10**6):
    time.sleep(0.05)
    write_text(Path(path).parent / "written", str(number))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT", 0.1)
    monkeypatch.setattr(leases, "EXPIRY", 1.0)
    yield
    for lease in tuple(leases._held):  # of a test that failed; every later write would, too
        lease.close()


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP])
def no_flock(monkeypatch, request):
    def flock(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.fixture
def hold(request):
    """Starts a process that holds a lease and writes all the time."""

    def start(path, machine=""):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), machine],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        request.addfinalizer(lambda: (process.kill(), process.communicate()))
        assert process.stdout.readline() == "held\n"
        return process

    return start


def expired(path):
    path.write_text(json.dumps({"host": "h", "machine": "other", "pid": 1, "token": "t"}))


def test_a_lease_is_taken_where_flock_does_not_work(tmp_path, no_flock):
    path = tmp_path / "lock"
    with take_lock(path):
        assert is_locked(path)
        assert take_lock(path) is None and take_lock(path, seconds=0.2) is None
        time.sleep(0.3)  # through some heartbeats
        check_leases()
    assert not is_locked(path)
    for place in (path, tmp_path):
        with locked(place):
            assert is_locked(place) or place.is_dir()
        with locked(place):
            pass
    with take_lock(path):
        pass
    assert {file.name for file in tmp_path.iterdir()} == {"lock"}


def test_other_errors_of_flock_are_no_reason_for_a_lease(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match="Input/output"):
        take_lock(tmp_path / "lock")
    assert not (tmp_path / "lock.lease").exists()


@pytest.mark.linux
def test_on_one_machine_the_process_decides(tmp_path, hold, monkeypatch):
    path = tmp_path / "lock"
    process = hold(path)
    lease = tmp_path / "lock.lease"
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)  # longer than EXPIRY: it may go on at any time
    assert take_lease(lease, 0.0) is None
    process.kill()  # not waited for: a zombie has ended
    started = time.monotonic()
    with take_lease(lease, 0.5):
        assert time.monotonic() - started < 0.9
    # The number of the process may be another's by now.
    record = {"machine": leases.machine(), "pid": os.getpid(), "started": "1", "token": "t"}
    lease.write_text(json.dumps(record))
    with take_lease(lease, 0.0):
        pass


def test_elsewhere_the_heartbeat_decides(tmp_path, hold):
    path = tmp_path / "lock"
    process, lease = hold(path, machine="another"), tmp_path / "lock.lease"
    started = time.monotonic()
    assert take_lease(lease, 0.0) is None  # at its next heartbeat
    assert time.monotonic() - started < 0.9
    process.kill()
    started = time.monotonic()
    with take_lease(lease, 0.0):
        assert 0.8 < time.monotonic() - started < 2.5


def test_who_has_lost_a_lease_writes_nothing(tmp_path, hold):
    process = hold(tmp_path / "lock", machine="another")
    while not (tmp_path / "written").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    with take_lease(tmp_path / "lock.lease", 0.0):
        write_text(tmp_path / "written", "mine")
        process.send_signal(signal.SIGCONT)
        _, stderr = process.communicate(timeout=20)
        assert "LostLock" in stderr and f"process {os.getpid()} on" in stderr
        assert (tmp_path / "written").read_text() == "mine"
        check_leases()  # the other has not taken it back


def test_every_way_to_write_asks_for_the_lease(tmp_path, monkeypatch):
    appended = Appended(tmp_path / "log")
    lease = take_lease(tmp_path / "lease", 0.0)
    expired(tmp_path / "lease")
    with pytest.raises(LostLock, match="process 1 on h has it; stopped without writing"):
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            check_leases()
            time.sleep(0.02)
    for write in (
        lambda: appended.write("a"),
        appended.flush,
        lambda: write_text(tmp_path / "text", "a"),
        lambda: replacing(tmp_path / "file").__enter__(),
    ):
        with pytest.raises(LostLock):
            write()
    assert {file.name for file in tmp_path.iterdir()} == {"log", "lease"}
    assert (tmp_path / "log").read_text() == ""
    lease.close()
    assert json.loads((tmp_path / "lease").read_text())["pid"] == 1  # it is the other's
    check_leases()


def test_a_lease_that_is_deleted_is_lost(tmp_path):
    with take_lease(tmp_path / "lease", 0.0) as lease:
        (tmp_path / "lease").unlink()
        time.sleep(0.3)
        with pytest.raises(LostLock, match="it is gone"):
            lease.check()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b'{"machine": 3}'])
def test_a_damaged_lease_expires(tmp_path, content):
    (tmp_path / "lease").write_bytes(content)
    started = time.monotonic()
    with take_lease(tmp_path / "lease", 0.0):
        assert time.monotonic() - started > 0.8


def test_of_many_one_gets_an_expired_lease(tmp_path):
    path = tmp_path / "lease"
    for _ in range(20):
        expired(path)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            got = list(pool.map(take_lease, [path] * 8, [0.0] * 8))
        held = [lease for lease in got if lease is not None]
        assert len(held) == 1 and len(got) == 8
        held[0].confirm()
        held[0].close()
    assert list(tmp_path.iterdir()) == []


def test_a_lease_is_there_while_it_changes_hands(tmp_path, monkeypatch):
    """Who saw none would make one."""
    path, seen = tmp_path / "lease", []
    expired(path)
    for name in ("rename", "replace", "unlink", "open"):
        plain = getattr(Path, name)

        def watched(self, *arguments, _plain=plain, **options):
            seen.append(path.exists())
            return _plain(self, *arguments, **options)

        monkeypatch.setattr(Path, name, watched)
    take_lease(path, 0.0).close()
    assert seen and all(seen)


def test_who_crashes_while_it_takes_a_lease_is_waited_for(tmp_path):
    path = tmp_path / "lease"
    expired(path)
    left = lease_files.claim_path(path, path.read_bytes())
    left.touch()
    started = time.monotonic()
    with take_lease(path, 0.0):
        assert 1.8 < time.monotonic() - started < 5
    assert list(tmp_path.iterdir()) == []
