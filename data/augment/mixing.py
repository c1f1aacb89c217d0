"""Augmentation on the device, inside the jitted step: random erasing, mixup and cutmix.

Each entry of `DEVICE_AUGMENTS` is a function of keyword arguments (a section of the recipe) that
returns a pure function of a key and a batch. Images are [b, h, w, c], uint8 or already normalised
floating point; targets are float32 [b, classes], already smoothed, with rows that sum to one.
Shapes are static, boxes are masks from comparisons, and nothing depends on how the batch lies over
the devices.

    b batch   g groups of it   h, w height and width in pixels   c channels
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from data.augment.erasing import box_masks, random_erasing
from harness.arguments import check_range, problem

Augment = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class _Groups:
    """The rows of a batch, as the groups that the authors' devices mixed each on its own.

    Attributes:
        count: g.
        strided: group k has the rows k, k + g, k + 2g, ... as PyTorch's samplers deal them out;
            otherwise g runs of neighbours, as JAX splits an array over devices.
    """

    count: int
    strided: bool

    @property
    def axis(self) -> int:
        """Which axis of `split` runs along the rows of a group."""
        return 0 if self.strided else 1

    def split(self, x: jax.Array) -> jax.Array:
        """Maps [b, ...] to [b / g, g, ...] if strided, else to [g, b / g, ...]."""
        size = len(x) // self.count
        sides = (size, self.count) if self.strided else (self.count, size)
        return x.reshape(*sides, *x.shape[1:])

    def spread(self, x: jax.Array, batch: int) -> jax.Array:
        """Repeats values [g] for each row of their group, [b]."""
        sides = [self.count, self.count]
        sides[self.axis] = batch // self.count
        return jnp.broadcast_to(jnp.expand_dims(x, self.axis), sides).reshape(batch)

    def weigh(self, x: jax.Array, weights: jax.Array) -> jax.Array:
        """Adds to each row of [b, ...] its partner: the group's own rows, in reverse.

        Args:
            x: [b, ...].
            weights: of the row itself, [b, ...] or [g, ...], which `x` can be multiplied by.

        Returns:
            [b, ...], in the type of the weights.
        """
        if len(weights) == len(x):
            weights = self.split(weights)
        else:
            weights = jnp.expand_dims(weights, self.axis)
        own = self.split(x)
        mixed = own * weights + jnp.flip(own, self.axis) * (1 - weights)
        return mixed.reshape(x.shape)


def _nest_draw(key: jax.Array, alpha: jax.Array, groups: _Groups, shape: tuple[int, int, int]):
    """One weight and one box per image [b]; the box holds the image's own pixels."""
    batch, height, width = shape
    weight_key, place_key = jax.random.split(key)
    alpha = groups.spread(alpha, batch)
    share = jax.random.uniform(weight_key, (batch,)) ** (1 / alpha) / 2  # in [0, 1/2)
    box_height = jnp.floor(jnp.sqrt(share) * height)
    box_width = jnp.floor(jnp.sqrt(share) * width)
    draws = jax.random.uniform(place_key, (2, batch))
    top = jnp.floor(draws[0] * (height - box_height + 1))
    left = jnp.floor(draws[1] * (width - box_width + 1))
    own = box_masks(top, top + box_height, left, left + box_width, height, width)
    return 1 - share, own


def _timm_draw(key: jax.Array, alpha: jax.Array, groups: _Groups, shape: tuple[int, int, int]):
    """One weight and one box per group [g]; the box holds the partner's pixels."""
    _, height, width = shape
    weight_key, place_key = jax.random.split(key)
    weight = jax.random.beta(weight_key, alpha, alpha, (groups.count,))
    side = jnp.sqrt(1 - weight)
    # Twice the half: an odd side loses a pixel, as it does in timm.
    half_height = jnp.floor(jnp.floor(side * height) / 2)
    half_width = jnp.floor(jnp.floor(side * width) / 2)
    draws = jax.random.uniform(place_key, (2, groups.count))
    y, x = jnp.floor(draws[0] * height), jnp.floor(draws[1] * width)
    partner = box_masks(
        y - half_height, y + half_height, x - half_width, x + half_width, height, width
    )
    return weight, ~partner


