"""The assignment, against scipy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from detection.matching import match, matching_costs

WEIGHTS = {"class": 1.0, "l1": 5.0, "giou": 2.0}


def test_is_scipys_on_a_thousand_costs():
    rng = np.random.default_rng(0)
    predictions, most = 20, 8
    costs = rng.normal(size=(1000, predictions, most)).astype(np.float32)
    counts = rng.integers(0, most + 1, size=1000)  # none and as many as fit among them
    costs[::5] = np.rint(costs[::5])  # equal costs
    is_object = np.arange(most) < counts[:, None]
    assigned = np.asarray(jax.jit(match)(costs, is_object))
    for cost, count, found in zip(costs, counts, assigned, strict=True):
        rows, columns = linear_sum_assignment(cost[:, :count])
        found = found[:count]
        assert len(set(found.tolist())) == count
        assert cost[found, np.arange(count)].sum() == pytest.approx(
            cost[rows, columns].sum(), abs=1e-4
        )
        if not float(cost.flat[0]).is_integer():
            np.testing.assert_array_equal(found[columns], rows)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_padding_changes_nothing(count):
    rng = np.random.default_rng(count)
    costs = rng.normal(size=(3, 7, 5)).astype(np.float32)
    is_object = np.broadcast_to(np.arange(5) < count, (3, 5))
    costs[:, :, count:] = -1e6  # what was computed for padded rows
    found = match(jnp.asarray(costs), jnp.asarray(is_object))[:, :count]
    alone = match(jnp.asarray(costs[:, :, :count]), jnp.ones((3, count), bool))
    np.testing.assert_array_equal(found, alone)


def test_more_objects_than_predictions_are_an_error():
    with pytest.raises(ValueError, match="3 objects and only 2 predictions"):
        match(jnp.zeros((1, 2, 3)), jnp.ones((1, 3), bool))


@pytest.mark.parametrize("classes", ["softmax", "focal", "varifocal"])
def test_costs_of_one_pair_by_hand(classes):
    logits = np.array([[[0.5, -1.0, 2.0]]], np.float32)
    box, target = np.float32([0.5, 0.5, 0.2, 0.2]), np.float32([0.6, 0.5, 0.2, 0.2])
    found = matching_costs(
        *(logits, box[None, None], np.array([[1]]), target[None, None]),
        classes=classes,
        weights=WEIGHTS,
    )
    # They share half of each: 0.02 of 0.06, and the box around both is no larger.
    of_boxes = 5 * 0.1 - 2 * (1 / 3)
    if classes == "softmax":
        of_class = -np.exp(-1) / np.exp(logits).sum()
    else:
        p = 1 / (1 + np.e)
        of_class = -0.25 * (1 - p) ** 2 * np.log(p) + 0.75 * p**2 * np.log(1 - p)
    assert found.shape == (1, 1, 1)
    assert float(found[0, 0, 0]) == pytest.approx(of_class + of_boxes, abs=1e-5)
