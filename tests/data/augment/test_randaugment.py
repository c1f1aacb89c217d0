"""The operations of RandAugment against Pillow, numpy and timm, and how they are drawn."""

import math
import typing

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_image

from data.augment import operations as ops
from data.augment import randaugment as module
from data.augment.randaugment import Operation, create_operations, randaugment
from data.augment.transforms import TRANSFORMS
from harness.errors import ConfigError
from harness.strict_config import check_subsections

FACTORS = np.linspace(0, 2, 11)
BACKGROUND = 90


def photograph(name, mode, size=None):
    """Returns a photograph of scikit-learn's as Pillow's image and as an array [h, w, c]."""
    pillow = Image.fromarray(load_sample_image(name))
    pillow = (pillow.resize(size, Image.Resampling.BOX) if size else pillow).convert(mode)
    array = np.asarray(pillow)
    return pillow, array.reshape(*array.shape[:2], -1)


def background(mode):
    """Returns the fill of Pillow's transforms."""
    return BACKGROUND if mode == "L" else (BACKGROUND,) * 3


def assert_close(ours, expected, mean=0.1):
    """Compares a result with the expected image: mean absolute difference in levels."""
    expected = np.asarray(expected)
    assert ours.dtype == np.uint8
    assert ours.shape == (*expected.shape[:2], ours.shape[2])
    difference = np.abs(ours.astype(int) - expected.reshape(ours.shape))
    assert difference.mean() <= mean, difference.mean()


@pytest.fixture(
    scope="module",
    params=[
        ("china.jpg", "RGB", None),
        ("flower.jpg", "RGB", None),
        ("china.jpg", "RGB", (32, 32)),
        ("flower.jpg", "L", (90, 61)),
    ],
    ids=lambda p: f"{p[0][:-4]}-{p[1]}-{'small' if p[2] else 'full'}",
)
def pair(request):
    return photograph(*request.param)


# --- operations -----------------------------------------------------------------------------------


def test_operations_without_argument_equal_pillow(pair):
    pillow, image = pair
    assert_close(ops.autocontrast(image), ImageOps.autocontrast(pillow))
    assert_close(ops.equalize(image), ImageOps.equalize(pillow), mean=0)
    assert_close(ops.invert(image), ImageOps.invert(pillow), mean=0)
    assert_close(ops.identity(image), pillow, mean=0)


def test_autocontrast_and_equalize_of_pale_pictures_equal_pillow(pair):
    pillow, _ = pair
    pale = pillow.point(lambda v: 60 + v // 3)
    image = np.asarray(pale).reshape(pillow.height, pillow.width, -1)
    assert_close(ops.autocontrast(image), ImageOps.autocontrast(pale))
    assert_close(ops.equalize(image), ImageOps.equalize(pale), mean=0)
    assert image.max() < 146 and ops.autocontrast(image).max() == 255


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1, 1), (5, 4, 3), (20, 30, 1)])
def test_one_level_images_equal_pillow(shape):
    image = np.full(shape, 77, np.uint8)
    pillow = Image.fromarray(image if shape[2] == 3 else image[..., 0])
    assert_close(ops.autocontrast(image), ImageOps.autocontrast(pillow), mean=0)
    assert_close(ops.equalize(image), ImageOps.equalize(pillow), mean=0)
    assert_close(ops.contrast(image, 1.9), ImageEnhance.Contrast(pillow).enhance(1.9), mean=0)
    assert_close(ops.sharpness(image, 1.9), ImageEnhance.Sharpness(pillow).enhance(1.9), mean=0)


def test_posterize_solarize_equal_pillow(pair):
    pillow, image = pair
    for bits in range(1, 9):
        assert_close(ops.posterize(image, bits), ImageOps.posterize(pillow, bits), mean=0)
    assert not ops.posterize(image, 0).any()
    for threshold in range(0, 257, 32):
        assert_close(ops.solarize(image, threshold), ImageOps.solarize(pillow, threshold), mean=0)


def test_solarize_add_equals_definition(pair):
    _, image = pair
    for addition in (0, 50, 110, 200):
        raised = np.minimum(image.astype(int) + addition, 255)
        assert_close(ops.solarize_add(image, addition), np.where(image < 128, raised, image), 0)


