"""Attention weights inside a model, laid out on the plane of the image.

Shape letters: b batch, h and w sides of a plane in tokens, t blocks of NesT, n tokens of a block or
of an image, m words of a sentence, s side of a sentence's plane of words, q queries.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from harness.arguments import problem
from inference.explain import planes_of
from inference.pictures.maps import Arrays, checked_blocks, checked_tnt, three_depths
from inference.pictures.subjects import Subject
from layers.intermediates import ATTENTION_WEIGHTS
from nest.blocks import block, unblock
from nest.model import Nest

Point = tuple[float, float]  # (y, x), in fractions of the image's height and width
Path = tuple[str, ...]  # of an attention module


def patch_attention(
    subject: Subject, images: np.ndarray, blocks: Sequence[int] | None, queries: Sequence[Point]
) -> Arrays:
    """Returns how much patches attend to all patches, mean over the heads.

    Args:
        subject: the model; NesT's tokens attend only inside their block, the rest is NaN.
        images: uint8 [b, height, width, channels].
        blocks: numbers of the layers from 1, over all levels of NesT; None: three depths.
        queries: places of the patches that attend.

    Returns:
        Name for a title -> [b, q, h, w].
    """
    model, size = subject.predictor.model, images.shape[1:3]
    planes = planes_of(model, size)
    if not planes.attentions:
        raise ValueError(f"{type(model).__name__} has no attention")
    paths = [planes.attentions[i - 1] for i in checked_blocks(blocks, len(planes.attentions))]

    def select(path, weights):  # [b, ..., n, n]
        if isinstance(model, Nest):
            level = int(path[0][len("level")])
            return _in_blocks(
                weights, model.block_sides_for(size), len(model.dims) - level, queries
            )
        tokens = jnp.asarray([planes.first_token + planes.token_at(query) for query in queries])
        rows = weights[:, tokens, planes.first_token :]
        return rows.reshape(*rows.shape[:2], *planes.grid)

    return _attention(subject, images, paths, select)


def class_token_attention(
    subject: Subject, images: np.ndarray, blocks: Sequence[int] | None
) -> Arrays:
    """Returns how much the class token attends to the patches, mean over the heads.

    Returns:
        Name for a title -> [b, h, w].

    Raises:
        ValueError: the model has no class token.
    """
    model = subject.predictor.model
    planes = planes_of(model, images.shape[1:3])
    if not planes.first_token:
        raise ValueError(
            f"this {type(model).__name__} has no class token; --kind=patches needs none"
        )
    paths = [planes.attentions[i - 1] for i in checked_blocks(blocks, len(planes.attentions))]

    def select(path, weights):
        return weights[:, 0, planes.first_token :].reshape(-1, *planes.grid)

    return _attention(subject, images, paths, select)


def word_attention(
    subject: Subject,
    image: np.ndarray,
    blocks: Sequence[int] | None,
    patch: Point,
    words: Sequence[int],
) -> tuple[Arrays, tuple[int, int, int, int]]:
    """Returns how much words of one patch attend to all its words, mean over the heads.

    Args:
        subject: a TNT.
        image: uint8 [height, width, channels].
        blocks: numbers from 1 of blocks with an inner block; None: three depths.
        patch: a place in it.
        words: numbers of the words that attend.

    Returns:
        Name for a title -> [q, s, s], and the patch: (top, left, bottom, right) in pixels.
    """
    model = checked_tnt(subject)
    inner = model.inner_layers or tuple(range(1, model.depth + 1))
    if without := [i for i in blocks or () if i not in inner]:
        allowed = ", ".join(map(str, inner))
        raise ValueError(problem("--blocks", without[0], "has no attention of words", allowed))
    blocks = blocks or [inner[i - 1] for i in three_depths(len(inner))]
    planes, side = planes_of(model, image.shape[:2]), model.patch_size // model.word_size
    sentence = planes.token_at(patch)

    def select(path, weights):  # [1, n, m, m]
        return weights[0, sentence, jnp.asarray(words)].reshape(-1, side, side)

    paths = [(f"layer{i}", "inner", "attention") for i in blocks]
    row, column = divmod(sentence, planes.grid[1])
    top, left = row * planes.stride[0], column * planes.stride[1]
    box = (top, left, top + model.patch_size, left + model.patch_size)
    return _attention(subject, image[None], paths, select), box


def spread_words(subject: Subject) -> list[int]:
    """Returns four words of a TNT's sentence that lie apart from each other, row by row."""
    model = checked_tnt(subject)
    side = model.patch_size // model.word_size
    rows = (0, side // 3, 2 * side // 3, side - 1)
    columns = (side // 3, side - 1, 0, 2 * side // 3)
    return sorted({row * side + column for row, column in zip(rows, columns, strict=True)})


def _in_blocks(
    weights: jax.Array, sides: tuple[int, int], above: int, queries: Sequence[Point]
) -> jax.Array:
    """Maps weights [b, t, n, n] of a NesT's level, with so many above it, to [b, q, h, w]."""
    grid = (2**above, 2**above)
    plane = (sides[0] * grid[0], sides[1] * grid[1])
    numbers = np.arange(plane[0] * plane[1]).reshape(1, *plane, 1)
    numbers = np.asarray(block(numbers, sides))[0, :, :, 0]  # [t, n]: tokens of the plane
    maps = []
    for query in queries:
        row, column = (min(int(at * side), side - 1) for at, side in zip(query, plane, strict=True))
        ((t, n),) = np.argwhere(numbers == row * plane[1] + column)
        own = jnp.full(weights.shape[:3], jnp.nan).at[:, t].set(weights[:, t, n])  # [b, t, n]
        maps.append(unblock(own[..., None], sides, grid)[..., 0])
    return jnp.stack(maps, axis=1)


def _attention(
    subject: Subject,
    images: np.ndarray,
    paths: Sequence[Path],
    select: Callable[[Path, jax.Array], jax.Array],
) -> Arrays:
    """Returns title -> select(path, weights [b, ..., n, n], mean over the heads)."""
    model = subject.predictor.model

    @jax.jit
    def read(variables, images):
        _, state = model.apply(variables, images, mutable=[ATTENTION_WEIGHTS])
        tree = state[ATTENTION_WEIGHTS]
        found = [functools.reduce(lambda part, name: part[name], path, tree) for path in paths]
        weights = [x["weights"][0].astype(jnp.float32).mean(axis=(-4, -3)) for x in found]
        return [select(path, one) for path, one in zip(paths, weights, strict=True)]

    maps = read(subject.predictor.variables, subject.normalized(images))
    return {_title(path[0]): np.asarray(x) for path, x in zip(paths, maps, strict=True)}


def _title(name: str) -> str:
    """Returns "block 6" for "layer6" and "block6", "level 1, layer 2" for "level1_layer2"."""
    level, _, layer = name.partition("_layer")
    if layer:
        return f"level {level.removeprefix('level')}, layer {layer}"
    return f"block {name.removeprefix('layer').removeprefix('block')}"
