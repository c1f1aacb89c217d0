"""What chips can do, and GPUs and TPU slices to compile for on a machine that has none.

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

from harness.arguments import problem
from harness.errors import ConfigError, one_line


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


INSTALL = "pip install -r requirements-compile.txt"
H100 = Path(__file__).with_name("h100.txtpb")
# JAX takes this share of a GPU's memory at start, unless XLA_PYTHON_CLIENT_MEM_FRACTION says more.
GPU_MEMORY_SHARE = 0.75
GENERATIONS = ("v4", "v5e", "v5p", "v6e")
ALLOWED = (
    "h100 (one GPU), or a slice of a TPU: v5e:2x2, v5e:4x4, v6e:2x4, v5p:2x2x1, v4:2x2x2, ... "
    f"({', '.join(GENERATIONS)}; two or three sides, whole hosts of 2 x 2 chips)"
)
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # with libtpu and no TPU, JAX would wait for one
    "TPU_SKIP_MDS_QUERY": "1",  # the metadata server of a TPU's host
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # its lock is for the TPU, which nobody uses here
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # a program for elsewhere cannot be loaded from it
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# There is no GPU to tune on, and without tuning Triton's products fail for widths of 96.
XLA_FLAGS = ("--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false")


@dataclasses.dataclass(frozen=True)
class Target:
    """What to compile for.

    Attributes:
        topology: as a person names it: "h100", "v5e:4x4".
        platform: what kernels are chosen for.
        devices: descriptions of the chips; nothing can run on them.
        chip: what one can do, if that is known.
        memory: bytes of a chip that a program may use, None where only its compiler knows.
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
    return Target(topology, "tpu", devices, find_chip(devices[0].device_kind), None)


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
        with compiling_for(target.platform):
            yield
    finally:
        cudnn.check_cudnn_version, cudnn.check_compute_capability = asked
