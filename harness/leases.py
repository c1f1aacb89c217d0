"""Leases: locks where the file system has none, and in buckets.

A lease is a small file that its holder rewrites every few seconds. Others take it when it has
not changed for EXPIRY seconds of their own clock, so that no two clocks are compared, or at once
when they see that its process is gone. In a bucket the storage itself sees to it that of several
one gets it. Elsewhere a file that one of them can make does (lease_files.py); a holder that is
stopped in the middle of a renewal, for longer than EXPIRY, could undo that, and then the other
finds that it has lost its lease.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

from absl import logging

from harness import lease_files
from harness.errors import ConfigError, Unavailable
from harness.lease_files import in_bucket
from process.identity import machine, started

HEARTBEAT, EXPIRY = 10.0, 60.0  # seconds


class LostLock(ConfigError):
    """Another process has taken what this one held; nothing may be written any more."""


def _clock() -> float:
    """Returns seconds that go on while a machine is suspended, where there is such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease:
    """A file that says who holds it and that it is alive, rewritten by a thread.

    Args:
        path: of the file.
        version: of the file as this process has made it.
        record: in it.
    """

    def __init__(self, path: Path, version: Any, record: dict[str, Any], begun: float):
        self._path, self._version, self._record = path, version, record
        self._renewed = begun  # the start of the last write that came through
        self._lost, self._closed = "", threading.Event()
        self._lock = threading.Lock()
        threading.Thread(target=self._beat, name=f"lease {path}", daemon=True).start()
        _held.append(self)

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT):
            self._renew()

    def _renew(self) -> None:
        with self._lock:
            if self._lost or self._closed.is_set():
                return
            begun, content = _clock(), _content(self._record, beat=True)
            try:
                try:
                    self._version = lease_files.write(self._path, content, self._version, own=True)
                except lease_files.Taken:
                    found = lease_files.read(self._path)
                    if found is None and self._record["flock"]:  # or its folder has moved
                        self._closed.set()
                        return
                    if found is None or found[0].get("token") != self._record["token"]:
                        self._lost = f"{self._path} is no longer this process's: " + (
                            f"{_holder(found[0])} has it" if found else "it is gone"
                        )
                        return
                    self._version = found[1]  # a write that seemed to fail came through
                self._renewed = begun
            except OSError as error:  # the next heartbeat tries again
                if not self._record["flock"]:
                    logging.warning("%s cannot be renewed: %s", self._path, error)

    def check(self) -> None:
        """Raises unless the lease is this process's still.

        Raises:
            LostLock: it has been taken.
            Unavailable: nobody can say.
        """
        if _clock() - self._renewed > EXPIRY / 2:  # stopped, or the storage is away
            self._renew()
        if self._lost:
            raise LostLock(f"{self._lost}; stopped without writing")
        if _clock() - self._renewed > EXPIRY and not self._record["flock"]:
            raise Unavailable(f"{self._path} has not been renewed for {EXPIRY:.0f} s")

    def confirm(self) -> None:
        """Reads the file and raises as `check`: a machine that was paused may not know of it.

        In a bucket, where reading may take minutes, the heartbeats have to do.
        """
        if not in_bucket(self._path):
            with self._lock, contextlib.suppress(OSError):  # the heartbeats go on
                found = lease_files.read(self._path)
                if found is None or found[1] != self._version:
                    self._renewed = -EXPIRY  # look again, and closer
        self.check()

    def close(self) -> None:
        """Lets go."""
        with self._lock:
            self._closed.set()
            if self in _held:
                _held.remove(self)
                if not self._lost:
                    with contextlib.suppress(OSError):  # it will expire
                        lease_files.remove(self._path, self._version)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


_held: list[Lease] = []


def check_leases() -> None:
    """Raises, see `Lease.check`, if this process has lost one: before anything it writes."""
    for lease in tuple(_held):
        lease.check()


def confirm_leases() -> None:
    """As `check_leases`, and reads them: before a save."""
    for lease in tuple(_held):
        lease.confirm()


def take_lease(path: Path, seconds: float, *, flock: bool = False) -> Lease | None:
    """Returns a lease on a file; None if another process holds it, see `locks.take_lock`.

    Args:
        path: of the file.
        seconds: to try for.
        flock: this process holds the lock, too; so does no other one that says so in its lease.
    """
    deadline, seen, since, changes = _clock() + seconds, None, _clock(), 0
    while True:
        found, now = lease_files.read(path), _clock()
        version = found[1] if found else None
        if version != seen:
            changes, seen, since = changes + 1, version, now
        alive = _is_alive(found[0], flock) if found else False
        if alive is False or (alive is None and now - since >= EXPIRY):
            record = {"host": socket.gethostname(), "machine": machine(), "pid": os.getpid()}
            record |= {"started": started(os.getpid()), "token": secrets.token_hex(8)}
            record |= {"flock": flock}
            try:
                return Lease(path, lease_files.write(path, _content(record), version), record, now)
            except lease_files.Taken:
                if now - since > 2 * EXPIRY:  # who was about to take it has crashed
                    lease_files.forget_claim(path, version)
            time.sleep(0.01)
            continue
        if (alive or changes > 1) and now >= deadline:
            return None
        if since == now and changes == 1 and alive is None:
            logging.warning(
                "%s belongs to %s; waiting for its next heartbeat, %.0f s at most",
                path,
                _holder(found[0]),
                EXPIRY,
            )
        time.sleep(min(HEARTBEAT / 10, max(deadline - now, 0.02)))


def is_leased(path: Path, *, flock: bool = False) -> bool:
    """Returns whether a process seems to hold a lease, see `locks.is_locked` and `take_lease`."""
    found = lease_files.read(path)
    if found is None:
        return False
    alive = _is_alive(found[0], flock)
    if alive is None:
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime < EXPIRY
    return bool(alive)


def _is_alive(record: dict[str, Any], flock: bool) -> bool | None:
    """Returns whether the process lives that wrote a record, None if only its machine can see.

    Args:
        record: of the lease.
        flock: whether this process holds the lock that the other one held if its lease says so.
    """
    # Also a copy of the folder of a run that goes on, and what a crash has left empty.
    if flock and record.get("flock", not record) is True:
        return False
    if record.get("machine") is None or record["machine"] != machine():
        return None
    return record.get("started") is not None and record["started"] == started(record["pid"])


def _holder(record: dict[str, Any]) -> str:
    return f"process {record.get('pid')} on {record.get('host')}"


def _content(record: dict[str, Any], beat: bool = False) -> bytes:
    if beat:
        record["beat"] = record.get("beat", 0) + 1
    return json.dumps(record).encode()
