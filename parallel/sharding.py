"""The device mesh, and where each array lives on it.

Two axes: `data` splits the batch; `fsdp` splits both the batch and the large arrays of the state
(fully sharded data parallelism: XLA gathers a kernel just before it is used). One code path serves
one device and a pod slice: on one device every sharding is trivial.
"""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from harness.arguments import problem
from harness.errors import ConfigError

# Smaller arrays (biases, norms) are replicated: gathering them costs latency and saves no memory.
FSDP_MIN_SIZE = 4096


def create_mesh(
    *, data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Creates a mesh with axes ("data", "fsdp").

    Args:
        data: number of groups that hold a copy of the state; -1 means all devices / fsdp.
        fsdp: number of devices that share one copy of the state.
        devices: to choose from, also some that are not here; None: all.

    Raises:
        ConfigError: the axes do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    num_devices = len(devices)
    if fsdp < 1 or num_devices % fsdp:
        allowed = f"divisors of the number of devices, {num_devices}"
        raise ConfigError(problem("config.mesh.fsdp", fsdp, "out of range", allowed))
    if data == -1:
        data = num_devices // fsdp
    size = data * fsdp
    if data < 1 or size > num_devices:
        what = f"data x fsdp={fsdp} is {size} devices, there are {num_devices}"
        raise ConfigError(problem("config.mesh.data", data, what))
    if size < num_devices and (processes := jax.process_count()) > 1:
        what = f"data x fsdp={fsdp} is {size} devices; {processes} processes use all {num_devices}"
        raise ConfigError(problem("config.mesh.data", data, what))
    # Auto axes: XLA propagates shardings through NesT's block reshapes (Explicit axes refuse them).
    return jax.make_mesh(
        (data, fsdp),
        ("data", "fsdp"),
        axis_types=(AxisType.Auto,) * 2,
        devices=devices[:size],
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the leading axis over all devices."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with a full copy on each device."""
    return NamedSharding(mesh, P())


def state_shardings(shapes, mesh: Mesh):
    """Returns a NamedSharding for each leaf of the state.

    The rule looks only at an array's shape, so that a parameter, its gradient, its optimizer
    moments and its average always agree: arrays of at least FSDP_MIN_SIZE elements are split over
    `fsdp` along their largest axis that it divides, everything else is replicated.

    Args:
        shapes: pytree of jax.ShapeDtypeStruct.
        mesh: from create_mesh.
    """
    num_shards = mesh.shape["fsdp"]

    def sharding(leaf):
        axes = [axis for axis, size in enumerate(leaf.shape) if size % num_shards == 0]
        if num_shards == 1 or not axes or math.prod(leaf.shape) < FSDP_MIN_SIZE:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, P(*(None,) * largest, "fsdp"))

    return jax.tree.map(sharding, shapes)
