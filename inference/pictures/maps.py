"""Arrays from inside a model, laid out on the plane of the image: what the pictures draw.

Shape letters: b batch, h and w sides of a plane in tokens, n sentences, m words of a sentence, c
channels.
"""

from collections.abc import Sequence

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from harness.arguments import problem
from inference.explain import planes_of
from inference.pictures.subjects import Subject
from nest.blocks import unblock
from tnt.model import Tnt
from zoo.fit import position_tables

Arrays = dict[str, np.ndarray]


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
    planes = planes_of(subject.predictor.model, images.shape[1:3])
    numbers = checked_blocks(blocks, len(planes.maps))
    names = {f"{planes.unit} {i}": planes.maps[i - 1] for i in numbers}
    state = _read(subject, images, tuple(names.values()))
    return {title: np.asarray(planes.plane(state[one]), np.float32) for title, one in names.items()}


def word_maps(subject: Subject, images: np.ndarray, blocks: Sequence[int] | None) -> Arrays:
    """Returns the words of TNT after some blocks, sentence by sentence: name -> [b, h, w, c].

    Raises:
        ValueError: the model has no words.
    """
    model = checked_tnt(subject)
    grid = planes_of(model, images.shape[1:3]).grid
    side = model.patch_size // model.word_size
    names = {f"block {i}": f"layer{i}_words" for i in checked_blocks(blocks, model.depth)}
    state = _read(subject, images, tuple(names.values()))
    return {
        title: np.asarray(unblock(state[one], (side, side), grid), np.float32)
        for title, one in names.items()
    }


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


def checked_tnt(subject: Subject) -> Tnt:
    """Returns the model; raises ValueError if it is no TNT, which alone has words."""
    model = subject.predictor.model
    if not isinstance(model, Tnt):
        raise ValueError(f"{type(model).__name__} has no words; TNT has")
    return model


def _read(subject: Subject, images: np.ndarray, names: tuple[str, ...]) -> dict[str, jax.Array]:
    """Computes what a model sows under some names, and nothing after it."""

    @jax.jit
    def read(variables, images):
        _, state = subject.predictor.model.apply(variables, images, mutable=["intermediates"])
        return {name: state["intermediates"][name][0] for name in names}

    return read(subject.predictor.variables, subject.normalized(images))
