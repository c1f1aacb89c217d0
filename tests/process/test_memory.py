"""process/memory.py: when the C library is told to keep freed memory."""

import ctypes
import os
import subprocess
import sys

import pytest

from process.memory import M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD, keep_freed_memory


@pytest.fixture
def calls(monkeypatch):
    """What mallopt is called with; the process of the tests keeps its own options."""
    for name in [name for name in os.environ if name.startswith(("GLIBC_", "MALLOC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    made = {}

    class Library:
        def mallopt(self, name, value):
            made[name] = value
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    return made


def test_freed_memory_is_kept_on_a_cpu(calls):
    assert keep_freed_memory()
    assert calls == {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_options_of_the_user_stay(calls, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
    assert not calls


def test_another_c_library_has_no_such_options(calls, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()


@pytest.mark.linux
def test_memory_that_is_used_again_is_not_cleared_again(one_device):
    """Page faults of allocating and freeing 100 MB, ten times."""
    program = """
import resource, sys
import numpy as np
from process.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def work():
    for _ in range(10):
        np.ones(100_000_000, np.uint8)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    clean = {k: v for k, v in one_device.items() if not k.startswith(("GLIBC_", "MALLOC_"))}
    command = [sys.executable, "-c", program]
    freed, kept = (
        int(subprocess.run([*command, mode], env=clean, capture_output=True, check=True).stdout)
        for mode in ("free", "keep")
    )
    assert kept < 100 and freed > 1000
