"""GradCAT: known answers, gradients against finite differences, boxes, and what it costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from layers.intermediates import differentiate, expose
from nest import gradcat as module
from nest.aggregation import AGGREGATIONS
from nest.gradcat import RULES, gradcat
from nest.model import Nest
from tests.model_inputs import random_array, random_params
from tnt.model import Tnt

THREE = {"dims": (8, 12, 16), "depths": (1, 1, 1), "num_heads": (2, 2, 2), "patch_size": 2}
FOUR = {"dims": (8,) * 4, "depths": (1,) * 4, "num_heads": (2,) * 4, "patch_size": 1}


def model_and_variables(images, seed=0, **fields):
    model = Nest(num_classes=5, **THREE | fields)
    return model, {"params": random_params(model, images, seed=seed)}


class OneBlock(Nest):
    """Class k reads leaf k alone: its logit is the sum of the pixels there."""

    @nn.compact
    def __call__(self, images, train=False):
        """Maps [b, height, width, c] to [b, leaves]."""
        levels = len(self.dims)
        x = images
        for level in range(1, levels + 1):
            x = expose(self, f"level{level}", x)
            if level < levels:
                x = nn.avg_pool(x, (2, 2), (2, 2))
        b, h, w, c = x.shape
        side = 2 ** (levels - 1)
        x = x.reshape(b, side, h // side, side, w // side, c)
        return x.sum(axis=(2, 4, 5)).reshape(b, side * side)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("levels", "image_size"), [(2, (8, 8)), (3, (16, 16)), (3, (16, 32)), (4, (64, 128))]
)
def test_the_way_ends_in_the_only_block_that_counts(levels, image_size, rule):
    """A bright object in each leaf; the class of that leaf reads nothing else."""
    side = 2 ** (levels - 1)
    leaves = np.arange(side * side)
    model = OneBlock(side * side, (4,) * levels, (1,) * levels, (1,) * levels, patch_size=1)
    images = np.random.default_rng(0).random((len(leaves), *image_size, 2)).astype(np.float32)
    height, width = image_size[0] // side, image_size[1] // side
    expected = np.stack([leaves // side * height, leaves % side * width], axis=-1)  # corners
    for image, (top, left) in zip(images, expected, strict=True):
        image[top : top + height, left : left + width] += 2
    found = gradcat(model, {"params": {}}, images, leaves, rule=rule)
    assert found.path.shape == (len(leaves), levels - 1)
    np.testing.assert_array_equal(
        found.boxes[:, -1], np.hstack([expected, expected + np.array((height, width))])
    )
    if rule == "grad_cam":  # its scores spread over the block, and are never below zero
        return
    against = gradcat(model, {"params": {}}, images, leaves, rule=rule, sign=-1)
    assert (np.asarray(against.path[:, 0]) != np.asarray(found.path[:, 0])).all()
    # The whole way is in the map: its largest pixels are the last box.
    saliency = np.asarray(found.saliency(image_size))
    for one, (top, left) in zip(saliency, expected, strict=True):
        inside = np.zeros(image_size, bool)
        inside[top : top + height, left : left + width] = True
        assert one[inside].min() > one[~inside].max()


def by_hand(model, variables, image, label):
    """The default rule with loops, quadrants cut out of the planes; returns path and scores."""
    names = [f"level{level}" for level in range(len(model.dims), 1, -1)]
    _, _, maps, gradients = differentiate(model, variables, image[None], jnp.array([label]), names)
    path, scores = [], []
    for name in names:
        block, slopes = (np.asarray(x[name][0], np.float64) for x in (maps, gradients))
        for quadrant in path:
            rows, columns = (np.split(np.arange(side), 2) for side in block.shape[:2])
            own = np.ix_(rows[quadrant // 2], columns[quadrant % 2])
            block, slopes = block[own], slopes[own]
        assert block.shape[:2] == model.block_sides_for(image.shape[:2])
        said = ((block - block.mean(axis=(0, 1))) * slopes).sum(-1)
        halves = [np.split(half, 2, axis=1) for half in np.split(said, 2)]
        scores.append([[quarter.mean() for quarter in half] for half in halves])
        path.append(int(np.argmax(scores[-1])))
    return path, scores


OTHERS = [name for name in AGGREGATIONS if name not in ("conv_norm_maxpool", "patch_merging")]


@pytest.mark.parametrize(
    "aggregation",
    [
        *("conv_norm_maxpool", "patch_merging"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS),
    ],
)
def test_against_loops(aggregation):
    images, classes = random_array(3, 16, 32, 3), np.array([0, 4, 2])
    model, variables = model_and_variables(images, aggregation=aggregation)
    found = gradcat(model, variables, images, classes)
    for index, label in enumerate(classes):
        path, scores = by_hand(model, variables, images[index], label)
        np.testing.assert_allclose(found.scores[index], scores, rtol=1e-3, atol=1e-6)
        assert found.path[index].tolist() == path
        (row, column), (below, beside) = (divmod(quadrant, 2) for quadrant in path)
        top, left = 8 * row + 4 * below, 16 * column + 8 * beside
        assert found.boxes[index, -1].tolist() == [top, left, top + 4, left + 8]


def test_the_plain_product_says_nothing_at_the_top():
    """The last layer norm does not depend on a token's length, so activation x gradient is zero."""
    images = random_array(3, 16, 16, 3)
    model, variables = model_and_variables(images)
    plain, centred = (
        gradcat(model, variables, images, rule=rule).scores[:, 0]
        for rule in ("activation_gradient", "centred")
    )
    assert np.abs(plain).max() < 1e-3 * np.abs(centred).max()


