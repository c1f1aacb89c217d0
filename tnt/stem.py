"""From an image to the words of its sentences: the first step of TNT.

Every stem maps an image [b, h, w, channels] to words [b, n, m, c]; a field of the model chooses
one. Sentences are numbered row by row over the image, words row by row inside a patch.

Shape letters: b batch, h and w sides of the image in pixels, gh and gw sides of the grid of
patches, n = gh * gw patches, p side of a patch, m words of a patch, s side of a word, c channels.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from layers.initializers import truncated_normal

# PyTorch's default initialisation of a convolution, which the released code keeps: kernel and bias
# are uniform within 1 / sqrt(fan_in).
uniform_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def uniform_bias(key: Array, shape: tuple[int, ...], dtype: Any, fan_in: int) -> Array:
    """Draws a bias between -1 / sqrt(fan_in) and 1 / sqrt(fan_in)."""
    return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)


def patches(x: Array, size: int, stride: int) -> Array:
    """Cuts a plane into square patches, which overlap if the stride is smaller than the size.

    Args:
        x: [b, h, w, channels]; h and w are each size plus a multiple of stride.
        size: side of a patch.
        stride: distance between neighbouring patches.

    Returns:
        [b, n, size, size, channels].
    """
    b, h, w, channels = x.shape
    gh, gw = ((side - size) // stride + 1 for side in (h, w))
    if stride == size:
        x = x.reshape(b, gh, size, gw, size, channels)
    else:
        rows, columns = (np.arange(grid)[:, None] * stride + np.arange(size) for grid in (gh, gw))
        x = x[:, rows][:, :, :, columns]
    x = x.transpose(0, 1, 3, 2, 4, 5)  # [b, gh, gw, size, size, channels]
    return x.reshape(b, gh * gw, size, size, channels)  # [b, n, size, size, channels]


class Stem(nn.Module):
    """What all stems have in common: their fields and the convolution.

    Attributes:
        dim: channels of a word.
        patch_size: side of a patch in pixels.
        patch_stride: distance between neighbouring patches in pixels.
        word_size: side of a word in pixels.
        dtype: computation type; parameters stay float32.
    """

    dim: int
    patch_size: int
    patch_stride: int
    word_size: int
    dtype: Any = jnp.float32

    def _conv(self, x: Array) -> Array:
        """Convolves with a stride of one word: [..., h, w, channels] to [..., h/s, w/s, c]."""
        fan_in = 7 * 7 * x.shape[-1]
        return nn.Conv(
            self.dim,
            kernel_size=(7, 7),
            strides=(self.word_size, self.word_size),
            padding=((3, 3), (3, 3)),
            dtype=self.dtype,
            kernel_init=uniform_kernel,
            bias_init=lambda key, shape, dtype: uniform_bias(key, shape, dtype, fan_in),
            name="projection",
        )(x)


class ConvOnPatches(Stem):
    """7x7 convolution on each patch by itself, padded with zeros: the released models.

    Reference:
        Official tnt_pytorch/tnt.py, PatchEmbed.
    """

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Maps [b, h, w, channels] to [b, n, m, c]."""
        x = patches(images, self.patch_size, self.patch_stride)  # [b, n, p, p, channels]
        b, n, p, _, channels = x.shape
        x = self._conv(x.reshape(b * n, p, p, channels))  # [b * n, p/s, p/s, c]
        return x.reshape(b, n, -1, self.dim)  # [b, n, m, c]


class ConvOnImage(Stem):
    """7x7 convolution on the image, which is then cut into patches: words see their neighbours.

    Reference:
        timm's first port of TNT, timm/models/tnt.py, PixelEmbed with legacy=True.
    """

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Maps [b, h, w, channels] to [b, n, m, c]."""
        x = self._conv(images)  # [b, h/s, w/s, c]
        words, stride = self.patch_size // self.word_size, self.patch_stride // self.word_size
        x = patches(x, words, stride)  # [b, n, p/s, p/s, c]
        return x.reshape(*x.shape[:2], words**2, self.dim)  # [b, n, m, c]


class LinearWords(Stem):
    """A word is a linear map of its own s x s x channels pixel values: the paper.

    Reference:
        TNT paper, section 2.2.
    """

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Maps [b, h, w, channels] to [b, n, m, c]."""
        x = patches(images, self.patch_size, self.patch_stride)  # [b, n, p, p, channels]
        b, n, p, _, channels = x.shape
        s = self.word_size
        x = patches(x.reshape(b * n, p, p, channels), s, s)  # [b * n, m, s, s, channels]
        x = x.reshape(b, n, (p // s) ** 2, s * s * channels)  # [b, n, m, s * s * channels]
        return nn.Dense(
            self.dim, dtype=self.dtype, kernel_init=truncated_normal, name="projection"
        )(x)  # [b, n, m, c]


StemName = Literal["conv7", "conv7_image", "linear"]
STEMS = {
    "conv7": ConvOnPatches,
    "conv7_image": ConvOnImage,
    "linear": LinearWords,
}
