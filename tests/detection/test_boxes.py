"""Overlaps with known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detection.boxes import corners, generalized_iou, iou

UNIT = (0.0, 0.0, 1.0, 1.0)
CASES = {
    # name: (box, IoU with the unit square, generalised IoU with it)
    "the same": (UNIT, 1.0, 1.0),
    "half of it": ((0.0, 0.0, 1.0, 0.5), 0.5, 0.5),
    "inside": ((0.25, 0.25, 0.75, 0.75), 0.25, 0.25),
    "shifted by half": ((0.5, 0.0, 1.5, 1.0), 1 / 3, 1 / 3),
    "shifted both ways": ((0.5, 0.5, 1.5, 1.5), 1 / 7, 1 / 7 - 0.5 / 2.25),
    "touching": ((1.0, 0.0, 2.0, 1.0), 0.0, 0.0),
    "one apart": ((2.0, 0.0, 3.0, 1.0), 0.0, -1 / 3),
    "far off": ((999.0, 0.0, 1000.0, 1.0), 0.0, -0.998),
    "a point in it": ((0.5, 0.5, 0.5, 0.5), 0.0, 0.0),
    "a point outside": ((2.0, 2.0, 2.0, 2.0), 0.0, -0.75),
}


@pytest.mark.parametrize("case", CASES)
def test_known_overlaps(case):
    box, expected_iou, expected_giou = CASES[case]
    for a, b in ((box, UNIT), (UNIT, box)):
        a, b = jnp.asarray(a), jnp.asarray(b)
        assert float(iou(a, b)) == pytest.approx(expected_iou, abs=1e-6)
        assert float(generalized_iou(a, b)) == pytest.approx(expected_giou, abs=1e-6)


def test_pairs_broadcast_and_boxes_turn_into_corners():
    boxes = np.random.default_rng(0).uniform(0.1, 0.4, (5, 4)).astype(np.float32)
    sides = corners(boxes)
    np.testing.assert_allclose(sides[:, 2:] - sides[:, :2], boxes[:, 2:], atol=1e-6)
    np.testing.assert_allclose((sides[:, 2:] + sides[:, :2]) / 2, boxes[:, :2], atol=1e-6)
    pairs = generalized_iou(sides[:, None], sides[None])
    assert pairs.shape == (5, 5)
    np.testing.assert_allclose(jnp.diagonal(pairs), 1, atol=1e-6)
    np.testing.assert_allclose(pairs, pairs.T, atol=1e-6)


def test_two_points_have_no_overlap_and_a_finite_gradient():
    point = jnp.full(4, 0.5)
    for overlap in (iou, generalized_iou):
        value, gradient = jax.value_and_grad(overlap)(point, point)
        assert value == 0 and jnp.isfinite(gradient).all()
