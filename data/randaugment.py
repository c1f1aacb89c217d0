"""RandAugment (arXiv 1909.13719) as two codes have it: the official NesT's and timm's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from data import operations as ops
from data.arguments import as_choices, as_height_width, check_choice, check_integer, check_number

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]

NUM_LEVELS = 10  # magnitudes go from 0 to this in both codes
VARIANTS = ("nest", "timm")
# Side of the image -> the largest translation; of other sides 0.3 times the side.
NEST_TRANSLATIONS = {224: 100, 128: 40, 96: 30, 32: 10}
TIMM_TRANSLATION = 0.45


@dataclass(frozen=True)
class Operation:
    """One operation of RandAugment with its range of strengths.

    Attributes:
        function: the function of data/operations.py.
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
        self, image: np.ndarray, level: float, interpolation: str = "nearest"
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
    variant: str,
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
    factor = Operation
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
        return factor(function, enhance, signed=increasing)

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
