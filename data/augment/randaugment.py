"""RandAugment (arXiv 1909.13719) as two codes have it: the official NesT's and timm's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data.augment import operations as ops
from harness.arguments import MAX_SIDE, as_height_width, as_names, check_range, problem

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Variant = Literal["nest", "timm"]

NUM_LEVELS = 10  # magnitudes go from 0 to this in both codes
# Side of the image -> the largest translation; of other sides 0.3 times the side.
NEST_TRANSLATIONS = {224: 100, 128: 40, 96: 30, 32: 10}
TIMM_TRANSLATION = 0.45


@dataclass(frozen=True)
class Operation:
    """One operation of RandAugment with its range of strengths.

    Attributes:
        function: the function of data/augment/operations.py.
        argument: level -> the function's argument; None where it takes none. Levels go from 0 to 1,
            or from -1 to 1 where `signed`.
        signed: whether the sign of the level is drawn, half and half.
        fill: for geometry, the level (or three) of what comes in from outside; None for colours.
    """

    function: Callable[..., np.ndarray]
    argument: Callable[[float], Any] | None = None
    signed: bool = False
    fill: ops.Fill | None = None

    def __call__(
        self, image: np.ndarray, level: float, interpolation: ops.Interpolation = "nearest"
    ) -> np.ndarray:
        """Applies the operation at a level to a uint8 image `[h, w, c]`."""
        if self.argument is None:
            return self.function(image)
        if self.fill is None:
            return self.function(image, self.argument(level))
        return self.function(image, self.argument(level), interpolation, self.fill)


def _factor(level: float) -> float:
    """0.1 at level 0, unchanged (1) at a half, 1.9 at level 1."""
    return 0.1 + 1.8 * level


def _factor_increasing(level: float) -> float:
    """Unchanged (1) at level 0, 0.1 or 1.9 at level -1 or 1."""
    return 1.0 + 0.9 * level


def create_operations(
    variant: Variant,
    *,
    fill: ops.Fill = 128,
    max_translate: tuple[float, float] = (10.0, 10.0),
    increasing: bool = False,
) -> dict[str, Operation]:
    """Returns the operations among which RandAugment draws, name -> operation.

    Args:
        variant: "nest" (16 operations) or "timm" (15: without the identity).
        fill: level (or three) of what comes in from outside the image.
        max_translate: largest translation along x and y, pixels.
        increasing: timm's "inc1": of posterize, solarize and the four enhancements, a higher level
            changes the image more.

    Returns:
        The table, in the order of the respective code.
    """
    nest = variant == "nest"
    enhance = _factor_increasing if increasing else _factor

    def signed(function: Callable, limit: float) -> Operation:
        return Operation(function, lambda level: level * limit, signed=True, fill=fill)

    def bits(level: float) -> int:
        kept = 4 - int(level * 4) if increasing else int(level * 4)
        # TensorFlow shifts by at most 7 bits, so that 0 bits are as 1.
        return max(kept, 1) if nest else kept

    def threshold(level: float) -> int:
        first = 256 - int(level * 256) if increasing else int(level * 256)
        return min(first, 255) if nest else first  # a uint8 there

    def colour(function: Callable) -> Operation:
        return Operation(function, enhance, signed=increasing)

    table = {
        "autocontrast": Operation(ops.autocontrast),
        "equalize": Operation(ops.equalize),
        "invert": Operation(ops.invert),
        "rotate": signed(ops.rotate, 30.0),
        "posterize": Operation(ops.posterize, bits),
        "solarize": Operation(ops.solarize, threshold),
        "solarize_add": Operation(ops.solarize_add, lambda level: int(level * 110)),
        "color": colour(ops.color),
        "contrast": colour(ops.contrast),
        "brightness": colour(ops.brightness),
        "sharpness": colour(ops.sharpness),
        "shear_x": signed(ops.shear_x, 0.3),
        "shear_y": signed(ops.shear_y, 0.3),
        "translate_x": signed(ops.translate_x, max_translate[0]),
        "translate_y": signed(ops.translate_y, max_translate[1]),
    }
    if nest:
        table["identity"] = Operation(ops.identity)
    return table


def largest_translations(
    variant: Variant, height: int, width: int, pixels: float | None, fraction: float | None
) -> tuple[float, float]:
    """Returns the largest translation along x and y, see `randaugment`."""
    if variant == "nest":
        side = max(height, width)
        pixels = NEST_TRANSLATIONS.get(side, int(0.3 * side)) if pixels is None else pixels
        return pixels, pixels
    fraction = TIMM_TRANSLATION if fraction is None else fraction
    return fraction * width, fraction * height


def interpolations(
    variant: Variant, interpolation: ops.Interpolation | tuple[ops.Interpolation, ...] | None
) -> tuple[ops.Interpolation, ...]:
    """Returns the interpolations to draw from; None: those of the variant's own code."""
    if interpolation is None:
        interpolation = "nearest" if variant == "nest" else ("bilinear", "bicubic")
    return as_names("config.augment.randaugment.interpolation", interpolation)


