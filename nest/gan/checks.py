"""Which fields and inputs of the generator and the discriminators fit together."""

from collections.abc import Sequence

from jax import Array

from layers.field_checks import nearest_sizes


def check_shuffled_dims(dims: Sequence[int], deaggregation: str) -> None:
    """Raises ValueError unless pixel shuffle can make four tokens of one at each level."""
    for level, dim in enumerate(dims[:-1], start=1):
        if deaggregation == "pixel_shuffle" and dim % 4:
            raise ValueError(
                f"dims={dim} at level {level} must be a multiple of 4 with "
                f"deaggregation={deaggregation!r}, which makes four tokens of one"
            )


def block_side(image_size: int, *, patch_size: int, levels: int, block_size: int | None) -> int:
    """Finds the side of a generator's blocks.

    Args:
        image_size: side of the images in pixels.
        patch_size: side of a patch in pixels.
        levels: number of levels.
        block_size: the side if it is given, None if it follows from the image.

    Returns:
        Side of a block in tokens, the same at every level.

    Raises:
        ValueError: if the levels do not lead to the image, naming the nearest sizes that fit.
    """
    unit = patch_size * 2 ** (levels - 1)  # pixels of the image per token of a block's side
    how = f"with patch_size={patch_size} and {levels} levels"
    if block_size is not None:
        if image_size != unit * block_size:
            raise ValueError(
                f"image_size={image_size} does not fit block_size={block_size}: {how} it must be "
                f"{unit * block_size} (or leave block_size=None)"
            )
        return block_size
    if image_size % unit:
        near = " or ".join(map(str, nearest_sizes(image_size, unit)))
        raise ValueError(
            f"image_size={image_size} does not fit: {how} it must be a multiple of {unit}; "
            f"nearest: {near}"
        )
    return image_size // unit


def check_labels(labels: Array | None, num_classes: int | None, network: str) -> None:
    """Raises ValueError unless labels are given exactly if the network has classes."""
    if (labels is None) != (num_classes is None):
        given = "labels are given" if labels is not None else "labels are missing"
        raise ValueError(f"{given}, but the {network} has num_classes={num_classes}")
