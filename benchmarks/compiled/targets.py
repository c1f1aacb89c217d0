"""GPUs and TPU slices to compile for on a machine that has none.

The compilers come with JAX's plugins (requirements-compile.txt). `prepare_environment` has to run
before jax is imported, so that this module imports it late.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from benchmarks.machine import Chip, find_chip
from harness.arguments import problem
from harness.errors import ConfigError, one_line

INSTALL = "pip install -r requirements-compile.txt"
H100 = Path(__file__).with_name("h100.txtpb")
# JAX takes this share of a GPU's memory at start, unless XLA_PYTHON_CLIENT_MEM_FRACTION says more.
GPU_MEMORY_SHARE = 0.75
GENERATIONS = ("v5e", "v5p", "v6e")
ALLOWED = (
    "h100 (one GPU), or a slice of a TPU: v5e:2x2, v5e:4x4, v6e:2x4, v5p:2x2x1, ... "
    f"({', '.join(GENERATIONS)}; two or three sides, whole hosts of 2 x 2 chips)"
)
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # with libtpu and no TPU, JAX would wait for one
    "TPU_SKIP_MDS_QUERY": "1",  # the metadata server of a TPU's host, which would say these two
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any: the topology counts
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # its lock is for the TPU, which nobody uses here
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # a program for elsewhere cannot be loaded from it
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# There is no GPU to tune on, and without tuning Triton's products fail for widths of 96.
XLA_FLAGS = ("--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false")

# "Used 17.5G of 15.75G hbm", "temporaries (156.27G) exceeds available HBM (15.75G)".
_USED = re.compile(
    r"([\d.]+)([KMGT]?)(?: of |\) exceeds available HBM \()([\d.]+)([KMGT]?)", re.IGNORECASE
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TOO_MUCH = 2**40  # bytes, for any chip


@dataclasses.dataclass(frozen=True)
class Target:
    """What to compile for.

    Attributes:
        topology: as a person names it: "h100", "v5e:4x4".
        platform: what kernels are chosen for.
        devices: descriptions of the chips; nothing can run on them.
        chip: what one can do, if that is known.
        memory: bytes of a chip that a program may use, None where that is not known.
    """

    topology: str
    platform: Literal["gpu", "tpu"]
    devices: tuple[Any, ...]
    chip: Chip | None
    memory: int | None


def prepare_environment() -> None:
    """Sets what JAX and XLA read when they are imported; a value that is there stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    flags = os.environ.setdefault("XLA_FLAGS", "").split()
    missing = [flag for flag in XLA_FLAGS if flag.split("=")[0] not in " ".join(flags)]
    os.environ["XLA_FLAGS"] = " ".join([*flags, *missing])


def open_target(topology: str) -> Target:
    """Returns a target by its name.

    Raises:
        ConfigError: there is none of this name, or its compiler is not installed.
    """
    if topology == "h100":
        devices = _devices(topology, "cuda", target_config=H100.read_text(), topology="1x1x1")
        size = int(re.search(r"device_memory_size: (\d+)", H100.read_text())[1])
        memory = int(GPU_MEMORY_SHARE * size)
        return Target(topology, "gpu", devices, find_chip(devices[0].device_kind), memory)
    generation, _, sides = topology.partition(":")
    if generation not in GENERATIONS or not re.fullmatch(r"\d+(x\d+){1,2}", sides):
        raise ConfigError(problem("--topology", topology, "unknown", ALLOWED))
    devices = _devices(topology, "tpu")
    chip = find_chip(devices[0].device_kind)
    return Target(topology, "tpu", devices, chip, _refused_memory(devices[0]))


def memory_of_error(error: Exception) -> dict[str, int | None]:
    """Returns what XLA says when it gives up: the "total" it would take and what is "available"."""
    found = _USED.search(str(error))
    if not found:
        return {"total": None, "available": None}
    used, used_unit, of, of_unit = found.groups()
    return {
        "total": int(float(used) * _UNITS[used_unit.upper()]),
        "available": int(float(of) * _UNITS[of_unit.upper()]),
    }


def _refused_memory(device: Any) -> int | None:
    """Returns the memory that the compiler names when it refuses a program that is too large."""
    import jax

    place = jax.sharding.SingleDeviceSharding(device)
    array = jax.ShapeDtypeStruct((_TOO_MUCH,), "uint8", sharding=place)
    try:
        jax.jit(lambda x: x + 1).lower(array).compile()
    except jax.errors.JaxRuntimeError as error:
        return memory_of_error(error)["available"]
    return None


def _devices(name: str, platform: str, **options: Any) -> tuple[Any, ...]:
    from jax.experimental import topologies

    try:
        return tuple(topologies.get_topology_desc(name, platform, **options).devices)
    except Exception as error:  # of several types, and of none that is public
        text = one_line(error)
        if "INVALID_ARGUMENT" in text:
            what = text.partition("INVALID_ARGUMENT: ")[2]
            raise ConfigError(problem("--topology", name, what, ALLOWED)) from error
        compiler = "NVIDIA GPUs" if platform == "cuda" else "TPUs"
        what = f"the compiler for {compiler} is not installed: {INSTALL} ({text})"
        raise ConfigError(problem("--topology", name, what)) from error


@contextlib.contextmanager
def tracing_for(target: Target) -> Iterator[None]:
    """Traces what the block makes for a target instead of for this machine's devices."""
    import jax._src.cudnn.fused_attention_stablehlo as cudnn

    from kernels.target import compiling_for

    # JAX asks the GPU at hand whether cuDNN's attention can run; the target's is described above.
    asked = cudnn.check_cudnn_version, cudnn.check_compute_capability
    if target.platform == "gpu":
        cudnn.check_cudnn_version = lambda: 90800
        cudnn.check_compute_capability = lambda capability: float(capability) <= 9.0
    try:
        with compiling_for(target.platform, target.devices[0].device_kind):
            yield
    finally:
        cudnn.check_cudnn_version, cudnn.check_compute_capability = asked
