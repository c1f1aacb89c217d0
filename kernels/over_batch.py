"""Splitting a hand-written kernel over the devices that share a batch.

XLA divides its own operations over devices, but would gather the whole batch for a kernel that it
cannot look into.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental.custom_partitioning import SdyShardingRule, custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec


def over_batch(function: Callable[..., Any], is_batched: Sequence[bool]) -> Callable[..., Any]:
    """Returns a function that computes the same, for each device's share of the batch.

    Args:
        function: maps arrays to an array or a tuple of them, which all begin with the batch axis.
        is_batched: whether each argument begins with the batch axis; the others are whole on every
            device.
    """

    def on_axis(mesh, axis, whole):
        return NamedSharding(mesh, PartitionSpec() if whole else PartitionSpec(axis))

    def partition(mesh, arguments, results):
        spec = arguments[is_batched.index(True)].sharding.spec
        axis = spec[0] if len(spec) else None
        return (
            mesh,
            function,
            jax.tree.map(lambda _: on_axis(mesh, axis, False), results),
            tuple(on_axis(mesh, axis, not batched) for batched in is_batched),
        )

    def rule(mesh, arguments, results):
        def factors(name, array, batched):
            own = tuple(f"{name}{i}" for i in range(len(array.shape)))
            return ("batch", *own[1:]) if batched else own

        return SdyShardingRule(
            tuple(
                factors(f"a{i}_", array, batched)
                for i, (array, batched) in enumerate(zip(arguments, is_batched, strict=True))
            ),
            tuple(factors(f"r{i}_", array, True) for i, array in enumerate(results)),
        )

    divided = custom_partitioning(function)
    divided.def_partition(partition=partition, sharding_rule=rule)
    return divided
