"""The devices of this machine, shared out among runs that run at the same time."""

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness.arguments import problem
from harness.errors import ConfigError

# Of a GPU's memory: what JAX takes for itself by default (XLA_PYTHON_CLIENT_MEM_FRACTION).
_MEMORY_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Share:
    """What one of the runs gets."""

    environment: Mapping[str, str]
    cores: tuple[int, ...]  # () for all
    what: str  # "GPU 3", "cores 0-3"


def share_out(parallel: int | None) -> list[Share]:
    """Returns a share of this machine for each of the runs that run at the same time.

    Args:
        parallel: how many; None: one for each GPU or TPU chip, and one where there are none.

    Raises:
        ConfigError: the devices cannot be divided so.
    """
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu"
    gpus = [] if on_cpu else find_gpus()
    if gpus:
        return _share_gpus(gpus, parallel or len(gpus))
    chips = [] if on_cpu else find_tpu_chips()
    if chips and parallel != 1:
        if parallel not in (None, len(chips)):
            allowed = f"1, or a chip for each of {len(chips)}"
            raise ConfigError(problem("--launch.parallel", parallel, "chips left over", allowed))
        return [_tpu_chip(chip) for chip in chips]
    return _share_cores(parallel or 1)


def find_gpus() -> list[str]:
    """Returns the names by which CUDA_VISIBLE_DEVICES calls the GPUs that we may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return re.findall(r"^GPU (\d+):", listed.stdout, re.MULTILINE)


def find_tpu_chips() -> list[str]:
    """Returns the numbers of the TPU chips of this host."""
    devices = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    return [str(number) for number in range(len(devices))]


def _share_gpus(gpus: list[str], parallel: int) -> list[Share]:
    if parallel <= len(gpus):
        each = len(gpus) // parallel
        groups = [gpus[i * each : (i + 1) * each] for i in range(parallel)]
        memory = {}
    else:
        groups = [[gpus[i % len(gpus)]] for i in range(parallel)]
        together = -(-parallel // len(gpus))  # runs on one GPU
        memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{_MEMORY_SHARE / together:.3f}"}
    return [
        Share({"CUDA_VISIBLE_DEVICES": ",".join(group), **memory}, (), f"GPU {','.join(group)}")
        for group in groups
    ]


def _tpu_chip(chip: str) -> Share:
    one = "1,1,1"
    environment = {
        "TPU_VISIBLE_CHIPS": chip,
        "TPU_CHIPS_PER_PROCESS_BOUNDS": one,
        "TPU_PROCESS_BOUNDS": one,
    }
    return Share(environment, (), f"TPU chip {chip}")


def _share_cores(parallel: int) -> list[Share]:
    if parallel == 1 or not hasattr(os, "sched_getaffinity"):
        return [Share({}, (), "this machine")] * parallel
    cores = sorted(os.sched_getaffinity(0))
    each = len(cores) // parallel
    if each == 0:
        return [Share({}, (), f"a share of {len(cores)} cores")] * parallel
    groups = [tuple(cores[i * each : (i + 1) * each]) for i in range(parallel)]
    return [Share({}, group, f"cores {','.join(map(str, group))}") for group in groups]
