"""Augmentation of single images on the host.

Each entry of `TRANSFORMS` is a function of keyword arguments (a section of the recipe) that returns
`transform(image, rng) -> image`, with uint8 images `[h, w, c]` and every random draw from `rng`, a
generator of the record's own: an augmented image depends on (seed, epoch, index) alone.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]

# The loader works on many images at once; threads inside one small image only get in its way.
cv2.setNumThreads(0)


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
        ValueError: an amplitude is negative, or the scale below 1, or the fill no grey level.
    """
    for key, value, least, most in (
        ("max_shift_pixels", max_shift_pixels, 0.0, 1e4),
        ("max_rotation_degrees", max_rotation_degrees, 0.0, 180.0),
        ("max_scale", max_scale, 1.0, 10.0),
        ("fill", fill, 0, 255),
    ):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"random_affine.{key} is {value!r}; it must be a number")
        if not least <= value <= most:
            raise ValueError(f"random_affine.{key} is {value}; allowed is {least} to {most}")
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


# In the order in which they are applied, whatever the order in the recipe.
TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "random_affine": random_affine,
}

# Augmentations of the papers' recipes that are not written yet.
PLANNED_TRANSFORMS = {
    "random_crop": "augmentation 'random_crop' (pad and crop)",
    "random_resized_crop": "augmentation 'random_resized_crop'",
    "flip": "augmentation 'flip' (left to right)",
    "randaugment": "augmentation 'randaugment'",
    "color_jitter": "augmentation 'color_jitter'",
}


def create_transforms(augment: Mapping[str, Any] | None) -> list[Transform]:
    """Builds the transforms of a recipe in the order of `TRANSFORMS`.

    Args:
        augment: name of a transform -> its keyword arguments, or None for one that is switched off.

    Returns:
        The transforms; an empty list when nothing is to be done.

    Raises:
        ValueError: unknown names or arguments, or values out of range.
    """
    wanted = {name: kwargs for name, kwargs in dict(augment or {}).items() if kwargs is not None}
    for name, kwargs in wanted.items():
        if name not in TRANSFORMS:
            raise ValueError(f"augment.{name} is not known; there is: {', '.join(TRANSFORMS)}")
        allowed = inspect.signature(TRANSFORMS[name]).parameters
        if not hasattr(kwargs, "keys"):
            raise ValueError(
                f"augment.{name} is {kwargs!r}; it must be a dict with keys of: "
                f"{', '.join(allowed)}, or None"
            )
        for key in kwargs:
            if key not in allowed:
                raise ValueError(
                    f"augment.{name}.{key} is not known; there is: {', '.join(allowed)}"
                )
    return [make(**dict(wanted[name])) for name, make in TRANSFORMS.items() if name in wanted]
