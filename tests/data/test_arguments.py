"""The errors of the data section: each names the key, its value and what is allowed."""

import math

import pytest

from data.augment.transforms import TRANSFORMS
from data.pipeline import Data
from harness.errors import ConfigError
from harness.strict_config import check_section, check_subsections

GOOD = {"name": "digits", "image_size": 16, "batch_size": 64, "eval_batch_size": 100}


def opened(augment=None, **options):
    """Opens the data as a run does: names and types are checked first."""
    checked = check_section(GOOD | options, Data, "config.data")
    augment = check_subsections(
        augment or {}, TRANSFORMS, "config.augment", provided=("image_size",)
    )
    return Data(**checked | {"augment": augment}).open()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augment": {"random_affine": {"max_shift_pixels": 1}}},
        {"augment": {"random_affine": None}, "train_split": "train[:80%]"},
        {"image_size": (16, 12), "mean": (0.5,), "std": (0.1,), "repeats": 3, "num_threads": None},
    ],
)
def test_good_arguments_pass(options):
    opened(**options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "mnist"}, ["'mnist'", "digits, digits_mosaic, synthetic", "folder:/path"]),
        ({"name": "folder:/nowhere"}, ["folder:/nowhere"]),
        ({"name": "digitz"}, ["'digitz' is not prepared", "did you mean 'digits'?"]),
        ({"name": "two words"}, ["config.data.name='two words': unknown; allowed: digits"]),
        ({"name": 3}, ["config.data.name=3: of type int; allowed: str"]),
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
        ({"seed": -1}, ["config.seed", "-1"]),
        ({"seed": 2**32}, ["config.seed", "4294967296"]),
        ({"num_threads": -1}, ["data.num_threads", "-1"]),
        ({"num_workers": 1.5}, ["data.num_workers", "1.5"]),
        ({"prefetch": "2"}, ["data.prefetch", "'2'"]),
        ({"repeats": 0}, ["data.repeats", "0"]),
        ({"data_dir": 3}, ["data.data_dir", "3"]),
        (
            {"bad_images": "skip"},
            ["data.bad_images='skip': unknown; allowed: replace, raise"],
        ),
        ({"max_bad": -1}, ["data.max_bad", "-1"]),
        ({"mean": (0.5, 0.5)}, ["config.data.mean=(0.5, 0.5): wrong length", "channels"]),
        ({"std": (0.0,)}, ["config.data.std=0.0: out of range; allowed: 1e-06 to 1.0"]),
        ({"std": ()}, ["data.std", "()"]),
        ({"eval_crop_ratio": 0.0}, ["data.eval_crop_ratio", "0.0"]),
        (
            {"eval_crop_interpolation": "cubic"},
            ["data.eval_crop_interpolation", "'cubic'", "pil_bicubic"],
        ),
        (
            {"batch_size": 10, "process_count": 4},
            ["batch_size=10", "multiples of 4"],
        ),
        (
            {"process_index": 4, "process_count": 4},
            ["process_index=4: ", "0 to 3"],
        ),
        ({"augment": {"blur": {}}}, ["augment.blur", "random_affine"]),
        ({"augment": {"random_affine": 3}}, ["config.augment.random_affine=3: not a section"]),
        (
            {"augment": {"random_affine": {"max_shift": 1}}},
            ["config.augment.random_affine.max_shift: ", "max_shift_pixels"],
        ),
        (
            {"augment": {"random_affine": {"max_scale": 0.5}}},
            ["random_affine.max_scale", "0.5", "1 to 10"],
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
    with pytest.raises((ConfigError, ValueError)) as error:
        opened(**change)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_making_it_reads_nothing():
    """The check of a config comes before anything is written, and costs nothing."""
    data = Data(**{**GOOD, "train_split": "nothing of the kind"})
    with pytest.raises(ValueError, match="data.train_split"):
        data.open()
