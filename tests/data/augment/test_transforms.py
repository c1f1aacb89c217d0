"""Flip, affine maps and colour jitter against other people's code, and the order of transforms."""

import math

import cv2
import matplotlib.colors
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from sklearn.datasets import load_sample_image

from data.augment import transforms
from data.augment.color import color_jitter
from data.augment.crops import center_crop
from data.sources.arrays import digits_source
from harness.errors import ConfigError
from harness.strict_config import check_subsections

CHINA = load_sample_image("china.jpg")
FLOWER = load_sample_image("flower.jpg")


class FixedDraws:
    """Stands in for a generator: its uniform draws are what the test wants, given in -1 to 1."""

    def __init__(self, *draws):
        self._draws = (np.array(draws) + 1) / 2

    def random(self, size):
        """Returns the draws, scaled to 0 to 1 as a generator's are."""
        assert size == len(self._draws)
        return self._draws


def assert_close(ours, expected, mean):
    """Compares images of one shape: mean absolute difference in levels."""
    assert ours.dtype == np.uint8 and ours.shape == np.shape(expected)
    difference = np.abs(ours - np.asarray(expected, float)).mean()
    assert difference <= mean, difference


# --- flip -----------------------------------------------------------------------------------------


def test_flip():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    flip, rng = transforms.flip(probability=0.3), np.random.default_rng(0)
    results = np.stack([flip(image, rng) for _ in range(3000)])
    flipped = (results == image[:, ::-1]).all((1, 2, 3))
    assert flipped.mean() == pytest.approx(0.3, abs=0.04)
    np.testing.assert_array_equal(results[~flipped][0], image)
    assert transforms.flip(probability=1)(image[..., :1], rng).shape == (2, 4, 1)


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
        image = digits_source("train", (32, 32))[7]["image"]
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


# --- color_jitter ---------------------------------------------------------------------------------


def jitter_definition(image, draws, strength):
    """SimCLR v2's jitter in float64, from the draws of `color_jitter`, for p = 1."""
    image = image / 255
    limit = 0.8 * strength
    brightness, contrast, saturation = (1 + limit * (2 * draws[k] - 1) for k in (2, 3, 4))
    turn = 0.2 * strength * (2 * draws[5] - 1)
    for step in np.argsort(draws[6:10]):
        if step == 0:
            image = image * brightness
        elif step == 1:
            means = image.mean((0, 1))
            image = (image - means) * contrast + means
        else:
            hsv = matplotlib.colors.rgb_to_hsv(image)
            if step == 2:
                hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 1)
            else:
                hsv[..., 0] = (hsv[..., 0] + turn) % 1
            image = matplotlib.colors.hsv_to_rgb(hsv)
        image = np.clip(image, 0, 1)
    if draws[1] < 0.2:
        image = np.repeat((image @ [0.2989, 0.5870, 0.1140])[..., None], 3, axis=2)
    return np.floor(image * 255)


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("image", [CHINA, FLOWER], ids=["china", "flower"])
def test_color_jitter_equals_definition(image, strength):
    image = image[::3, ::3]
    jitter = color_jitter(strength=strength, probability=1.0)
    for seed in range(24):
        expected = jitter_definition(image, np.random.default_rng(seed).random(10), strength)
        assert_close(jitter(image, np.random.default_rng(seed)), expected, mean=0.1)


def test_color_jitter_draws():
    """How often something is done at all; test above: the order of the steps follows the draws."""
    image = cv2.resize(FLOWER, (8, 8), interpolation=cv2.INTER_AREA)
    jitter, rng = color_jitter(strength=0.3), np.random.default_rng(0)
    results = [jitter(image, rng) for _ in range(4000)]
    same = np.mean([result is image for result in results])
    assert same == pytest.approx(0.2 * 0.8, abs=0.025)
    grey = np.mean([np.ptp(result.astype(int), axis=2).max() == 0 for result in results])
    assert grey == pytest.approx(0.2, abs=0.03)


def test_color_jitter_of_grey_images_changes_brightness_and_contrast_alone():
    image = CHINA[::8, ::8, :1]
    jitter = color_jitter(strength=0.5, probability=1.0)
    for seed in range(5):
        draws = np.random.default_rng(seed).random(10)
        draws[1] = 1  # as three equal channels, kept in colour: a grey image has no hue to turn
        expected = jitter_definition(np.repeat(image, 3, axis=2), draws, 0.5)[..., :1]
        assert_close(jitter(image, np.random.default_rng(seed)), expected, mean=0.1)


# --- create_transforms ----------------------------------------------------------------------------

