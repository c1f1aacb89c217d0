"""Which fields and which image sizes fit together, and what to say when they do not."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tnt.model import Tnt


def _is_number(value: object) -> bool:
    # NumPy's scalars are out: they would promote bfloat16 activations to float32.
    return type(value) in (int, float)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def check_fields(model: "Tnt", names: Mapping[str, Mapping]) -> None:
    """Checks the fields of a model against each other.

    Args:
        model: the model to check.
        names: field -> the table whose keys the field may take.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    counts = ("num_classes", "inner_dim", "outer_dim", "num_inner_heads", "num_outer_heads")
    for field in (*counts, "depth", "patch_size", "word_size"):
        if not _is_count(getattr(model, field)):
            raise ValueError(f"{field}={getattr(model, field)!r} must be a positive integer")
    for part in ("inner", "outer"):
        dim, heads = getattr(model, f"{part}_dim"), getattr(model, f"num_{part}_heads")
        if dim % heads:
            raise ValueError(f"num_{part}_heads={heads} does not divide {part}_dim={dim}")
    for field, table in names.items():
        if getattr(model, field) not in table:
            value = getattr(model, field)
            raise ValueError(f"{field}={value!r} does not exist; choose from {', '.join(table)}")
    for field in ("drop_path_rate", "dropout_rate", "attention_dropout_rate"):
        rate = getattr(model, field)
        if not _is_number(rate) or not 0 <= rate < 1:
            raise ValueError(f"{field}={rate!r} must be a number, at least 0 and below 1")
    ratio = model.mlp_ratio
    if not _is_number(ratio) or not 0 < ratio < float("inf"):
        raise ValueError(f"mlp_ratio={ratio!r} must be a finite number above 0")
    for dim in (model.inner_dim, model.outer_dim):
        if int(dim * ratio) < 1:
            raise ValueError(f"mlp_ratio={ratio!r} leaves no hidden channel at width {dim}")
    if model.squeeze_excite and model.outer_dim < 4:
        raise ValueError(f"squeeze_excite needs outer_dim={model.outer_dim} to be at least 4")
    _check_patches(model)
    _check_inner_layers(model)


def _check_patches(model: "Tnt") -> None:
    patch, word, stride = model.patch_size, model.word_size, model.patch_stride
    if patch % word:
        raise ValueError(f"word_size={word} does not fit: it must divide patch_size={patch}")
    if stride is None:
        return
    if not _is_count(stride) or stride > patch:
        raise ValueError(
            f"patch_stride={stride!r} must be None or an integer from 1 to patch_size={patch}"
        )
    if model.stem == "conv7_image" and stride % word:
        raise ValueError(
            f"patch_stride={stride} must be a multiple of word_size={word} with "
            "stem='conv7_image', whose words lie on one grid over the image"
        )


def _check_inner_layers(model: "Tnt") -> None:
    layers = model.inner_layers
    if layers is None:
        return
    if not isinstance(layers, tuple) or not all(_is_count(layer) for layer in layers):
        raise ValueError(
            f"inner_layers={layers!r} must be None or a tuple of layers, counted from 1"
        )
    outside = [layer for layer in layers if layer > model.depth]
    if outside:
        raise ValueError(f"inner_layers={layers}: {outside} out of range, depth={model.depth}")
    if list(layers) != sorted(set(layers)):
        raise ValueError(f"inner_layers={layers} must name each layer once, in increasing order")
    if not layers and model.fusion == "paper":
        raise ValueError("inner_layers=() with fusion='paper': nothing of the image gets in")


def check_image_size(model: "Tnt", image_size: tuple[int, int]) -> None:
    """Checks that the patches cover an image exactly.

    Args:
        model: the model; its patch size and stride decide.
        image_size: (height, width) of the images in pixels.

    Raises:
        ValueError: if the image does not fit, naming the nearest sizes that do.
    """
    patch, stride = model.patch_size, model.patch_stride or model.patch_size
    if all(_fits(size, patch, stride) for size in image_size):
        return
    allowed = f"multiples of patch_size={patch}"
    if stride != patch:
        allowed = f"patch_size={patch} plus multiples of patch_stride={stride}"
    raise ValueError(
        f"image size {image_size[0]}x{image_size[1]} does not fit: height and width must be "
        f"{allowed}; nearest height: {_nearest(image_size[0], patch, stride)}, "
        f"nearest width: {_nearest(image_size[1], patch, stride)}"
    )


def _fits(size: int, patch: int, stride: int) -> bool:
    return size >= patch and (size - patch) % stride == 0


def _nearest(size: int, patch: int, stride: int) -> str:
    """Names the sizes that fit on both sides of `size`, or `size` itself if it is one."""
    if _fits(size, patch, stride):
        return f"{size} (fits)"
    if size < patch:
        return f"{patch}"
    below = patch + (size - patch) // stride * stride
    return f"{below} or {below + stride}"
