"""Which processes live: of this machine, told apart from those of others."""

import os
import zlib
from pathlib import Path


def machine() -> str | None:
    """Returns what numbers of processes are good for: one boot, one container; None off Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def machine_token() -> str:
    """Returns `machine` as eight characters, for names of files."""
    return f"{zlib.crc32((machine() or '').encode()):08x}"


def has_ended(pid: int) -> bool:
    """Returns whether there is no process of that number on this machine; False if unknown."""
    return machine() is not None and started(pid) is None


def started(pid: int) -> str | None:
    """Returns when a process began, None if it has ended: its number may be another's by now."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
