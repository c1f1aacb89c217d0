"""Interpolations, random resized crops, the centre crop and CIFAR's pad and crop."""

import typing

import cv2
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from PIL import Image
from sklearn.datasets import load_sample_image

from data.augment import crops
from data.augment.crops import center_crop, enlarge, random_crop, random_resized_crop

CHINA = load_sample_image("china.jpg")
FLOWER = load_sample_image("flower.jpg")


def assert_close(ours, expected, mean):
    """Compares images of one shape: mean absolute difference in levels."""
    assert ours.dtype == np.uint8 and ours.shape == np.shape(expected)
    difference = np.abs(ours - np.asarray(expected, float)).mean()
    assert difference <= mean, difference


def bilinear(image, size):
    """tf.image.resize's definition: linear between the four nearest pixel centres."""
    height, width, channels = image.shape
    rows = (np.arange(size[0]) + 0.5) * height / size[0] - 0.5
    columns = (np.arange(size[1]) + 0.5) * width / size[1] - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    planes = [
        scipy.ndimage.map_coordinates(image[..., c].astype(float), grid, order=1, mode="nearest")
        for c in range(channels)
    ]
    return np.stack(planes, axis=-1)


# --- interpolation --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(224, 224), (100, 333), (600, 700), (7, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_bilinear_equals_definition(size, channels):
    image = FLOWER[..., :channels]
    assert_close(crops.resize(image, size, "bilinear"), bilinear(image, size), mean=0.3)


@pytest.mark.parametrize("size", [(224, 224), (100, 333), (600, 700), (7, 5)])
def test_pillow_names_are_pillow(size):
    for name in ("bilinear", "bicubic"):
        method = getattr(Image.Resampling, name.upper())
        expected = Image.fromarray(CHINA[50:300, 20:400]).resize(size[::-1], method)
        assert_close(crops.resize(CHINA[50:300, 20:400], size, f"pil_{name}"), expected, mean=0)
        grey = Image.fromarray(CHINA[..., 0]).resize(size[::-1], method)
        ours = crops.resize(CHINA[..., :1], size, f"pil_{name}")
        assert_close(ours[..., 0], grey, mean=0)


def test_bicubic_goes_through_the_pixels_and_is_smooth():
    image = cv2.resize(FLOWER, (60, 40), interpolation=cv2.INTER_AREA)
    tripled = crops.resize(image, (120, 180), "bicubic")
    np.testing.assert_array_equal(tripled[1::3, 1::3], image)  # the centres coincide
    errors = [
        np.abs(crops.resize(tripled, (40, 60), "pil_bilinear") - image.astype(float)).mean()
        for tripled in (tripled, crops.resize(image, (120, 180), "bilinear"))
    ]
    assert errors[0] < errors[1]


# --- random_resized_crop --------------------------------------------------------------------------


def boxes(rule, height, width, area, aspect, count=4000):
    """Draws boxes as an array of columns top, left, height, width."""
    rng = np.random.default_rng(0)
    return np.array([crops.RULES[rule](height, width, area, aspect, rng) for _ in range(count)])


def uniform_p(values, low, high):
    """Returns the probability of so uneven a sample of a uniform distribution."""
    return scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf).pvalue


@pytest.mark.parametrize("rule", ["torchvision", "tensorflow"])
def test_boxes_are_uniform_as_stated(rule):
    """In a large image, with boxes that always fit and are hardly rounded."""
    side, area, aspect = 100_000, (0.1, 0.4), (0.5, 2.0)
    top, left, height, width = boxes(rule, side, side, area, aspect).T
    if rule == "torchvision":
        assert uniform_p(height * width / side**2, *area) > 0.01
        assert uniform_p(np.log(width / height), *np.log(aspect)) > 0.01
    else:
        ratio = width / height
        assert uniform_p(ratio, *aspect) > 0.01
        low, high = (side * np.sqrt(a / ratio) for a in area)
        assert uniform_p((height - low) / (high - low), 0, 1) > 0.01
    assert uniform_p(top / (side - height), 0, 1) > 0.01
    assert uniform_p(left / (side - width), 0, 1) > 0.01


@pytest.mark.parametrize("rule", ["torchvision", "tensorflow"])
@pytest.mark.parametrize(("height", "width"), [(375, 500), (60, 30), (32, 32), (224, 100)])
def test_boxes_lie_inside_and_have_the_area(rule, height, width):
    top, left, h, w = boxes(rule, height, width, (0.2, 0.6), (3 / 4, 4 / 3)).T
    assert min(top.min(), left.min()) == 0
    assert (top + h).max() == height and (left + w).max() == width  # the edges are reached
    rounding = 0.5 * (h + w) / (height * width)
    share = h * w / (height * width)
    assert np.all(share > 0.2 - rounding) and np.all(share < 0.6 + rounding)
    assert np.all(w < 4 / 3 * h + 1.2) and np.all(h < 4 / 3 * w + 1.2)


