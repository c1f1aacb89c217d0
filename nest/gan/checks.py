"""Which fields and inputs of the generator and the discriminators fit together."""

from collections.abc import Sequence

from jax import Array

from layers.field_checks import field_error, nearest_sizes
from nest.gan.deaggregation import DeaggregationName


def check_shuffled_dims(dims: Sequence[int], deaggregation: DeaggregationName) -> None:
    """Raises ValueError unless pixel shuffle can make four tokens of one at each level."""
    for level, dim in enumerate(dims[:-1], start=1):
        if deaggregation == "pixel_shuffle" and dim % 4:
            what = f"at level {level}, {deaggregation=} makes four tokens of one"
            raise field_error("dims", dim, what, "multiples of 4")


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
    how = f"{patch_size=} and {levels} levels"
    if block_size is not None:
        if image_size != unit * block_size:
            what = f"does not fit {block_size=}, {how}"
            allowed = f"{unit * block_size}, or others with block_size=None"
            raise field_error("image_size", image_size, what, allowed)
        return block_size
    if image_size % unit:
        near = " or ".join(map(str, nearest_sizes(image_size, unit)))
        allowed = f"multiples of {unit}; nearest: {near}"
        raise field_error("image_size", image_size, f"does not fit {how}", allowed)
    return image_size // unit


def check_labels(labels: Array | None, num_classes: int | None, network: str) -> None:
    """Raises ValueError unless labels are given exactly if the network has classes."""
    if (labels is None) != (num_classes is None):
        given = "labels are given" if labels is not None else "labels are missing"
        raise ValueError(f"{given}, but the {network} has num_classes={num_classes}")
