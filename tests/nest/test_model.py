"""NesT: blocks and the whole model.

The golden files hold parameter names and shapes, which are a public format. To rewrite them
after an intended change: UPDATE_GOLDEN=1 python -m pytest tests/nest/test_model.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nest.aggregation import AGGREGATIONS
from nest.blocks import block, unblock
from nest.model import Nest
from tests.model_inputs import check_golden, lines_of, random_array, random_params
from zoo.load import parameter_shapes

SMALL = {
    "num_classes": 10,
    "dims": (8, 16, 24),
    "depths": (1, 2, 1),
    "num_heads": (2, 2, 3),
    "patch_size": 2,
}


TWO_LEVELS = {"dims": (8, 16), "depths": (1, 1), "num_heads": (2, 2)}


def small(**overrides):
    return Nest(**(SMALL | overrides))


# Blocks


@pytest.mark.parametrize(("grid", "sides"), [((2, 2), (3, 3)), ((1, 4), (2, 5)), ((4, 2), (1, 3))])
def test_block_against_its_index_formula_and_back(grid, sides):
    (gh, gw), (bh, bw) = grid, sides
    x = random_array(2, gh * bh, gw * bw, 3)
    blocks = block(x, sides)
    assert blocks.shape == (2, gh * gw, bh * bw, 3)
    for row in range(gh * bh):
        for column in range(gw * bw):
            t = row // bh * gw + column // bw
            n = row % bh * bw + column % bw
            np.testing.assert_array_equal(blocks[:, t, n], x[:, row, column])
    np.testing.assert_array_equal(unblock(blocks, sides, grid), x)


# The model


@pytest.mark.parametrize("attention", ["multi_head", "multi_query"])
def test_parameter_names_are_the_golden_ones(attention):
    shapes = parameter_shapes(small(attention=attention), 24)
    check_golden(f"nest_{attention}.txt", lines_of(shapes))


@pytest.mark.parametrize("size", [(8, 8), (24, 24), (16, 40), (40, 8)])
def test_any_size_that_the_levels_divide(size):
    """Position embeddings show how many blocks and tokens a level has: unit 2 * 2^2 = 8 pixels."""
    h, w = size
    model, images = small(), random_array(2, h, w, 3)
    params = parameter_shapes(model, size)
    tokens = h // 8 * (w // 8)
    for level, blocks in ((1, 16), (2, 4), (3, 1)):
        table = params[f"level{level}_position"]["embedding"]
        assert table.shape == (blocks, tokens, SMALL["dims"][level - 1])
    logits, state = jax.eval_shape(
        lambda p, x: model.apply({"params": p}, x, mutable=["intermediates"]), params, images
    )
    assert logits.shape == (2, 10) and logits.dtype == jnp.float32
    for level, scale in ((1, 2), (2, 4), (3, 8)):
        (plane,) = state["intermediates"][f"level{level}"]
        assert plane.shape == (2, h // scale, w // scale, SMALL["dims"][level - 1])


def plane_change(model, images, changed, level):
    """Where two images that differ lead to different maps of a level: [h, w] of bool."""
    variables = {"params": random_params(model, images)}
    run = jax.jit(lambda x: model.apply(variables, x, mutable=["intermediates"])[1])
    (before,), (after,) = (run(x)["intermediates"][f"level{level}"] for x in (images, changed))
    return np.any(np.asarray(before) != np.asarray(after), axis=(0, -1))


def test_attention_stays_inside_its_block():
    images = random_array(1, 16, 32, 3)  # level 1: 8x16 tokens, blocks of 2x4
    changed = images.copy()
    changed[:, 9, 21] += 1  # token (4, 10), block (2, 2): rows 4-5, columns 8-11
    expected = np.zeros((8, 16), bool)
    expected[4:6, 8:12] = True
    np.testing.assert_array_equal(plane_change(small(), images, changed, 1), expected)


@pytest.mark.parametrize(
    ("aggregation", "meets"),
    [
        ("conv_norm_maxpool", True),
        ("conv_norm_maxpool_in_block", False),
        ("conv_in_block_conv_norm_maxpool", True),
    ],
)
def test_aggregation_on_the_plane_crosses_blocks_and_in_blocks_does_not(aggregation, meets):
    model = small(aggregation=aggregation)
    images = random_array(1, 32, 32, 3)  # level 1: 4x4 blocks of 4x4; level 2: 2x2 blocks
    changed = images.copy()
    changed[:, 17, 17] += 1  # block (2, 2) of level 1, so block (1, 1) of level 2
    change = plane_change(model, images, changed, 2)
    assert change[4:, 4:].all()
    change[4:, 4:] = False
    assert change.any() == meets


def test_gradients_with_respect_to_a_level():
    """The perturbations of a level give the derivative along any direction of its map."""
    model, images = small(**TWO_LEVELS), random_array(2, 8, 8, 3)
    params = random_params(model, images)
    shapes = jax.eval_shape(
        lambda: model.apply({"params": params}, images, mutable=["perturbations"])[1]
    )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes["perturbations"])
    assert sorted(zeros) == ["level1", "level2"]

    @jax.jit
    def logit(maps):
        return model.apply({"params": params, "perturbations": maps}, images)[:, 3].sum()

    plain = model.apply({"params": params}, images)[:, 3].sum()
    assert float(logit(zeros)) == pytest.approx(float(plain), rel=1e-5)
    gradient = jax.jit(jax.grad(logit))(zeros)
    for level in zeros:
        step = 1e-2 * random_array(*zeros[level].shape)
        difference = logit(zeros | {level: step}) - logit(zeros | {level: -step})
        slope = 2 * float((gradient[level] * step).sum())
        assert float(difference) == pytest.approx(slope, rel=0.05, abs=1e-3)


def test_init_returns_parameters_only():
    variables = jax.eval_shape(small().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert list(variables) == ["params"]


def test_initial_values():
    """Kernels and position embeddings are normal(0.02) cut at 0.04; biases 0, norm scales 1."""
    model = Nest(10, (8, 16), (1, 1), (2, 2), patch_size=2)
    variables = jax.jit(model.init)(jax.random.key(0), random_array(1, 8, 8, 3))
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables["params"])[0]:
        kind = path[-1].key
        if kind in ("kernel", "embedding"):
            assert 0 < np.abs(leaf).max() <= 0.04 and 0.012 < np.std(leaf) < 0.023
        else:
            np.testing.assert_array_equal(leaf, {"bias": 0, "scale": 1}[kind])


@pytest.mark.parametrize("remat", ["attention", "dots", "block"])
def test_remat_changes_neither_names_nor_numbers(remat):
    images = random_array(4, 8, 8, 3)
    rates = {"drop_path_rate": 0.5, "dropout_rate": 0.1, "attention_dropout_rate": 0.1}
    plain = Nest(10, (8,), (2,), (2,), patch_size=2, **rates)
    remat = plain.clone(remat=remat)
    assert parameter_shapes(plain, 8) == parameter_shapes(remat, 8)
    params = random_params(plain, images)

    def loss(params, model):
        rngs = {"dropout": jax.random.key(1)}
        return (model.apply({"params": params}, images, train=True, rngs=rngs) ** 2).sum()

    text = str(jax.make_jaxpr(lambda p: loss(p, remat))(params))
    assert "remat" in text or "checkpoint" in text
    step = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    first, second = step(params, plain), step(params, remat)
    np.testing.assert_allclose(first[0], second[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), first[1], second[1])


@pytest.mark.parametrize("attention", ["multi_head", "multi_query"])
def test_bfloat16_computes_in_half_and_keeps_the_rest(attention):
    images = random_array(4, 8, 8, 3)
    exact = small(**TWO_LEVELS, attention=attention, drop_path_rate=0.2, dropout_rate=0.1)
    model = exact.clone(dtype=jnp.bfloat16)
    shapes = parameter_shapes(model, 8)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    params = random_params(model, images)

    def run(model, train):
        rngs = {"dropout": jax.random.key(0)}
        return jax.jit(
            lambda: model.apply(
                {"params": params}, images, train=train, rngs=rngs, mutable=["intermediates"]
            )
        )()

    for train in (False, True):
        logits, state = run(model, train)
        assert logits.dtype == jnp.float32
        state["intermediates"].pop("pre_logits")  # float32, as the logits
        assert {m.dtype for m in jax.tree.leaves(state)} == {jnp.dtype("bfloat16")}
        if not train:
            expected = np.asarray(run(exact, train)[0])
            assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()


def test_train_draws_and_evaluation_does_not():
    model, images = small(**TWO_LEVELS, drop_path_rate=0.5), random_array(16, 8, 8, 3)
    variables = {"params": random_params(model, images)}
    apply = jax.jit(model.apply, static_argnames="train")
    evaluated = apply(variables, images)
    np.testing.assert_array_equal(apply(variables, images, train=False), evaluated)
    first, second = (
        apply(variables, images, train=True, rngs={"dropout": jax.random.key(k)}) for k in (0, 1)
    )
    assert not np.allclose(first, evaluated) and not np.allclose(first, second)


def test_drop_path_grows_from_nothing_at_the_first_layer():
    """With one layer in all, the rate is that of the first: 0."""
    model = Nest(10, (8,), (1,), (2,), patch_size=2, drop_path_rate=0.9)
    images = random_array(4, 8, 8, 3)
    variables = {"params": random_params(model, images)}
    rngs = {"dropout": jax.random.key(0)}
    trained = model.apply(variables, images, train=True, rngs=rngs)
    np.testing.assert_allclose(trained, model.apply(variables, images), rtol=1e-5)


@pytest.mark.parametrize("kind", sorted(AGGREGATIONS))
def test_every_aggregation_trains_in_the_model(kind):
    model, images = small(**TWO_LEVELS, aggregation=kind), random_array(2, 8, 16, 3)
    params = random_params(model, images)
    gradient = jax.jit(jax.grad(lambda p: (model.apply({"params": p}, images) ** 2).sum()))(params)
    flat = jax.tree_util.tree_flatten_with_path(gradient)[0]
    dead = [jax.tree_util.keystr(path) for path, leaf in flat if not np.abs(leaf).max() > 0]
    assert not dead


# Errors


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"dims": (8, 16)},
            r"dims=\(8, 16\): .* from depths=\(1, 2, 1\), .*; allowed: one entry per level",
        ),
        ({"depths": (1, 1, 1, 1)}, "one entry per level"),
        ({"num_heads": (2, 2)}, "one entry per level"),
        ({"dims": ()}, "dims=.*: wrong; allowed: a tuple of positive integers"),
        ({"dims": [8, 16, 24]}, "dims=.*: wrong; allowed: a tuple of positive integers"),
        ({"depths": (1, 0, 1)}, "depths=.*: wrong; allowed: a tuple of positive integers"),
        ({"num_heads": (2, 2, 5)}, "num_heads=5: does not divide dims=24 at level 3"),
        ({"attention": "local"}, "attention='local': unknown; .*allowed: multi_head, multi_query"),
        ({"aggregation": "conv"}, "aggregation='conv': unknown; .*allowed: conv_norm_maxpool, "),
        ({"aggregation_padding": "valid"}, "aggregation_padding='valid'.* same, torch"),
        ({"gelu": "erf"}, "gelu='erf': unknown; .*allowed: tanh, exact"),
        (
            {"drop_path_rate": 1.0},
            "drop_path_rate=1.0: wrong; allowed: a number, at least 0 and below 1",
        ),
        ({"dropout_rate": -0.1}, "dropout_rate=-0.1: wrong"),
        ({"attention_dropout_rate": "0.1"}, "attention_dropout_rate='0.1': wrong"),
        ({"drop_path_rate": float("nan")}, "drop_path_rate=nan: wrong"),
        ({"drop_path_rate": np.float64(0.1)}, "drop_path_rate=.*: wrong; allowed: a number"),
        ({"mlp_ratio": 0}, "mlp_ratio=0: wrong; allowed: a finite number above 0"),
        ({"mlp_ratio": 0.1}, "leaves no hidden channel at width 8"),
        ({"patch_size": 0}, "patch_size=0: wrong; allowed: a positive integer"),
        ({"num_classes": None}, "num_classes=None: wrong; allowed: a positive integer"),
        (
            {"block_size": (4, 4, 4)},
            "block_size=.*: wrong; allowed: None, a positive integer or a pair",
        ),
        ({"block_size": 0}, "block_size=0: wrong; allowed: None"),
        (
            {"block_size": (4, 3), "aggregation": "conv_norm_maxpool_in_block"},
            r"block_size=\(4, 3\): odd, but aggregation='conv_norm_maxpool_in_block' .*even sides",
        ),
    ],
)
def test_wrong_fields(overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        small(**overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "size", "message"),
    [
        (
            {},
            (20, 16),
            r"=\(20, 16\): .* multiples of 8 .*; nearest height: 16 or 24, nearest width: 16 .fits",
        ),
        ({}, (16, 33), r"nearest height: 16 \(fits\), nearest width: 32 or 40"),
        ({}, (4, 0), "nearest height: 8, nearest width: 8"),
        (
            {"block_size": 4},
            (16, 16),
            r"=\(16, 16\): does not fit block_size=4, .*allowed: \(32, 32\)",
        ),
        ({"block_size": (2, 4)}, (32, 16), r"allowed: \(16, 32\), or others"),
        (
            {"aggregation": "conv_norm_maxpool_in_block"},
            (24, 32),
            r"multiples of 16 .*; nearest height: 16 or 32, nearest width: 32 \(fits\)",
        ),
    ],
)
def test_wrong_image_sizes(overrides, size, message):
    with pytest.raises(ValueError, match=message) as error:
        parameter_shapes(small(**overrides), size)
    assert "\n" not in str(error.value)


def test_given_block_size_is_the_derived_one():
    derived = parameter_shapes(small(), (16, 32))
    assert parameter_shapes(small(block_size=(2, 4)), (16, 32)) == derived
    assert parameter_shapes(small(block_size=3), 24) == parameter_shapes(small(), 24)


def test_images_of_another_rank():
    with pytest.raises(AssertionError, match=r"rank 3 .*images: \[b, height, width, channels\]"):
        jax.eval_shape(small().init, jax.random.key(0), jnp.zeros((16, 16, 3)))
