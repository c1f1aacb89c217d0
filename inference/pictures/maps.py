"""Arrays from inside a model, laid out on the plane of the image: what the pictures draw.

Shape letters: b batch, h and w sides of a plane in tokens, n sentences, m words of a sentence, s
side of a sentence's plane of words, q queries, c channels.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from baselines.resnet import ResNet
from baselines.vit import Vit
from baselines.wide_resnet import GROUP_DIMS, WideResNet
from harness.arguments import problem
from inference.explain import planes_of
from inference.pictures.subjects import Subject
from layers.intermediates import ATTENTION_WEIGHTS
from nest.blocks import block, unblock
from nest.model import Nest
from tnt.model import Tnt
from zoo.fit import position_tables

Arrays = dict[str, np.ndarray]
Point = tuple[float, float]  # (y, x), in fractions of the image's height and width


def three_depths(count: int) -> tuple[int, ...]:
    """Returns the first, the middle and the last of blocks 1 to `count`: 1, 6, 12 of 12."""
    return tuple(sorted({1, (count + 1) // 2, count}))


def checked_blocks(blocks: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Returns the blocks that were asked for, `three_depths` for None.

    Raises:
        ValueError: there is no such block.
    """
    for number in blocks or ():
        if not 1 <= number <= count:
            raise ValueError(problem("--blocks", number, "out of range", f"1 to {count}"))
    return tuple(blocks) if blocks else three_depths(count)


def feature_maps(subject: Subject, images: np.ndarray, blocks: Sequence[int] | None) -> Arrays:
    """Returns the maps after some blocks (NesT: levels; ResNets: stages, groups).

    Args:
        subject: the model.
        images: uint8 [b, height, width, channels].
        blocks: their numbers from 1; None: the first, the middle and the last.

    Returns:
        Name for a title -> [b, h, w, c], without class tokens.
    """
    word, name, count = _blocks_of(subject.predictor.model)
    names = {f"{word} {i}": name.format(i) for i in checked_blocks(blocks, count)}
    planes = planes_of(subject.predictor.model, images.shape[1:3])
    state = _read(subject, images, tuple(names.values()))
    return {title: np.asarray(planes.plane(state[one]), np.float32) for title, one in names.items()}


def word_maps(subject: Subject, images: np.ndarray, blocks: Sequence[int] | None) -> Arrays:
    """Returns the words of TNT after some blocks, sentence by sentence: name -> [b, h, w, c].

    Raises:
        ValueError: the model has no words.
    """
    model = _tnt(subject)
    grid = planes_of(model, images.shape[1:3]).grid
    side = model.patch_size // model.word_size
    names = {f"block {i}": f"layer{i}_words" for i in checked_blocks(blocks, model.depth)}
    state = _read(subject, images, tuple(names.values()))
    return {
        title: np.asarray(unblock(state[one], (side, side), grid), np.float32)
        for title, one in names.items()
    }


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
        if not isinstance(model, Nest):
            tokens = jnp.asarray([planes.first_token + _token(q, planes.grid) for q in queries])
            rows = weights[:, tokens, planes.first_token :]
            return rows.reshape(*rows.shape[:2], *planes.grid)
        sides, level = model.block_sides_for(size), int(path[0][len("level")])
        blocks_per_side = 2 ** (len(model.dims) - level)
        plane = (sides[0] * blocks_per_side, sides[1] * blocks_per_side)
        numbers = np.arange(plane[0] * plane[1]).reshape(1, *plane, 1)
        numbers = np.asarray(block(numbers, sides))[0, :, :, 0]  # [t, n]: token of each place
        maps = []
        for query in queries:
            ((t, n),) = np.argwhere(numbers == _token(query, plane))
            inside = (
                jnp.full((len(weights), *numbers.shape), jnp.nan).at[:, t].set(weights[:, t, n])
            )
            maps.append(unblock(inside[..., None], sides, (blocks_per_side,) * 2)[..., 0])
        return jnp.stack(maps, axis=1)

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
        raise ValueError(f"this {type(model).__name__} has no class token; --kind=patches has none")
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
    model = _tnt(subject)
    inner = model.inner_layers or tuple(range(1, model.depth + 1))
    if without := [i for i in blocks or () if i not in inner]:
        allowed = ", ".join(map(str, inner))
        raise ValueError(problem("--blocks", without[0], "has no attention of words", allowed))
    blocks = blocks or [inner[i - 1] for i in three_depths(len(inner))]
    grid, side = planes_of(model, image.shape[:2]).grid, model.patch_size // model.word_size
    sentence = _token(patch, grid)

    def select(path, weights):  # [1, n, m, m]
        return weights[0, sentence, jnp.asarray(words)].reshape(-1, side, side)

    paths = [(f"layer{i}", "inner", "attention") for i in blocks]
    stride = model.patch_stride or model.patch_size
    top, left = (place * stride for place in divmod(sentence, grid[1]))
    box = (top, left, top + model.patch_size, left + model.patch_size)
    return _attention(subject, image[None], paths, select), box


