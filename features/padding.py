"""Images of any size: padded to one that fits a classifier, with a mask of what is image.

Shape letters: b batch, h and w sides of a map in tokens.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from features.map_infos import offer_of
from layers.field_checks import nearest_sizes
from zoo.fit import position_tables, resize_table


def fitting_size(model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the smallest (height, width) in pixels, no smaller than `size`, that fits a model."""
    offer = offer_of(model)
    height, width = (nearest_sizes(side, offer.step, offer.smallest)[-1] for side in size)
    return height, width


def pad_images(images: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """Pads images with zeros, below and on the right.

    Args:
        images: [b, height, width, channels], normalised: a zero is the mean pixel.
        size: (height, width) of the result.

    Returns:
        Images [b, *size, channels], and [b, *size], bool: True where there is image.
    """
    b, height, width, _ = images.shape
    rows, columns = size[0] - height, size[1] - width
    mask = jnp.ones((b, height, width), bool)
    margin = ((0, 0), (0, rows), (0, columns))
    return jnp.pad(images, (*margin, (0, 0))), jnp.pad(mask, margin)


def map_mask(mask: Array, sides: tuple[int, int]) -> Array:
    """Returns which tokens of a map see any of the image.

    Args:
        mask: [b, height, width], bool: True where there is image, from the upper left corner on.
        sides: (h, w) of the map.

    Returns:
        [b, h, w], bool. An image has a token at least.
    """
    # The first pixel that belongs to a token is image if any of them is.
    rows, columns = (
        np.arange(side) * size // side for side, size in zip(sides, mask.shape[1:], strict=True)
    )
    return mask[:, rows][:, :, columns]  # [b, h, w]


def with_positions_for(
    params: Mapping[str, Any],
    model: nn.Module,
    *,
    image_size: tuple[int, int],
    stored_size: tuple[int, int],
) -> dict[str, Any]:
    """Interpolates the position tables of a classifier for images of another size.

    Args:
        params: of the classifier or of a `Backbone`, with tables for images of `stored_size`.
        model: the classifier.
        image_size, stored_size: (height, width) in pixels.

    Returns:
        The parameters with tables for images of `image_size`.

    Raises:
        ValueError: one of the sizes does not fit the model.
    """
    flat = flatten_dict(params, sep="/")
    stored = position_tables(model, stored_size)
    for name, table in position_tables(model, image_size).items():
        source = stored[name].plane
        if name in flat and source != table.plane:
            flat[name] = jnp.asarray(resize_table(jax.device_get(flat[name]), table, None, source))
    return unflatten_dict(flat, sep="/")
