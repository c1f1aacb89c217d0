"""The losses, against loops over predictions and objects."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detection.detr import Predictions
from detection.losses import box_losses, class_loss
from detection.matching import match, matching_costs
from tasks.detection import Detection

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(3, 5, 4)).astype(np.float32)
BOXES = RNG.uniform(0.2, 0.5, size=(3, 5, 4)).astype(np.float32)
TARGETS = RNG.uniform(0.2, 0.5, size=(3, 3, 4)).astype(np.float32)
LABELS = np.array([[2, 0, 1], [1, -1, -1], [-1, -1, -1]])
ASSIGNED = np.array([[4, 0, 2], [3, 1, 0], [0, 1, 2]])
OVERLAPS = RNG.uniform(size=(3, 3)).astype(np.float32)
EVERYWHERE = np.ones((3, 5), bool)


def task(classes):
    """The task without a model, with DETR's weights."""
    parts = {
        "model": None,
        "optimizer": None,
        "image_shape": (32, 32, 1),
        "mean": (0,),
        "std": (1,),
    }
    return Detection(classes=classes, class_names=("a", "b", "c"), **parts)


def assigned_objects():
    for image, labels in enumerate(LABELS):
        for number, label in enumerate(labels):
            if label >= 0:
                yield image, number, label, ASSIGNED[image, number]


def plain_class_loss(classes, no_object_weight):
    total = 0.0
    owner = {(image, query): (n, label) for image, n, label, query in assigned_objects()}
    for image, of_image in enumerate(LOGITS.astype(np.float64)):
        for query, logits in enumerate(of_image):
            number, label = owner.get((image, query), (None, None))
            if classes == "softmax":
                p = np.exp(logits) / np.exp(logits).sum()
                weight = no_object_weight if label is None else 1.0
                total -= weight * np.log(p[-1 if label is None else label])
                continue
            for k, logit in enumerate(logits):
                p = 1 / (1 + np.exp(-logit))
                if k != label:
                    alpha = 0.75
                    total -= alpha * p**2 * np.log(1 - p)
                elif classes == "focal":
                    total -= 0.25 * (1 - p) ** 2 * np.log(p)
                else:
                    share = OVERLAPS[image, number]
                    total -= share * (share * np.log(p) + (1 - share) * np.log(1 - p))
    return total


@pytest.mark.parametrize("classes", ["softmax", "focal", "varifocal"])
def test_loss_of_the_classes(classes):
    options = {"classes": classes, "no_object_weight": 0.1}
    args = LOGITS, ASSIGNED, LABELS, OVERLAPS, EVERYWHERE
    found = jax.jit(lambda *args: class_loss(*args, **options))(*args)
    assert float(found) == pytest.approx(plain_class_loss(classes, 0.1), rel=1e-5)


def test_losses_of_the_boxes():
    l1 = giou = 0.0
    overlaps = {}
    for image, number, _, query in assigned_objects():
        a, b = BOXES[image, query].astype(np.float64), TARGETS[image, number].astype(np.float64)
        l1 += np.abs(a - b).sum()
        (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
        low, high = min(ax - aw / 2, bx - bw / 2), max(ax + aw / 2, bx + bw / 2)
        width = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
        height = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
        around = (high - low) * (max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2))
        common = max(width, 0) * max(height, 0)
        union = aw * ah + bw * bh - common
        overlaps[image, number] = common / union
        giou += 1 - (common / union - (around - union) / around)
    found = box_losses(BOXES, ASSIGNED, LABELS, TARGETS)
    assert float(found[0]) == pytest.approx(l1, rel=1e-5)
    assert float(found[1]) == pytest.approx(giou, rel=1e-5)
    for place, overlap in overlaps.items():
        assert float(found[2][place]) == pytest.approx(overlap, rel=1e-4)


@pytest.mark.parametrize("classes", ["softmax", "focal", "varifocal"])
def test_an_image_without_objects_has_a_loss_and_a_finite_gradient(classes):
    none = np.full((1, 3), -1)

    def loss(logits, boxes):
        l1, giou, overlaps = box_losses(boxes, ASSIGNED[:1], none, jnp.zeros((1, 3, 4)))
        of_classes = class_loss(
            *(logits, ASSIGNED[:1], none, overlaps, EVERYWHERE[:1]),
            classes=classes,
            no_object_weight=0.1,
        )
        return of_classes + l1 + giou, (l1, giou)

    gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
    (of_logits, of_boxes), (l1, giou) = gradient(LOGITS[:1], BOXES[:1])
    assert l1 == 0 and giou == 0 and not of_boxes.any()
    assert jnp.isfinite(of_logits).all() and of_logits.any()