def spread_words(subject: Subject) -> list[int]:
    """Returns four words of a TNT's sentence that lie apart from each other, row by row."""
    model = _tnt(subject)
    side = model.patch_size // model.word_size
    rows = (0, side // 3, 2 * side // 3, side - 1)
    columns = (side // 3, side - 1, 0, 2 * side // 3)
    return sorted({row * side + column for row, column in zip(rows, columns, strict=True)})


def position_planes(subject: Subject) -> Arrays:
    """Returns the position embeddings of a model: name for a title -> [h, w, c].

    Raises:
        ValueError: the model has none.
    """
    predictor, model = subject.predictor, subject.predictor.model
    params = flatten_dict(predictor.variables["params"], sep="/")
    words = {"level": "level {}", "sentence": "sentences", "position": "patches"}
    planes = {}
    for name, table in position_tables(model, predictor.image_shape[:2]).items():
        if name not in params:
            continue
        array = np.asarray(params[name])
        if table.grid:
            sides = tuple(
                side // count for side, count in zip(table.plane, table.grid, strict=True)
            )
            plane = np.asarray(unblock(array[None], sides, table.grid))[0]
        else:
            plane = array[table.num_class_tokens :].reshape(*table.plane, -1)
        word = next(word for start, word in words.items() if name.startswith(start))
        planes[word.format(name.removeprefix("level")[0])] = plane
    if (name := "word_position/embedding") in params:
        side = model.patch_size // model.word_size
        planes["words of a sentence"] = np.asarray(params[name]).reshape(side, side, -1)
    if not planes:
        raise ValueError(f"this {type(model).__name__} has no position embedding")
    return planes


def stem_filters(subject: Subject) -> np.ndarray:
    """Returns the filters of the first layer, [count, height, width, channels]."""
    model, params = subject.predictor.model, flatten_dict(subject.predictor.variables["params"])
    stems = ("patch_embedding", "word_embedding", "stem_conv", "stem")
    kernels = [x for path, x in params.items() if path[0] in stems and path[-1] == "kernel"]
    kernel = np.asarray(kernels[0], np.float32)
    if kernel.ndim == 2:  # TNT's linear stem
        kernel = kernel.reshape(model.word_size, model.word_size, -1, kernel.shape[-1])
    return kernel.transpose(3, 0, 1, 2)


def _blocks_of(model: Any) -> tuple[str, str, int]:
    """Returns a word for a model's blocks, the name of their maps and how many there are."""
    if isinstance(model, Nest):
        return "level", "level{}", len(model.dims)
    if isinstance(model, Tnt):
        return "block", "layer{}_sentences", model.depth
    if isinstance(model, Vit):
        return "block", "block{}_tokens", model.depth
    if isinstance(model, ResNet):
        return "stage", "stage{}", len(model.depths)
    if isinstance(model, WideResNet):
        return "group", "group{}", len(GROUP_DIMS)
    raise ValueError(f"{type(model).__name__} has no maps to draw")


def _tnt(subject: Subject) -> Tnt:
    model = subject.predictor.model
    if not isinstance(model, Tnt):
        raise ValueError(f"{type(model).__name__} has no words; TNT has")
    return model


def _token(place: Point, grid: tuple[int, int]) -> int:
    """Returns the number, row by row, of the token at a place."""
    row, column = (min(int(at * side), side - 1) for at, side in zip(place, grid, strict=True))
    return row * grid[1] + column


def _read(subject: Subject, images: np.ndarray, names: tuple[str, ...]) -> dict[str, jax.Array]:
    """Computes what a model sows under some names, and nothing after it."""

    @jax.jit
    def read(variables, images):
        _, state = subject.predictor.model.apply(variables, images, mutable=["intermediates"])
        return {name: state["intermediates"][name][0] for name in names}

    return read(subject.predictor.variables, subject.normalized(images))


def _attention(subject: Subject, images: np.ndarray, paths, select) -> Arrays:
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
