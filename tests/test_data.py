"""Augmentation and the errors of the data section."""

import math

import cv2
import numpy as np
import pytest
import scipy.ndimage
from sklearn.datasets import load_sample_image

from data import sources, transforms
from data.pipeline import check_data, create_data, missing_parts

GOOD = {"name": "digits", "image_size": 16, "batch_size": 64, "eval_batch_size": 100}


class FixedDraws:
    """Stands in for a generator: its uniform draws are what the test wants, given in -1 to 1."""

    def __init__(self, *draws):
        self._draws = (np.array(draws) + 1) / 2

    def random(self, size):
        """Returns the draws, scaled to 0 to 1 as a generator's are."""
        assert size == len(self._draws)
        return self._draws


# --- random_affine --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16, 1), (32, 24, 1), (7, 9, 3)])
def test_affine_without_amplitude_is_the_identity(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    result = transforms.random_affine()(image, np.random.default_rng(1))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, image)


def test_affine_shift_by_whole_pixels():
    image = np.arange(30, dtype=np.uint8).reshape(5, 6, 1)
    shift = transforms.random_affine(max_shift_pixels=2.0, fill=200)
    result = shift(image, FixedDraws(0, 0, 0.5, -1))  # 1 to the right, 2 up
    expected = np.full_like(image, 200)
    expected[:-2, 1:] = image[2:, :-1]
    np.testing.assert_array_equal(result, expected)


def test_affine_quarter_turn_and_magnification():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    turn = transforms.random_affine(max_rotation_degrees=90.0)
    np.testing.assert_array_equal(turn(image, FixedDraws(1, 0, 0, 0)), np.rot90(image))
    spot = np.zeros((31, 31, 1), np.uint8)
    spot[10:21, 10:21] = 255
    zoom = transforms.random_affine(max_scale=2.0)
    areas = [(zoom(spot, FixedDraws(0, draw, 0, 0)) > 127).sum() for draw in (-1, 0, 1)]
    assert areas[1] == 121
    assert areas[0] == pytest.approx(121 / 4, rel=0.2)
    assert areas[2] == pytest.approx(121 * 4, rel=0.2)


