"""config.data.channels: any data set in grey or in colour, in training, evaluation, prediction."""

import cv2
import numpy as np
import pytest
from PIL import Image

from data.images import as_channels
from data.pipeline import Data


@pytest.fixture
def folder(tmp_path):
    """Six colour photographs, two classes."""
    rng = np.random.default_rng(0)
    for number in range(6):
        path = tmp_path / "photos" / ("robin", "wren")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64, 48), Image.BICUBIC).save(path)
    return tmp_path / "photos"


def opened(name, **more):
    sizes = {"image_size": 32, "batch_size": 2, "eval_batch_size": 2, "num_threads": 0}
    return Data(name=str(name), **sizes, **more).open()


def test_a_folder_in_grey(folder):
    data = opened(f"folder:{folder}", channels=1)
    colour = opened(f"folder:{folder}")
    assert data.image_shape == (32, 32, 1)
    np.testing.assert_allclose(data.statistics[0], np.mean(colour.statistics[0]))
    for batch, other in ((data.train_batches(), colour.train_batches()),):
        image, coloured = next(batch)["image"], next(other)["image"]
        assert image.shape == (2, 32, 32, 1)
        greyed = [cv2.cvtColor(np.asarray(one), cv2.COLOR_RGB2GRAY) for one in coloured]
        # Resized after it, rather than before.
        np.testing.assert_allclose(np.asarray(image)[..., 0], greyed, atol=2)
    (batch,) = data.eval_batches("validation")
    assert np.asarray(batch["image"]).std() > 20


def test_a_crop_of_a_grey_image_is_that_of_the_colour_one(folder):
    """Of colour images a crop decodes a part alone; the same part."""
    crop = {"random_resized_crop": {}}
    grey = opened(f"folder:{folder}", channels=1, augment=crop).train_batches()
    colour = opened(f"folder:{folder}", augment=crop).train_batches()
    for _ in range(3):
        expected = [cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in np.asarray(next(colour)["image"])]
        np.testing.assert_allclose(np.asarray(next(grey)["image"])[..., 0], expected, atol=2)


def test_digits_in_colour():
    data, grey = opened("digits", channels=3), opened("digits")
    assert data.image_shape == (32, 32, 3) and len(data.statistics[0]) == 3
    (batch, other) = (next(iter(d.eval_batches())) for d in (data, grey))
    np.testing.assert_array_equal(batch["image"], np.repeat(np.asarray(other["image"]), 3, axis=3))


def test_its_own_channels_change_nothing(folder):
    same, plain = opened(f"folder:{folder}", channels=3), opened(f"folder:{folder}")
    np.testing.assert_array_equal(
        next(same.train_batches())["image"], next(plain.train_batches())["image"]
    )


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_numbers_are_refused(channels):
    with pytest.raises(ValueError) as error:
        opened("digits", channels=channels)
    assert str(error.value) == (
        f"config.data.channels={channels}: wrong; allowed: 1: grey, 3: colour"
    )


def test_luma_of_rec_601():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 200, 200]]], np.uint8)
    assert as_channels(colours, 1)[0, :, 0].tolist() == [76, 150, 29, 200]
    assert as_channels(colours, 3) is colours and as_channels(colours, None) is colours