def randaugment(
    *,
    image_size: int | tuple[int, int],
    variant: Variant = "nest",
    num_layers: int = 2,
    magnitude: float = 9.0,
    magnitude_std: float = 0.5,
    probability: float = 0.5,
    increasing: bool = False,
    max_translate_pixels: float | None = None,
    max_translate_fraction: float | None = None,
    fill: ops.Fill = 128,
    interpolation: ops.Interpolation | tuple[ops.Interpolation, ...] | None = None,
) -> Transform:
    """Applies random operations, with replacement, each at a strength near one magnitude.

    Args:
        image_size: side or (height, width) of the images, pixels; only translations depend on it.
        variant: "nest" or "timm": their operations, how a magnitude becomes an argument, and the
            defaults below.
        num_layers: how many operations are drawn per image.
        magnitude: mean of the normal distribution of the magnitudes, 0 to 10.
        magnitude_std: its standard deviation; what is drawn is cut off at 0 and 10.
        probability: of each drawn operation to be applied.
        increasing: timm's "inc1" (see `create_operations`).
        max_translate_pixels: translation at magnitude 10, "nest" only; None: the official code's
            for this image size (224: 100, 32: 10).
        max_translate_fraction: the same as a share of the side, "timm" only; None: 0.45.
        fill: level (or three) of what comes in from outside the image. timm's is the mean it
            normalises with: (124, 116, 104) for ImageNet's, 128 for TNT's.
        interpolation: of geometry, one or several, of which one is drawn each time. None: "nearest"
            for "nest", ("bilinear", "bicubic") for "timm".

    Returns:
        A transform of uint8 images with 1 or 3 channels.

    Raises:
        ValueError: a value is out of range, or of the other variant.

    Source: official NesT, augment/rand_augment.py and augment_ops.py (there, a standard deviation
    of 0 turns off the division by 10; not here); timm, data/auto_augment.py:
    "rand-m9-mstd0.5-inc1" is variant="timm", increasing=True.
    """
    section = "config.augment.randaugment"
    height, width = as_height_width("config.data.image_size", image_size)
    for key, value, most in (
        ("num_layers", num_layers, 100),
        ("magnitude", magnitude, NUM_LEVELS),
        ("magnitude_std", magnitude_std, 100),
        ("probability", probability, 1),
        ("max_translate_pixels", max_translate_pixels or 0, MAX_SIDE),
        ("max_translate_fraction", max_translate_fraction or 0, 1),
        *(("fill", level, 255) for level in np.ravel(fill).tolist()),
    ):
        check_range(f"{section}.{key}", value, 0, most)
    for key, value, owner in (
        ("increasing", increasing or None, "timm"),
        ("max_translate_pixels", max_translate_pixels, "nest"),
        ("max_translate_fraction", max_translate_fraction, "timm"),
    ):
        if value is not None and variant != owner:
            what = f"only for variant={owner!r}"
            raise ValueError(problem(f"{section}.{key}", value, what))
    names = interpolations(variant, interpolation)
    max_translate = largest_translations(
        variant, height, width, max_translate_pixels, max_translate_fraction
    )
    table = create_operations(
        variant, fill=fill, max_translate=max_translate, increasing=increasing
    )
    operations = tuple(table.values())

    def transform(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        # One call for the uniform draws of all layers: calls cost more than draws.
        draws = iter(rng.random(4 * num_layers).tolist())
        for applied, which, sign, name in zip(draws, draws, draws, draws, strict=True):
            if applied >= probability:
                continue
            operation = operations[int(which * len(operations))]
            level = magnitude + magnitude_std * rng.standard_normal()
            level = min(max(level, 0.0), NUM_LEVELS) / NUM_LEVELS
            if operation.signed and sign < 0.5:
                level = -level
            image = operation(image, level, names[int(name * len(names))])
        return image

    return transform
