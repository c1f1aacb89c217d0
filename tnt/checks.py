"""Which fields of TNT and which image sizes fit together.

Every check raises a ValueError that names the fields, their values and what is allowed.
"""

from typing import Any

from layers.field_checks import check_image_size, is_count


def check_patches(*, patch_size: int, word_size: int, patch_stride: int | None, stem: str) -> None:
    """Checks that words tile a patch, and that patches leave no gap."""
    if patch_size % word_size:
        raise ValueError(f"word_size={word_size} does not fit: it must divide {patch_size=}")
    if patch_stride is None:
        return
    if not is_count(patch_stride) or patch_stride > patch_size:
        raise ValueError(f"{patch_stride=} must be None or an integer from 1 to {patch_size=}")
    if stem == "conv7_image" and patch_stride % word_size:
        raise ValueError(
            f"{patch_stride=} must be a multiple of {word_size=} with {stem=}, whose words lie on "
            "one grid over the image"
        )


def check_inner_layers(inner_layers: Any, *, depth: int, fusion: str) -> None:
    """Checks that `inner_layers` is None or names layers that exist, in increasing order."""
    if inner_layers is None:
        return
    if not isinstance(inner_layers, tuple) or not all(map(is_count, inner_layers)):
        raise ValueError(f"{inner_layers=} must be None or a tuple of layers, counted from 1")
    outside = [layer for layer in inner_layers if layer > depth]
    if outside:
        raise ValueError(f"{inner_layers=}: {outside} out of range, {depth=}")
    if list(inner_layers) != sorted(set(inner_layers)):
        raise ValueError(f"{inner_layers=} must name each layer once, in increasing order")
    if not inner_layers and fusion == "paper":
        raise ValueError(f"{inner_layers=} with {fusion=}: nothing of the image gets in")


def check_covered(
    image_size: tuple[int, int], *, patch_size: int, patch_stride: int | None
) -> None:
    """Checks that the patches cover an image, (height, width) in pixels, exactly."""
    stride = patch_stride or patch_size
    allowed = f"multiples of {patch_size=}"
    if stride != patch_size:
        allowed = f"{patch_size=} plus multiples of {patch_stride=}"
    rule = f"height and width must be {allowed}"
    check_image_size(image_size, stride, rule, smallest=patch_size)