@pytest.mark.parametrize("classes", ["softmax", "focal", "varifocal"])
def test_places_in_the_padding_count_for_nothing(classes):
    """However much padding there is, and whatever is predicted there."""
    of = jax.jit(task(classes)._losses)
    means = np.full(3, 4 / 3, np.float32)
    expected = of(LOGITS, BOXES, LABELS, TARGETS, means)
    rng = np.random.default_rng(1)
    for extra in (1, 4):
        # Predictions that are as good as any: the objects themselves.
        logits = np.concatenate([LOGITS, rng.normal(size=(3, extra, 4)) + 3], axis=1)
        boxes = np.concatenate([BOXES, np.resize(TARGETS, (3, extra, 4))], axis=1)
        is_place = np.broadcast_to(np.arange(5 + extra) < 5, (3, 5 + extra))
        found = of(logits.astype(np.float32), boxes, LABELS, TARGETS, means, is_place)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    # More objects than places: one of each kind is left over.
    few = np.broadcast_to(np.arange(5) < 2, (3, 5))
    assert np.isfinite(of(LOGITS, BOXES, LABELS, TARGETS, means, few)).all()


class Predicts:
    """A model that says the same of every image."""

    def __init__(self, predictions):
        self.predictions = predictions

    def apply(self, *_, **__):
        return self.predictions, {}


@pytest.mark.parametrize("classes", ["softmax", "focal", "varifocal"])
def test_loss_of_a_batch(classes):
    """Every layer of the decoder and the proposals, each kind of loss with its weight."""
    rng = np.random.default_rng(2)
    logits = np.stack([LOGITS, rng.normal(size=LOGITS.shape).astype(np.float32)])
    boxes = np.stack([BOXES, rng.uniform(0.2, 0.5, size=BOXES.shape).astype(np.float32)])
    proposals = (
        rng.normal(size=(3, 9, 4)).astype(np.float32),
        rng.uniform(0.2, 0.5, size=(3, 9, 4)).astype(np.float32),
    )
    is_place = np.broadcast_to(np.arange(9) < 8, (3, 9))
    is_query = np.broadcast_to(np.arange(5) < 4, (3, 5))
    predictions = Predictions(logits, boxes, proposals, is_place, is_query)
    weights = {"class_weight": 2.0, "l1_weight": 3.0, "giou_weight": 7.0}
    one = dataclasses.replace(
        task(classes), model=Predicts(predictions), proposal_repeats=2, **weights
    )
    means = np.full(3, 4 / 3, np.float32)
    batch = {"image": np.zeros((3, 32, 32, 1), np.uint8), "image_mask": np.ones((3, 32, 32), bool)}
    batch |= {"labels": LABELS, "boxes": TARGETS, "mean_objects": means}
    loss, (_, scalars) = jax.jit(lambda b: one.batch_loss({}, {}, b, jax.random.key(0)))(batch)

    twice = np.repeat(LABELS, 2, axis=1), np.repeat(TARGETS, 2, axis=1)
    first, last = (
        one._losses(*layer, LABELS, TARGETS, means, is_query)
        for layer in zip(logits, boxes, strict=True)
    )
    of_proposals = one._losses(*proposals, *twice, 2 * means, is_place)
    expected = sum(np.dot(kinds, (2, 3, 7)) for kinds in (first, last, of_proposals))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    kinds = ("class_loss", "l1_loss", "giou_loss")
    np.testing.assert_allclose([scalars[kind] for kind in kinds], last, rtol=1e-5)


@pytest.mark.parametrize("classes", ["focal", "varifocal"])
def test_losses_are_means_over_the_objects(classes):
    one, means = task(classes), np.full(3, 4 / 3, np.float32)
    costs = matching_costs(
        *(LOGITS, BOXES, LABELS, TARGETS),
        classes=classes,
        weights={"class": one.class_cost, "l1": one.l1_cost, "giou": one.giou_cost},
    )
    assigned = match(costs, LABELS >= 0)
    l1, giou, overlaps = box_losses(BOXES, assigned, LABELS, TARGETS)
    options = {"classes": classes, "no_object_weight": 0.1}
    of_classes = class_loss(LOGITS, assigned, LABELS, overlaps, EVERYWHERE, **options)
    found = one._losses(LOGITS, BOXES, LABELS, TARGETS, means)
    np.testing.assert_allclose(found, np.array([of_classes, l1, giou]) / 4, rtol=1e-5)
