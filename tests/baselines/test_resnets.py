"""ResNet and Wide ResNet as models. test_timm.py compares their values with PyTorch.

To rewrite the golden files after an intended change:
UPDATE_GOLDEN=1 python -m pytest tests/baselines/test_resnets.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines.resnet import ResNet
from baselines.wide_resnet import WideResNet
from tests.model_inputs import check_golden, lines_of, random_array

MODELS = {
    "resnet": ResNet(num_classes=10, depths=(2, 1), dims=(4, 8)),
    "wide_resnet": WideResNet(num_classes=10, depth=10, width=1),
}


@pytest.fixture(params=sorted(MODELS))
def model(request):
    return MODELS[request.param]


def random_variables(model, images, seed=0):
    """Parameters and averages of which none is zero or one; variances are positive."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        x = rng.normal(0, 0.3, leaf.shape)
        return np.float32(np.exp(x) if path[-1].key in ("var", "scale") else x)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_names_are_the_golden_ones(name):
    variables = jax.eval_shape(MODELS[name].init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert sorted(variables) == ["batch_stats", "params"]
    check_golden(f"{name}.txt", lines_of(variables))


@pytest.mark.parametrize("size", [(32, 32), (16, 40), (33, 47), (1, 5)])
def test_any_image_size(model, size):
    images = random_array(2, *size, 1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    logits, state = jax.eval_shape(
        lambda v, x: model.apply(v, x, mutable=["intermediates"]), shapes, images
    )
    assert logits.shape == (2, 10) and logits.dtype == jnp.float32

    def halved(times):
        h, w = size
        for _ in range(times):
            h, w = (h + 1) // 2, (w + 1) // 2
        return h, w

    if isinstance(model, ResNet):
        expected = {"stage1": (2, *halved(2), 16), "stage2": (2, *halved(3), 32)}
    else:
        dims = enumerate((16, 32, 64))
        expected = {f"group{i + 1}": (2, *halved(i), dim) for i, dim in dims}
    expected["pre_logits"] = (2, list(expected.values())[-1][-1])
    assert {name: maps[0].shape for name, maps in state["intermediates"].items()} == expected


def test_averages_follow_the_batch_with_the_stated_momentum():
    """The first norm's averages after one step, from a convolution written as loops."""
    model = ResNet(
        num_classes=3, depths=(1,), dims=(4,), batch_norm_momentum=0.7, batch_norm_epsilon=1e-3
    )
    images = random_array(3, 6, 8, 2)
    variables = random_variables(model, images)
    _, state = model.apply(variables, images, train=True, mutable=["batch_stats"])
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0))).astype(np.float64)
    kernel = variables["params"]["stem_conv"]["kernel"]  # [7, 7, in, out]
    maps = np.zeros((3, 3, 4, 4))
    for row in range(3):
        for column in range(4):
            window = padded[:, 2 * row : 2 * row + 7, 2 * column : 2 * column + 7]
            maps[:, row, column] = np.tensordot(window, kernel, axes=3)
    old, new = variables["batch_stats"]["stem_norm"], state["batch_stats"]["stem_norm"]
    mean, var = maps.mean(axis=(0, 1, 2)), maps.var(axis=(0, 1, 2))
    np.testing.assert_allclose(new["mean"], 0.7 * old["mean"] + 0.3 * mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["var"], 0.7 * old["var"] + 0.3 * var, rtol=1e-4)


def test_training_uses_the_batch_and_evaluation_the_averages(model):
    images = random_array(4, 8, 8, 3)
    variables = random_variables(model, images)
    apply = jax.jit(model.apply, static_argnames=("train", "mutable"))
    evaluated = apply(variables, images)
    one = apply(variables, images[:1])
    np.testing.assert_allclose(one, evaluated[:1], rtol=0, atol=1e-5 * np.abs(evaluated).max())
    moved = variables | {"batch_stats": jax.tree.map(lambda x: x + 0.5, variables["batch_stats"])}
    assert not np.allclose(apply(moved, images), evaluated)

    trained, state = apply(variables, images, train=True, mutable=("batch_stats",))
    same, _ = apply(moved, images, train=True, mutable=("batch_stats",))
    np.testing.assert_array_equal(same, trained)
    alone, _ = apply(variables, images[:1], train=True, mutable=("batch_stats",))
    assert not np.allclose(alone, trained[:1])
    changed = jax.tree.map(
        lambda a, b: not np.allclose(a, b), variables["batch_stats"], state["batch_stats"]
    )
    assert all(jax.tree.leaves(changed))


