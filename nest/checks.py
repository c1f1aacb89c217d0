"""Which fields and which image sizes fit together, and what to say when they do not."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from flax import linen as nn

if TYPE_CHECKING:
    from nest.gan.discriminator import ConvDiscriminator
    from nest.gan.generator import NestGenerator
    from nest.model import Nest


def _is_number(value: object) -> bool:
    # NumPy's scalars are out: they would promote bfloat16 activations to float32.
    return type(value) in (int, float)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_counts(value: object) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(map(_is_count, value))


def check_fields(model: "Nest", names: Mapping[str, Mapping]) -> None:
    """Checks the fields of a classifier against each other.

    Args:
        model: the model to check.
        names: field -> the table whose keys the field may take.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    check_counts(model, ("num_classes", "patch_size"))
    check_levels(model)
    check_names(model, names)
    check_rates(model, ("drop_path_rate", "dropout_rate", "attention_dropout_rate"))
    check_mlp_ratio(model)
    size = model.block_size
    if size is not None and not _is_count(size) and not (_is_counts(size) and len(size) == 2):
        raise ValueError(f"block_size={size!r} must be None, a positive integer or a pair of them")
    if model.aggregation == "conv_norm_maxpool_in_block" and len(model.dims) > 1:
        sides = size if isinstance(size, tuple) else (size or 2,)
        if any(side % 2 for side in sides):
            raise ValueError(
                f"block_size={size} must be even with aggregation={model.aggregation!r}, which "
                "halves every block by itself"
            )


def check_generator_fields(model: "NestGenerator", names: Mapping[str, Mapping]) -> None:
    """Checks the fields of a generator against each other, as check_fields those of a classifier.

    Args:
        model: the generator to check.
        names: field -> the table whose keys the field may take.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    check_counts(model, ("image_size", "num_channels", "latent_dim", "patch_size"))
    check_counts(model, [f for f in ("num_classes", "block_size") if getattr(model, f) is not None])
    check_levels(model)
    check_names(model, names)
    check_rates(model, ("drop_path_rate",))
    check_mlp_ratio(model)
    block_side_for(model)
    for level, dim in enumerate(model.dims[:-1], start=1):
        if model.deaggregation == "pixel_shuffle" and dim % 4:
            raise ValueError(
                f"dims={dim} at level {level} must be a multiple of 4 with "
                f"deaggregation={model.deaggregation!r}, which makes four tokens of one"
            )


def check_conv_discriminator_fields(model: "ConvDiscriminator") -> None:
    """Checks the fields of a convolutional discriminator.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    check_tuples(model, ("dims",), "resolution")
    check_counts(model, ("deviation_group",))
    if model.num_classes is not None:
        check_counts(model, ("num_classes",))


def check_counts(model: nn.Module, fields: Iterable[str]) -> None:
    """Raises ValueError for a field that is not a positive integer."""
    for field in fields:
        if not _is_count(getattr(model, field)):
            raise ValueError(f"{field}={getattr(model, field)!r} must be a positive integer")


def check_tuples(model: nn.Module, fields: Iterable[str], what: str) -> None:
    """Raises ValueError for a field that is not a tuple of positive integers, one a `what`."""
    for field in fields:
        if not _is_counts(getattr(model, field)):
            value = getattr(model, field)
            message = f"{field}={value!r} must be a tuple of positive integers, one a {what}"
            raise ValueError(message)


def check_levels(model: nn.Module) -> None:
    """Raises ValueError unless dims, depths and num_heads describe the same levels."""
    per_level = ("dims", "depths", "num_heads")
    check_tuples(model, per_level, "level")
    if len({len(getattr(model, field)) for field in per_level}) > 1:
        values = ", ".join(f"{field}={getattr(model, field)}" for field in per_level)
        raise ValueError(f"dims, depths and num_heads must have one entry a level each: {values}")
    for level, (dim, heads) in enumerate(zip(model.dims, model.num_heads, strict=True), start=1):
        if dim % heads:
            raise ValueError(f"num_heads={heads} does not divide dims={dim} at level {level}")


def check_names(model: nn.Module, names: Mapping[str, Mapping]) -> None:
    """Raises ValueError for a field that is not a key of its table in `names`."""
    for field, table in names.items():
        if getattr(model, field) not in table:
            value = getattr(model, field)
            raise ValueError(f"{field}={value!r} does not exist; choose from {', '.join(table)}")


