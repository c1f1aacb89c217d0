"""CAM, Grad-CAM, rollout and GradCAT behind one interface: known answers, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from baselines.vit import Vit
from inference import explain
from inference.explain import METHODS, create_explainer, methods_of, planes_of
from layers.attention import MultiHeadAttention
from layers.intermediates import differentiate
from nest.blocks import block
from nest.model import Nest
from tests.layers.test_intermediates import CASES, build
from tests.model_inputs import fill, random_array, random_params
from tnt.model import Tnt
from zoo.registry import create_model

CLASSES = np.array([3, 7])
SHAPE = (32, 32, 3)
WITHOUT_ROLLOUT = ("resnet", "wide_resnet", "pyramid_tnt")
ATTENTIVE = [case for case in CASES if case not in WITHOUT_ROLLOUT]


def explained(case, method, classes=CLASSES, **fields):
    model, variables, images = build(case, **fields)
    maps = create_explainer(method, model, SHAPE)(variables, images, classes)
    assert maps.shape == (2, 32, 32) and maps.dtype == jnp.float32
    return model, variables, images, np.asarray(maps)


def coarse(model, variables, images, method, classes=CLASSES):
    """The map before it is enlarged: images as small as its grid are not resized."""
    planes = planes_of(model, images.shape[1:3])
    return np.asarray(explain._FUNCTIONS[method](planes, model, variables, images, classes))


@pytest.mark.parametrize("case", CASES)
def test_the_mean_of_cam_is_the_logit(case):
    """Where the head reads an average; a class token's model has other tokens in its place."""
    model, variables, images, _ = explained(case, "cam")
    if getattr(model, "pooling", "average") == "class_token":
        return
    logits = model.apply(variables, images)[np.arange(2), CLASSES]
    means = coarse(model, variables, images, "cam").mean(axis=(1, 2))
    bias = variables["params"]["head"]["bias"][CLASSES]
    np.testing.assert_allclose(means + bias, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_grad_cam_by_hand(case):
    model, variables, images, maps = explained(case, "gradcam")
    planes = planes_of(model, (32, 32))
    _, _, found, gradients = differentiate(
        model, variables, images, jnp.asarray(CLASSES), [planes.last]
    )
    activations, slopes = (
        np.asarray(planes.plane(x[planes.last]), np.float64) for x in (found, gradients)
    )
    expected = np.zeros(activations.shape[:3])
    for image in range(2):
        for channel in range(activations.shape[-1]):
            weight = slopes[image, :, :, channel].mean()
            expected[image] += weight * activations[image, :, :, channel]
    expected = np.maximum(expected, 0)
    assert expected.max() > 0 or expected[0].size == 1  # PyramidTNT's last map, of small images
    own = coarse(model, variables, images, "gradcam")
    np.testing.assert_allclose(own, expected, rtol=1e-3, atol=1e-5 * expected.max())
    # Enlarged linearly: no pixel beyond the map's own range.
    assert maps.min() >= 0 and maps.max() <= expected.max() * (1 + 1e-5)


NEST = Nest(10, (8, 12, 16), (1, 1, 1), (2, 2, 2), patch_size=2)
TNT = Tnt(10, 6, 12, 2, 2, depth=3, patch_size=4, word_size=2)
VIT = Vit(10, 12, 3, 2, patch_size=4)
# name -> model, the module that reads the map
READERS = {
    "nest": (NEST, "norm"),
    "tnt": (TNT, "layer3"),
    "tnt_average": (TNT.clone(pooling="average"), "norm"),
    "vit": (VIT, "block3"),
    "vit_average": (VIT.clone(pooling="average"), "norm"),
}


@pytest.mark.parametrize("case", READERS)
def test_grad_cam_against_finite_differences(case):
    """Channels are moved at the entrance of the module that reads the map, one after the other."""
    model, reader = READERS[case]
    images = random_array(2, 8, 16, 3)
    planes = planes_of(model, (8, 16))
    variables = {"params": random_params(model, images)}
    found = explain.grad_cam(planes, model, variables, images, jnp.asarray(CLASSES))

    def logits_and_map(change):
        """Adds a number per channel to all places of the map; returns the map as it was."""
        seen = []

        def move(call, args, kwargs, context):
            if context.module.path == (reader,) and context.method_name == "__call__" and not seen:
                index = 1 if reader.startswith("layer") else 0  # a layer of TNT: words, sentences
                x = args[index]
                seen.append(x)
                first = planes.first_token or 0  # the class token stays as it is
                args = (*args[:index], x.at[:, first:].add(change), *args[index + 1 :])
            return call(*args, **kwargs)

        with nn.intercept_methods(move):
            logits = model.apply(variables, images)
        return logits[np.arange(2), CLASSES], planes.plane(seen[0])

    x = np.asarray(jax.jit(logits_and_map)(np.zeros(1, np.float32))[1], np.float64)
    step = 2e-3 * np.eye(x.shape[-1], dtype=np.float32)
    moved = jax.jit(jax.vmap(lambda change: logits_and_map(change)[0]))
    slopes = np.asarray(moved(step) - moved(-step), np.float64).T / 4e-3  # [b, c]
    weights = slopes / (x.shape[1] * x.shape[2])  # the mean over places
    expected = np.maximum(np.einsum("bc,bhwc->bhw", weights, x), 0)
    assert found.shape == expected.shape and expected.max() > 0
    np.testing.assert_allclose(found, expected, atol=2e-2 * expected.max())


@pytest.mark.parametrize("case", ["vit", "vit_average", "tnt", "tnt_average"])
def test_rollout_against_products_of_matrices(case):
    model, variables, images, _ = explained(case, "rollout")
    _, state = model.apply(variables, images, mutable=["attention_weights"])
    flow = np.eye(planes_of(model, (32, 32)).grid[0] ** 2 + (case != "vit_average"))[None]
    for layer in range(1, model.depth + 1):
        tree = state["attention_weights"]
        found = tree[f"layer{layer}"]["outer"] if "tnt" in case else tree[f"block{layer}"]
        weights = np.asarray(found["attention"]["weights"][0], np.float64).mean(axis=(1, 2))
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
        flow = (0.5 * weights + 0.5 * np.eye(weights.shape[-1])) @ flow
    rows = {"class_token": flow[:, 0], "average": flow[:, "tnt" in case :].mean(axis=1)}
    expected = rows[model.pooling][:, case != "vit_average" :]
    found = coarse(model, variables, images, "rollout").reshape(2, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("attention", ["multi_head", "multi_query"])
def test_rollout_of_levels_keeps_what_it_hands_on(attention):
    """Shares add up to one; with one layer above, all tokens of a block get what it had."""
    model, variables, images, _ = explained("nest", "rollout", attention=attention)
    share = coarse(model, variables, images, "rollout")
    assert share.shape == (2, 8, 8)
    np.testing.assert_allclose(share.sum(axis=(1, 2)), 1, rtol=1e-5)
    # Attention of levels 1 and 2 never leaves a block: what a block gets, level 3 alone says.
    _, state = model.apply(variables, images, mutable=["attention_weights"])
    top = np.full((2, 4), 0.25)
    for layer in (2, 1):
        weights = state["attention_weights"][f"level3_layer{layer}"]["attention"]["weights"][0]
        weights = np.asarray(weights)[:, 0].mean(axis=(1, 2))  # [b, n, n]
        top = (top + np.einsum("bn,bnm->bm", top, weights)) / 2
    quadrants = np.asarray(block(share[..., None], (4, 4))).sum(axis=(2, 3))
    np.testing.assert_allclose(quadrants, top, rtol=1e-5)


@pytest.mark.parametrize("case", ATTENTIVE)
def test_asking_for_attention_changes_nothing_else(case):
    model, variables, images = build(case)
    logits = jax.jit(model.apply)(variables, images)
    again, state = model.apply(variables, images, mutable=["attention_weights", "intermediates"])
    np.testing.assert_allclose(logits, again, rtol=1e-4, atol=1e-4 * np.abs(logits).max())
    paths = planes_of(model, (32, 32)).attentions
    inner = [
        ("inner" in jax.tree_util.keystr(path))
        for path, _ in jax.tree_util.tree_leaves_with_path(state["attention_weights"])
    ]
    assert len(inner) - sum(inner) == len(paths)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert set(shapes) == {"params"} | ({"intermediates"} & set(shapes))


def test_attention_weights_are_those_before_dropout():
    x = random_array(2, 5, 8)
    layer = MultiHeadAttention(2, dropout_rate=0.5)
    shapes = jax.eval_shape(lambda key: layer.init(key, x, True), jax.random.key(0))
    variables = fill(shapes)
    plain = layer.apply(variables, x, True, mutable=["attention_weights"])[1]
    dropped, state = layer.apply(
        variables, x, False, mutable=["attention_weights"], rngs={"dropout": jax.random.key(0)}
    )
    np.testing.assert_array_equal(
        state["attention_weights"]["weights"][0], plain["attention_weights"]["weights"][0]
    )
    assert not np.allclose(dropped, layer.apply(variables, x, True))


@pytest.mark.parametrize("method", METHODS)
def test_classes_none_are_the_likeliest_and_no_class_compiles_again(method, monkeypatch):
    model, variables, images = build("nest")
    traced, function = [], explain._FUNCTIONS[method]
    counting = lambda *arguments: (traced.append(method), function(*arguments))[1]  # noqa: E731
    monkeypatch.setitem(explain._FUNCTIONS, method, counting)
    explain_them = create_explainer(method, model, SHAPE)
    likeliest = np.asarray(model.apply(variables, images)).argmax(axis=-1)
    found = explain_them(variables, images)
    np.testing.assert_allclose(found, explain_them(variables, images, likeliest), atol=1e-5)
    assert len(traced) == 2  # without and with classes
    explain_them(variables, images, [9, 0])
    assert len(traced) == 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([3, 10], "there is no class 10; allowed: 0 to 9"),
        ([-1, 3], "there is no class -1"),
        ([3], "the number of classes is 1, of images 2: give one class for each image"),
        ([0.5, 1.0], "classes are float64"),
    ],
)
def test_wrong_classes_are_refused(method, classes, message):
    model, variables, images = build("nest")
    with pytest.raises(ValueError, match=message):
        create_explainer(method, model, SHAPE)(variables, images, classes)


