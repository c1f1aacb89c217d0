"""kernels/tpu_tokens.py, as Python interprets its kernels: against the layers in the plain form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from kernels import tpu_tokens
from layers.transformer_layer import TransformerLayer
from tests.model_inputs import fill, random_array
from tnt.block import TransformerBlock

NEST = {"num_heads": 2, "mlp_ratio": 2, "gelu": "tanh", "dtype": jnp.float32}
TNT = NEST | {
    "qkv_bias": False,
    "gelu": "exact",
}
# class, its fields, the shape of the tokens
CASES = {
    "nest": (TransformerLayer, NEST, (2, 3, 64, 64)),
    "nest_three_heads": (TransformerLayer, NEST | {"num_heads": 3}, (1, 2, 70, 96)),
    "vit": (TransformerLayer, NEST | {"gelu": "exact"}, (2, 65, 128)),
    "tnt_outer": (TransformerBlock, TNT, (3, 65, 64)),
    "nest_drop_path": (TransformerLayer, NEST | {"drop_path_rate": 0.5}, (4, 2, 64, 64)),
    "tnt_drop_path": (TransformerBlock, TNT | {"drop_path_rate": 0.5}, (4, 64, 64)),
}


@pytest.fixture
def on_tpu(monkeypatch):
    """Layers choose as they do on a TPU; the kernels themselves see that there is none."""
    monkeypatch.setattr("kernels.whole_layer.platform", lambda: "tpu")


@partial(jax.jit, static_argnums=(0,))
def result_and_gradients(model, params, x, d_out):
    def run(params, x):
        rngs = {"dropout": jax.random.key(3)}
        return model.apply({"params": params}, x, True, rngs=rngs)

    out, vjp = jax.vjp(run, params, x)
    return out, vjp(d_out)


def layers(case):
    """The layer in both forms, its parameters, and its input."""
    layer, fields, shape = CASES[case]
    plain, fast = (layer(**fields, kernels=kernels) for kernels in ("plain", "auto"))
    x = random_array(*shape)
    shapes = jax.eval_shape(partial(plain.init, train=False), jax.random.key(0), x)
    return plain, fast, fill(shapes["params"]), x


def is_one_kernel(model, variables, x):
    run = partial(model.apply, train=True, rngs={"dropout": jax.random.key(0)})
    return "block_forward" in str(jax.make_jaxpr(run)(variables, x))


@pytest.mark.parametrize("case", CASES)
def test_equals_the_plain_layer(case, on_tpu):
    plain, fast, params, x = layers(case)
    assert is_one_kernel(fast, {"params": params}, x)
    d_out = np.cos(np.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    found, wanted = (result_and_gradients(model, params, x, d_out) for model in (fast, plain))
    scale = max(1, np.abs(wanted[0]).max())
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-5 * scale)
    for ours, theirs in zip(*map(jax.tree.leaves, (found[1], wanted[1])), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * max(1, np.abs(theirs).max()))


def test_devices_share_the_batch(on_tpu):
    plain, fast, params, x = layers("nest_drop_path")
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    placed = jax.device_put(x, NamedSharding(mesh, P(("data", "fsdp"))))
    step = result_and_gradients.lower(fast, params, placed, placed).compile()
    assert not any(name in step.as_text() for name in ("all-gather", "all-to-all"))
    found = step(params, placed, placed)
    wanted = result_and_gradients(plain, params, x, x)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize(
    "overrides",
    [{"kernels": "plain"}, {"dropout_rate": 0.1}, {"attention": "multi_query"}],
    ids=str,
)
def test_what_the_kernel_lacks_stays_separate(overrides, on_tpu):
    x = jnp.zeros((1, 1, 64, 64))
    model = TransformerLayer(**(NEST | overrides))
    assert not is_one_kernel(model, model.init(jax.random.key(0), x, train=False), x)


def test_sizes_that_fit():
    def fits(n, c, dtype=jnp.bfloat16, ratio=4):
        return tpu_tokens.fits(jax.ShapeDtypeStruct((2, n, c), dtype), ratio * c)

    assert fits(196, 96) and fits(196, 384) and fits(197, 640) and fits(576, 384)
    assert not fits(577, 96) and not fits(16, 384) and not fits(196, 24) and not fits(196, 1024)
