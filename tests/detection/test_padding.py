"""An image with fewer places on the map than there are queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detection.detr import Detr
from detection.results import results_of
from tests.detection.test_official import DIM, GivenMap
from tests.model_inputs import fill, random_array

REAL = 4  # places, of 16


@pytest.fixture(scope="module")
def detr():
    sizes = {"num_heads": 2, "mlp_dim": 8, "num_encoder_layers": 1, "num_decoder_layers": 2}
    return Detr(GivenMap(), 3, DIM, **sizes, num_queries=6, queries="encoder", dropout_rate=0.0)


def test_places_in_the_padding_give_no_query_that_counts(detr):
    images, mask = random_array(2, 4, 4, DIM), np.zeros((2, 4, 4), bool)
    mask[0, :2, :2] = mask[1] = True
    params = fill(jax.eval_shape(detr.init, jax.random.key(0), images, mask))
    other = np.where(mask[..., None], images, 7 * images[::-1])
    before, after = (jax.jit(detr.apply)(params, jnp.asarray(x), mask) for x in (images, other))
    assert before.is_query.sum(axis=1).tolist() == [REAL, 6]
    for ours, theirs in ((before.logits, after.logits), (before.boxes, after.boxes)):
        real = np.broadcast_to(before.is_query, ours.shape[:3])
        np.testing.assert_allclose(ours[real], theirs[real], atol=1e-6)

    sizes = jnp.full((2, 2), 100)
    found = results_of(
        *(before.logits[-1], before.boxes[-1], sizes, before.is_query), classes="focal", most=18
    )
    assert (found.scores > 0).sum(axis=1).tolist() == [3 * REAL, 18]
    found = results_of(
        *(before.logits[-1], before.boxes[-1], sizes, before.is_query), classes="softmax"
    )
    assert (found.scores > 0).sum(axis=1).tolist() == [REAL, 6]
