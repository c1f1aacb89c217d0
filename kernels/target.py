"""The kind of device that a program is traced for; it chooses among the forms of an operation."""

import contextlib
import re
from collections.abc import Iterator
from typing import Literal

import jax

# A model's field: the fast forms for the device at hand, or the plain ones everywhere.
Kernels = Literal["auto", "plain"]
# "any": a program that is to run on every kind, so that no form is made for one of them.
Platform = Literal["cpu", "gpu", "tpu", "any"]

# Of TPUs, by jax.Device.device_kind. Those before v5 have 16 MiB, too little for the kernels here.
_VMEM_MIB = {
    **{"TPU v5 lite": 128, "TPU v5e": 128, "TPU v5": 64, "TPU v5p": 64},
    **{"TPU v6 lite": 128, "TPU v6e": 128, "TPU7x": 64},
}

_compiling_for: list[tuple[Platform, str]] = []


def platform() -> Platform:
    """Returns the kind of device that programs are traced for: that of JAX's default device."""
    if _compiling_for:
        return _compiling_for[-1][0]
    device = jax.config.jax_default_device
    name = getattr(device, "platform", device) or jax.default_backend()
    return "gpu" if name in ("cuda", "rocm") else name


@contextlib.contextmanager
def compiling_for(target: Platform, device_kind: str = "TPU v5e") -> Iterator[None]:
    """Traces for a kind of device that need not be here, or for any.

    JAX keeps traces by function: one made before, for another device, is not made again.

    Args:
        target: the kind.
        device_kind: what `jax.Device.device_kind` is there; it tells TPUs apart.
    """
    _compiling_for.append((target, device_kind))
    try:
        yield
    finally:
        _compiling_for.pop()


def vmem_for_a_kernel() -> int:
    """Returns how many bytes of a TPU's fast memory a kernel may ask for.

    The compiler needs some itself. 0 for TPUs that the kernels are not made for; where no TPU is,
    it is that of a v5e.
    """
    device_kind = _compiling_for[-1][1] if _compiling_for else "TPU v5e"
    if not _compiling_for and jax.default_backend() == "tpu":
        device_kind = jax.local_devices()[0].device_kind
    return _VMEM_MIB.get(device_kind, 0) * 2**20 * 3 // 4


def has_tensor_cores() -> bool:
    """Returns whether the GPUs here are NVIDIA's of the Ampere generation or later.

    True as well where none is: a program for another machine is compiled for a recent one.
    """
    if jax.default_backend() != "gpu":
        return True
    # "9.0"; an AMD GPU calls itself "gfx90a".
    capabilities = (str(device.compute_capability) for device in jax.local_devices())
    return all(re.fullmatch(r"[89]\.\d|\d\d\.\d", name) for name in capabilities)
