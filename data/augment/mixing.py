"""Augmentation on the device, inside the jitted step: random erasing, mixup and cutmix.

Each entry of `DEVICE_AUGMENTS` is a function of keyword arguments (a section of the recipe) that
returns a pure function of a key and a batch. Images are floating point [b, h, w, c], already
normalised; targets are float32 [b, classes], already smoothed, with rows that sum to one. Shapes
are static, boxes are masks from comparisons, and nothing depends on how the batch lies over the
devices.

    b batch   h, w height and width in pixels   c channels   n either b or 1: draws of a batch
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from data.augment.erasing import box_masks, random_erasing
from harness.arguments import check_range, problem

Augment = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def _nest_draw(key: jax.Array, alpha: jax.Array, batch: int, height: int, width: int):
    """One weight and one box per image; the box holds the image's own pixels."""
    weight_key, place_key = jax.random.split(key)
    share = jax.random.uniform(weight_key, (batch,)) ** (1 / alpha) / 2  # in [0, 1/2)
    box_height = jnp.floor(jnp.sqrt(share) * height)
    box_width = jnp.floor(jnp.sqrt(share) * width)
    draws = jax.random.uniform(place_key, (2, batch))
    top = jnp.floor(draws[0] * (height - box_height + 1))
    left = jnp.floor(draws[1] * (width - box_width + 1))
    own = box_masks(top, top + box_height, left, left + box_width, height, width)
    return 1 - share, own


def _timm_draw(key: jax.Array, alpha: jax.Array, batch: int, height: int, width: int):
    """One weight and one box for the whole batch; the box holds the partner's pixels."""
    weight_key, place_key = jax.random.split(key)
    weight = jax.random.beta(weight_key, alpha, alpha, (1,))
    side = jnp.sqrt(1 - weight)
    # Twice the half: an odd side loses a pixel, as it does in timm.
    half_height = jnp.floor(jnp.floor(side * height) / 2)
    half_width = jnp.floor(jnp.floor(side * width) / 2)
    draws = jax.random.uniform(place_key, (2, 1))
    y, x = jnp.floor(draws[0] * height), jnp.floor(draws[1] * width)
    partner = box_masks(
        y - half_height, y + half_height, x - half_width, x + half_width, height, width
    )
    return weight, ~partner


DRAWS = {"nest": _nest_draw, "timm": _timm_draw}


def mixup_cutmix(
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    probability: float = 1.0,
    switch_probability: float = 0.5,
    draw: Literal["nest", "timm"] = "nest",
) -> Augment:
    """Mixes each image and its target with another of the batch, by mixup or by cutmix.

    The partner of image i is image b - 1 - i; the middle one of an odd batch is its own. Mixup adds
    the two, weighted; cutmix takes a box from one and the rest from the other. One of them is drawn
    per batch. The partner's weight is one minus the image's own, which is

    - "nest" (official NesT, augment/augment_ops.py), with m = u^(1/alpha) / 2, u uniform, drawn per
      image. Not a Beta distribution, though it is called one there. Mixup: 1 - m. Cutmix:
      a box with sides sqrt(m) of the image's, rounded down to pixels, keeps the image itself.
    - "timm" (timm/data/mixup.py, mode "batch"), with m from Beta(alpha, alpha), drawn per batch.
      Mixup: m. Cutmix: a box with sides sqrt(1 - m) of the image's shows the partner; its centre is
      anywhere and it is cut at the borders.

    In cutmix the target's weight is the share of pixels that the image has of itself: the pixels
    are counted after rounding and cutting, as in timm. The official NesT code weighs targets by m,
    which is more than the rounded box has: by up to 0.042 on 32 x 32 pixels, 0.0063 on 224 x 224.
    Further differences from it: its partner in mixup is a random permutation, its boxes never reach
    the last row and column and are spread unevenly, and it works on a host's part of the batch.
    timm draws once for each GPU's batch; here it is once for the global batch.

    Args:
        mixup_alpha: of mixup's weight; 0 for no mixup.
        cutmix_alpha: of cutmix's weight; 0 for no cutmix.
        probability: of a batch to be mixed at all.
        switch_probability: of cutmix rather than mixup, where both are on.
        draw: "nest" or "timm".

    Returns:
        `mix(key, images, targets) -> (images, targets)` of the same shapes and types.

    Raises:
        ValueError: a value is out of range, or both alphas are 0.

    Reference: Zhang et al., arXiv 1710.09412; Yun et al., arXiv 1905.04899.
    """
    key = "config.device_augment.mixup_cutmix"
    check_range(f"{key}.mixup_alpha", mixup_alpha, 0, 100)
    check_range(f"{key}.cutmix_alpha", cutmix_alpha, 0, 100)
    check_range(f"{key}.probability", probability, 0, 1)
    check_range(f"{key}.switch_probability", switch_probability, 0, 1)
    if not mixup_alpha and not cutmix_alpha:
        what = "cutmix_alpha is 0 as well; set one of them, or mixup_cutmix=None"
        raise ValueError(problem(f"{key}.mixup_alpha", mixup_alpha, what))
    cutmix_probability = switch_probability
    if not mixup_alpha or not cutmix_alpha:
        cutmix_probability = 1.0 if cutmix_alpha else 0.0

    def mix(key: jax.Array, images: jax.Array, targets: jax.Array):
        batch, height, width, _ = images.shape
        switch_key, draw_key = jax.random.split(key)
        draws = jax.random.uniform(switch_key, (2,))
        is_on, is_cutmix = draws < jnp.array([probability, cutmix_probability])
        alpha = jnp.where(is_cutmix, cutmix_alpha, mixup_alpha)
        mixup_weight, own = DRAWS[draw](draw_key, alpha, batch, height, width)  # [n], [n, h, w]
        weight = jnp.where(is_cutmix, own.mean((1, 2), dtype=jnp.float32), mixup_weight)
        weight = jnp.where(is_on, weight, 1.0)[:, None]  # [n, 1]
        # One weighted sum for both, with a map of weights: no branch and one pass over the images.
        weights = jnp.where(is_cutmix, own, mixup_weight[:, None, None])
        weights = jnp.where(is_on, weights, 1.0)[..., None]  # [n, h, w, 1]
        mixed = images * weights + images[::-1] * (1 - weights)
        return mixed.astype(images.dtype), targets * weight + targets[::-1] * (1 - weight)

    return mix


DEVICE_AUGMENTS: dict[str, Callable[..., Any]] = {
    "random_erasing": random_erasing,
    "mixup_cutmix": mixup_cutmix,
}


def create_device_augment(section: Mapping[str, Any] | None) -> Augment | None:
    """Builds the augmentation of a recipe: erase, then mix. Touches no device.

    Args:
        section: name in `DEVICE_AUGMENTS` -> its keyword arguments, or None for one that is off;
            names and types as harness.strict_config.check_subsections has checked them.

    Returns:
        `augment(key, images, targets) -> (images, targets)`, or None when all is off.

    Raises:
        ValueError: a value is out of range.
    """
    wanted = {name: kwargs for name, kwargs in (section or {}).items() if kwargs is not None}
    made = {name: DEVICE_AUGMENTS[name](**kwargs) for name, kwargs in wanted.items()}
    if not made:
        return None

    def augment(key: jax.Array, images: jax.Array, targets: jax.Array):
        erase_key, mix_key = jax.random.split(key)
        if "random_erasing" in made:
            images = made["random_erasing"](erase_key, images)
        if "mixup_cutmix" in made:
            images, targets = made["mixup_cutmix"](mix_key, images, targets)
        return images, targets

    return augment
