"""Dividing a hand-written kernel over the devices of a mesh, along the batch."""

from collections.abc import Callable, Sequence

import jax
from jax import Array
from jax.sharding import PartitionSpec as P


def over_shards(
    function: Callable[..., tuple[Array, ...]],
    operands: Sequence[Array],
    batched: Sequence[bool],
    batched_results: Sequence[bool],
) -> tuple[Array, ...]:
    """Computes a function with every device on its own part of the batch.

    The compiler sees nothing of a kernel and would gather its operands on every device. The mesh is
    that of the operands, or of `jax.set_mesh`; a batch that its devices do not divide evenly, each
    computes whole.
    (`jax.experimental.custom_partitioning` would follow any sharding, but XLA knows it only in a
    process that has the devices, not where it compiles for others.)

    Args:
        function: maps arrays to a tuple of arrays, for a batch of any size.
        operands: what it is computed on.
        batched: for each operand whether its leading axis is the batch. Every device gets the
            others whole.
        batched_results: the same for each result. The others are sums over the batch.

    Returns:
        The results of the function.
    """
    first = operands[batched.index(True)]
    mesh = jax.typeof(first).sharding.mesh
    if mesh.empty:
        mesh = jax.sharding.get_abstract_mesh()  # that of jax.set_mesh
    if mesh.empty or mesh.size == 1 or mesh.are_all_axes_manual:
        return function(*operands)
    axes = mesh.axis_names if len(first) % mesh.size == 0 else ()

    def specs(flags: Sequence[bool]) -> tuple[P, ...]:
        return tuple(P(axes) if flag else P() for flag in flags)

    def local(*operands: Array) -> tuple[Array, ...]:
        pairs = zip(function(*operands), batched_results, strict=True)
        return tuple(
            x if is_batched or not axes else jax.lax.psum(x, axes) for x, is_batched in pairs
        )

    divided = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=specs(batched),
        out_specs=specs(batched_results),
        check_vma=False,
    )
    return divided(*operands)
