"""Augmentation that gradients pass through: what each operation does, how far and how often."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.gan.diff_augment import OPERATIONS, Operation, diff_augment


def test_a_config_may_name_every_operation():
    assert get_args(Operation) == tuple(OPERATIONS)


@pytest.mark.parametrize(("name", "channels"), [("color", 1), *((n, 3) for n in OPERATIONS)])
def test_augmentation_keeps_shapes_and_lets_gradients_through(name, channels):
    images = jax.random.uniform(jax.random.key(0), (7, 8, 12, channels), minval=-1.0)
    augmented = diff_augment(jax.random.key(1), images, (name,))
    assert augmented.shape == images.shape
    assert not np.allclose(augmented, images)
    gradients = jax.grad(lambda x: (diff_augment(jax.random.key(1), x, (name,)) ** 2).sum())(images)
    assert np.isfinite(gradients).all()
    assert (np.abs(gradients).sum(axis=(1, 2, 3)) > 0).all()


def test_translation_is_a_shift_of_its_own_for_each_image():
    image = np.arange(1.0, 17 * 16 + 1).reshape(16, 17, 1)
    moved = np.asarray(OPERATIONS["translation"](jax.random.key(0), jnp.asarray([image] * 60)))
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    crops = {padded[i : i + 16, j : j + 17].tobytes(): (i, j) for i in range(5) for j in range(5)}
    found = {crops[each.astype(np.float64).tobytes()] for each in moved}
    assert len(found) > 15  # of 25


@pytest.mark.parametrize("side", [16, 10])  # squares of 8 and of 5
def test_cutout_is_a_square_whose_places_are_equally_likely(side):
    """The places are those of DiffAugment_pytorch.py, rand_cutout, listed one by one."""
    count, half = 8000, side // 2
    images = jnp.ones((count, side, side, 1))
    holes = 1 - np.asarray(OPERATIONS["cutout"](jax.random.key(0), images))[..., 0]
    sides = holes.max(axis=2), holes.max(axis=1)  # [count, side] both
    assert (holes == sides[0][:, :, None] * sides[1][:, None, :]).all()
    places = {}
    for offset in range(side + (1 - half % 2)):
        hidden = np.clip(np.arange(half) + offset - half // 2, 0, side - 1)
        places[tuple(sorted(set(hidden)))] = 0
    for hidden in (tuple(np.flatnonzero(row)) for row in np.concatenate(sides)):
        places[hidden] += 1  # no others
    expected = 2 * count / len(places)
    assert np.abs(np.array(list(places.values())) - expected).max() < 4.5 * expected**0.5


def test_color_has_its_ranges():
    grey = jnp.broadcast_to(jax.random.uniform(jax.random.key(0), (300, 4, 4, 1)), (300, 4, 4, 3))
    out = np.asarray(OPERATIONS["color"](jax.random.key(1), grey))
    np.testing.assert_allclose(out, out[..., :1].repeat(3, axis=-1), atol=1e-5)  # stays grey
    shift = out.mean(axis=(1, 2, 3)) - np.asarray(grey).mean(axis=(1, 2, 3))
    assert -0.5 <= shift.min() < -0.45 < 0.45 < shift.max() <= 0.5
    contrast = out.std(axis=(1, 2, 3)) / np.asarray(grey).std(axis=(1, 2, 3))
    assert 0.5 <= contrast.min() < 0.55 < 1.45 < contrast.max() <= 1.5

    # The same draws on colours: what is left of the distance from grey, without the contrast.
    colors = np.asarray(grey) + np.array([-0.1, 0.0, 0.1], np.float32)
    spread = np.asarray(OPERATIONS["color"](jax.random.key(1), jnp.asarray(colors)))
    saturation = (spread[..., 2] - spread[..., 0]).mean(axis=(1, 2)) / 0.2 / contrast
    assert -1e-4 <= saturation.min() < 0.1 < 1.9 < saturation.max() <= 2.0 + 1e-4
    assert abs(saturation.mean() - 1.0) < 0.15
