"""Multiply-adds of the baselines against the numbers in the papers' tables."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from zoo.registry import create_model


def sub_programs(equation):
    for value in equation.params.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
            yield inner


def products(program):
    """Yields the matrix products and convolutions of a traced program."""
    for equation in program.eqns:
        if equation.primitive in (lax.dot_general_p, lax.conv_general_dilated_p):
            yield equation
        for inner in sub_programs(equation):
            yield from products(inner)


@functools.cache
def xla_flops(primitive, shapes, params):
    function = functools.partial(primitive.bind, **dict(params))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arrays).cost_analysis()["flops"]


def multiply_adds(name, num_classes, side):
    """Half of XLA's cost analysis for all matrix products and convolutions.

    As the papers' tables, this leaves out norms, activations and softmax (which XLA counts, the
    error function as some thirty operations) and has a filter multiply the zeros of its padding
    (which XLA leaves out), so padding becomes a part of the operand first.
    """
    model = create_model(name, num_classes=num_classes)
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    total = 0
    for equation in products(jax.make_jaxpr(model.apply)(variables, images).jaxpr):
        shapes, params = [v.aval.shape for v in equation.invars], dict(equation.params)
        if equation.primitive is lax.conv_general_dilated_p:
            spatial = params["dimension_numbers"].lhs_spec[2:]
            left = list(shapes[0])
            for axis, (low, high) in zip(spatial, params["padding"], strict=True):
                left[axis] += low + high
            shapes[0] = tuple(left)
            params["padding"] = ((0, 0),) * len(spatial)
        total += xla_flops(equation.primitive, tuple(shapes), tuple(params.items()))
    return total / 2


@pytest.mark.parametrize(
    ("name", "num_classes", "side", "billions"),
    [
        # TNT paper, table 4 (1.3, 4.6, 17.6, 4.1); one more digit from timm's results for DeiT.
        ("deit_ti_patch16_224", 1000, 224, 1.26),
        ("deit_s_patch16_224", 1000, 224, 4.61),
        ("deit_b_patch16_224", 1000, 224, 17.58),
        ("resnet50", 1000, 224, 4.1),
    ],
)
def test_multiply_adds(name, num_classes, side, billions):
    assert multiply_adds(name, num_classes, side) / 1e9 == pytest.approx(billions, rel=0.02)


def test_multiply_adds_of_wide_resnet_by_hand():
    """Four blocks a group: seven 3x3 convolutions of equal width, one and a 1x1 from the last."""
    total = 32 * 32 * 9 * 3 * 16 + 640 * 10
    for side, last, dim in ((32, 16, 160), (16, 160, 320), (8, 320, 640)):
        total += side * side * (9 * (last * dim + 7 * dim * dim) + last * dim)
    assert multiply_adds("wrn28_10", 10, 32) == total