@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
def test_enhancements_equal_pillow(pair, name):
    pillow, image = pair
    enhancer = getattr(ImageEnhance, name.title())(pillow)
    for factor in FACTORS:
        assert_close(getattr(ops, name)(image, factor), enhancer.enhance(factor))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_geometry_equals_pillow(pair, interpolation):
    pillow, image = pair
    mode = pillow.mode
    options = {"resample": ops.PILLOW[interpolation], "fillcolor": background(mode)}
    for share in (-1, -0.4, 0, 0.27, 0.83):
        matrices = {
            "shear_x": (0.3 * share, (1, 0.3 * share, 0, 0, 1, 0)),
            "shear_y": (0.3 * share, (1, 0, 0, 0.3 * share, 1, 0)),
            "translate_x": (20 * share, (1, 0, 20 * share, 0, 1, 0)),
            "translate_y": (20 * share, (1, 0, 0, 0, 1, 20 * share)),
        }
        for name, (argument, matrix) in matrices.items():
            ours = getattr(ops, name)(image, argument, interpolation, BACKGROUND)
            affine = Image.Transform.AFFINE
            assert_close(ours, pillow.transform(pillow.size, affine, matrix, **options))
        ours = ops.rotate(image, 30 * share, interpolation, BACKGROUND)
        assert_close(ours, pillow.rotate(30 * share, **options))


def nearest(image, matrix):
    """The definition: pixel (x, y) comes from the nearest one to matrix @ (x, y, 1)."""
    height, width, _ = image.shape
    y, x = np.mgrid[:height, :width]
    from_x, from_y = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))
    from_x, from_y = np.rint(from_x).astype(int), np.rint(from_y).astype(int)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    taken = image[np.clip(from_y, 0, height - 1), np.clip(from_x, 0, width - 1)]
    return np.where(inside[..., None], taken, BACKGROUND)


def test_nearest_geometry_equals_definition(pair):
    pillow, image = pair
    height, width, _ = image.shape
    for share in (-1, -0.43, 0, 0.27, 0.83):
        shear, pixels, angle = 0.29 * share, 20.3 * share, math.radians(30 * share)
        cos, sin = math.cos(angle), math.sin(angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        centre = np.array([width - 1, height - 1]) / 2
        for ours, matrix in (
            (ops.shear_x(image, shear, fill=BACKGROUND), [[1, shear, 0], [0, 1, 0]]),
            (ops.shear_y(image, shear, fill=BACKGROUND), [[1, 0, 0], [shear, 1, 0]]),
            (ops.translate_x(image, pixels, fill=BACKGROUND), [[1, 0, pixels], [0, 1, 0]]),
            (ops.translate_y(image, pixels, fill=BACKGROUND), [[1, 0, 0], [0, 1, pixels]]),
            (
                ops.rotate(image, 30 * share, fill=BACKGROUND),
                np.c_[turn, centre - turn @ centre],
            ),
        ):
            assert_close(ours, nearest(image, np.array(matrix)), mean=0.3)
        options = {"resample": Image.Resampling.NEAREST, "fillcolor": background(pillow.mode)}
        ours = ops.rotate(image, 30 * share, fill=BACKGROUND)
        assert_close(ours, pillow.rotate(30 * share, **options), mean=0.3)


@pytest.mark.parametrize("variant", ["nest", "timm"])
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7, 1), (13, 2, 3), (40, 30, 1)])
def test_any_shape(variant, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    view = np.stack([image, image], axis=1)[:, 0]  # its rows are not next to one another
    before = image.copy()
    for name, operation in create_operations(variant, fill=(1, 2, 3)).items():
        for level in (0.0, 0.9, 1.0):
            for interpolation in typing.get_args(ops.Interpolation):
                result = operation(image, level, interpolation)
                assert result.shape == shape and result.dtype == np.uint8, name
                np.testing.assert_array_equal(operation(view, level, interpolation), result)
    np.testing.assert_array_equal(image, before)


def test_fill_of_three_levels():
    image = np.zeros((20, 20, 3), np.uint8)
    for interpolation in typing.get_args(ops.Interpolation):
        moved = ops.translate_x(image, 5.0, interpolation, (10, 20, 30))
        assert moved[10, 19].tolist() == [10, 20, 30] and not moved[:, :14].any()


# --- strengths ------------------------------------------------------------------------------------


def arguments(table, level):
    """Returns name -> argument at a level."""
    return {name: op.argument(level) for name, op in table.items() if op.argument}


def test_nest_strengths():
    """The values of augment/rand_augment.py, computed by hand at levels 0.9 and 0, 1."""
    table = create_operations("nest", max_translate=(100.0, 100.0))
    assert len(table) == 16
    expected = {
        "rotate": 27.0,
        "posterize": 3,
        "solarize": 230,
        "solarize_add": 99,
        **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), 1.72),
        "shear_x": 0.27,
        "shear_y": 0.27,
        "translate_x": 90.0,
        "translate_y": 90.0,
    }
    assert arguments(table, 0.9) == pytest.approx(expected)
    low, high = arguments(table, 0.0), arguments(table, 1.0)
    assert (low["posterize"], high["posterize"]) == (1, 4)  # TensorFlow cannot shift by 8 bits
    assert (low["solarize"], high["solarize"]) == (0, 255)
    assert (low["color"], high["color"]) == (0.1, pytest.approx(1.9))
    geometry = {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}
    assert {name for name, op in table.items() if op.signed} == geometry
    assert {name for name, op in table.items() if op.fill == 128} == geometry


