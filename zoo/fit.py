"""Fits weights to a model of another image size or another number of classes: see `fit`.

Position tables are resized on the plane of the image, class tokens apart; the head is
re-initialised. `position_tables` says which tables a model has and how they lie on the plane.

Shape letters: t blocks, n tokens of a block, c channels, h and w sides of a plane in tokens.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
from flax import linen as nn

from baselines.vit import Vit
from harness.strict_config import check_arguments
from harness.trees import shape_of
from layers.initializers import truncated_normal
from nest.blocks import block, unblock
from nest.model import Nest
from tnt.model import Tnt
from tnt.pyramid import REDUCTIONS, PyramidTnt, stage_planes
from tnt.pyramid_layer import resize_relative

Resize = Literal["linear", "bicubic", "linear_in_blocks"]
Reinit = Literal["zeros", "noise", "never"]


@dataclasses.dataclass(frozen=True)
class PositionTable:
    """How a position table lies on the plane of the image.

    Attributes:
        plane: height and width of the whole plane in tokens, for the model's images.
        grid: rows and columns of blocks; None: the table has no axis of blocks.
        num_class_tokens: rows before those of the plane, which are kept as they are.
        resize: how it is resized by default.
        reduction: of a table [k, h * w, h/r * w/r] of pairs of places, r; None: of places.
    """

    plane: tuple[int, int]
    grid: tuple[int, int] | None = None
    num_class_tokens: int = 0
    resize: Resize = "bicubic"
    reduction: int | None = None


def position_tables(model: nn.Module, image_size: tuple[int, int]) -> dict[str, PositionTable]:
    """Returns the position tables of a model that depend on the image's size, unlike that of words.

    Args:
        model: any model; one of a class not listed here has none.
        image_size: (height, width) in pixels.

    Returns:
        Parameter name -> table.
    """
    if isinstance(model, Nest):
        sides, tables = model.block_sides_for(image_size), {}
        for level in range(len(model.dims)):
            blocks = 2 ** (len(model.dims) - 1 - level)
            plane = (blocks * sides[0], blocks * sides[1])
            name = f"level{level + 1}_position/embedding"
            tables[name] = PositionTable(plane, (blocks, blocks), 0, "linear")
        return tables
    if isinstance(model, Tnt):
        stride = model.patch_stride or model.patch_size
        height, width = ((side - model.patch_size) // stride + 1 for side in image_size)
        return {"sentence_position/embedding": PositionTable((height, width), None, 1)}
    if isinstance(model, Vit):
        size = model.patch_size
        patch = (size, size) if isinstance(size, int) else size
        plane = (image_size[0] // patch[0], image_size[1] // patch[1])
        num_class_tokens = int(model.pooling == "class_token")
        return {"position/embedding": PositionTable(plane, None, num_class_tokens)}
    if isinstance(model, PyramidTnt):
        planes = stage_planes(image_size)
        tables = {"sentence_position/embedding": PositionTable(planes[0])}
        for n, r in enumerate(REDUCTIONS):
            tables[f"stage{n + 1}_relative_position"] = PositionTable(planes[n], reduction=r)
        return tables
    return {}


def resize_table(
    array: np.ndarray,
    table: PositionTable,
    how: Resize | None,
    source: tuple[int, int] | None = None,
) -> np.ndarray | None:
    """Resizes a position table.

    Args:
        array: [t, n, c] with blocks, [k, n, n / r^2] of pairs, else [class tokens + h * w, c].
        table: what it is to become.
        how: "linear": SciPy's linear zoom, which keeps the corners in place; "bicubic": with
            anti-aliasing and pixels as squares, as in timm; "linear_in_blocks": each block zoomed
            on its own, as in the official NesT, so that neighbours across a border no longer fit
            together. None: the table's own.
        source: height and width of the plane of `array` in tokens; None: it is a square.

    Returns:
        The resized table, or None if `array` has other class tokens, other blocks or another plane.

    Reference:
        Official NesT: libml/utils.py, _reshape_position_embeddings. timm: layers/pos_embed.py,
        resample_abs_pos_embed.
    """
    how = how or table.resize
    if table.reduction is not None:
        sides = array.ndim == 3 and _sides(array.shape[1], source, (1, 1))
        return resize_relative(array, sides, table.plane, table.reduction) if sides else None
    grid = table.grid or (1, 1)
    if array.ndim != (2 if table.grid is None else 3):
        return None
    if table.grid is None:
        tokens, rows = np.split(array, [table.num_class_tokens])
        sides = _sides(len(rows), source, grid)
        if not sides:
            return None
        plane = _zoom(rows.reshape(1, *sides, -1), table.plane, how)
        return np.concatenate([tokens, plane.reshape(-1, array.shape[-1])])
    sides = _sides(array.shape[1], source, grid)
    if len(array) != grid[0] * grid[1] or not sides:
        return None
    new_sides = (table.plane[0] // grid[0], table.plane[1] // grid[1])
    if how == "linear_in_blocks":
        blocks = _zoom(array.reshape(len(array), *sides, -1), new_sides, how)
        return blocks.reshape(len(array), new_sides[0] * new_sides[1], -1)
    plane = unblock(array[None], sides, grid)  # [1, h, w, c]
    return np.asarray(block(_zoom(plane, table.plane, how), new_sides))[0]  # [t, n, c]


def _sides(
    count: int, source: tuple[int, int] | None, grid: tuple[int, int]
) -> tuple[int, int] | None:
    """Returns height and width of a block of `count` tokens, None if that plane has none."""
    side = round(count**0.5)
    sides = (side, side)  # of a square, with patches of any size
    if not _is_square(source):
        sides = (source[0] // grid[0], source[1] // grid[1])
    return sides if sides[0] * sides[1] == count else None


def _is_square(plane: tuple[int, int] | None) -> bool:
    """Returns whether a plane is square; an unknown plane counts as square."""
    return plane is None or plane[0] == plane[1]


def _zoom(planes: np.ndarray, sides: tuple[int, int], how: Resize) -> np.ndarray:
    k, h, w, c = planes.shape  # to [k, *sides, c]
    if how == "bicubic":
        return np.asarray(jax.image.resize(planes, (k, *sides, c), "bicubic", antialias=True))
    import scipy.ndimage  # here: it would cost every start a good part of a second

    return scipy.ndimage.zoom(planes, (1, sides[0] / h, sides[1] / w, 1), order=1)


# The kernels that see the image, the last axis but one being its channels.
_FIRST = (
    "patch_embedding/kernel",  # NesT, ViT
    "word_embedding/projection/kernel",  # TNT
    "stem_conv/kernel",  # ResNet
    "stem/common_conv/kernel",  # PyramidTNT
    "stem/kernel",  # Wide ResNet
)


def with_channels(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns the first kernel of a model for images of other channels: 3 to 1, or 1 to 3.

    A grey image, shown in three equal channels, gives the same either way.

    Args:
        kernel: [h, w, channels of the image, c], or with the first three in one axis.
        shape: wanted.

    Returns:
        The kernel of that shape, or None if they do not differ in these channels alone.

    Reference:
        timm: models/_manipulate.py, adapt_input_conv; from 1 to 3, its inverse: a third for each.
    """
    sizes = [int(np.prod(side[:-1])) for side in (kernel.shape, shape)]
    alike = len(kernel.shape) == len(shape) > 1 and kernel.shape[-1:] == shape[-1:]
    if not alike or kernel.shape[:-2] != shape[:-2]:
        return None
    if sizes[0] == 3 * sizes[1]:
        return kernel.reshape(-1, 3, shape[-1]).sum(axis=1).reshape(shape)
    if sizes[1] == 3 * sizes[0]:
        return np.repeat(kernel.reshape(-1, 1, shape[-1]) / 3, 3, axis=1).reshape(shape)
    return None