def check_rates(model: nn.Module, fields: Iterable[str]) -> None:
    """Raises ValueError for a field that is not a number in [0, 1)."""
    for field in fields:
        rate = getattr(model, field)
        if not _is_number(rate) or not 0 <= rate < 1:
            raise ValueError(f"{field}={rate!r} must be a number, at least 0 and below 1")


def check_mlp_ratio(model: nn.Module) -> None:
    """Raises ValueError if the perceptrons would have no hidden channel, or endlessly many."""
    ratio = model.mlp_ratio
    if not _is_number(ratio) or not 0 < ratio < float("inf"):
        raise ValueError(f"mlp_ratio={ratio!r} must be a finite number above 0")
    for dim in model.dims:
        if int(dim * ratio) < 1:
            raise ValueError(f"mlp_ratio={ratio!r} leaves no hidden channel at width {dim}")


def block_size_for(model: "Nest", image_size: tuple[int, int]) -> tuple[int, int]:
    """Finds the sides of a block for an image.

    Args:
        model: the model; its patch size, levels and block size decide.
        image_size: (height, width) of the images in pixels.

    Returns:
        (height, width) of a block in tokens.

    Raises:
        ValueError: if the image does not fit, naming the nearest sizes that do.
    """
    blocks_per_side = 2 ** (len(model.dims) - 1)
    unit = model.patch_size * blocks_per_side  # pixels for each token that a block's side has
    given = model.block_size
    if given is not None:
        sides = (given, given) if isinstance(given, int) else given
        if tuple(image_size) != (unit * sides[0], unit * sides[1]):
            raise ValueError(
                f"image size {image_size[0]}x{image_size[1]} does not fit block_size={given}: with "
                f"patch_size={model.patch_size} and {len(model.dims)} levels it must be "
                f"{unit * sides[0]}x{unit * sides[1]} (or leave block_size=None)"
            )
    else:
        step = unit
        if model.aggregation == "conv_norm_maxpool_in_block" and len(model.dims) > 1:
            step = 2 * unit  # the pool halves the block itself, so its sides must be even
        if any(size < step or size % step for size in image_size):
            raise ValueError(
                f"image size {image_size[0]}x{image_size[1]} does not fit: with "
                f"patch_size={model.patch_size}, {len(model.dims)} levels and "
                f"aggregation={model.aggregation!r}, height and width must be multiples of {step}; "
                f"nearest height: {_nearest(image_size[0], step)}, "
                f"nearest width: {_nearest(image_size[1], step)}"
            )
        sides = (image_size[0] // unit, image_size[1] // unit)
    return sides


def block_side_for(model: "NestGenerator") -> int:
    """Finds the side of a generator's blocks.

    Args:
        model: the generator; its image size, patch size, levels and block size decide.

    Returns:
        Side of a block in tokens, the same at every level.

    Raises:
        ValueError: if the levels do not lead to the image, naming the nearest sizes that do.
    """
    levels = len(model.dims)
    unit = model.patch_size * 2 ** (levels - 1)  # pixels for each token that a block's side has
    how = f"with patch_size={model.patch_size} and {levels} levels"
    if model.block_size is not None:
        if model.image_size != unit * model.block_size:
            raise ValueError(
                f"image_size={model.image_size} does not fit block_size={model.block_size}: {how} "
                f"it must be {unit * model.block_size} (or leave block_size=None)"
            )
        return model.block_size
    if model.image_size % unit:
        raise ValueError(
            f"image_size={model.image_size} does not fit: {how} it must be a multiple of {unit}; "
            f"nearest: {_nearest(model.image_size, unit)}"
        )
    return model.image_size // unit


def halved_sides(image_size: tuple[int, int], times: int) -> tuple[int, int]:
    """Halves the sides of an image some times.

    Raises:
        ValueError: if that leaves half a pixel, naming the nearest sizes that fit.
    """
    unit = 2**times
    if any(size < unit or size % unit for size in image_size):
        raise ValueError(
            f"image size {image_size[0]}x{image_size[1]} does not fit: with {times + 1} entries in "
            f"dims, height and width must be multiples of {unit}; "
            f"nearest height: {_nearest(image_size[0], unit)}, "
            f"nearest width: {_nearest(image_size[1], unit)}"
        )
    return (image_size[0] // unit, image_size[1] // unit)


def _nearest(size: int, step: int) -> str:
    """Names the multiples of `step` on both sides of `size`, or `size` itself if it is one."""
    if size >= step and size % step == 0:
        return f"{size} (fits)"
    below = size // step * step
    return f"{below} or {below + step}" if below else f"{step}"
