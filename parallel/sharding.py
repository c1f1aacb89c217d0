"""The device mesh, and where each array lives on it.

Three axes: `data` splits the batch; `fsdp` splits both the batch and the large arrays of the state
(fully sharded data parallelism: XLA gathers a kernel just before it is used); `tensor` splits the
kernels of attention and MLP and the work with them (Megatron-LM, arXiv 1909.08053), and not the
batch. One code path serves one device and a pod slice: on one device every sharding is trivial.
"""

import math
import re
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from harness.arguments import problem
from harness.errors import ConfigError

# Smaller arrays (biases, norms) are replicated: gathering them costs latency and saves no memory.
FSDP_MIN_SIZE = 4096

Rule = tuple[str, tuple[str | None, ...]]
# For NesT, TNT and ViT with a tensor axis: what leads into the heads or into the wide layer of the
# MLP is split over its outputs, what leads out over its inputs, so that between the two each device
# works with its own part. Of an array's rules the first counts whose axes are divided evenly.
TENSOR_RULES: tuple[Rule, ...] = (
    ("/qkv/kernel$", ("fsdp", None, "tensor", None)),  # [dim, 3, heads, head_dim]
    ("/qkv/kernel$", ("fsdp", None, None, "tensor")),
    ("/query/kernel$", ("fsdp", "tensor", None)),  # [dim, heads, head_dim]
    ("/query/kernel$", ("fsdp", None, "tensor")),
    ("/qkv/bias$", (None, "tensor", None)),
    ("/attention/out/kernel$", ("tensor", None, "fsdp")),  # [heads, head_dim, dim]
    ("/attention/out/kernel$", (None, "tensor", "fsdp")),
    ("/mlp/dense1/kernel$", ("fsdp", "tensor")),
    ("/mlp/dense1/bias$", ("tensor",)),
    ("/mlp/dense2/kernel$", ("tensor", "fsdp")),
)


