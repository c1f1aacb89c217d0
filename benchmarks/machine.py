"""What makes a measured speed comparable: the processor, its share that is free, the libraries.

And of accelerators what they can do at most.
"""

import dataclasses
import os
import platform
import re
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from process.cores import num_cores

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


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX sees it.

    Attributes:
        peak: floating-point operations a second of dense bfloat16 products, a multiply-add being 2.
        bandwidth: bytes a second of its memory.
        source: of both.
    """

    peak: float
    bandwidth: float
    source: str


_TPU = "https://docs.cloud.google.com/tpu/docs/"
_NVIDIA = "NVIDIA's data sheet, without sparsity"
# jax.Device.device_kind -> chip. Cores of v2, v3 and v7x are devices of their own: not listed.
CHIPS = {
    "TPU v4": Chip(275e12, 1.228e12, f"{_TPU}v4"),
    "TPU v5 lite": Chip(197e12, 0.819e12, f"{_TPU}v5e"),
    "TPU v5": Chip(459e12, 2.765e12, f"{_TPU}v5p"),
    "TPU v6 lite": Chip(918e12, 1.638e12, f"{_TPU}v6e"),
    "NVIDIA H200": Chip(989e12, 4.8e12, _NVIDIA),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 3.35e12, _NVIDIA),
    "NVIDIA H100 PCIe": Chip(756e12, 2.0e12, _NVIDIA),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 2.039e12, _NVIDIA),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 1.555e12, _NVIDIA),
}


def find_chip(device_kind: str) -> Chip | None:
    """Returns what is known of a kind of device, None if it is not in the table."""
    return CHIPS.get(device_kind)
