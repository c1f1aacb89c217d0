"""What a recipe leaves to the training images: how many there are, and how large they are.

None in a config stands for it (BY_IMAGES). The rules are ours; they are for a few hundred to a
hundred thousand images, and monotonous beyond.
"""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn
from flax.traverse_util import flatten_dict
from PIL import Image

from data.pipeline import Data
from harness.errors import BadImage
from zoo.registry import create_model, default_image_size, variable_shapes
from zoo.start import FROM_SCRATCH

BY_IMAGES = ("data.batch_size", "data.image_size", "loop.num_epochs")
_LOOKED_AT = 64  # images whose size is read
_LARGEST = 512  # side in pixels up to which sizes that fit are looked for


def batch_size_for(num_images: int) -> int:
    """Returns about the root of the number of images, a power of two from 16 to 128."""
    return 2 ** min(7, max(4, round(math.log2(max(1, num_images)) / 2)))


def epochs_for(num_images: int, *, fine_tunes: bool) -> float:
    """Returns how often to go through the images.

    1,000 / root of their number, from 60 down to 10, to fine-tune (200 to 8,000 steps with the
    batch above); 30,000 / root, from 300 down to 100, from scratch.
    """
    most, least, factor = (60, 10, 1_000) if fine_tunes else (300, 100, 30_000)
    return float(min(most, max(least, round(factor / math.sqrt(max(1, num_images))))))


def image_size_for(model: nn.Module, own: int, short_side: int | None) -> int:
    """Returns the model's own image size, or less where that would enlarge images over twofold.

    Args:
        model: which decides what sizes fit.
        own: side in pixels that it is made for.
        short_side: of a typical image; None: unknown, so that the own size is taken.
    """
    most = own if short_side is None else min(own, 2 * short_side)
    sides = (*range(most, 0, -1), *range(most + 1, max(own, _LARGEST) + 1))
    return next((side for side in sides if takes(model, side)), own)


def takes(model: nn.Module, side: int) -> bool:
    """Returns whether a model takes square images of a side in pixels."""
    try:
        variable_shapes(model, side)
    except (ValueError, TypeError, ZeroDivisionError):  # JAX and Flax also raise these for shapes
        return False
    return True


def short_side_of(source: Sequence[Mapping[str, Any]]) -> int | None:
    """Returns the median of the short sides of some images, in pixels; None if none can be read."""
    step = max(1, len(source) // _LOOKED_AT)
    sides = []
    for index in range(0, len(source), step):
        try:
            image = source[index]["image"]
            if isinstance(image, bytes):
                with Image.open(io.BytesIO(image)) as opened:
                    sides.append(min(opened.size))
            else:
                sides.append(min(image.shape[:2]))
        except (BadImage, OSError, Image.DecompressionBombError):
            continue
    return sorted(sides)[len(sides) // 2] if sides else None


def open_keys(config: Mapping[str, Any]) -> list[str]:
    """Returns which of BY_IMAGES a config, of nested dicts, leaves to the images."""
    flat = flatten_dict(config, sep=".")
    return [key for key in BY_IMAGES if key in flat and flat[key] is None]


def complete(
    plain: Mapping[str, Any], kind: type[Data] = Data, *, needs_data: bool
) -> dict[str, Any]:
    """Returns a checked config with what it leaves to the images filled in.

    Args:
        plain: sections as dicts.
        kind: what the section `data` makes.
        needs_data: whether the data set has to be there. Where it is not, or has no training split,
            nothing is trained: the image size is the model's own, the rest stands for nothing.

    Raises:
        NoSuchData: the data set is not there.
    """
    plain = {key: dict(v) if isinstance(v, dict) else v for key, v in plain.items()}
    if not (left := open_keys(plain)):
        return plain
    size = plain["data"]["image_size"] or default_image_size(plain["model"]["name"])
    stand_ins = {"image_size": size, "batch_size": 1, "eval_batch_size": 1}
    train, shown = _sources(kind, plain["data"] | stand_ins, needs_data=needs_data)
    if "data.image_size" in left:
        model = create_model(**plain["model"], num_classes=1)
        side = shown and short_side_of(shown)
        plain["data"]["image_size"] = image_size_for(model, size, side)
    if "data.batch_size" in left:
        size = batch_size_for(len(train)) if train else plain["data"]["eval_batch_size"]
        plain["data"]["batch_size"] = size
    if "loop.num_epochs" in left:
        fine_tunes = plain["init_from"] not in (None, FROM_SCRATCH)
        plain["loop"]["num_epochs"] = epochs_for(len(train or ()), fine_tunes=fine_tunes)
    return plain


def unknown(left: Sequence[str], plain: Mapping[str, Any], kind: type[Data] = Data) -> list[str]:
    """Returns which of the open keys of a config have no images that could choose them.

    Args:
        left: its open_keys.
        plain: the same config from `complete`, which gives them values that stand for nothing.
    """
    train, shown = _sources(kind, plain["data"], needs_data=False)
    return [key for key in left if (shown if key == "data.image_size" else train) is None]


def _sources(kind: type[Data], section: Mapping[str, Any], *, needs_data: bool) -> tuple[Any, Any]:
    """Returns the training images, and those that show the size; None for those not there."""
    train = shown = None
    try:
        data = kind(**section)
        data.check_there()
    except (ValueError, OSError):
        if needs_data:
            raise
        return None, None
    with contextlib.suppress(ValueError, OSError):  # said where the split is opened
        shown = train = data.train_source
    if train is None:
        with contextlib.suppress(ValueError, OSError):
            shown = data.eval_source
    return train, shown


def chosen(config: Mapping[str, Any], plain: Mapping[str, Any], num_images: int) -> Sequence[str]:
    """Returns the line that says what was chosen by the images, if anything was."""
    flat = flatten_dict(plain, sep=".")
    values = ", ".join(f"config.{key}={flat[key]}" for key in open_keys(config))
    return [f"by the {num_images:,} training images: {values}"] if values else []
