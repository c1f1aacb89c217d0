"""Deletion and insertion: a model with a known answer, every order of few pixels, references."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import sklearn.metrics

from inference import faithfulness
from inference.pictures.faithfulness import draw_faithfulness, save_faithfulness

KEY = jax.random.key(0)


def test_blur_is_scipys():
    images = jax.random.normal(KEY, (2, 9, 14, 3))
    expected = np.asarray(images, np.float64)
    for axis in (1, 2):
        expected = scipy.ndimage.gaussian_filter1d(expected, 5.0, axis, mode="nearest", radius=5)
    np.testing.assert_allclose(faithfulness.blur(images), expected, atol=1e-6)


def test_the_order_of_pixels():
    maps = jax.random.normal(KEY, (3, 5, 7))
    ranks = np.asarray(faithfulness.ranks_of(maps, KEY)).reshape(3, -1)
    expected = np.argsort(np.argsort(-np.asarray(maps).reshape(3, -1)))
    np.testing.assert_array_equal(ranks, expected)
    flat = np.asarray(faithfulness.ranks_of(jnp.zeros((200, 2, 3)), KEY)).reshape(200, -1)
    np.testing.assert_array_equal(np.sort(flat), np.tile(np.arange(6), (200, 1)))
    assert abs(flat.mean(0) - 2.5).max() < 0.5  # no place is favoured


@pytest.mark.parametrize("steps", [1, 5, 35])
def test_the_area_is_sklearns(steps):
    curve = np.random.default_rng(0).random((2, steps + 1))
    shares = faithfulness.pixels_at(steps, 35) / 35
    expected = [sklearn.metrics.auc(shares, row) for row in curve]
    np.testing.assert_allclose(faithfulness.area(curve, 35), expected)


def of_weights(weights):
    """A model whose probability of class 1 is the weighted sum of an image's pixels."""

    def probabilities(variables, images):
        score = (images[..., 0] * weights).sum((1, 2))
        return jnp.stack([1 - score, score], axis=1)

    return probabilities


def test_the_ideal_map_is_the_best_of_all_orders():
    """By brute force: every order of six pixels."""
    weights = np.array([[0.3, 0.05, 0.1], [0.25, 0.2, 0.1]])
    orders = np.array(list(itertools.permutations(range(6))), np.float32).reshape(-1, 2, 3)
    maps = jnp.concatenate([jnp.asarray(weights)[None], orders]).astype(jnp.float32)
    images = jnp.ones((len(maps), 2, 3, 1))
    curves = faithfulness.create_curves(
        of_weights(weights), (2, 3), steps=6, insertion_start="mean"
    )
    found = curves({}, images, jnp.ones(len(maps), jnp.int32), maps, KEY)
    deletion, insertion = (faithfulness.area(found[k], 6) for k in ("deletion", "insertion"))
    assert deletion[0] == pytest.approx(deletion.min()) and deletion.max() > 0.55
    assert insertion[0] == pytest.approx(insertion.max()) and insertion.min() < 0.45
    np.testing.assert_allclose(found["deletion"][0, :3], [1, 0.7, 0.45], atol=1e-6)
    # The mean over orders is what a random map gives: a straight line.
    np.testing.assert_allclose(found["deletion"][1:].mean(0), np.linspace(1, 0, 7), atol=1e-5)


def test_a_model_that_sees_one_part_of_the_image():
    """The map of that part gives the best curves, a random one a straight line, another the worst.

    Deleting the part's share of 1/4 first takes all away: the area is half of that share.
    """
    part = np.zeros((8, 8))
    part[:4, 4:] = 1 / 16
    images = jnp.ones((64, 8, 8, 1))
    classes = jnp.ones(64, jnp.int32)
    curves = faithfulness.create_curves(of_weights(part), (8, 8), steps=16, insertion_start="mean")
    maps = {
        "ideal": jnp.broadcast_to(jnp.asarray(part, jnp.float32), (64, 8, 8)),
        "random": jax.random.uniform(KEY, (64, 8, 8)),
        "nothing": jnp.zeros((64, 8, 8)),  # pixels that are equal come in a random order
        "worst": jnp.broadcast_to(-jnp.asarray(part, jnp.float32), (64, 8, 8)),
    }
    areas = {}
    for name, map_ in maps.items():
        found = curves({}, images, classes, map_, KEY)
        areas[name] = [faithfulness.area(np.mean(found[k], 0), 64) for k in found]
    np.testing.assert_allclose(areas["ideal"], [1 / 8, 7 / 8], atol=1e-6)
    np.testing.assert_allclose(areas["worst"], [7 / 8, 1 / 8], atol=1e-6)
    np.testing.assert_allclose(areas["random"], [0.5, 0.5], atol=0.02)
    np.testing.assert_allclose(areas["nothing"], [0.5, 0.5], atol=0.02)


def test_curves_begin_and_end_at_whole_images():
    images = jax.random.uniform(KEY, (3, 8, 8, 1)) / 64
    classes, weights = jnp.array([0, 1, 1]), np.ones((8, 8))
    maps = jax.random.normal(KEY, (3, 8, 8))

    def of(pictures):
        return of_weights(weights)({}, pictures)[np.arange(3), classes]

    for fill, start in itertools.product(("mean", "blurred"), repeat=2):
        curves = faithfulness.create_curves(
            of_weights(weights), (8, 8), steps=3, deletion_fill=fill, insertion_start=start
        )
        found = curves({}, images, classes, maps, KEY)
        ends = {"mean": jnp.zeros_like(images), "blurred": faithfulness.blur(images)}
        for kind, first, last in (
            ("deletion", images, ends[fill]),
            ("insertion", ends[start], images),
        ):
            np.testing.assert_allclose(found[kind][:, 0], of(first), atol=1e-6)
            np.testing.assert_allclose(found[kind][:, -1], of(last), atol=1e-6)


@pytest.mark.parametrize("steps", [0, 65])
def test_steps_are_checked(steps):
    with pytest.raises(ValueError, match="must lie in 1 to 64"):
        faithfulness.create_curves(of_weights(1), (8, 8), steps=steps)


def test_the_picture(tmp_path):
    scores = {
        name: {f"{k}{end}": value for k in ("deletion", "insertion") for end, value in both}
        for name, both in {
            "gradcam": (("", 0.25), ("_curve", [1, 0.5, 0])),
            "random": (("", 0.5), ("_curve", [1.0, 0.75, 0.5])),
        }.items()
    }
    scores["protocol"] = {"questions": 2000, "split": "test"}
    figure = draw_faithfulness(scores)
    texts = {text.get_text() for axes in figure.axes for text in axes.get_legend().get_texts()}
    assert texts == {"gradcam (0.250)", "random (0.500)"}
    assert [len(axes.lines) for axes in figure.axes] == [2, 2]
    assert "2,000 classes in images of test" in figure.get_suptitle()
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        save_faithfulness(scores, tmp_path / f"curves{suffix}")
        assert (tmp_path / f"curves{suffix}").read_bytes().startswith(start)