DRAWS = {"nest": _nest_draw, "timm": _timm_draw}


@dataclasses.dataclass(frozen=True)
class Mix:
    """What `mixup_cutmix` returns: called as `mix(key, images, targets) -> (images, targets)`.

    Attributes:
        mix: the function.
        groups: see `mixup_cutmix`.
        order: see `mixup_cutmix`.
    """

    mix: Augment
    groups: int
    order: str

    def __call__(self, key: jax.Array, images: jax.Array, targets: jax.Array):
        return self.mix(key, images, targets)


def mixup_cutmix(
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    probability: float = 1.0,
    switch_probability: float = 0.5,
    draw: Literal["nest", "timm"] = "nest",
    groups: int = 1,
    order: Literal["erase_first", "mix_first"] = "erase_first",
) -> Mix:
    """Mixes each image and its target with another of its group, by mixup or by cutmix.

    The batch is mixed in groups, because the authors' devices each mixed their own part of it. The
    partner of a group's first image is its last, and so on; the middle one of an odd group is its
    own. Mixup adds the two, weighted; cutmix takes a box from one and the rest from the other. One
    of them is drawn per group. The partner's weight is one minus the image's own, which is

    - "nest" (official NesT, augment/augment_ops.py), with m = u^(1/alpha) / 2, u uniform, drawn per
      image. Not a Beta distribution, though it is called one there. Mixup: 1 - m. Cutmix:
      a box with sides sqrt(m) of the image's, rounded down to pixels, keeps the image itself.
      Groups are of neighbouring rows, as JAX splits a batch over devices.
    - "timm" (timm/data/mixup.py, mode "batch"), with m from Beta(alpha, alpha), drawn per group.
      Mixup: m. Cutmix: a box with sides sqrt(1 - m) of the image's shows the partner; its centre is
      anywhere and it is cut at the borders. Group k has the rows k, k + groups, k + 2 groups, ...,
      as samplers of PyTorch deal a batch out to processes; so the copies of repeated augmentation,
      which are neighbours, are in different groups.

    In cutmix the target's weight is the share of pixels that the image has of itself: the pixels
    are counted after rounding and cutting, as in timm. The official NesT code weighs targets by m,
    which is more than the rounded box has: by up to 0.042 on 32 x 32 pixels, 0.0063 on 224 x 224.
    Further differences from it: its partner in mixup is a random permutation of the device's
    images, and its boxes never reach the last row and column and are spread unevenly.

    Args:
        mixup_alpha: of mixup's weight; 0 for no mixup.
        cutmix_alpha: of cutmix's weight; 0 for no cutmix.
        probability: of a group to be mixed at all.
        switch_probability: of cutmix rather than mixup, where both are on.
        draw: "nest" or "timm".
        groups: how many the batch is split into, whatever the number of devices here: the number of
            devices there. It divides the batch, and leaves two rows or more in each.
        order: "erase_first" erases boxes of the normalised images and mixes them then, as NesT and
            DeiT. "mix_first" mixes the uint8 images, rounded, and erases boxes of the normalised
            mixture, as TNT, whose loader is timm's with its prefetcher.

    Returns:
        `mix(key, images, targets) -> (images, targets)` of the same shapes and types. Integers are
        rounded.

    Raises:
        ValueError: a value is out of range, or both alphas are 0; in `mix`, for a batch that does
            not split into the groups.

    Reference: Zhang et al., arXiv 1710.09412; Yun et al., arXiv 1905.04899.
    """
    key = "config.device_augment.mixup_cutmix"
    check_range(f"{key}.mixup_alpha", mixup_alpha, 0, 100)
    check_range(f"{key}.cutmix_alpha", cutmix_alpha, 0, 100)
    check_range(f"{key}.probability", probability, 0, 1)
    check_range(f"{key}.switch_probability", switch_probability, 0, 1)
    check_range(f"{key}.groups", groups, 1)
    if not mixup_alpha and not cutmix_alpha:
        what = "cutmix_alpha is 0 as well; set one of them, or mixup_cutmix=None"
        raise ValueError(problem(f"{key}.mixup_alpha", mixup_alpha, what))
    cutmix_probability = switch_probability
    if not mixup_alpha or not cutmix_alpha:
        cutmix_probability = 1.0 if cutmix_alpha else 0.0

    def mix(key: jax.Array, images: jax.Array, targets: jax.Array):
        batch, height, width, _ = images.shape
        check_groups(groups, batch)
        rows = _Groups(groups, strided=draw == "timm")
        switch_key, draw_key = jax.random.split(key)
        draws = jax.random.uniform(switch_key, (2, groups))
        is_on, is_cutmix = draws < jnp.array([[probability], [cutmix_probability]])  # [g] each
        alpha = jnp.where(is_cutmix, cutmix_alpha, mixup_alpha)
        drawn = DRAWS[draw](draw_key, alpha, rows, (batch, height, width))
        mixup_weight, own = drawn  # [n], [n, h, w], where n is b or g
        if len(own) == batch:
            is_on, is_cutmix = rows.spread(is_on, batch), rows.spread(is_cutmix, batch)
        weight = jnp.where(is_cutmix, own.mean((1, 2), dtype=jnp.float32), mixup_weight)
        weight = jnp.where(is_on, weight, 1.0)[:, None]  # [n, 1]
        # One weighted sum for both, with a map of weights: no branch and one pass over the images.
        weights = jnp.where(is_cutmix[:, None, None], own, mixup_weight[:, None, None])
        weights = jnp.where(is_on[:, None, None], weights, 1.0)[..., None]  # [n, h, w, 1]
        mixed = rows.weigh(images, weights)
        if jnp.issubdtype(images.dtype, jnp.integer):
            mixed = jnp.round(mixed)
        return mixed.astype(images.dtype), rows.weigh(targets, weight)

    return Mix(mix, groups, order)


