"""Augmentation of single images on the host.

Each entry of `TRANSFORMS` is a function of keyword arguments (a section of the recipe) that returns
`transform(image, rng) -> image`, with uint8 images `[h, w, c]` and every random draw from `rng`, a
generator of the record's own: an augmented image depends on (seed, epoch, index) alone.

The functions are in crops.py, randaugment.py (with operations.py) and color.py, and here.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from data.augment.color import color_jitter
from data.augment.crops import enlarge, random_crop, random_resized_crop
from data.augment.randaugment import randaugment
from harness.arguments import check_range

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]

# The loader works on many images at once; threads inside one small image only get in its way.
cv2.setNumThreads(0)


def flip(*, probability: float = 0.5) -> Transform:
    """Mirrors an image, left to right.

    Args:
        probability: of doing so.

    Returns:
        A transform of uint8 images of any size with 1 to 4 channels.

    Raises:
        ValueError: a value is out of range.
    """
    check_range("config.augment.flip.probability", probability, 0, 1)

    def transform(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= probability:
            return image
        return cv2.flip(image, 1).reshape(image.shape)

    return transform


def random_affine(
    *,
    max_shift_pixels: float = 0.0,
    max_rotation_degrees: float = 0.0,
    max_scale: float = 1.0,
    fill: int = 0,
) -> Transform:
    """Shifts, turns and scales an image about its centre, in one linear interpolation.

    Args:
        max_shift_pixels: the shift along each axis is uniform in +- this many pixels.
        max_rotation_degrees: the angle is uniform in +- this many degrees.
        max_scale: the logarithm of the magnification is uniform in +- log(max_scale); 1 is off.
        fill: grey level (0 to 255) of what comes in from outside the image.

    Returns:
        A transform of uint8 images of any size with 1 to 4 channels.

    Raises:
        ValueError: a value is out of range.
    """
    key = "config.augment.random_affine"
    check_range(f"{key}.max_shift_pixels", max_shift_pixels, 0, 10_000)
    check_range(f"{key}.max_rotation_degrees", max_rotation_degrees, 0, 180)
    check_range(f"{key}.max_scale", max_scale, 1, 10)
    check_range(f"{key}.fill", fill, 0, 255)
    max_angle = math.radians(max_rotation_degrees)
    max_log_scale = math.log(max_scale)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP

    def transform(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width, channels = image.shape
        # One call for the four draws: calls cost more than draws.
        turn, zoom, shift_x, shift_y = (2.0 * rng.random(4) - 1.0).tolist()
        # The map goes from the output's pixels back to the input's, about the centre.
        inverse_scale = math.exp(-zoom * max_log_scale)
        cos = math.cos(turn * max_angle) * inverse_scale
        sin = math.sin(turn * max_angle) * inverse_scale
        centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
        x = centre_x + shift_x * max_shift_pixels
        y = centre_y + shift_y * max_shift_pixels
        matrix = np.array(
            [
                [cos, -sin, centre_x - cos * x + sin * y],
                [sin, cos, centre_y - sin * x - cos * y],
            ]
        )
        warped = cv2.warpAffine(
            image, matrix, (width, height), flags=flags, borderValue=(fill,) * 4
        )
        return warped.reshape(height, width, channels)  # OpenCV drops a single channel's axis

    return transform


# In the order in which they are applied, independent of the recipe's order. Those that take
# `image_size` get it from `create_transforms`, not from the recipe.
TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "enlarge": enlarge,
    "random_resized_crop": random_resized_crop,
    "random_crop": random_crop,
    "flip": flip,
    "random_affine": random_affine,
    "randaugment": randaugment,
    "color_jitter": color_jitter,
}
CROPS = ("random_resized_crop", "random_crop")


def create_transforms(
    augment: Mapping[str, Any] | None,
    image_size: int | tuple[int, int],
    center_crop: Callable[[np.ndarray], np.ndarray],
) -> list[Transform]:
    """Builds the transforms of a recipe in the order of `TRANSFORMS`.

    Args:
        augment: name of a transform -> its keyword arguments, or None for one that is switched off;
            names and types as harness.strict_config.check_subsections has checked them.
        image_size: side or (height, width) of the images that come out, pixels.
        center_crop: brings an image of any size to `image_size` (crops.center_crop); it stands in
            for the random crop of a recipe that has none.

    Returns:
        The transforms; one after the other they turn a uint8 image of any size into one of
        `image_size`.

    Raises:
        ValueError: a value is out of range, or there are two crops.
    """
    made = {}
    for name, kwargs in (augment or {}).items():
        if kwargs is not None:
            takes_size = "image_size" in inspect.signature(TRANSFORMS[name]).parameters
            size = {"image_size": image_size} if takes_size else {}
            made[name] = TRANSFORMS[name](**kwargs, **size)
    if set(CROPS) <= made.keys():
        raise ValueError(f"config.augment: both {' and '.join(CROPS)}; allowed: one of them")
    transforms = [made[name] for name in TRANSFORMS if name in made]
    if not made.keys() & set(CROPS):
        transforms.insert("enlarge" in made, lambda image, rng: center_crop(image))
    return transforms
