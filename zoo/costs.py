"""What a model costs, counted on its traced program: nothing is computed, no weights exist.

    parameters        entries of the parameters (not of batch statistics)
    multiply-adds     of matrix products and convolutions for one image, what papers call FLOPs;
                      norms, activation functions and softmax do not count. A filter also multiplies
                      the zeros of its padding.
    activations       entries of the outputs of these products for one image, as timm counts them
    kept for backward bytes that the forward pass of a training step keeps for its backward pass,
                      for a batch: the arrays that JAX's differentiation saves (fewer with
                      `remat`), before XLA fuses and frees. Parameters are not among them.

Each is given per part of the model: a level of NesT, a layer of TNT, a block of ViT, a stage of a
ResNet, and what comes before and after them.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jax_core

from kernels.target import compiling_for
from zoo.registry import variable_shapes

# The part in the name of a module directly in the model.
_PART = re.compile(r"(level|layer|block|stage|group)(\d+)(?=_|$)")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Costs of a model or a part of it; see the module's docstring for their units."""

    parameters: int = 0
    multiply_adds: int = 0
    activations: int = 0
    kept_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Cost(*(a + b for a, b in pairs))


def part_of(module: str) -> str:
    """Returns the part that a module of the model belongs to: "level1_layer2" -> "level 1"."""
    match = _PART.match(module)
    return f"{match[1]} {match[2]}" if match else module


def model_costs(
    model: nn.Module, image_shape: tuple[int, int, int], batch_size: int | None = None
) -> dict[str, Cost]:
    """Counts the costs of a model part by part.

    Args:
        model: the model.
        image_shape: (height, width, channels).
        batch_size: of the training step whose kept bytes are counted; None: do not count them.

    Returns:
        Part -> its costs, in the order of the forward pass; "other" belongs to no part.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    # Initialisation runs the forward pass, so one trace shows both; drawing weights has no product.
    with compiling_for("any"):  # counts what the plain forms compute, on every machine
        traced, variables = jax.make_jaxpr(model.init, return_shape=True)(jax.random.key(0), image)
    parts = dict.fromkeys((part for _, part in _equations(traced.jaxpr, "")), Cost())
    counted = count_products(traced.jaxpr)
    for module, tree in variables["params"].items():
        size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        counted[part_of(module)] = counted.get(part_of(module), Cost()) + Cost(parameters=size)
    if batch_size is not None:
        for part, size in count_kept_bytes(model, (batch_size, *image_shape)).items():
            counted[part] = counted.get(part, Cost()) + Cost(kept_bytes=size)
    costs = {part: cost for part, cost in (parts | counted).items() if cost != Cost()}
    other = costs.pop("", None)
    return costs | ({"other": other} if other else {})


def count_products(program: jax_core.Jaxpr) -> dict[str, Cost]:
    """Counts the matrix products and convolutions of a traced program.

    Args:
        program: `jax.make_jaxpr(...)(...).jaxpr`.

    Returns:
        Part -> multiply-adds and entries of the products' outputs.
    """
    costs = {}
    for equation, part in _equations(program, ""):
        if (depth := _depth(equation)) is not None:
            size = equation.outvars[0].aval.size
            costs[part] = costs.get(part, Cost()) + Cost(0, size * depth, size)
    return costs


def _equations(program: jax_core.Jaxpr, outer: str) -> Iterator[tuple[Any, str]]:
    """Yields each operation with its part, also inside jitted and rematerialised functions."""
    for equation in program.eqns:
        part = _part(equation) or outer
        yield equation, part
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner, part)


def _part(equation: Any) -> str:
    """Returns the part that an operation is in, "" if it is in the model itself or unnamed."""
    # "jvp(Tnt)/Tnt._first_words/word_embedding/projection": the model, its method, modules.
    _, *names = str(equation.source_info.name_stack).split("/")
    return next((part_of(name) for name in names if "." not in name), "")


def _depth(equation: Any) -> int | None:
    """Returns the multiply-adds per output entry; None if the operation is not a product."""
    if equation.primitive is lax.dot_general_p:
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    if equation.primitive is lax.conv_general_dilated_p:
        kernel = equation.invars[1].aval
        out_axis = equation.params["dimension_numbers"].rhs_spec[0]
        return kernel.size // kernel.shape[out_axis]
    return None


def count_kept_bytes(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, int]:
    """Counts what a training step's forward pass keeps for its backward pass.

    Args:
        model: the model; its drop-path and dropout masks count.
        image_shape: (batch, height, width, channels).

    Returns:
        Part -> bytes.
    """
    variables = variable_shapes(model, image_shape[1:])
    params = variables.pop("params")

    def kept(params, state, images, key):
        # The backward function is a pytree of what it holds.
        return jax.tree.leaves(jax.vjp(_forward(model, state, images, key), params)[1])

    images = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    with compiling_for("any"):
        program = jax.make_jaxpr(kept)(params, variables, images, jax.random.key(0)).jaxpr
    own = set(program.invars[: len(jax.tree.leaves(params))])
    made = {}
    for equation in program.eqns:
        if equation.primitive is lax.reshape_p and equation.invars[0] in own:
            own.update(equation.outvars)  # a parameter in another shape is the same array
        else:
            made.update(dict.fromkeys(equation.outvars, _part(equation)))
    counts = Counter()
    for var in {var for var in program.outvars if isinstance(var, jax_core.Var)}:
        if var in made:  # the others are parameters and images
            counts[made[var]] += var.aval.size * var.aval.dtype.itemsize
    return dict(counts)


def measure_memory(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, int]:
    """Compiles the gradient of a training step's loss and asks XLA what it reserves.

    Args:
        model: the model; its `dtype` and `remat` count.
        image_shape: (batch, height, width, channels).

    Returns:
        Bytes on the device: "arguments" (parameters, statistics, images), "outputs" (gradients,
        statistics) and "temporaries" (activations and all else). The optimizer's state, two
        float32 per parameter with AdamW, comes on top.
    """
    variables = variable_shapes(model, image_shape[1:])
    params = variables.pop("params")

    def gradient(params, state, images, labels, key):
        def loss(params):
            logits, new_state = _forward(model, state, images, key)(params)
            log_probabilities = jax.nn.log_softmax(logits)
            return -jnp.take_along_axis(log_probabilities, labels[:, None], 1).mean(), new_state

        return jax.grad(loss, has_aux=True)(params)

    images = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    labels = jax.ShapeDtypeStruct(image_shape[:1], jnp.int32)
    lowered = jax.jit(gradient).lower(params, variables, images, labels, jax.random.key(0))
    analysis = lowered.compile().memory_analysis()
    return {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
    }


def _forward(model: nn.Module, state: Any, images: jax.Array, key: jax.Array) -> Callable:
    """Returns parameters -> (logits, new statistics) of a training step."""
    return lambda params: model.apply(
        {"params": params, **state},
        images,
        train=True,
        rngs={"dropout": key},
        mutable=list(state),
    )