def test_boxes_by_height_are_tensorflows():
    """Means and deviations of 20,000 draws of tf.image.stateless_sample_distorted_bounding_box.

    TensorFlow 2.21, area 0.05 to 1, aspect 0.75 to 1.33, images of 375 x 500.
    """
    drawn = boxes("tensorflow", 375, 500, (0.05, 1.0), (0.75, 1.33), count=20_000)
    assert drawn[:, 2:].mean(0) == pytest.approx([235.83, 244.74], abs=2.5)
    assert drawn[:, :2].mean(0) == pytest.approx([69.07, 126.77], abs=3.0)
    assert drawn.std(0) == pytest.approx([61.65, 90.97, 80.94, 93.05], rel=0.03)
    assert (drawn[:, 2] * drawn[:, 3]).mean() / (375 * 500) == pytest.approx(0.3437, abs=0.006)


def test_what_never_fits():
    rng = np.random.default_rng(0)
    area, aspect = (0.5, 1.0), (3 / 4, 4 / 3)
    assert crops.RULES["torchvision"](30, 3000, area, aspect, rng) == (0, 1480, 30, 40)
    assert crops.RULES["torchvision"](3000, 30, area, aspect, rng) == (1480, 0, 40, 30)
    assert crops.RULES["tensorflow"](30, 3000, area, aspect, rng) == (0, 0, 30, 3000)


@pytest.mark.parametrize("name", typing.get_args(crops.Interpolation))
def test_random_resized_crop_is_the_resized_box(name):
    make = random_resized_crop(image_size=(64, 48), interpolation=name, area=(0.3, 0.9))
    for seed in range(3):
        box = crops.RULES["torchvision"](
            427, 640, (0.3, 0.9), (3 / 4, 4 / 3), np.random.default_rng(seed)
        )
        top, left, height, width = box
        box = CHINA[top : top + height, left : left + width]
        result = make(CHINA, np.random.default_rng(seed))
        if name == "bilinear":
            assert_close(result, bilinear(box, (64, 48)), mean=0.3)
        else:
            assert_close(result, crops.resize(np.ascontiguousarray(box), (64, 48), name), mean=0)


def test_interpolation_is_drawn():
    names = ("pil_bilinear", "pil_bicubic", "bilinear")
    draw = random_resized_crop(image_size=20, area=(1, 1), aspect=(1, 1), interpolation=names)
    image = np.ascontiguousarray(CHINA[:200, :200])
    expected = {crops.resize(image, (20, 20), name).tobytes(): name for name in names}
    rng = np.random.default_rng(0)
    drawn = [expected[draw(image, rng).tobytes()] for _ in range(900)]
    for name in names:
        assert drawn.count(name) == pytest.approx(300, abs=60)


# --- center_crop ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(375, 500), (427, 640), (300, 91), (33, 47)])
@pytest.mark.parametrize(("size", "ratio"), [(224, 0.875), (384, 0.875), (32, 1.0), (224, 0.9)])
def test_center_crop_equals_the_official_definition(shape, size, ratio):
    image = CHINA[: shape[0], : shape[1]]
    short = int(size / ratio)
    factor = short / min(shape)
    whole = bilinear(image, (round(shape[0] * factor), round(shape[1] * factor)))
    top, left = (whole.shape[0] - size) // 2, (whole.shape[1] - size) // 2
    expected = whole[top : top + size, left : left + size]
    assert_close(center_crop(image_size=size, ratio=ratio)(image), expected, mean=0.3)


def test_center_crop_of_another_aspect_covers_the_size():
    """A ramp from left to right tells where columns come from; the short side here is the width."""
    image = np.tile(np.linspace(0, 255, 101), (202, 1)).astype(np.uint8)[..., None]
    result = center_crop(image_size=(50, 100), ratio=0.5)(image)
    assert result.shape == (50, 100, 1)
    np.testing.assert_allclose(result[:, [0, -1], 0], [[64, 190]] * 50, atol=2)


def test_what_has_the_size_is_not_touched():
    image = np.ascontiguousarray(CHINA[:32, :32])
    for name in typing.get_args(crops.Interpolation):
        assert center_crop(image_size=32, ratio=1.0, interpolation=name)(image) is image


