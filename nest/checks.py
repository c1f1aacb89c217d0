"""Which fields of NesT and which image sizes fit together."""

from typing import Any

from layers.field_checks import (
    check_divisor,
    check_image_size,
    check_tuples,
    field_error,
    height_and_width,
    is_sides,
)
from nest.aggregation import AggregationName


def check_levels(*, dims: Any, depths: Any, num_heads: Any) -> None:
    """Raises ValueError unless dims, depths and num_heads describe the same levels."""
    check_tuples("level", dims=dims, depths=depths, num_heads=num_heads)
    for level, (dim, heads) in enumerate(zip(dims, num_heads, strict=True), start=1):
        check_divisor(dim, f"dims={dim} at level {level}", num_heads=heads)


def check_block_size(
    block_size: int | tuple[int, int] | None, *, aggregation: AggregationName, levels: int
) -> None:
    """Raises ValueError for a block size that is none, or one that the aggregation cannot halve."""
    if block_size is None:
        return
    if not is_sides(block_size):
        allowed = "None, a positive integer or a pair of them"
        raise field_error("block_size", block_size, "wrong", allowed)
    if any(side % side_step(aggregation, levels) for side in height_and_width(block_size)):
        what = f"odd, but {aggregation=} halves each block by itself"
        raise field_error("block_size", block_size, what, "even sides")


def side_step(aggregation: AggregationName, levels: int) -> int:
    """Returns what the sides of a block in tokens must be multiples of."""
    return 2 if aggregation == "conv_norm_maxpool_in_block" and levels > 1 else 1


def block_sides(
    image_size: tuple[int, int],
    *,
    patch_size: int,
    levels: int,
    block_size: int | tuple[int, int] | None,
    aggregation: AggregationName,
) -> tuple[int, int]:
    """Finds the sides of a block for an image.

    Args:
        image_size: (height, width) of the images in pixels.
        patch_size: side of a patch in pixels.
        levels: number of levels.
        block_size: the sides if they are given, None if they follow from the image.
        aggregation: key of `nest.aggregation.AGGREGATIONS`.

    Returns:
        (height, width) of a block in tokens.

    Raises:
        ValueError: if the image does not fit, naming the nearest sizes that do.
    """
    height, width = image_size
    unit = patch_size * 2 ** (levels - 1)  # pixels of the image per token of a block's side
    if block_size is None:
        step = unit * side_step(aggregation, levels)
        check_image_size(
            image_size,
            step,
            f"height and width multiples of {step} with {patch_size=}, {levels} levels and "
            f"{aggregation=}",
        )
        return height // unit, width // unit
    sides = height_and_width(block_size)
    fitting = (unit * sides[0], unit * sides[1])
    if (height, width) != fitting:
        what = f"does not fit {block_size=}, {patch_size=} and {levels} levels"
        allowed = f"{fitting}, or others with block_size=None"
        raise field_error("image_size", (height, width), what, allowed)
    return sides