RECIPES = {
    "nest": {
        "color_jitter": {"strength": 0.3},
        "randaugment": {"max_translate_pixels": 10},
        "random_resized_crop": {"area": (0.05, 1.0), "rule": "tensorflow"},
        "flip": {},
    },
    "cifar": {"random_crop": {"padding": 2}, "flip": {"probability": 0.5}, "randaugment": {}},
    "timm": {"random_resized_crop": {}, "randaugment": {"variant": "timm", "increasing": True}},
    "nothing": None,
    "enlarged": {"enlarge": {}, "flip": {}},
    "off": {"flip": None, "random_affine": {"max_rotation_degrees": 5}},
}


@pytest.mark.parametrize("size", [32, (24, 40)])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("shape", [(32, 32, 3), (50, 70, 3), (28, 28, 1), (1, 300, 3)])
def test_every_recipe_ends_with_the_image_size(recipe, size, shape):
    steps = transforms.create_transforms(RECIPES[recipe], size, center_crop(image_size=size))
    height, width = (size, size) if isinstance(size, int) else size
    for seed in range(6):
        image = np.random.default_rng(7).integers(0, 256, shape, np.uint8)
        rng = np.random.default_rng(seed)
        for step in steps:
            image = step(image, rng)
        assert image.shape == (height, width, shape[2]) and image.dtype == np.uint8


def test_order_is_that_of_the_table(monkeypatch):
    log = []

    order = list(transforms.TRANSFORMS)
    assert order == [
        "enlarge",
        "random_resized_crop",
        "random_crop",
        "flip",
        "random_affine",
        "randaugment",
        "color_jitter",
    ]
    for name in order:
        monkeypatch.setitem(
            transforms.TRANSFORMS, name, lambda name=name: lambda image, rng: log.append(name)
        )
    wanted = {name: {} for name in reversed(order) if name != "random_resized_crop"}
    for step in transforms.create_transforms(wanted, 8, lambda image: log.append("center")):
        step(None, None)
    assert log == [order[0], *order[2:]]  # no centre crop beside a random one
    log.clear()
    for step in transforms.create_transforms({"flip": {}}, 8, lambda image: log.append("center")):
        step(None, None)
    assert log == ["center", "flip"]


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ({"blur": {}}, ["config.augment.blur: unknown", "random_affine", "color_jitter"]),
        ({"flip": 3}, ["config.augment.flip=3: not a section"]),
        ({"flip": {"p": 1}}, ["config.augment.flip.p: ", "probability"]),
        ({"flip": {"probability": 2}}, ["augment.flip.probability", "2", "0 to 1"]),
        ({"random_crop": {}}, ["config.augment.random_crop: missing padding"]),
        ({"random_crop": {"padding": -1}}, ["augment.random_crop.padding", "-1", "0"]),
        (
            {"random_crop": {"padding": 32, "border": "reflect"}},
            ["augment.random_crop.padding", "32", "31"],
        ),
        ({"random_crop": {"padding": 2, "border": "wrap"}}, ["border", "'wrap'", "reflect"]),
        (
            {"random_crop": {"padding": 2, "image_size": 9}},
            ["image_size: unknown", "padding"],
        ),
        (
            {"random_crop": {"padding": 1}, "random_resized_crop": {}},
            ["random_crop", "random_resized_crop"],
        ),
        ({"random_resized_crop": {"area": (0.5, 0.1)}}, ["area", "(0.5, 0.1)", "lower"]),
        ({"random_resized_crop": {"area": (0.5, 1.1)}}, ["area", "1.1", "1"]),
        (
            {"random_resized_crop": {"area": 0.5}},
            ["area=0.5: of type float", "tuple"],
        ),
        ({"random_resized_crop": {"aspect": (0, 1)}}, ["aspect", "0", "0.01"]),
        (
            {"random_resized_crop": {"interpolation": "nearest"}},
            ["interpolation", "'nearest'", "pil_bicubic"],
        ),
        ({"random_resized_crop": {"rule": "tf"}}, ["rule", "'tf'", "torchvision, tensorflow"]),
        (
            {"randaugment": {"magnitude": "9"}},
            ["randaugment.magnitude='9'", "allowed: float"],
        ),
        ({"color_jitter": {"strength": 2}}, ["augment.color_jitter.strength", "2", "1.25"]),
        ({"random_affine": {"max_scale": 0.5}}, ["augment.random_affine.max_scale", "0.5", "1"]),
        ({"random_affine": {"max_shift_pixels": math.nan}}, ["max_shift_pixels", "nan"]),
    ],
)
def test_bad_recipes_are_named(augment, words):
    with pytest.raises((ConfigError, ValueError)) as error:
        checked = check_subsections(
            augment, transforms.TRANSFORMS, "config.augment", provided=("image_size",)
        )
        transforms.create_transforms(checked, 32, center_crop(image_size=32))
    assert str(error.value).startswith("config.")
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