@pytest.mark.parametrize(("size", "pixels"), [(224, 100), (32, 10), (96, 30), (200, 60)])
def test_nest_translations(size, pixels, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        module, "create_operations", lambda variant, **kwargs: seen.update(kwargs) or {}
    )
    randaugment(image_size=size)
    assert seen["max_translate"] == (pixels, pixels)
    randaugment(image_size=size, max_translate_pixels=7)
    assert seen["max_translate"] == (7, 7)
    randaugment(image_size=(size, 80), variant="timm")
    assert seen["max_translate"] == pytest.approx((36, 0.45 * size))  # along x, along y


# --- draws ----------------------------------------------------------------------------------------


def record_draws(monkeypatch, count, **kwargs):
    """Runs randaugment on `count` images and returns what was applied to each."""
    log = []

    class Recorder(Operation):
        def __call__(self, image, level, interpolation="nearest"):
            log[-1].append((self.argument, level, interpolation))
            return image

    def recorders(variant, **options):
        table = create_operations(variant, **options)
        return {name: Recorder(None, name, op.signed) for name, op in table.items()}

    monkeypatch.setattr(module, "create_operations", recorders)
    transform = randaugment(image_size=32, **kwargs)
    rng = np.random.default_rng(0)
    for _ in range(count):
        log.append([])
        transform(None, rng)
    return log


@pytest.mark.parametrize("variant", ["nest", "timm"])
def test_draws_have_the_stated_distribution(monkeypatch, variant):
    count = 20_000
    log = record_draws(monkeypatch, count, variant=variant)
    applied = np.bincount([len(image) for image in log])
    np.testing.assert_allclose(applied / count, [0.25, 0.5, 0.25], atol=0.012)
    table = create_operations(variant)
    names = [name for image in log for name, _, _ in image]
    shares = np.array([names.count(name) for name in table]) / len(names)
    np.testing.assert_allclose(shares, 1 / len(table), rtol=0.13)  # 4.6 standard deviations
    # Both layers draw from all operations, with replacement.
    twice = [image for image in log if len(image) == 2]
    same = np.mean([first[0] == second[0] for first, second in twice])
    assert same == pytest.approx(1 / len(table), abs=0.016)
    # Normal(9, 0.5), cut off at 10 (two standard deviations: 2.275 %), over 10.
    levels = np.array([abs(level) for image in log for _, level, _ in image])
    assert np.mean(levels == 1.0) == pytest.approx(0.02275, abs=0.005)
    assert np.mean(levels < 0.9) == pytest.approx(0.5, abs=0.018)
    assert np.mean(levels < 0.85) == pytest.approx(0.1587, abs=0.013)
    signed = {name for name, op in table.items() if op.signed}
    signs = [level < 0 for image in log for name, level, _ in image if name in signed]
    assert np.mean(signs) == pytest.approx(0.5, abs=0.032)
    assert all(level > 0 for image in log for name, level, _ in image if name not in signed)
    kinds = [interpolation for image in log for *_, interpolation in image]
    if variant == "nest":
        assert set(kinds) == {"nearest"}
    else:
        assert np.mean(np.array(kinds) == "bicubic") == pytest.approx(0.5, abs=0.018)
        assert set(kinds) == {"bilinear", "bicubic"}


def test_fixed_magnitude_and_certain_layers(monkeypatch):
    log = record_draws(monkeypatch, 50, num_layers=3, magnitude=4, magnitude_std=0, probability=1.0)
    assert all([abs(level) for _, level, _ in image] == [0.4] * 3 for image in log)
    assert not any(record_draws(monkeypatch, 50, probability=0.0))


