"""ViT with DeiT's settings: names, shapes, numerics, errors. test_timm.py has its values.

To rewrite the golden files after an intended change:
UPDATE_GOLDEN=1 python -m pytest tests/baselines/test_vit.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines.vit import Vit
from tests.model_inputs import check_golden, lines_of, random_array, random_params
from zoo.load import parameter_shapes
from zoo.registry import create_model

SMALL = {"num_classes": 10, "dim": 12, "depth": 2, "num_heads": 3, "patch_size": 4}


def small(**overrides):
    return Vit(**(SMALL | overrides))


@pytest.mark.parametrize("pooling", ["class_token", "average"])
def test_parameter_names_are_the_golden_ones(pooling):
    shapes = parameter_shapes(small(pooling=pooling), (8, 16))
    check_golden(f"vit_{pooling}.txt", lines_of(shapes))


@pytest.mark.parametrize(
    ("patch", "size", "num_patches"),
    [(4, (8, 8), 4), (4, (12, 4), 3), ((2, 4), (6, 16), 12), ((3, 1), (3, 5), 5), (1, (4, 4), 16)],
)
@pytest.mark.parametrize("pooling", ["class_token", "average"])
def test_any_size_that_the_patch_divides(patch, size, num_patches, pooling):
    model, images = small(patch_size=patch, pooling=pooling), random_array(2, *size, 3)
    params = parameter_shapes(model, size)
    num_tokens = num_patches + (pooling == "class_token")
    assert params["position"]["embedding"].shape == (num_tokens, 12)
    assert ("class_token" in params) == (pooling == "class_token")
    logits, state = jax.eval_shape(
        lambda p, x: model.apply({"params": p}, x, mutable=["intermediates"]), params, images
    )
    assert logits.shape == (2, 10) and logits.dtype == jnp.float32
    assert state["intermediates"].pop("pre_logits")[0].shape == (2, 12)
    assert sorted(state["intermediates"]) == ["block1_tokens", "block2_tokens"]
    for (tokens,) in state["intermediates"].values():
        assert tokens.shape == (2, num_tokens, 12)


def test_published_sizes_are_those_of_deit():
    for name, dim, heads in [("ti", 192, 3), ("s", 384, 6), ("b", 768, 12)]:
        model = create_model(f"deit_{name}_patch16_224", num_classes=7)
        assert (model.dim, model.num_heads, model.depth, model.patch_size) == (dim, heads, 12, 16)
        assert (model.drop_path_rate, model.qkv_bias, model.gelu) == (0.1, True, "exact")


def test_shown_tokens_are_those_that_are_classified():
    """The norm and the head, by hand, on the class token after the last block."""
    model, images = small(), random_array(2, 8, 8, 3)
    params = random_params(model, images)
    logits, state = model.apply({"params": params}, images, mutable=["intermediates"])
    x = np.asarray(state["intermediates"]["block2_tokens"][0][:, 0], np.float64)
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    x = x * params["norm"]["scale"] + params["norm"]["bias"]
    expected = x @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_only_positions_tell_the_order_of_patches():
    model, images = small(pooling="average"), random_array(2, 4, 16, 3)
    shuffled = images.reshape(2, 4, 4, 4, 3)[:, :, [2, 0, 3, 1]].reshape(images.shape)
    params = random_params(model, images)
    logits, other = (model.apply({"params": params}, x) for x in (images, shuffled))
    assert np.abs(logits - other).max() > 1e-2
    params["position"]["embedding"][:] = 0
    logits, other = (model.apply({"params": params}, x) for x in (images, shuffled))
    np.testing.assert_allclose(logits, other, rtol=1e-4, atol=1e-5)


def test_initial_values():
    """Kernels, positions and class token are normal(0.02) cut at 0.04; biases 0, scales 1."""
    model = small(dim=48, depth=1)
    variables = jax.jit(model.init)(jax.random.key(0), random_array(1, 8, 8, 3))
    assert list(variables) == ["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        kind = path[-1].key
        if kind in ("kernel", "embedding", "class_token"):
            assert 0 < np.abs(leaf).max() <= 0.04 and 0.012 < np.std(leaf) < 0.023
        else:
            np.testing.assert_array_equal(leaf, {"bias": 0, "scale": 1}[kind])


@pytest.mark.parametrize("remat", ["attention", "dots", "block"])
def test_remat_changes_neither_names_nor_numbers(remat):
    images = random_array(4, 8, 8, 3)
    plain = small(depth=1, dropout_rate=0.1)
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
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), first[1], second[1]
    )


@pytest.mark.parametrize("pooling", ["class_token", "average"])
def test_bfloat16_is_used_throughout(pooling):
    images = random_array(2, 8, 8, 3)
    exact = small(pooling=pooling, drop_path_rate=0.2)
    params = random_params(exact, images)

    def run(model, train):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(
            {"params": params}, images, train=train, rngs=rngs, mutable=["intermediates"]
        )

    for train in (False, True):
        logits, state = run(exact.clone(dtype=jnp.bfloat16), train)
        assert logits.dtype == jnp.float32
        state["intermediates"].pop("pre_logits")  # float32, as the logits
        assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("bfloat16")}
        if not train:
            expected = np.asarray(run(exact, train)[0])
            assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("rate", ["drop_path_rate", "dropout_rate", "attention_dropout_rate"])
def test_train_draws_and_evaluation_does_not(rate):
    model, images = small(**{rate: 0.5}), random_array(16, 8, 8, 3)
    variables = {"params": random_params(model, images)}
    apply = jax.jit(model.apply, static_argnums=2)
    evaluated = apply(variables, images, False)
    np.testing.assert_array_equal(apply(variables, images, False), evaluated)
    first, second = (
        apply(variables, images, True, rngs={"dropout": jax.random.key(k)}) for k in (0, 1)
    )
    assert not np.allclose(first, evaluated) and not np.allclose(first, second)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_heads": 5}, "num_heads=5: does not divide dim=12"),
        ({"depth": 0}, "depth=0: wrong; allowed: a positive integer"),
        ({"dim": 12.0}, "dim=12.0: wrong; allowed: a positive integer"),
        ({"num_classes": None}, "num_classes=None: wrong; allowed: a positive integer"),
        (
            {"patch_size": (4, 4, 4)},
            "patch_size=.*: wrong; allowed: a positive integer or a pair of them",
        ),
        ({"patch_size": 0}, "patch_size=0: wrong; allowed: a positive integer or a pair"),
        ({"pooling": "max"}, "pooling='max': unknown; .*allowed: class_token, average"),
        ({"gelu": "erf"}, "gelu='erf': unknown; .*allowed: tanh, exact"),
        (
            {"drop_path_rate": 1.0},
            "drop_path_rate=1.0: wrong; allowed: a number, at least 0 and below 1",
        ),
        ({"dropout_rate": np.float64(0.1)}, "dropout_rate=.*: wrong; allowed: a number"),
        ({"attention_dropout_rate": -0.1}, "attention_dropout_rate=-0.1: wrong"),
        ({"mlp_ratio": 0}, "mlp_ratio=0: wrong; allowed: a finite number above 0"),
        ({"mlp_ratio": 0.01}, "leaves no hidden channel at width 12"),
    ],
)
def test_wrong_fields(overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        small(**overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("patch", "size", "message"),
    [
        (
            4,
            (8, 10),
            r"=\(8, 10\): does not fit; .* of patch_size=4; .*: 8 .fits., .* width: 8 or 12",
        ),
        (4, (3, 8), r"=\(3, 8\): .*patch_size=4; nearest height: 4, nearest width: 8 .fits"),
        ((2, 3), (4, 4), r"patch_size=\(2, 3\); nearest height: 4 \(fits\), .*: 3 or 6"),
    ],
)
def test_wrong_image_sizes(patch, size, message):
    with pytest.raises(ValueError, match=message) as error:
        parameter_shapes(small(patch_size=patch), size)
    assert "\n" not in str(error.value)


def test_images_of_another_rank():
    with pytest.raises(AssertionError, match=r"rank 3 .*images: \[b, height, width, channels\]"):
        jax.eval_shape(small().init, jax.random.key(0), jnp.zeros((16, 16, 3)))