def test_bfloat16_with_float32_statistics(model):
    images = 100 + random_array(4, 16, 16, 3)  # bfloat16 would lose the variance
    variables = random_variables(model, images)
    low = model.clone(dtype=jnp.bfloat16)
    apply = jax.jit(
        lambda model, train: model.apply(
            variables, images, train=train, mutable=["batch_stats", "intermediates"]
        ),
        static_argnums=(0, 1),
    )
    logits, state = apply(low, True)
    assert logits.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(state["batch_stats"])} == {jnp.dtype("float32")}
    state["intermediates"].pop("pre_logits")  # float32, as the logits
    assert {x.dtype for x in jax.tree.leaves(state["intermediates"])} == {jnp.dtype("bfloat16")}
    evaluated, expected = np.asarray(apply(low, False)[0]), np.asarray(apply(model, False)[0])
    assert np.abs(evaluated - expected).max() < 0.05 * np.abs(expected).max()


def test_remat_changes_neither_names_nor_numbers(model):
    images = random_array(4, 4, 4, 3)
    if isinstance(model, WideResNet):
        model = model.clone(dropout_rate=0.2)
    remat = model.clone(remat="block")
    variables = random_variables(model, images)
    shapes = jax.eval_shape(remat.init, jax.random.key(0), images)
    assert jax.tree.structure(shapes) == jax.tree.structure(variables)

    def loss(params, model):
        logits, state = model.apply(
            variables | {"params": params},
            images,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats"],
        )
        return (logits**2).mean(), state

    text = str(jax.make_jaxpr(lambda p: loss(p, remat))(variables["params"]))
    assert "remat" in text or "checkpoint" in text
    step = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    first, second = step(variables["params"], model), step(variables["params"], remat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), first, second)


def test_initial_values():
    """Convolutions have variance 2 / (outputs of a filter); blocks can begin as their shortcut."""
    images = random_array(1, 8, 8, 3)
    model = ResNet(num_classes=50, depths=(1,), dims=(32,), zero_init_last_norm=True)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name == "params/head/kernel":
            assert np.std(leaf) == pytest.approx(0.01, rel=0.05)
        elif name.endswith("kernel"):
            fan_out = leaf.shape[0] * leaf.shape[1] * leaf.shape[3]
            assert np.std(leaf) == pytest.approx(np.sqrt(2 / fan_out), rel=0.1)
        else:
            one = name.endswith(("scale", "var")) and not name.endswith("norm3/scale")
            np.testing.assert_array_equal(leaf, 1 if one else 0)

    def last_scale(key):
        plain = model.clone(zero_init_last_norm=False)
        return plain.init(key, images)["params"]["stage1_block1"]["norm3"]["scale"]

    np.testing.assert_array_equal(jax.jit(last_scale)(jax.random.key(0)), 1)


def test_dropout_draws_in_training():
    model, images = WideResNet(10, depth=10, width=1, dropout_rate=0.5), random_array(4, 8, 8, 3)
    variables = random_variables(model, images)
    apply = jax.jit(model.apply, static_argnames=("train", "mutable"))
    first, second = (
        apply(
            variables,
            images,
            train=True,
            mutable=("batch_stats",),
            rngs={"dropout": jax.random.key(k)},
        )[0]
        for k in (0, 1)
    )
    assert not np.allclose(first, second)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            dict(depths=(1, 1)),
            r"depths=\(1, 1\): .* from dims=\(4,\); allowed: one entry per stage",
        ),
        (
            dict(depths=(0,)),
            r"depths=\(0,\): wrong; allowed: a tuple of positive integers, one per stage",
        ),
        (dict(dims=[4]), r"dims=\[4\]: wrong; allowed: a tuple of positive integers"),
        (
            dict(batch_norm_momentum=1.0),
            "batch_norm_momentum=1.0: wrong; allowed: a number, at least 0",
        ),
        (
            dict(batch_norm_epsilon=0.0),
            "batch_norm_epsilon=0.0: wrong; allowed: a finite number above 0",
        ),
        (dict(num_classes=0), "num_classes=0: wrong; allowed: a positive integer"),
    ],
)
def test_wrong_fields_of_resnet(make, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**(dict(num_classes=2, depths=(1,), dims=(4,)) | make))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (dict(depth=27), "depth=27: wrong; allowed: 6n . 4: 10, 16, 22, 28"),
        (dict(depth=4), "depth=4: wrong; allowed: 6n . 4"),
        (dict(width=1.5), "width=1.5: wrong; allowed: a positive integer"),
        (dict(dropout_rate=1), "dropout_rate=1: wrong; allowed: a number"),
    ],
)
def test_wrong_fields_of_wide_resnet(make, message):
    with pytest.raises(ValueError, match=message):
        WideResNet(**(dict(num_classes=2, depth=10, width=1) | make))


def test_images_of_another_rank(model):
    with pytest.raises(AssertionError, match=r"rank 3 .*images: \[b, height, width, channels\]"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((16, 16, 3)))
