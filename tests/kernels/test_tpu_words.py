"""kernels/tpu_words.py, as Python interprets its kernels: against TNT's block in the plain form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from kernels import tpu_words
from tests.model_inputs import fill, random_array
from tnt.block import TransformerBlock

FIELDS = {
    "num_heads": 2,
    "mlp_ratio": 2,
    "qkv_bias": False,
    "gelu": "exact",
    "dtype": jnp.float32,
}
# [b, n, m, c] and what differs from the fields above
CASES = {
    "tnt_s": ((2, 3, 16, 24), {"num_heads": 4}),
    "tnt_b": ((1, 3, 16, 40), {"num_heads": 4, "gelu": "tanh", "mlp_ratio": 1}),
    "tnt_ti": ((1, 2, 16, 12), {"qkv_bias": True}),
    "six_heads": ((1, 2, 16, 24), {"num_heads": 6}),
    "one_tile_per_word": ((1, 2, 4, 96), {"num_heads": 4}),
    "few_words": ((1, 5, 4, 6), {"mlp_ratio": 1.5}),
}


@pytest.fixture
def on_tpu(monkeypatch):
    """Blocks choose as they do on a TPU; the kernels themselves see that there is none."""
    monkeypatch.setattr("kernels.whole_layer.platform", lambda: "tpu")


def blocks(x, **overrides):
    """The block in both forms, and its parameters."""
    plain, fast = (
        TransformerBlock(**(FIELDS | overrides), kernels=kernels) for kernels in ("plain", "auto")
    )
    shapes = jax.eval_shape(partial(plain.init, train=False), jax.random.key(0), x)
    return plain, fast, fill(shapes["params"])


@partial(jax.jit, static_argnums=(0, 1))
def result_and_gradients(model, train, params, x, d_out):
    def run(params, x):
        return model.apply({"params": params}, x, train, rngs={"dropout": jax.random.key(3)})

    out, vjp = jax.vjp(run, params, x)
    return out, vjp(d_out)


def check(plain, fast, params, x, train=False):
    d_out = np.cos(np.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    assert "pallas_call" in str(
        jax.make_jaxpr(partial(fast.apply, train=False))({"params": params}, x)
    )
    found, wanted = (result_and_gradients(m, train, params, x, d_out) for m in (fast, plain))
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4), found[1], wanted[1])


@pytest.mark.parametrize("case", CASES)
def test_equals_the_plain_block(case, on_tpu):
    shape, overrides = CASES[case]
    x = random_array(*shape)
    plain, fast, params = blocks(x, **overrides)
    check(plain, fast, params, x)


def test_drops_the_same_paths_as_the_plain_block(on_tpu):
    x = random_array(4, 5, 4, 6)
    check(*blocks(x, drop_path_rate=0.5), x, train=True)


def test_steps_that_sentences_do_not_fill(on_tpu, monkeypatch):
    # Five steps of 16 sentences, of which the last has 11: what it reads after them is anything.
    monkeypatch.setattr(tpu_words, "_SCORES", 16 * 4 * 128 * 4)
    x = random_array(3, 25, 4, 6)
    check(*blocks(x), x)


def test_devices_share_the_sentences(on_tpu):
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    x = random_array(8, 2, 4, 6)
    plain, fast, params = blocks(x)
    placed = jax.device_put(x, NamedSharding(mesh, P(("data", "fsdp"))))
    step = result_and_gradients.lower(fast, False, params, placed, placed).compile()
    assert not any(name in step.as_text() for name in ("all-gather", "all-to-all"))
    found = step(params, placed, placed)
    wanted = result_and_gradients(plain, False, params, x, x)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4), found, wanted)


def test_bfloat16_is_as_near_to_float32_as_the_plain_block(on_tpu):
    x = random_array(2, 8, 16, 24)
    plain, _, params = blocks(x, num_heads=4)
    _, fast16, _ = blocks(x, num_heads=4, dtype=jnp.bfloat16)
    plain16 = fast16.copy(kernels="plain")
    x16 = x.astype(jnp.bfloat16)
    exact, ours, theirs = (
        result_and_gradients(m, False, params, v, v)
        for m, v in ((plain, x16.astype(jnp.float32)), (fast16, x16), (plain16, x16))
    )

    def errors(found):
        return jax.tree.map(lambda a, b: np.abs(np.float32(a) - b).mean(), found, exact)

    jax.tree.map(
        lambda a, b: None if a < 1.5 * b else pytest.fail(f"{a} {b}"), *map(errors, (ours, theirs))
    )


@pytest.mark.parametrize(
    "overrides",
    [{"kernels": "plain"}, {"dropout_rate": 0.1}, {"attention_dropout_rate": 0.1}],
    ids=str,
)
def test_what_the_kernel_lacks_stays_plain(overrides, on_tpu):
    x = random_array(1, 2, 16, 24)
    model = TransformerBlock(**(FIELDS | overrides))
    variables = model.init(jax.random.key(0), x, train=False)
    rngs = {"dropout": jax.random.key(0)}
    text = str(jax.make_jaxpr(lambda v, x: model.apply(v, x, True, rngs=rngs))(variables, x))
    assert "pallas_call" not in text


@pytest.mark.parametrize("shape", [(1, 2, 9, 24), (1, 2, 16, 160), (1, 2, 256, 6)], ids=str)
def test_words_that_do_not_fill_tiles_stay_plain(shape, on_tpu):
    model = TransformerBlock(**FIELDS)
    x = jnp.zeros(shape)
    variables = model.init(jax.random.key(0), x, train=False)
    assert "block_forward" not in str(
        jax.make_jaxpr(partial(model.apply, train=False))(variables, x)
    )
