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

_compiling_for: list[Platform] = []


def platform() -> Platform:
    """Returns the kind of device that programs are traced for: that of JAX's default device."""
    if _compiling_for:
        return _compiling_for[-1]
    device = jax.config.jax_default_device
    name = getattr(device, "platform", device) or jax.default_backend()
    return "gpu" if name in ("cuda", "rocm") else name


@contextlib.contextmanager
def compiling_for(target: Platform) -> Iterator[None]:
    """Traces for a kind of device that need not be here, or for any.

    JAX keeps traces by function: one made before, for another device, is not made again.
    """
    _compiling_for.append(target)
    try:
        yield
    finally:
        _compiling_for.pop()


def has_tensor_cores() -> bool:
    """Returns whether the GPUs here are NVIDIA's of the Ampere generation or later.

    True as well where none is: a program for another machine is compiled for a recent one.
    """
    if jax.default_backend() != "gpu":
        return True
    # "9.0"; an AMD GPU calls itself "gfx90a".
    capabilities = (str(device.compute_capability) for device in jax.local_devices())
    return all(re.fullmatch(r"[89]\.\d|\d\d\.\d", name) for name in capabilities)