def create_mesh(
    *,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Creates a mesh with axes ("data", "fsdp"), and "tensor" if that is more than 1.

    Args:
        data: number of groups that hold a copy of the state; -1: all devices / (fsdp x tensor).
        fsdp: number of devices, or of groups of `tensor`, that share one copy of the state.
        tensor: number of devices that share the work on one part of the batch; neighbours.
        devices: to choose from, also some that are not here; None: all.

    Raises:
        ConfigError: the axes do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    num_devices = len(devices)
    for key, value, of in (("tensor", tensor, 1), ("fsdp", fsdp, tensor)):
        if value < 1 or num_devices % (value * of):
            shared = f" / tensor={tensor}" if of > 1 else ""
            allowed = f"divisors of the number of devices, {num_devices}{shared}"
            raise ConfigError(problem(f"config.mesh.{key}", value, "out of range", allowed))
    if data == -1:
        data = num_devices // (fsdp * tensor)
    size = data * fsdp * tensor
    product = f"data x fsdp={fsdp}" + (f" x tensor={tensor}" if tensor > 1 else "")
    if data < 1 or size > num_devices:
        what = f"{product} is {size} devices, there are {num_devices}"
        raise ConfigError(problem("config.mesh.data", data, what))
    if size < num_devices and (processes := jax.process_count()) > 1:
        what = f"{product} is {size} devices; {processes} processes use all {num_devices}"
        raise ConfigError(problem("config.mesh.data", data, what))
    sizes = {"data": data, "fsdp": fsdp} | ({"tensor": tensor} if tensor > 1 else {})
    # Auto axes: XLA propagates shardings through NesT's block reshapes (Explicit axes refuse them).
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=devices[:size],
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the leading axis over all devices that do not share it."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def num_batch_parts(mesh: Mesh) -> int:
    """Returns in how many parts `batch_sharding` cuts a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with a full copy on each device."""
    return NamedSharding(mesh, P())


def state_shardings(shapes, mesh: Mesh, *, rules: tuple[Rule, ...] | None = None):
    """Returns a NamedSharding for each leaf of the state.

    Rules look at the end of an array's path and at its shape, so that a parameter, its gradient,
    its optimizer moments and its average always agree. Arrays without a rule of at least
    FSDP_MIN_SIZE elements are split over `fsdp` along their largest axis that it divides,
    everything else is replicated.

    Args:
        shapes: pytree of jax.ShapeDtypeStruct.
        mesh: from create_mesh.
        rules: pairs of a regular expression that is searched for in the path, such as
            ("mlp/dense1/kernel$", ("fsdp", "tensor")), and the mesh axis of each axis of the array
            (None: whole). Those that name only axes which this mesh does not have are skipped.
            With a tensor axis, TENSOR_RULES come after them.

    Raises:
        ConfigError: a rule of the recipe fits no array, is never applied, or the axes that it names
            do not divide one; or nothing is split over `tensor`.
    """
    own = tuple(rules or ())
    _check_rules(own)
    fitting, applied = set(), set()  # patterns of own rules

    def sharding(path, leaf):
        name = _name(path)
        fitting.update(pattern for pattern, _ in own if re.search(pattern, name))
        rule, wrong = _choose(own, name, leaf, mesh)
        if wrong:
            raise ConfigError(f"config.sharding.rules: {wrong}")
        if rule is not None:
            applied.add(rule[0])
        return NamedSharding(mesh, _spec(name, leaf, mesh, own)[0])

    shardings = jax.tree_util.tree_map_with_path(sharding, shapes)
    for pattern, axes in own:
        if pattern not in fitting:
            what = "no array of the state has such a path"
            raise ConfigError(problem("config.sharding.rules", pattern, what))
        if pattern not in applied and _is_of(axes, mesh):
            what = "never applied: a rule before it holds for each array with such a path"
            raise ConfigError(problem("config.sharding.rules", pattern, what))
    specs = [place.spec for place in jax.tree.leaves(shardings)]
    if "tensor" in mesh.shape and not any("tensor" in spec for spec in specs):
        size, what = mesh.shape["tensor"], "no array of this model is split over it"
        raise ConfigError(problem("config.mesh.tensor", size, what, "1; see config.sharding.rules"))
    return shardings


def left_whole(shapes, mesh: Mesh, *, rules: tuple[Rule, ...] | None = None) -> list[str]:
    """Returns a note on the arrays that a default rule would split and the mesh does not divide."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    placed = (_spec(_name(path), leaf, mesh, rules or ()) for path, leaf in leaves)
    wrong = [wrong for _, wrong in placed if wrong]
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return [f"split by its shape only: {wrong[0]}{more}"] if wrong else []


def _check_rules(rules: tuple[Rule, ...]) -> None:
    for pattern, axes in rules:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(problem("config.sharding.rules", pattern, str(error))) from None
        named = [axis for axis in axes if axis is not None]
        if len(set(named)) < len(named) or not {*named} <= {"fsdp", "tensor"}:
            allowed = "fsdp and tensor once each, None"
            raise ConfigError(problem("config.sharding.rules", axes, "wrong axes", allowed))


def _is_of(axes: Sequence[str | None], mesh: Mesh) -> bool:
    """Returns whether a rule says something about this mesh, be it that an array stays whole."""
    named = [axis for axis in axes if axis is not None]
    return not named or any(axis in mesh.shape for axis in named)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _choose(rules: Sequence[Rule], name: str, leaf, mesh: Mesh) -> tuple[Rule | None, str]:
    """Returns the rule that holds for an array; if none, what is wrong with one that fits."""
    wrong = ""
    for pattern, axes in rules:
        if not re.search(pattern, name) or not _is_of(axes, mesh):
            continue
        sizes = [mesh.shape.get(axis, 1) for axis in axes]
        if len(axes) <= len(leaf.shape) and not any(
            length % size for length, size in zip(leaf.shape, sizes, strict=False)
        ):
            return (pattern, axes), ""
        split = ", ".join(f"{a}={mesh.shape.get(a, 1)}" if a else "None" for a in axes)
        wrong = wrong or f"({split}) does not divide {name} {leaf.shape}"
    return None, wrong


def _spec(name: str, leaf, mesh: Mesh, own: Sequence[Rule]) -> tuple[P, str]:
    """Returns where an array lives, and what is wrong with the default rules for it."""
    rule, wrong = _choose(own, name, leaf, mesh)[0], ""
    if rule is None and "tensor" in mesh.shape:
        rule, wrong = _choose(TENSOR_RULES, name, leaf, mesh)
    if rule is not None:
        return P(*(axis if axis in mesh.shape else None for axis in rule[1])), ""
    num_shards = mesh.shape["fsdp"]
    axes = [axis for axis, size in enumerate(leaf.shape) if size % num_shards == 0]
    if num_shards == 1 or not axes or math.prod(leaf.shape) < FSDP_MIN_SIZE:
        return P(), wrong
    largest = max(axes, key=lambda axis: leaf.shape[axis])
    return P(*(None,) * largest, "fsdp"), wrong