@pytest.mark.parametrize("name", typing.get_args(crops.Interpolation))
@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (1, 20_000, 3), (20_000, 1, 1), (100, 20_000, 3), (3, 2, 1)]
)
def test_extreme_shapes(name, shape):
    image = np.full(shape, 7, np.uint8)
    image[:, : shape[1] // 3] = image[:, -(shape[1] // 3) :] = 9
    if shape[1] == 1:
        image[:] = 7
    result = center_crop(image_size=(24, 32), interpolation=name)(image)
    assert result.shape == (24, 32, shape[2])
    if max(shape) > 3:
        assert np.all(result == 7)  # the middle
    for rule in crops.RULES:
        make = random_resized_crop(image_size=(24, 32), interpolation=name, rule=rule)
        for seed in range(5):
            result = make(image, np.random.default_rng(seed))
            assert result.shape == (24, 32, shape[2]) and result.dtype == np.uint8


def test_long_images_are_not_blown_up(monkeypatch):
    sizes = []
    resize = crops.resize
    monkeypatch.setattr(
        crops, "resize", lambda image, size, name: sizes.append(size) or resize(image, size, name)
    )
    for shape in ((1, 20_000, 3), (20_000, 100, 3), (100, 20_001, 1)):
        for name in typing.get_args(crops.Interpolation):
            for ratio in (0.2, 1.0):
                crop = center_crop(image_size=60, interpolation=name, ratio=ratio)
                assert crop(np.zeros(shape, np.uint8)).shape == (60, 60, shape[2])
    assert max(height * width for height, width in sizes) < 16 * 300 * 300


@pytest.mark.torch
@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_center_crop_equals_timm(timm_transforms, name):
    for size in (224, 384, 160, 33):
        for ratio in (0.875, 0.9, 0.95, 1.0):
            theirs = timm_transforms.create_transform(
                size, interpolation=name, crop_pct=ratio, use_prefetcher=True
            )
            ours = center_crop(image_size=size, ratio=ratio, interpolation=f"pil_{name}")
            for shape in ((375, 500), (427, 333), (300, 91), (33, 47), (224, 224)):
                image = np.ascontiguousarray(FLOWER[: shape[0], : shape[1]])
                expected = theirs(Image.fromarray(image)).numpy().transpose(1, 2, 0)
                assert_close(ours(image), expected, mean=0)


@pytest.mark.torch
@pytest.mark.parametrize(("height", "width"), [(375, 500), (60, 30), (90, 400)])
def test_boxes_are_torchvisions(timm_transforms, height, width):
    from timm.data.transforms import RandomResizedCropAndInterpolation

    image, area, aspect = Image.new("RGB", (width, height)), (0.08, 1.0), (3 / 4, 4 / 3)
    theirs = [
        RandomResizedCropAndInterpolation.get_params(image, area, aspect) for _ in range(4000)
    ]
    ours = boxes("torchvision", height, width, area, aspect)
    for column in range(4):
        test = scipy.stats.ks_2samp(np.array(theirs)[:, column], ours[:, column])
        assert test.pvalue > 0.001


@pytest.fixture(scope="module")
def timm_transforms():
    torch = pytest.importorskip("torch")
    register_fake = torch.library.register_fake

    def register(name, *args, **kwargs):
        """Leaves out torchvision's C++ operators, which its wheel for another torch lacks."""
        if isinstance(name, str) and name.startswith("torchvision::"):
            return lambda function: function
        return register_fake(name, *args, **kwargs)

    torch.library.register_fake = register
    pytest.importorskip("timm")
    from timm.data import transforms_factory

    torch.library.register_fake = register_fake
    return transforms_factory


# --- random_crop ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("border", ["constant", "reflect"])
def test_random_crop_is_a_window_of_the_padded_image(border, channels):
    image = np.random.default_rng(0).integers(1, 256, (12, 9, channels), np.uint8)
    make = random_crop(image_size=(12, 9), padding=2, border=border)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode=border)
    windows = {
        padded[top : top + 12, left : left + 9].tobytes(): (top, left)
        for top in range(5)
        for left in range(5)
    }
    rng = np.random.default_rng(0)
    seen = [windows[make(image, rng).tobytes()] for _ in range(5000)]
    counts = np.unique(seen, axis=0, return_counts=True)[1]
    assert len(counts) == 25 and scipy.stats.chisquare(counts).pvalue > 0.01


def test_random_crop_of_another_size_resizes_first():
    make = random_crop(image_size=32, padding=0)
    expected = center_crop(image_size=32, ratio=1.0)(CHINA)
    np.testing.assert_array_equal(make(CHINA, np.random.default_rng(0)), expected)
    filled = random_crop(image_size=8, padding=8, fill=99)
    results = [filled(np.zeros((8, 8, 1), np.uint8), np.random.default_rng(s)) for s in range(50)]
    assert set(np.unique(results)) == {0, 99}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 0}, ["image_size", "0", "1"]),
        ({"image_size": (32, 32, 3)}, ["image_size", "(32, 32, 3)", "(height, width)"]),
        ({"ratio": 0}, ["ratio", "0", "1"]),
        ({"ratio": 1.01}, ["ratio", "1.01", "1"]),
    ],
)
def test_bad_arguments_of_center_crop(change, words):
    with pytest.raises(ValueError) as error:
        center_crop(**{"image_size": 32, **change})
    assert str(error.value).startswith("config.data.")
    for word in words:
        assert word in str(error.value)


# --- CIFAR after ImageNet -------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "enlarged"), [(384, 438), (224, 256)])  # int(256 / 224 * side)
def test_enlarge_is_the_official_resize(side, enlarged):
    image = FLOWER[100:132, 200:232]
    ours = enlarge(image_size=side)(image, None)
    assert_close(ours, bilinear(image, (enlarged, enlarged)), mean=0.3)
    # The evaluation's crop is the middle of the same.
    cut = slice((enlarged - side) // 2, (enlarged - side) // 2 + side)
    np.testing.assert_array_equal(center_crop(image_size=side)(image), ours[cut, cut])
    assert enlarge(image_size=side)(CHINA[:, :100], None).shape == (
        max(enlarged, CHINA.shape[0]),
        enlarged,
        3,
    )