def test_a_token_of_overlapping_patches_is_where_its_patch_is():
    model = create_model("tnt_s_patch16_224", num_classes=5, patch_size=8, patch_stride=4)
    planes = planes_of(model, (32, 32))
    assert planes.grid == (7, 7)
    centres = 3.5 + 4 * np.arange(7)  # of patches of 8 pixels, in pixels
    rows = np.broadcast_to(centres[:, None], (7, 7)).astype(np.float32)
    found = np.asarray(planes.enlarged(jnp.asarray(rows[None]), (32, 32)))[0]
    expected = np.clip(np.arange(32), 3.5, 27.5)  # beyond the outermost centres their value goes on
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None], (32, 32)), atol=1e-4)
    middles = [(y * 4 + 4, x * 4 + 4) for y in range(7) for x in range(7)]
    assert [planes.token_at((y / 32, x / 32)) for y, x in middles] == list(range(49))
    assert planes.token_at((0, 0)) == 0 and planes.token_at((1, 1)) == 48
    tiling = planes_of(model.clone(patch_stride=None), (32, 32))
    places = [(i + 0.5) / 64 for i in range(64)]
    assert [tiling.token_at((0, x)) for x in places] == [int(x * 4) for x in places]


def test_which_methods_fit():
    for case in CASES:
        model, *_ = build(case)
        fits = {"cam", "gradcam", "rollout", "gradcat"}
        fits -= {"rollout"} if case in WITHOUT_ROLLOUT else set()
        fits -= {"gradcat"} if case != "nest" else set()
        assert set(methods_of(model, (32, 32))) == fits
    one = create_model("deit_ti_patch16_224", num_classes=2, dim=12, depth=1, num_heads=3)
    assert "gradcam" not in methods_of(one, (32, 32))
    with pytest.raises(ValueError, match="'best' is unknown; allowed: gradcat"):
        create_explainer("best", one, SHAPE)
    with pytest.raises(ValueError, match="rollout needs attention; ResNet has none"):
        create_explainer("rollout", build("resnet")[0], SHAPE)
    with pytest.raises(ValueError, match="GradCAT needs the levels of a NesT; Vit has none"):
        create_explainer("gradcat", one, SHAPE)


def test_overlapping_patches_and_images_that_are_not_square():
    fields = {"inner_dim": 8, "outer_dim": 32, "num_inner_heads": 2, "num_outer_heads": 4}
    model = create_model("tnt_s_patch16_224", num_classes=5, depth=2, patch_stride=8, **fields)
    images = random_array(1, 32, 48, 3)
    variables = fill(jax.eval_shape(model.init, jax.random.key(0), images))
    assert planes_of(model, (32, 48)).grid == (3, 5)
    for method in ("cam", "gradcam", "rollout"):
        maps = create_explainer(method, model, (32, 48, 3))(variables, images, np.array([4]))
        assert maps.shape == (1, 32, 48) and np.isfinite(maps).all()