Changed = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Weights made to fit, and what changed: {name: (old shape, new shape)}."""

    arrays: dict[str, np.ndarray]
    resized: Changed
    reinitialized: Changed
    rechannelled: Changed


def fit(
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, Any],
    model: nn.Module,
    image_size: tuple[int, int],
    *,
    resize: Resize | None = None,
    reinit_head: Reinit = "zeros",
    seed: int = 0,
    stored_size: tuple[int, int] | None = None,
) -> Fitted:
    """Resizes position tables, and re-initialises the head if the number of classes differs.

    The first kernel is made to fit grey or colour images.

    Args:
        arrays: name -> array.
        shapes: name -> anything with the shape that it must have.
        model: whose shapes those are.
        image_size: (height, width) of its images.
        resize: see `resize_table`; None: "linear" for NesT, "bicubic" for the others.
        reinit_head: "zeros", "noise" (the kernel as at the start of training) or "never".
        seed: of the noise.
        stored_size: (height, width) of the images that the arrays are for; None: squares.

    Returns:
        The arrays. What cannot be fitted stays as it is, for the caller's comparison to report.

    Raises:
        ValueError: for an unknown `resize` or `reinit_head`.
    """
    check_arguments(fit, resize=resize, reinit_head=reinit_head)
    fitted, resized, reinitialized, rechannelled = dict(arrays), {}, {}, {}
    sources = _planes(model, stored_size)
    for name, table in position_tables(model, image_size).items():
        have, want = shape_of(arrays.get(name)), shape_of(shapes.get(name))
        # The same number of tokens may lie on another plane, 4 x 16 and 8 x 8.
        source = sources.get(name)
        squares = _is_square(source) and _is_square(table.plane)
        if have == want and (squares or source == table.plane):
            continue
        same_channels = table.reduction is not None or have[-1:] == want[-1:]  # of pairs: none
        if not want or len(have) != len(want) or not same_channels:
            continue
        array = resize_table(arrays[name], table, resize, source)
        if array is not None:
            fitted[name], resized[name] = array, (have, want)
    for name in _FIRST:
        have, want = shape_of(arrays.get(name)), shape_of(shapes.get(name))
        if have and have != want and (kernel := with_channels(arrays[name], want)) is not None:
            fitted[name], rechannelled[name] = kernel, (have, want)
    if reinit_head != "never" and _other_classes(arrays, shapes):
        for name in _HEAD:
            want = shape_of(shapes[name])
            reinitialized[name] = (shape_of(arrays[name]), want)
            if reinit_head == "noise" and name == "head/kernel":
                fitted[name] = np.asarray(truncated_normal(jax.random.key(seed), want))
            else:
                fitted[name] = np.zeros(want, np.float32)
    return Fitted(fitted, resized, reinitialized, rechannelled)


def _planes(model: nn.Module, stored_size: tuple[int, int] | None) -> dict[str, tuple[int, int]]:
    """Returns the planes of the tables for images of the stored size, {} if that is unknown."""
    if stored_size is None:
        return {}
    if isinstance(model, Nest):
        model = model.clone(block_size=None)  # the given one is for the model's own images
    try:
        return {name: table.plane for name, table in position_tables(model, stored_size).items()}
    except ValueError:
        return {}  # other patches: names and shapes still decide


_HEAD = ("head/kernel", "head/bias")


def _other_classes(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Any]) -> bool:
    """Returns whether two heads differ in the number of classes and in nothing else."""
    if not all(name in arrays and name in shapes for name in _HEAD):
        return False
    (kernel, bias), (new_kernel, new_bias) = (
        [shape_of(tree[name]) for name in _HEAD] for tree in (arrays, shapes)
    )
    return (
        len(kernel) == 2
        and bias == kernel[-1:]
        and kernel[:-1] == new_kernel[:-1]
        and new_bias == new_kernel[-1:]
        and bias != new_bias
    )
