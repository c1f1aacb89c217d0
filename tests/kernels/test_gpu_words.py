"""kernels/gpu_words.py against TNT's block of single layers; the kernel runs interpreted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kernels import gpu_words
from kernels.target import compiling_for
from parallel.sharding import create_mesh
from tnt.block import LAYER_NORM_EPSILON, TransformerBlock


def block(num_heads, dtype=jnp.float32, **fields):
    fields = {
        "mlp_ratio": 4,
        "qkv_bias": False,
        "gelu": "exact",
    } | fields
    return TransformerBlock(num_heads=num_heads, dtype=dtype, **fields)


def case(shape, num_heads):
    keys = jax.random.split(jax.random.key(0), 3)
    x, gradient = (jax.random.normal(key, shape) for key in keys[:2])
    params = block(num_heads).init(keys[2], x, False)["params"]
    leaves, tree = jax.tree.flatten(params)
    noise = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        x + 0.2 * jax.random.normal(key, x.shape) for x, key in zip(leaves, noise, strict=True)
    ]
    return jax.tree.unflatten(tree, leaves), x, gradient


def value_and_gradients(function, params, x, gradient):
    def loss(params, x):
        y = function(params, x).astype(jnp.float32)
        return (y * gradient).sum(), y

    (_, y), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)
    return jax.tree.leaves((y, gradients))


def plain(num_heads, dtype=jnp.float32, **fields):
    module = block(num_heads, dtype, kernels="plain", **fields)
    return lambda params, x: module.apply({"params": params}, x.astype(dtype), False)


def kernel(dtype=jnp.float32, gelu="exact", keep=None):
    return lambda params, x: gpu_words.transformer_block(
        x.astype(dtype), params, keep, gelu, LAYER_NORM_EPSILON, interpret=True
    )


def errors(values, expected):
    return [
        float(jnp.linalg.norm(value - reference) / jnp.linalg.norm(reference))
        for value, reference in zip(values, expected, strict=True)
    ]


# TNT-S and TNT-B with sentences that fill no tile, 64 and 4 words, one head, a narrow hidden layer.
CASES = {
    "tnt_s": ((2, 5, 16, 24), 4, {}),
    "tnt_b": ((1, 21, 16, 40), 4, {}),
    "64 words": ((1, 3, 64, 24), 2, {"gelu": "tanh"}),
    "4 words": ((2, 7, 4, 24), 1, {}),
    "narrow": ((1, 4, 16, 12), 6, {"mlp_ratio": 1.5}),
}


@pytest.mark.parametrize(("shape", "num_heads", "fields"), CASES.values(), ids=CASES)
def test_it_equals_the_block_of_single_layers(shape, num_heads, fields):
    arrays = case(shape, num_heads)
    if "mlp_ratio" in fields:
        params = block(num_heads, **fields).init(jax.random.key(2), arrays[1], False)["params"]
        arrays = (params, *arrays[1:])
    expected = value_and_gradients(plain(num_heads, **fields), *arrays)
    values = value_and_gradients(kernel(gelu=fields.get("gelu", "exact")), *arrays)
    assert max(errors(values, expected)) < 2e-6


@pytest.mark.parametrize("name", ["tnt_s", "tnt_b"])
def test_bfloat16_is_no_worse_than_the_plain_form(name):
    shape, num_heads, _ = CASES[name]
    arrays = case(shape, num_heads)
    exact = value_and_gradients(plain(num_heads), *arrays)
    ours = errors(value_and_gradients(kernel(jnp.bfloat16), *arrays), exact)
    others = errors(value_and_gradients(plain(num_heads, jnp.bfloat16), *arrays), exact)
    assert max(ours) < max(others) and sum(ours) < sum(others)


def test_a_dropped_path_leaves_the_words():
    params, x, _ = case((1, 5, 16, 24), 4)
    keep = jnp.array([[[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [2.0, 0.0], [1.0, 1.0]]])
    y, whole = kernel(keep=keep)(params, x), kernel()(params, x)
    np.testing.assert_array_equal(y[0, 0], x[0, 0])
    np.testing.assert_array_equal(y[0, 1], whole[0, 1])
    assert abs(y[0, 2:4] - whole[0, 2:4]).min(axis=(1, 2)).max() > 0


def test_the_block_draws_the_same_paths(monkeypatch):
    """In training, the kernel drops the branches that the single layers drop."""
    params, x, _ = case((2, 5, 16, 24), 4)
    of_layers = gpu_words.transformer_block
    monkeypatch.setattr(gpu_words, "fits", lambda *_: True)
    monkeypatch.setattr(
        gpu_words, "transformer_block", lambda *args: of_layers(*args, interpret=True)
    )
    arguments = {"params": params}, x, True
    rngs = {"dropout": jax.random.key(3)}
    expected = block(4, drop_path_rate=0.5, kernels="plain").apply(*arguments, rngs=rngs)
    with compiling_for("gpu"):
        values = block(4, drop_path_rate=0.5).apply(*arguments, rngs=rngs)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    assert abs(values - x).max(axis=(2, 3)).min() == 0  # some sentence lost both branches


@pytest.mark.parametrize(
    ("shape", "fields", "chosen"),
    [
        ((2, 196, 16, 24), {}, True),
        ((2, 197, 384), {}, False),  # sentences
        ((2, 196, 16, 24), {"qkv_bias": True}, False),
        ((2, 196, 16, 24), {"dropout_rate": 0.1}, False),
        ((2, 196, 16, 24), {"attention_dropout_rate": 0.1}, False),
        ((2, 196, 16, 24), {"kernels": "plain"}, False),
        ((2, 196, 16, 24), {"dtype": jnp.float32}, False),
        ((2, 196, 9, 24), {}, False),  # a tile of 64 words holds no whole number of sentences
        ((2, 196, 16, 96), {}, False),
    ],
)
def test_when_it_is_chosen(shape, fields, chosen):
    module = block(4, **{"dtype": jnp.bfloat16} | fields)
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(lambda x: module.init(keys, x, False), x)

    def apply(variables, x):
        return module.apply(variables, x, True, rngs=keys)

    assert "word_block" not in str(jax.make_jaxpr(apply)(variables, x))
    with compiling_for("gpu"):
        jaxpr = str(jax.make_jaxpr(lambda *args: apply(*args))(variables, x))
    assert ("word_block" in jaxpr) == chosen


def test_devices_share_the_batch():
    """Each device runs the kernel on its own images; only gradients of weights are exchanged."""
    params, x, gradient = case((8, 3, 16, 24), 4)
    step = jax.jit(lambda params, x: value_and_gradients(kernel(), params, x, gradient))
    expected = step(params, x)
    mesh = create_mesh(data=8, fsdp=1)
    shared = jax.device_put(x, jax.NamedSharding(mesh, P(("data", "fsdp"))))
    lowered = step.lower(jax.device_put(params, jax.NamedSharding(mesh, P())), shared)
    text = lowered.compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text
    assert max(errors(step(params, shared), expected)) < 1e-5
