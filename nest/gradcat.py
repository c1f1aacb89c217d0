"""GradCAT: which part of an image speaks for a class, found by going down NesT's tree of blocks.

Gradient-based class-aware tree traversal: the block of the top level is the whole image. Its
quadrants are scored by the level's map and the gradient of the class's logit with respect to it;
the best one is a block of the level below, whose quadrants are scored in turn, down to level 2. So
a model of three levels chooses one of 16 blocks.

Shape letters: b batch, h and w sides of a level's plane in tokens, t blocks of a level, n tokens
of a block, c channels, l levels.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from layers.intermediates import as_classes, differentiate
from nest.blocks import block, unblock
from nest.model import Nest

Rule = Literal["activation_gradient", "centred", "grad_cam"]
# Each maps activations and gradients of all blocks of a level, [b, t, n, c], to what each token
# says for the class, [b, t, n].
RULES: dict[Rule, Callable[[Array, Array], Array]] = {
    "activation_gradient": lambda a, g: (a * g).sum(-1),
    "centred": lambda a, g: ((a - a.mean(2, keepdims=True)) * g).sum(-1),
    "grad_cam": lambda a, g: jax.nn.relu((a * g.mean(2, keepdims=True)).sum(-1)),
}


@flax.struct.dataclass
class GradCat:
    """The way down the tree for each image; steps are the levels from the top down to 2.

    Quadrants are numbered 0 above left, 1 above right, 2 below left, 3 below right.

    Attributes:
        logits: [b, num_classes].
        classes: [b], int32, that were asked for, or those with the largest logit.
        scores: [b, l - 1, 2, 2], float32: of the quadrants of the block chosen before.
        path: [b, l - 1], int32: the quadrant of that block that each step chooses.
        boxes: [b, l - 1, 4], int32: (top, left, bottom, right) of the block that each step chooses,
            in pixels of the image; the ends are exclusive.
        maps: level -> [b, h, w], float32: what each token of the level says for the class.
    """

    logits: Array
    classes: Array
    scores: Array
    path: Array
    boxes: Array
    maps: dict[int, Array]

    def saliency(self, image_size: tuple[int, int]) -> Array:
        """Returns the way as a map, [b, height, width], to compare with other methods.

        Each step adds to the quadrants of the block chosen before their scores, moved to 0 for the
        lowest and 1 for the highest; so what was chosen later is larger.
        """
        height, width = image_size
        low, high = (f(self.scores, axis=(2, 3), keepdims=True) for f in (jnp.min, jnp.max))
        shares = (self.scores - low) / jnp.maximum(high - low, jnp.finfo(jnp.float32).tiny)
        total = jnp.zeros((len(self.path), height, width))
        whole = jnp.broadcast_to(jnp.array([0, 0, height, width]), (len(self.path), 1, 4))
        before = jnp.concatenate([whole, self.boxes[:, :-1]], axis=1)  # [b, l - 1, 4]
        for step in range(self.path.shape[1]):
            top, left, bottom, right = (before[:, step, side, None] for side in range(4))
            y, x = jnp.arange(height), jnp.arange(width)
            row = (y >= (top + bottom) // 2).astype(jnp.int32)  # [b, height]
            column = (x >= (left + right) // 2).astype(jnp.int32)  # [b, width]
            inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None]
            one = jnp.arange(len(total))[:, None, None]
            total += jnp.where(inside, shares[one, step, row[:, :, None], column[:, None]], 0)
        return total


def check_traversable(model: nn.Module, image_size: tuple[int, int]) -> None:
    """Raises ValueError unless GradCAT can go down the levels of a model for such images."""
    if not isinstance(model, Nest):
        raise ValueError(f"GradCAT needs the levels of a NesT; {type(model).__name__} has none")
    if len(model.dims) < 2:
        raise ValueError("GradCAT needs a NesT of two levels or more; this one has one")
    sides = model.block_sides_for(image_size)
    if min(sides) < 2:
        tokens = " x ".join(map(str, sides))
        raise ValueError(
            f"images of {image_size[0]} x {image_size[1]} pixels leave blocks of {tokens} tokens, "
            "which cannot be cut into quadrants; larger images can"
        )


def gradcat(
    model: Nest,
    variables: Mapping[str, Any],
    images: Array,
    classes: Array | None = None,
    *,
    rule: Rule = "centred",
    sign: int = 1,
) -> GradCat:
    """Goes down the tree of blocks of each image, for one class each.

    Args:
        model: of two levels or more.
        variables: its variables.
        images: [b, height, width, channels], normalised.
        classes: [b], integers; None: those with the largest logit.
        rule: how activations and gradients become scores, see RULES. In mosaics of four digits
            "centred" and "grad_cam" find the quadrant of a class equally often (99.4 %, docs/
            explain.md), but "grad_cam" applies a block's mean gradient to all of its tokens, also
            to those that the logit does not depend on. The paper's product, "activation_gradient",
            finds 35 %: at the top level it is zero in each token, because the layer norm that
            follows does not change with a token's length.
        sign: 1: the quadrant that raises the logit most; -1: the one that lowers it most, as the
            paper writes it.

    Raises:
        ValueError: the model has no levels or no such class, or the image is too small.

    Reference:
        NesT paper, section "Gradient-based class-aware tree traversal", algorithm 1.
    """
    check_traversable(model, images.shape[1:3])
    if rule not in RULES or sign not in (1, -1):
        raise ValueError(f"{rule=}, {sign=}: rules are {', '.join(RULES)}, signs 1 and -1")
    classes = as_classes(classes, len(images), model.num_classes)
    return _gradcat(model, variables, images, classes, rule, sign)


@functools.partial(jax.jit, static_argnames=("model", "rule", "sign"))
def _gradcat(model, variables, images, classes, rule, sign) -> GradCat:
    levels, sides = len(model.dims), model.block_sides_for(images.shape[1:3])
    names = {level: f"level{level}" for level in range(levels, 1, -1)}
    logits, classes, maps, gradients = differentiate(
        model, variables, images, classes, tuple(names.values())
    )
    rows, columns = (_halves(side) for side in sides)  # [2, bh], [2, bw]
    heights = jnp.asarray(images.shape[1:3])
    at = jnp.zeros((len(images), 2), jnp.int32)  # row and column of the block, in its level's grid
    scores, path, boxes, tokens = [], [], [], {}
    for level, name in names.items():
        grid = 2 ** (levels - level)
        a, g = (block(x[name].astype(jnp.float32), sides) for x in (maps, gradients))
        said = RULES[rule](a, sign * g)  # [b, t, n]
        tokens[level] = unblock(said[..., None], sides, (grid, grid))[..., 0]  # [b, h, w]
        said = said.reshape(len(images), grid, grid, *sides)  # [b, gh, gw, bh, bw]
        own = said[jnp.arange(len(images)), at[:, 0], at[:, 1]]  # [b, bh, bw]
        score = jnp.einsum("ri,bij,sj->brs", rows, own, columns)  # [b, 2, 2]
        quadrant = jnp.argmax(score.reshape(-1, 4), axis=-1)  # [b]
        at = 2 * at + jnp.stack(jnp.divmod(quadrant, 2), axis=-1)
        side = heights // (2 * grid)  # of the block chosen, in pixels
        scores.append(score)
        path.append(quadrant.astype(jnp.int32))
        boxes.append(jnp.concatenate([at * side, (at + 1) * side], axis=-1))
    scores, path, boxes = (jnp.stack(x, axis=1) for x in (scores, path, boxes))
    return GradCat(logits, classes, scores, path, boxes.astype(jnp.int32), tokens)


def _halves(side: int) -> Array:
    """Returns [2, side]: the mean over either half of a block's side; a middle token is in both."""
    cover = jnp.clip(side / 2 - jnp.arange(side), 0, 1)  # share of each token in the first half
    return jnp.stack([cover, 1 - cover]) / (side / 2)
