import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from segmentation.measures import IGNORE, Confusion, pixel_losses
from tests.model_inputs import random_array

NUM_CLASSES = 5


def some_batches(count=3):
    """Yields logits, segments and mask; no pixel is of class 4, and none is taken for it."""
    rng = np.random.default_rng(0)
    for number in range(count):
        logits = rng.normal(size=(4, 6, 7, NUM_CLASSES)).astype(np.float32)
        logits[..., 4] = -9
        segments = rng.integers(0, 4, (4, 6, 7)).astype(np.int32)
        segments[rng.random(segments.shape) < 0.2] = IGNORE
        mask = np.ones(4, np.float32)
        mask[4 - number :] = 0
        yield logits, segments, mask


def counted(batches):
    total = None
    for batch in batches:
        one = jax.jit(Confusion.of)(*batch)
        total = one if total is None else total.merge(one)
    return jax.device_get(total)


def test_measures_are_those_of_scikit_learn():
    confusion = counted(some_batches())
    logits, segments, mask = (np.concatenate(parts) for parts in zip(*some_batches(), strict=True))
    counts = (segments != IGNORE) & (mask[:, None, None] > 0)
    truth, answers = segments[counts], logits.argmax(-1)[counts]
    labels = range(NUM_CLASSES)
    np.testing.assert_array_equal(
        confusion.pixels(), confusion_matrix(truth, answers, labels=labels)
    )
    measures = confusion.compute()
    iou = jaccard_score(truth, answers, average=None, labels=range(4))
    np.testing.assert_allclose(measures["iou"], [*iou, np.nan], rtol=1e-12)
    assert measures["mean_iou"] == pytest.approx(iou.mean(), rel=1e-12)
    assert measures["pixel_accuracy"] == pytest.approx(accuracy_score(truth, answers), rel=1e-12)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    losses = -np.log(np.take_along_axis(shares[counts], truth[:, None], 1))
    assert measures["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert confusion.num_examples == 4 + 3 + 2


def test_counts_are_exact_beyond_int32():
    one = counted(some_batches(1))
    many = one
    for _ in range(25):  # 2^25 times some 130 pixels
        many = many.merge(many)
    np.testing.assert_array_equal(many.pixels(), one.pixels() * 2**25)
    assert many.pixels().sum() > 2**31


def test_an_image_without_a_known_pixel_and_a_split_without_any():
    logits, segments, mask = next(some_batches(1))
    segments[0] = IGNORE
    whole = counted([(logits, segments, mask)])
    rest = counted([(logits[1:], segments[1:], mask[1:])])
    np.testing.assert_array_equal(whole.pixels(), rest.pixels())
    assert whole.num_examples == 4
    nothing = counted([(logits, np.full_like(segments, IGNORE), mask)])
    with pytest.raises(ValueError, match="no pixel was evaluated"):
        nothing.compute()


def test_ignored_pixels_have_no_gradient():
    logits = random_array(1, 2, 2, 3)
    segments = jnp.array([[[0, IGNORE], [2, 1]]])
    gradient = jax.grad(lambda x: pixel_losses(x, segments)[0].sum())(logits)
    assert np.abs(gradient[0, 0, 1]).max() == 0
    assert np.abs(gradient[0, 1, 0]).max() > 0