def test_one_seed_one_image():
    image = cv2.resize(load_sample_image("flower.jpg"), (32, 32))
    transform = randaugment(image_size=32)
    first, again = (
        [transform(image, np.random.default_rng(seed)) for seed in range(20)] for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    assert len({result.tobytes() for result in first}) > 10


# --- timm -----------------------------------------------------------------------------------------

TIMM_NAMES = {
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
    "autocontrast": "AutoContrast",
}


@pytest.fixture(scope="module")
def timm():
    torch = pytest.importorskip("torch")
    register_fake = torch.library.register_fake

    def register(name, *args, **kwargs):
        """Leaves out torchvision's C++ operators, which its wheel for another torch lacks."""
        if isinstance(name, str) and name.startswith("torchvision::"):
            return lambda function: function
        return register_fake(name, *args, **kwargs)

    torch.library.register_fake = register
    pytest.importorskip("timm")
    from timm.data import auto_augment

    torch.library.register_fake = register_fake
    return auto_augment


@pytest.mark.torch
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("increasing", [False, True])
@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_equals_timm(timm, monkeypatch, name, increasing, interpolation):
    pillow, image = photograph(name, "RGB", (200, 150))
    table = create_operations("timm", fill=124, max_translate=(90, 67.5), increasing=increasing)
    hparams = {
        "img_mean": (124,) * 3,
        "interpolation": ops.PILLOW[interpolation],
        "translate_const": 250,
    }
    text = f"rand-m9-mstd0.5{'-inc1' if increasing else ''}"
    theirs = timm.rand_augment_transform(text, dict(hparams))
    assert len(theirs.ops) == len(table) and theirs.num_layers == 2
    for (our_name, operation), their in zip(table.items(), theirs.ops, strict=True):
        their_name = TIMM_NAMES.get(our_name, our_name.title().replace("_", ""))
        assert their.name in (their_name, their_name + "Increasing")
        assert (their.prob, their.magnitude, their.magnitude_std) == (0.5, 9, 0.5)
        for magnitude in (0, 0.6, 3, 5.5, 8.1, 9, 9.7, 10):
            for sign in (1, -1) if operation.signed else (1,):
                monkeypatch.setattr(timm, "_randomly_negate", lambda v, sign=sign: sign * v)
                their.prob, their.magnitude, their.magnitude_std = 1.0, magnitude, 0
                ours = operation(image, sign * magnitude / 10, interpolation)
                if our_name == "posterize" and operation.argument(magnitude / 10) == 0:
                    assert not ours.any()  # Pillow refuses 0 bits since version 13; black before
                    continue
                assert_close(ours, their(pillow))


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"variant": "google"}, ["variant='google': unknown; allowed: nest, timm"]),
        ({"num_layers": 2.0}, ["num_layers=2.0: of type float; allowed: int"]),
        ({"magnitude": 11}, ["magnitude", "11", "0 to 10"]),
        ({"magnitude": True}, ["magnitude=True: of type bool; allowed: float"]),
        ({"magnitude_std": -1}, ["magnitude_std", "-1", "0"]),
        ({"probability": 1.5}, ["probability", "1.5", "0 to 1"]),
        ({"increasing": 2, "variant": "timm"}, ["increasing=2: of type int; allowed: bool"]),
        ({"increasing": True}, ["increasing", "True", "'timm'"]),
        ({"max_translate_fraction": 0.3}, ["max_translate_fraction", "0.3", "'timm'"]),
        ({"max_translate_pixels": 9, "variant": "timm"}, ["max_translate_pixels", "9", "'nest'"]),
        ({"max_translate_pixels": -1}, ["max_translate_pixels", "-1", "0"]),
        ({"max_translate_fraction": 2, "variant": "timm"}, ["max_translate_fraction", "2", "1"]),
        ({"fill": 256}, ["fill", "256", "255"]),
        ({"fill": (1, 2)}, ["fill=(1, 2): of type tuple; allowed: int or tuple[int, int, int]"]),
        ({"interpolation": "lanczos"}, ["interpolation='lanczos': unknown", "nearest, bilinear"]),
        (
            {"interpolation": ("bilinear", "cubic")},
            ["did you mean 'bicubic'? allowed: nearest"],
        ),
        ({"interpolation": ()}, ["interpolation", "empty"]),
    ],
)
def test_bad_arguments_are_named(change, words):
    with pytest.raises((ConfigError, ValueError)) as error:
        section = check_subsections(
            {"randaugment": change}, TRANSFORMS, "config.augment", provided=("image_size",)
        )
        randaugment(image_size=32, **section["randaugment"])
    assert str(error.value).startswith("config.augment.randaugment.")
    for word in words:
        assert word in str(error.value)
