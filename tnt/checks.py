"""Which fields of TNT and which image sizes fit together.

Every check raises a ValueError that names the fields, their values and what is allowed.
"""

from typing import Any

from layers.field_checks import check_divisor, check_image_size, field_error, is_count
from tnt.fusion import FusionName
from tnt.stem import StemName


def check_patches(
    *, patch_size: int, word_size: int, patch_stride: int | None, stem: StemName
) -> None:
    """Checks that words tile a patch, and that patches leave no gap."""
    check_divisor(patch_size, f"{patch_size=}", word_size=word_size)
    if patch_stride is None:
        return
    if not is_count(patch_stride) or patch_stride > patch_size:
        allowed = f"None or an integer from 1 to {patch_size=}"
        raise field_error("patch_stride", patch_stride, "wrong", allowed)
    if stem == "conv7_image" and patch_stride % word_size:
        what = f"not on the grid of words that {stem=} lays over the image"
        raise field_error("patch_stride", patch_stride, what, f"multiples of {word_size=}")


def check_inner_layers(inner_layers: Any, *, depth: int, fusion: FusionName) -> None:
    """Checks that `inner_layers` is None or names layers that exist, in increasing order."""
    if inner_layers is None:
        return
    if not isinstance(inner_layers, tuple) or not all(map(is_count, inner_layers)):
        allowed = "None or a tuple of layers, counted from 1"
        raise field_error("inner_layers", inner_layers, "wrong", allowed)
    if any(layer > depth for layer in inner_layers):
        raise field_error("inner_layers", inner_layers, "out of range", f"1 to {depth=}")
    if list(inner_layers) != sorted(set(inner_layers)):
        allowed = "each layer once, in increasing order"
        raise field_error("inner_layers", inner_layers, "repeated or out of order", allowed)
    if not inner_layers and fusion == "paper":
        what = f"nothing of the image gets in with {fusion=}"
        raise field_error("inner_layers", inner_layers, what, "one layer or more")


def check_covered(
    image_size: tuple[int, int], *, patch_size: int, patch_stride: int | None
) -> None:
    """Checks that the patches cover an image, (height, width) in pixels, exactly."""
    stride = patch_stride or patch_size
    rule = f"height and width multiples of {patch_size=}"
    if stride != patch_size:
        rule = f"height and width {patch_size=} plus multiples of {patch_stride=}"
    check_image_size(image_size, stride, rule, smallest=patch_size)
