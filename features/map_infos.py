"""Which maps a classifier offers, and which images fit it: known without running it."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from flax import linen as nn

from baselines.resnet import EXPANSION, ResNet
from baselines.vit import Vit
from baselines.wide_resnet import GROUP_DIMS, WideResNet
from layers.field_checks import field_error, is_count
from nest.checks import side_step
from nest.model import Nest
from tnt.model import Tnt
from tnt.pyramid import FIRST_STRIDE, PyramidTnt


class MapInfo(NamedTuple):
    """A map [b, h, w, c] inside a classifier.

    Attributes:
        name: under which the classifier sows it.
        channels: c.
        stride: distance between the centres of neighbouring tokens in pixels of the image.
    """

    name: str
    channels: int
    stride: int


@dataclasses.dataclass(frozen=True)
class Offer:
    """What a classifier offers.

    Attributes:
        maps: one for each level, stage, layer or block, lowest first.
        is_pyramid: whether their strides grow. All are then taken by default, else the last alone.
        first_patch: token of the class in front of the others are left out up to here; None: the
            maps are planes already.
        step: the sides of an image are multiples of this in pixels, or `smallest` and multiples.
        smallest: side of the smallest image in pixels.
        needs_norm: whether the classifier normalises its last map only where its head begins, so
            that a map needs a norm of its own.
    """

    maps: tuple[MapInfo, ...]
    is_pyramid: bool
    first_patch: int | None
    step: int
    smallest: int
    needs_norm: bool


def _nest(model: Nest) -> Offer:
    levels = range(len(model.dims))
    maps = [
        MapInfo(f"level{level + 1}", model.dims[level], model.patch_size * 2**level)
        for level in levels
    ]
    step = maps[-1].stride * side_step(model.aggregation, len(levels))
    return Offer(tuple(maps), True, None, step, step, True)


def _vit(model: Vit) -> Offer:
    size = model.patch_size
    if not is_count(size):
        raise field_error("patch_size", size, "a rectangle has two strides", "a square: one number")
    maps = (MapInfo(f"block{n}_tokens", model.dim, size) for n in range(1, model.depth + 1))
    return Offer(tuple(maps), False, int(model.pooling == "class_token"), size, size, True)


def _tnt(model: Tnt) -> Offer:
    stride = model.patch_stride or model.patch_size
    layers = range(1, model.depth + 1)
    maps = (MapInfo(f"layer{n}_sentences", model.outer_dim, stride) for n in layers)
    return Offer(tuple(maps), False, 1, stride, model.patch_size, True)


def _resnet(model: ResNet) -> Offer:
    maps = (
        MapInfo(f"stage{stage + 1}", EXPANSION * dim, 4 * 2**stage)
        for stage, dim in enumerate(model.dims)
    )
    step = 4 * 2 ** (len(model.dims) - 1)
    return Offer(tuple(maps), True, None, step, step, False)


def _wide_resnet(model: WideResNet) -> Offer:
    maps = (
        MapInfo(f"group{group + 1}", dim * model.width, 2**group)
        for group, dim in enumerate(GROUP_DIMS)
    )
    step = 2 ** (len(GROUP_DIMS) - 1)
    return Offer(tuple(maps), True, None, step, step, True)


def _pyramid_tnt(model: PyramidTnt) -> Offer:
    maps = [
        MapInfo(f"stage{stage + 1}", dim, FIRST_STRIDE * 2**stage)
        for stage, dim in enumerate(model.outer_dims)
    ]
    return Offer(tuple(maps), True, None, maps[-1].stride, maps[-1].stride, True)


OFFERS: dict[type[nn.Module], Callable[[Any], Offer]] = {
    Nest: _nest,
    Vit: _vit,
    Tnt: _tnt,
    PyramidTnt: _pyramid_tnt,
    ResNet: _resnet,
    WideResNet: _wide_resnet,
}


def offer_of(model: nn.Module) -> Offer:
    """Returns what a classifier of zoo/registry.py offers.

    Raises:
        ValueError: a model that offers no maps.
    """
    if type(model) not in OFFERS:
        known = ", ".join(kind.__name__ for kind in OFFERS)
        raise field_error("model", type(model).__name__, "offers no maps", known)
    return OFFERS[type(model)](model)


def map_sides(model: nn.Module, info: MapInfo, size: tuple[int, int]) -> tuple[int, int]:
    """Returns (h, w) of a map of a classifier for images of a (height, width) that fits it."""
    offer = offer_of(model)
    if offer.first_patch is None:
        return size[0] // info.stride, size[1] // info.stride
    h, w = ((side - offer.smallest) // offer.step + 1 for side in size)  # patches may overlap
    return h, w


def map_infos(model: nn.Module, maps: tuple[int, ...] | None = None) -> tuple[MapInfo, ...]:
    """Returns name, channels and stride of maps of a classifier.

    Args:
        model: the classifier.
        maps: numbers of levels (NesT), stages (ResNet, PyramidTNT), layers (TNT) or blocks (ViT),
            counted from 1, in increasing order. None: all of a pyramid, the last of the others.

    Raises:
        ValueError: the model offers no maps, or none of such a number.
    """
    offer = offer_of(model)
    last = len(offer.maps)
    if maps is None:
        return offer.maps if offer.is_pyramid else offer.maps[-1:]
    if not isinstance(maps, tuple) or not maps or not all(map(is_count, maps)):
        raise field_error("maps", maps, "wrong", "None or a tuple of numbers, counted from 1")
    if list(maps) != sorted(set(maps)) or maps[-1] > last:
        allowed = f"each of 1 to {last} at most once, in increasing order"
        raise field_error("maps", maps, "wrong", allowed)
    return tuple(offer.maps[number - 1] for number in maps)