def check_groups(groups: int, batch: int) -> None:
    """Raises ValueError unless a batch splits into groups of two or more."""
    if groups > 1 and (batch % groups or batch < 2 * groups):
        fitting = [str(n) for n in range(1, batch // 2 + 1) if batch % n == 0]
        what = f"does not split config.data.batch_size={batch} into equal groups of 2 or more"
        key = "config.device_augment.mixup_cutmix.groups"
        raise ValueError(problem(key, groups, what, ", ".join(fitting) or "1"))


DEVICE_AUGMENTS: dict[str, Callable[..., Any]] = {
    "random_erasing": random_erasing,
    "mixup_cutmix": mixup_cutmix,
}


def create_device_augment(
    section: Mapping[str, Any] | None, batch: int | None = None
) -> Callable | None:
    """Builds the augmentation of a recipe: normalise, erase and mix, or mix first. No device yet.

    Args:
        section: name in `DEVICE_AUGMENTS` -> its keyword arguments, or None for one that is off;
            names and types as harness.strict_config.check_subsections has checked them.
        batch: size of the batches, to find out early that they don't split into groups.

    Returns:
        `augment(key, images, targets, normalize) -> (images, targets)`, or None when all is off.
        `images` are those that `normalize` takes: uint8 [b, h, w, c].

    Raises:
        ValueError: a value is out of range.
    """
    wanted = {name: kwargs for name, kwargs in (section or {}).items() if kwargs is not None}
    made = {name: DEVICE_AUGMENTS[name](**kwargs) for name, kwargs in wanted.items()}
    if not made:
        return None
    erase, mix = made.get("random_erasing"), made.get("mixup_cutmix")
    if mix and batch is not None:
        check_groups(mix.groups, batch)
    mix_first = mix is not None and mix.order == "mix_first"

    def augment(key, images, targets, normalize=lambda images: images):
        erase_key, mix_key = jax.random.split(key)
        if mix_first:
            images, targets = mix(mix_key, images, targets)
        images = normalize(images)
        if erase:
            images = erase(erase_key, images)
        if mix and not mix_first:
            images, targets = mix(mix_key, images, targets)
        return images, targets

    return augment
