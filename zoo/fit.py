"""Making weights fit a model of another image size or another number of classes.

Position tables are resized on the plane of the image, class tokens apart; the head starts anew.
Which tables a model has, and how they lie on the plane, is in `position_tables`.

Shape letters: t blocks, n tokens of a block, c channels, h and w sides of a plane in tokens.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
import scipy.ndimage
from flax import linen as nn

from baselines.vit import Vit
from harness.trees import shape_of
from layers.initializers import truncated_normal
from nest.blocks import block, unblock
from nest.model import Nest
from tnt.model import Tnt

Resize = Literal["linear", "bicubic", "linear_in_blocks"]
Reinit = Literal["zeros", "noise", "never"]


@dataclasses.dataclass(frozen=True)
class PositionTable:
    """How a position table lies on the plane of the image.

    Attributes:
        plane: sides of the whole plane in tokens, for the images at hand.
        grid: how many blocks of it lie under and beside each other; None without blocks, and
            then the table has no axis of blocks.
        num_class_tokens: rows before those of the plane, which are kept as they are.
        resize: how it is resized if nobody says otherwise.
    """

    plane: tuple[int, int]
    grid: tuple[int, int] | None
    num_class_tokens: int
    resize: Resize


def position_tables(model: nn.Module, image_size: tuple[int, int]) -> dict[str, PositionTable]:
    """Finds the position tables of a model that depend on the image's size.

    TNT's table of words is not among them: it depends on the patch alone.

    Args:
        model: any model; one that is not known here has none.
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
        table = PositionTable((height, width), None, 1, "bicubic")
        return {"sentence_position/embedding": table}
    if isinstance(model, Vit):
        size = model.patch_size
        patch = (size, size) if isinstance(size, int) else size
        plane = (image_size[0] // patch[0], image_size[1] // patch[1])
        num_class_tokens = int(model.pooling == "class_token")
        return {"position/embedding": PositionTable(plane, None, num_class_tokens, "bicubic")}
    return {}


def resize_table(
    array: np.ndarray,
    table: PositionTable,
    how: Resize | None,
    source: tuple[int, int] | None = None,
) -> np.ndarray | None:
    """Resizes a position table.

    Args:
        array: [t, n, c] with blocks, else [class tokens + h * w, c].
        table: what it shall become.
        how: "linear": SciPy's linear zoom, whose corners stay where they are; "bicubic": with
            anti-aliasing and pixels as squares, as timm's; "linear_in_blocks": every block zoomed
            by itself, as the official NesT does it, so that neighbours across a border no longer
            fit together. None: the table's own.
        source: sides of the plane of `array` in tokens; None: it is a square.

    Returns:
        The table for the plane, or None if `array` is no such table: its class tokens, its blocks
        or its plane are others.

    Reference:
        Official NesT: libml/utils.py, _reshape_position_embeddings. timm: layers/pos_embed.py,
        resample_abs_pos_embed.
    """
    how = how or table.resize
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
    """Returns the sides of a block of `count` tokens, or None if there is none on that plane."""
    side = round(count**0.5)
    sides = (side, side)  # of a square, whatever its patches were
    if not _is_square(source):
        sides = (source[0] // grid[0], source[1] // grid[1])
    return sides if sides[0] * sides[1] == count else None


def _is_square(plane: tuple[int, int] | None) -> bool:
    """Tells whether a plane is a square, which one is that nothing tells of."""
    return plane is None or plane[0] == plane[1]


def _zoom(planes: np.ndarray, sides: tuple[int, int], how: Resize) -> np.ndarray:
    """Maps [k, h, w, c] to [k, *sides, c]."""
    k, h, w, c = planes.shape
    if how == "bicubic":
        return np.asarray(jax.image.resize(planes, (k, *sides, c), "bicubic", antialias=True))
    return scipy.ndimage.zoom(planes, (1, sides[0] / h, sides[1] / w, 1), order=1)


@dataclasses.dataclass(frozen=True)
class Adapted:
    """Weights that have been made to fit, and what that took: {name: (old shape, new shape)}."""

    arrays: dict[str, np.ndarray]
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    reinitialized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def adapt(
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, Any],
    model: nn.Module,
    image_size: tuple[int, int],
    *,
    resize: Resize | None = None,
    reinit_head: Reinit = "zeros",
    seed: int = 0,
    stored_size: tuple[int, int] | None = None,
) -> Adapted:
    """Resizes position tables, and starts the head anew if the number of classes differs.

    Args:
        arrays: name -> array.
        shapes: name -> anything with the shape that it must have.
        model: whose shapes those are.
        image_size: (height, width) of its images.
        resize: see `resize_table`; None: "linear" for NesT, "bicubic" for the others.
        reinit_head: "zeros", "noise" (the kernel as at the start of a training) or "never".
        seed: of the noise.
        stored_size: (height, width) of the images that the arrays are for; None: squares.

    Returns:
        The arrays. What fits in neither way is left as it is, for a comparison to report.

    Raises:
        ValueError: for an unknown `resize` or `reinit_head`.
    """
    for key, value, allowed in (
        ("resize", resize, (None, "linear", "bicubic", "linear_in_blocks")),
        ("reinit_head", reinit_head, ("zeros", "noise", "never")),
    ):
        if value not in allowed:
            names = ", ".join(repr(name) for name in allowed)
            raise ValueError(f"{key}={value!r} does not exist; choose from {names}")
    adapted, resized, reinitialized = dict(arrays), {}, {}
    sources = _planes(model, stored_size)
    for name, table in position_tables(model, image_size).items():
        have, want = shape_of(arrays.get(name)), shape_of(shapes.get(name))
        # The same number of tokens may lie on another plane, 4 x 16 and 8 x 8.
        source = sources.get(name)
        squares = _is_square(source) and _is_square(table.plane)
        if have == want and (squares or source == table.plane):
            continue
        if not want or len(have) != len(want) or have[-1] != want[-1]:
            continue
        array = resize_table(arrays[name], table, resize, source)
        if array is not None:
            adapted[name], resized[name] = array, (have, want)
    if reinit_head != "never" and _other_classes(arrays, shapes):
        for name in _HEAD:
            want = shape_of(shapes[name])
            reinitialized[name] = (shape_of(arrays[name]), want)
            if reinit_head == "noise" and name == "head/kernel":
                adapted[name] = np.asarray(truncated_normal(jax.random.key(seed), want))
            else:
                adapted[name] = np.zeros(want, np.float32)
    return Adapted(adapted, resized, reinitialized)


def _planes(model: nn.Module, stored_size: tuple[int, int] | None) -> dict[str, tuple[int, int]]:
    """Returns the planes of the tables for other images, {} if nothing tells these."""
    if stored_size is None:
        return {}
    if isinstance(model, Nest):
        model = model.clone(block_size=None)  # the given one is of the images at hand
    try:
        return {name: table.plane for name, table in position_tables(model, stored_size).items()}
    except ValueError:
        return {}  # with other patches: names and shapes still decide


_HEAD = ("head/kernel", "head/bias")


def _other_classes(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Any]) -> bool:
    """Tells whether two heads differ in the number of classes and in nothing else."""
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