def test_families_and_odd_blocks():
    """Both attentions; blocks of 3 x 3 tokens, whose middle ones count half to either side."""
    images = random_array(2, 24, 24, 1)
    for fields in ({"attention": "multi_query"}, {"block_size": 3}):
        model, variables = model_and_variables(images, **fields)
        found = gradcat(model, variables, images)
        assert found.classes.tolist() == np.argmax(found.logits, axis=-1).tolist()
        assert found.scores.shape == (2, 2, 2, 2) and np.isfinite(found.scores).all()
    np.testing.assert_allclose(module._halves(3), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], rtol=1e-6)
    np.testing.assert_allclose(module._halves(4), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


def test_gradients_against_finite_differences_in_float64():
    with jax.enable_x64(True):
        images = np.random.default_rng(0).normal(size=(2, 8, 16, 3))
        model = Nest(num_classes=5, **THREE, dtype=jnp.float64, kernels="plain")
        params = random_params(model, images)
        variables = {"params": jax.tree.map(lambda x: x.astype(np.float64), params)}
        classes = np.array([1, 3])
        _, _, maps, gradients = differentiate(
            model, variables, images, jnp.asarray(classes), ["level2", "level3"]
        )
        shapes = model.apply(variables, images, mutable=["perturbations"])[1]["perturbations"]

        @jax.jit
        def score(moved):
            moved = {"perturbations": {**jax.tree.map(jnp.zeros_like, shapes), **moved}}
            return model.apply({**variables, **moved}, images)[np.arange(2), classes].sum()

        rng = np.random.default_rng(1)
        for name in ("level2", "level3"):
            assert gradients[name].dtype == jnp.float64
            for _ in range(8):
                direction = rng.normal(size=maps[name].shape)
                slope = (score({name: 1e-5 * direction}) - score({name: -1e-5 * direction})) / 2e-5
                np.testing.assert_allclose((gradients[name] * direction).sum(), slope, rtol=1e-5)


def test_no_compilation_from_class_to_class():
    images = random_array(2, 16, 16, 3)
    model, variables = model_and_variables(images)
    gradcat(model, variables, images, np.array([0, 1]))
    before = module._gradcat._cache_size()
    gradcat(model, variables, images, np.array([3, 2]))
    assert module._gradcat._cache_size() == before


def test_costs_less_than_four_forward_passes():
    """By XLA's count of operations, for 64 images of 32 x 32."""
    images = np.zeros((64, 32, 32, 3), np.float32)
    model, variables = model_and_variables(images, dims=(32, 32, 32), kernels="plain")

    def operations(function):
        return jax.jit(function).lower(variables, images).compile().cost_analysis()["flops"]

    way = functools.partial(module._gradcat, model, classes=None, rule="centred", sign=1)
    forward = operations(lambda variables, images: model.apply(variables, images))
    assert 1 < operations(lambda v, i: way(v, i)) / forward < 4


@pytest.mark.parametrize(
    ("model", "size", "options", "message"),
    [
        (Tnt(5, 6, 12, 2, 2, depth=1, patch_size=4, word_size=2), 16, {}, "levels of a NesT; Tnt"),
        (Nest(5, (8,), (1,), (2,), 4), 16, {}, "two levels or more"),
        (Nest(5, **THREE), 8, {}, "8 x 8 pixels leave blocks of 1 x 1 tokens"),
        (Nest(5, **THREE), 16, {"rule": "best"}, "rules are activation_gradient"),
        (Nest(5, **THREE), 16, {"sign": 0}, "signs 1 and -1"),
        (Nest(5, **THREE), 16, {"classes": [5]}, "there is no class 5; allowed: 0 to 4"),
        (Nest(5, **THREE), 16, {"classes": np.array([1, 2])}, "of classes is 2, of images 1"),
    ],
)
def test_errors_are_one_line(model, size, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        gradcat(model, {}, np.zeros((1, size, size, 3), np.float32), **options)
    assert "\n" not in str(caught.value)
