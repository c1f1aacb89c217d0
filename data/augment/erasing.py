"""Random erasing on the device, and the boxes that it shares with mixing.py.

b batch   h, w height and width in pixels   n number of boxes
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from harness.arguments import check_interval, check_range

Erase = Callable[[jax.Array, jax.Array], jax.Array]

ERASE_ATTEMPTS = 10  # timm/data/random_erasing.py


def box_masks(top, bottom, left, right, height: int, width: int) -> jax.Array:
    """Masks [n, h, w] of the pixels with top <= y < bottom and left <= x < right, all [n]."""
    y = jnp.arange(height, dtype=jnp.float32)
    x = jnp.arange(width, dtype=jnp.float32)
    rows = (y >= top[:, None]) & (y < bottom[:, None])  # [n, h]
    columns = (x >= left[:, None]) & (x < right[:, None])  # [n, w]
    return rows[:, :, None] & columns[:, None, :]


def _place_inside(draws, sizes, height: int, width: int):
    """The first size of ERASE_ATTEMPTS that fits, anywhere inside the image."""
    box_heights, box_widths = jnp.round(sizes)  # [n, attempts] each
    fits = (box_heights < height) & (box_widths < width)
    # A sum over one that is not zero, instead of a gather; none that fits leaves an empty box.
    first = fits & (jnp.cumsum(fits, axis=1) == 1)
    box_height = jnp.sum(box_heights * first, axis=1)
    box_width = jnp.sum(box_widths * first, axis=1)
    top = jnp.floor(draws[0] * (height - box_height + 1))
    left = jnp.floor(draws[1] * (width - box_width + 1))
    return box_masks(top, top + box_height, left, left + box_width, height, width)


def _place_clipped(draws, sizes, height: int, width: int):
    """The first size, its centre anywhere in the image; what sticks out of the image is lost."""
    box_height, box_width = sizes[:, :, 0]
    y, x = draws[0] * height, draws[1] * width
    return box_masks(
        y - box_height / 2, y + box_height / 2, x - box_width / 2, x + box_width / 2, height, width
    )


PLACEMENTS = {"inside": _place_inside, "clipped": _place_clipped}


def random_erasing(
    *,
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    placement: Literal["inside", "clipped"] = "inside",
) -> Erase:
    """Fills one box of an image with independent standard normal noise per pixel and channel.

    The area is drawn uniformly, the logarithm of the aspect uniformly, and then

    - "inside" (timm, mode "pixel", count 1): sides are rounded to whole pixels, sizes that do not
      fit are drawn again up to ten times in all (all at once here, the first that fits is taken),
      and the box is anywhere inside the image. The distribution is timm's; large and long boxes
      are rarer than drawn, as they fit less often. If none fits, the image stays as it is.
    - "clipped" (official NesT): the centre is anywhere in the image and the box is cut at the
      borders, so that what is erased is smaller than drawn for most large boxes. The distribution
      is the official one on square images.

    Args:
        probability: of each image to be erased.
        area: lowest and highest share of the image.
        aspect: lowest and highest height / width of the box, in pixels.
        placement: "inside" or "clipped".

    Returns:
        `erase(key, images) -> images` of the same shape and type. The noise is drawn in float32.

    Raises:
        ValueError: a value is out of range.

    Reference: Zhong et al., arXiv 1708.04896; timm/data/random_erasing.py; augment/augment_ops.py
    of google-research/nested-transformer.
    """
    key = "config.device_augment.random_erasing"
    check_range(f"{key}.probability", probability, 0, 1)
    check_interval(f"{key}.area", area, 0.0, 1.0)
    check_interval(f"{key}.aspect", aspect, 1e-3, 1e3)
    place = PLACEMENTS[placement]
    log_aspect = (math.log(aspect[0]), math.log(aspect[1]))

    def erase(key: jax.Array, images: jax.Array) -> jax.Array:
        batch, height, width, _ = images.shape
        size_key, place_key, noise_key = jax.random.split(key, 3)
        uniform = jax.random.uniform(size_key, (2, batch, ERASE_ATTEMPTS))
        pixels = (area[0] + (area[1] - area[0]) * uniform[0]) * (height * width)
        ratio = jnp.exp(log_aspect[0] + (log_aspect[1] - log_aspect[0]) * uniform[1])
        sizes = jnp.sqrt(jnp.stack([pixels * ratio, pixels / ratio]))  # [2, b, attempts]
        draws = jax.random.uniform(place_key, (3, batch))
        mask = place(draws[:2], sizes, height, width)
        mask &= (draws[2] < probability)[:, None, None]
        noise = jax.random.normal(noise_key, images.shape).astype(images.dtype)
        return jnp.where(mask[..., None], noise, images)

    return erase