@pytest.mark.parametrize(
    "draws", [(0.3, 0, 0, 0), (0, 0, 0.77, -0.31), (0, -0.8, 0, 0), (-1, 0.6, -0.4, 0.9)]
)
@pytest.mark.parametrize("kind", ["digit", "photograph"])
def test_affine_equals_scipy(kind, draws):
    if kind == "digit":
        image = sources.digits_source("train", (32, 32))[7]["image"]
    else:
        image = cv2.resize(load_sample_image("china.jpg"), (120, 80), interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    degrees, factor, pixels = 12.0, 1.2, 3.0
    transform = transforms.random_affine(
        max_shift_pixels=pixels, max_rotation_degrees=degrees, max_scale=factor
    )
    # In (row, column) order: out = centre + shift + scale * rotation (in - centre).
    turn, zoom, shift_x, shift_y = draws
    angle = math.radians(turn * degrees)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    inverse = np.linalg.inv(factor**zoom * rotation)
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    shift = np.array([shift_y, shift_x]) * pixels
    offset = centre - inverse @ (centre + shift)
    expected = np.stack(
        [
            scipy.ndimage.affine_transform(
                image[..., channel].astype(float), inverse, offset, order=1, mode="grid-constant"
            )
            for channel in range(image.shape[2])
        ],
        axis=-1,
    )
    difference = np.abs(transform(image, FixedDraws(*draws)) - expected)
    # OpenCV places samples on a grid of 1/32 pixel.
    assert difference.mean() < 1.0


def test_affine_draws_fill_the_range():
    spot = np.zeros((41, 41, 1), np.uint8)
    spot[20, 20] = 255
    transform = transforms.random_affine(max_shift_pixels=10.0)
    rng = np.random.default_rng(0)
    rows = np.arange(41.0)
    shifts = []
    for _ in range(500):
        mass = transform(spot, rng)[..., 0].astype(float)
        shifts.append([mass.sum(1) @ rows / mass.sum() - 20, mass.sum(0) @ rows / mass.sum() - 20])
    shifts = np.array(shifts)
    assert np.all(np.abs(shifts.mean(0)) < 1.0)
    np.testing.assert_allclose(shifts.std(0), 20 / math.sqrt(12), rtol=0.06)
    assert np.abs(shifts).max() < 10.1
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.15


# --- bad input ------------------------------------------------------------------------------------


def test_good_arguments_pass():
    check_data(**GOOD)
    check_data(**GOOD, augment={"random_affine": {"max_shift_pixels": 1}})
    check_data(**GOOD, augment={"random_affine": None}, train_split="train[:80%]")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "mnist"}, ["data.name", "'mnist'", "prepare_data.py"]),
        ({"image_size": 0}, ["data.image_size", "0"]),
        ({"image_size": (16, 16, 3)}, ["data.image_size", "(16, 16, 3)"]),
        ({"image_size": 16.0}, ["data.image_size", "16.0"]),
        ({"image_size": None}, ["data.image_size", "None"]),
        ({"batch_size": 0}, ["data.batch_size", "0"]),
        ({"batch_size": True}, ["data.batch_size", "True"]),
        ({"eval_batch_size": -1}, ["data.eval_batch_size", "-1"]),
        ({"train_split": "valid"}, ["data.train_split", "'valid'", "train, test"]),
        ({"train_split": "train[::2]"}, ["data.train_split", "train[::2]"]),
        ({"eval_split": "test[:10"}, ["data.eval_split", "test[:10"]),
        ({"eval_split": None}, ["data.eval_split", "None"]),
        ({"seed": -1}, ["data.seed", "-1"]),
        ({"seed": 2**32}, ["data.seed", "2**32"]),
        ({"num_threads": -1}, ["data.num_threads", "-1"]),
        ({"prefetch": "2"}, ["data.prefetch", "'2'"]),
        ({"data_dir": 3}, ["data.data_dir", "3"]),
        ({"augment": {"blur": {}}}, ["augment.blur", "random_affine"]),
        ({"augment": {"random_affine": 3}}, ["augment.random_affine", "3", "max_scale"]),
        (
            {"augment": {"random_affine": {"max_shift": 1}}},
            ["augment.random_affine.max_shift ", "max_shift_pixels"],
        ),
        (
            {"augment": {"random_affine": {"max_scale": 0.5}}},
            ["random_affine.max_scale", "0.5", "1.0"],
        ),
        (
            {"augment": {"random_affine": {"max_shift_pixels": math.nan}}},
            ["random_affine.max_shift_pixels", "nan"],
        ),
        (
            {"augment": {"random_affine": {"max_rotation_degrees": "9"}}},
            ["random_affine.max_rotation_degrees", "'9'"],
        ),
    ],
)
def test_bad_arguments_are_named(change, words):
    for function in (check_data, create_data):
        with pytest.raises(ValueError) as error:
            function(**{**GOOD, **change})
        for word in words:
            assert word in str(error.value)
        assert "\n" not in str(error.value)


def test_missing_parts():
    assert missing_parts("digits", {"random_affine": {}}) == []
    parts = missing_parts("digits", {"random_crop": {"padding": 4}, "flip": {}, "mixup": None})
    assert len(parts) == 2
    assert "random_crop" in parts[0] and "flip" in parts[1]
    assert missing_parts("digits", None) == missing_parts("digits", {"flip": None}) == []
    with pytest.raises(ValueError, match="not in this version yet.*randaugment"):
        check_data(**GOOD, augment={"randaugment": {}})


def test_what_is_there_is_not_called_missing():
    assert not set(transforms.TRANSFORMS) & set(transforms.PLANNED_TRANSFORMS)
