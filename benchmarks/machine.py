"""What makes a measured speed comparable: the processor, its share that is free, the libraries."""

import os
import platform
import re
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data.batches import num_cores

LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "grain", "tensorflow")


def processor() -> str:
    """Returns the processor's name."""
    info = Path("/proc/cpuinfo")  # Linux
    named = re.search(r"^model name\s*: (.+)$", info.read_text(), re.M) if info.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """Returns processor, cores that this process may use, load of the last minute, versions."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": processor(),
        "cores": num_cores(),
        "load": round(os.getloadavg()[0], 2),
        "versions": versions,
    }


def in_words(machine: dict[str, Any]) -> str:
    """Returns one line of what `describe` returns."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    what = f"{machine['processor']}, {machine['cores']} cores, load {machine['load']} before"
    return f"{what}; {versions}"


def with_cores(measure: Callable[[float], float]) -> Callable[[float], tuple[float, float]]:
    """Makes a measurement also say how many cores it kept busy, its warm-up included.

    Where others compute as well, a process gets less than it could use, and speed per busy core
    says what the machine alone would give.

    Args:
        measure: seconds -> speed, by this process and its threads.
    """

    def measured(seconds: float) -> tuple[float, float]:
        wall, busy = time.perf_counter(), time.process_time()
        speed = measure(seconds)
        return speed, (time.process_time() - busy) / (time.perf_counter() - wall)

    return measured
