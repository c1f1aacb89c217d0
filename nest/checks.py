"""Which fields of NesT and which image sizes fit together."""

from flax import linen as nn

from layers.field_checks import check_image_size, check_tuples, height_and_width, is_sides


def check_levels(model: nn.Module) -> None:
    """Raises ValueError unless dims, depths and num_heads describe the same levels."""
    check_tuples(model, "dims", "depths", "num_heads", per="level")
    for level, (dim, heads) in enumerate(zip(model.dims, model.num_heads, strict=True), start=1):
        if dim % heads:
            raise ValueError(f"num_heads={heads} does not divide dims={dim} at level {level}")


def check_block_size(
    block_size: int | tuple[int, int] | None, *, aggregation: str, levels: int
) -> None:
    """Raises ValueError for a block size that is none, or one that the aggregation cannot halve."""
    if block_size is None:
        return
    if not is_sides(block_size):
        raise ValueError(
            f"block_size={block_size!r} must be None, a positive integer or a pair of them"
        )
    if any(side % _side_step(aggregation, levels) for side in height_and_width(block_size)):
        raise ValueError(
            f"block_size={block_size} must be even with aggregation={aggregation!r}, which halves "
            "each block by itself"
        )


def _side_step(aggregation: str, levels: int) -> int:
    """Returns what the sides of a block in tokens must be multiples of."""
    return 2 if aggregation == "conv_norm_maxpool_in_block" and levels > 1 else 1


def block_sides(
    image_size: tuple[int, int],
    *,
    patch_size: int,
    levels: int,
    block_size: int | tuple[int, int] | None,
    aggregation: str,
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
        step = unit * _side_step(aggregation, levels)
        check_image_size(
            image_size,
            step,
            f"with patch_size={patch_size}, {levels} levels and aggregation={aggregation!r}, "
            f"height and width must be multiples of {step}",
        )
        return height // unit, width // unit
    sides = height_and_width(block_size)
    if (height, width) != (unit * sides[0], unit * sides[1]):
        raise ValueError(
            f"image size {height}x{width} does not fit block_size={block_size}: with "
            f"patch_size={patch_size} and {levels} levels it must be "
            f"{unit * sides[0]}x{unit * sides[1]} (or leave block_size=None)"
        )
    return sides
