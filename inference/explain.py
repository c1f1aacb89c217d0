"""Which pixels speak for a class: several methods behind one interface, so that they compare.

    explain = create_explainer("gradcam", model, image_shape)
    maps = explain(variables, images, classes)  # [b, h, w], larger where more speaks for the class

gradcat   the way down NesT's tree of blocks (nest/gradcat.py)
cam       the head's weights applied to each token of the last map (Zhou et al., arXiv 1512.04150)
gradcam   channels of a map weighted by their mean gradient (Selvaraju et al., arXiv 1610.02391)
rollout   attention from output to input, the same for all classes (Abnar and Zuidema, 2005.00928)

Shape letters: b batch, h and w sides of a plane, n tokens, t blocks, c channels, m classes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from baselines.resnet import ResNet
from baselines.vit import Vit
from baselines.wide_resnet import GROUP_DIMS, WideResNet
from layers.field_checks import height_and_width
from layers.intermediates import ATTENTION_WEIGHTS, as_classes, differentiate
from nest.blocks import block, unblock
from nest.gradcat import check_traversable, gradcat
from nest.model import Nest
from tnt.model import Tnt
from tnt.pyramid import PyramidTnt

Method = Literal["gradcat", "cam", "gradcam", "rollout"]
METHODS: tuple[Method, ...] = get_args(Method)
# Variables, normalised images [b, height, width, channels], classes [b] or None for the likeliest.
Explain = Callable[[Mapping[str, Any], Array, Array | None], Array]


@dataclasses.dataclass(frozen=True)
class Planes:
    """Where the image plane is in a model's maps.

    Attributes:
        unit: what the model is a sequence of, for titles: "level", "block", "stage" or "group".
        maps: names of the maps after each of them, first to last.
        first_token: number of tokens before those of the plane; None: the maps are planes.
        grid: (h, w) of tokens.
        reads_class_token: whether the head reads the class token alone.
        attentions: paths of the attention modules over the plane's tokens, first to last.
        patch, stride: sides of a token's patch and distances between patches, in pixels; patches
            overlap where they are not the same.
    """

    unit: str
    maps: tuple[str, ...]
    first_token: int | None = None
    grid: tuple[int, int] = (0, 0)
    reads_class_token: bool = False
    attentions: tuple[tuple[str, ...], ...] = ()
    patch: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)

    @property
    def last(self) -> str:
        """The last map that still has a gradient at every token.

        Of a class token's last layer only that token is read, so it is the map before.
        """
        return self.maps[-2 if self.reads_class_token else -1]

    def token_at(self, place: tuple[float, float]) -> int:
        """Returns the number, row by row, of the token whose patch's centre is nearest.

        Args:
            place: (y, x) in fractions of the image.
        """
        row, column = (
            min(
                max(int((at * (step * (count - 1) + patch) - patch / 2) / step + 0.5), 0), count - 1
            )
            for at, patch, step, count in zip(
                place, self.patch, self.stride, self.grid, strict=True
            )
        )
        return row * self.grid[1] + column

    def enlarged(self, maps: Array, size: tuple[int, int]) -> Array:
        """Enlarges maps [b, h, w] linearly to [b, height, width], each token where its patch is."""
        if self.patch == self.stride:  # the patches tile the image
            return jax.image.resize(maps, (len(maps), *size), "linear")
        # The first patch's centre is further from the edge than half a stride.
        offset = [
            (patch - stride) / 2 for patch, stride in zip(self.patch, self.stride, strict=True)
        ]
        more = [math.ceil(o / stride) for o, stride in zip(offset, self.stride, strict=True)]
        maps = jnp.pad(maps, ((0, 0), (more[0],) * 2, (more[1],) * 2), mode="edge")
        moved = [o - n * stride for o, n, stride in zip(offset, more, self.stride, strict=True)]
        return jax.image.scale_and_translate(
            maps,
            (len(maps), *size),
            (1, 2),
            jnp.asarray(self.stride, jnp.float32),
            jnp.asarray(moved, jnp.float32),
            "linear",
            antialias=False,
        )

    def plane(self, x: Array) -> Array:
        """Maps a map to [b, h, w, c]."""
        if self.first_token is None:
            return x
        return x[:, self.first_token :].reshape(len(x), *self.grid, x.shape[-1])


def planes_of(model: nn.Module, image_size: tuple[int, int]) -> Planes:
    """Finds the image plane in the maps of a model.

    Raises:
        ValueError: for models that are not in this repository.
    """
    if isinstance(model, Nest):
        levels = enumerate(model.depths, start=1)
        layers = [f"level{level}_layer{i + 1}" for level, depth in levels for i in range(depth)]
        attentions = tuple((layer, "attention") for layer in layers)
        return Planes("level", _numbered("level{}", len(model.depths)), attentions=attentions)
    if isinstance(model, ResNet | PyramidTnt):
        return Planes("stage", _numbered("stage{}", len(model.depths)))
    if isinstance(model, WideResNet):
        return Planes("group", _numbered("group{}", len(GROUP_DIMS)))
    if isinstance(model, Tnt):
        name, attention = "layer{}_sentences", ("layer{}", "outer", "attention")
    elif isinstance(model, Vit):
        name, attention = "block{}_tokens", ("block{}", "attention")
    else:
        raise ValueError(f"there is no explanation of {type(model).__name__}: see planes_of")
    patch = height_and_width(model.patch_size)
    stride = height_and_width(getattr(model, "patch_stride", None) or patch)
    sides = zip(image_size, patch, stride, strict=True)
    reads_class_token = model.pooling == "class_token"
    return Planes(
        "block",
        _numbered(name, model.depth),
        first_token=1 if reads_class_token or isinstance(model, Tnt) else 0,
        grid=tuple((side - size) // step + 1 for side, size, step in sides),
        reads_class_token=reads_class_token,
        attentions=tuple(zip(*(_numbered(part, model.depth) for part in attention), strict=True)),
        patch=patch,
        stride=stride,
    )


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return tuple(name.format(i) for i in range(1, count + 1))


def cam(planes: Planes, model, variables, images, classes) -> Array:
    """Class activation mapping, [b, h, w].

    The mean over the plane is the logit, but for the head's bias. Where the head reads a class
    token, it is applied to the other tokens instead, which are normalised alike.
    """
    logits, state = model.apply(
        variables,
        images,
        mutable=["intermediates"],
        capture_intermediates=lambda module, method: module.path == ("norm",),
    )
    classes = jnp.argmax(logits, axis=-1) if classes is None else classes
    maps = state["intermediates"]
    pooled = maps["norm"]["__call__"][0] if "norm" in maps else maps[planes.last][0]
    pooled = nn.relu(pooled) if isinstance(model, WideResNet) else pooled
    weights = variables["params"]["head"]["kernel"][:, classes]  # [c, b]
    return jnp.einsum("bhwc,cb->bhw", planes.plane(pooled.astype(jnp.float32)), weights)


def grad_cam(planes: Planes, model, variables, images, classes) -> Array:
    """Grad-CAM of the last map, [b, h, w]."""
    name = planes.last
    _, _, maps, gradients = differentiate(model, variables, images, classes, [name])
    plane, slopes = (planes.plane(x[name].astype(jnp.float32)) for x in (maps, gradients))
    weights = slopes.mean(axis=(1, 2), keepdims=True)  # [b, 1, 1, c]
    return jax.nn.relu((weights * plane).sum(axis=-1))


def rollout(planes: Planes, model, variables, images, classes) -> Array:
    """Attention rollout, [b, h, w]: how much of the output comes from each token of the input.

    In each layer half of a token comes from the residual connection and half from attention, whose
    weights are averaged over the heads. NesT's aggregations hand a token's share to the four
    tokens that it lies on, in equal parts.
    """
    del classes  # attention is the same for all
    _, state = model.apply(variables, images, mutable=[ATTENTION_WEIGHTS])

    def weights(path):  # [..., n, n], queries before keys
        found = functools.reduce(lambda tree, name: tree[name], path, state[ATTENTION_WEIGHTS])
        return found["weights"][0].astype(jnp.float32).mean(axis=(-4, -3))

    if isinstance(model, Nest):
        return _rollout_of_levels(model, images.shape[1:3], weights)
    tokens = planes.first_token + planes.grid[0] * planes.grid[1]
    if planes.reads_class_token:
        share = jnp.zeros((len(images), tokens)).at[:, 0].set(1)
    else:
        share = jnp.ones((len(images), tokens)).at[:, : planes.first_token].set(0)
        share /= share.sum(axis=-1, keepdims=True)
    for path in reversed(planes.attentions):
        share = (share + jnp.einsum("bn,bnm->bm", share, weights(path))) / 2
    return planes.plane(share[..., None])[..., 0]


def _rollout_of_levels(model: Nest, image_size: tuple[int, int], weights: Callable) -> Array:
    sides = model.block_sides_for(image_size)
    levels = len(model.depths)
    share = None
    for level in range(levels, 0, -1):
        grid = (2 ** (levels - level),) * 2
        if share is not None:  # [b, h, w] of the level above
            share = share.repeat(2, axis=1).repeat(2, axis=2) / 4
            share = block(share[..., None], sides)[..., 0]  # [b, t, n]
        for layer in range(model.depths[level - 1], 0, -1):
            taken = weights((f"level{level}_layer{layer}", "attention"))  # [b, t, n, n]
            if share is None:
                share = jnp.full(taken.shape[:-1], 1 / taken.shape[-1])
            share = (share + jnp.einsum("btn,btnm->btm", share, taken)) / 2
        share = unblock(share[..., None], sides, grid)[..., 0]  # [b, h, w]
    return share


def _way(planes: Planes, model, variables, images, classes) -> Array:
    return gradcat(model, variables, images, classes).saliency(images.shape[1:3])


_FUNCTIONS = {"gradcat": _way, "cam": cam, "gradcam": grad_cam, "rollout": rollout}


def check_method(method: str, model: nn.Module, image_size: tuple[int, int]) -> None:
    """Raises ValueError, in one line, if a method does not fit a model and its images."""
    if method not in METHODS:
        raise ValueError(f"{method=} is unknown; allowed: {', '.join(METHODS)}")
    planes = planes_of(model, image_size)
    if method == "gradcat":
        check_traversable(model, image_size)
    if method == "rollout" and not planes.attentions:
        raise ValueError(f"rollout needs attention; {type(model).__name__} has none")
    if method == "gradcam" and planes.reads_class_token and model.depth < 2:
        raise ValueError("gradcam of a model with a class token needs two layers or more")


def methods_of(model: nn.Module, image_size: tuple[int, int]) -> tuple[Method, ...]:
    """Returns the methods that fit a model and its images."""

    def fits(method: str) -> bool:
        try:
            check_method(method, model, image_size)
        except ValueError:
            return False
        return True

    return tuple(filter(fits, METHODS))


def auto_method(model: nn.Module, image_size: tuple[int, int]) -> Method:
    """Returns GradCAT for NesT, Grad-CAM, or CAM, for others; ValueError if no method fits."""
    planes_of(model, image_size)
    fitting = methods_of(model, image_size)
    return next(name for name in ("gradcat", "gradcam", "cam") if name in fitting)


def create_explainer(method: Method, model: nn.Module, image_shape: tuple[int, ...]) -> Explain:
    """Returns a compiled function that explains batches of images.

    Args:
        method: one of METHODS.
        model: a classifier of this repository.
        image_shape: (height, width, channels) of its images.

    Returns:
        `explain(variables, images, classes) -> maps [b, height, width]`, float32, in pixels of the
        image and not scaled; classes None are the likeliest. Other classes do not compile again.

    Raises:
        ValueError: the method does not fit the model.
    """
    size = tuple(image_shape[:2])
    check_method(method, model, size)
    planes = planes_of(model, size)

    @jax.jit
    def compiled(variables, images, classes):
        return planes.enlarged(_FUNCTIONS[method](planes, model, variables, images, classes), size)

    def explain(variables, images, classes=None):
        classes = as_classes(classes, len(images), model.num_classes)
        return compiled(variables, images, classes)

    return explain
