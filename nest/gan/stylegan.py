"""The parts that `ConvDiscriminator` is built from, and the two designs that combine them.

Shape letters: b batch, h and w sides of a map, c channels, f images per group of the minibatch
deviation.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.nn.initializers import Initializer

# Weights of variance 1 / inputs go with an activation that preserves the variance. StyleGAN2 draws
# them with variance 1 and scales them in the forward pass ("equalized learning rate"), which is the
# same function at the start. Here, the same learning rate makes Adam's steps larger by the square
# root of the inputs: take 1e-4 or 2e-4 rather than StyleGAN2's 2e-3.
discriminator_kernel = nn.initializers.lecun_normal()


def plain_leaky_relu(x: Array) -> Array:
    """Leaky ReLU of slope 0.2."""
    return nn.leaky_relu(x, 0.2)


def scaled_leaky_relu(x: Array) -> Array:
    """Leaky ReLU of slope 0.2, times sqrt(2)."""
    return plain_leaky_relu(x) * 2**0.5


class Design(NamedTuple):
    """In what convolutional discriminators of the same blocks differ.

    Attributes:
        first_kernel: side of the convolution of the pixels.
        activation: after each layer but the skips and the head.
        kernel_init: initial values of all kernels.
        has_deviation: whether the minibatch deviation enters before the last convolution.
    """

    first_kernel: int
    activation: Callable[[Array], Array]
    kernel_init: Initializer
    has_deviation: bool


DesignName = Literal["stylegan2", "hit_gan"]
DESIGNS = {
    # Karras et al., arXiv 1912.04958, figure 7c and section 4.
    "stylegan2": Design(1, scaled_leaky_relu, discriminator_kernel, has_deviation=True),
    # google-research/hit-gan, commit 06d310c: models/discriminators.py with what run.py sets
    # (blur_resample; no equalized learning rate, no minibatch deviation) and Keras' initial values.
    "hit_gan": Design(3, plain_leaky_relu, nn.initializers.glorot_uniform(), has_deviation=False),
}


def blur_pool(x: Array) -> Array:
    """Halves a map after a low-pass filter, so that a shift by a pixel changes it little.

    The filter is [1, 3, 3, 1] / 8 along each axis, with zeros around the map; the four taps of an
    output are centred on the two pixels that it replaces.

    Args:
        x: [b, h, w, c] with even h and w.

    Returns:
        [b, h/2, w/2, c].

    Reference:
        Zhang, "Making Convolutional Networks Shift-Invariant Again", arXiv 1904.11486; the filter
        of StyleGAN2, arXiv 1912.04958.
    """
    zero = jnp.zeros((), x.dtype)
    for axis in (1, 2):
        # Slices, because a depthwise convolution is slow on CPU, its gradient above all.
        even, odd = (lax.slice_in_dim(x, i, None, stride=2, axis=axis) for i in range(2))
        before, after = (
            lax.pad(part, zero, [move if i == axis else (0, 0, 0) for i in range(x.ndim)])
            for part, move in ((odd, (1, -1, 0)), (even, (-1, 1, 0)))
        )
        x = (before + 3 * (even + odd) + after) / 8
    return x  # [b, h/2, w/2, c]


def minibatch_deviation(x: Array, group_size: int) -> Array:
    """Appends a channel that says how much the images of a group differ.

    The standard deviation over a group's images, averaged over places and channels, fills the
    new channel. Groups are neighbours in the batch, so that devices with a
    multiple of the group each need no exchange.

    Args:
        x: [b, h, w, c].
        group_size: images per group; a smaller batch is one group.

    Returns:
        [b, h, w, c + 1].

    Raises:
        ValueError: if the groups do not divide the batch.

    Reference:
        Karras et al., "Progressive Growing of GANs", arXiv 1710.10196, section 3.
    """
    b, h, w, c = x.shape
    f = min(group_size, b)
    if b % f:
        raise ValueError(f"batch of {b} images is not a multiple of deviation_group={group_size}")
    groups = x.astype(jnp.float32).reshape(b // f, f, h, w, c)  # [b/f, f, h, w, c]
    # 1e-8 keeps the gradient finite where all images of a group are equal.
    deviation = jnp.sqrt(groups.var(axis=1) + 1e-8).mean(axis=(1, 2, 3))  # [b/f]
    deviation = jnp.repeat(deviation, f).astype(x.dtype)  # [b]
    deviation = jnp.broadcast_to(deviation[:, None, None, None], (b, h, w, 1))  # [b, h, w, 1]
    return jnp.concatenate([x, deviation], axis=-1)  # [b, h, w, c + 1]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a blur-pool, plus a skip of a blur-pool and a projection.

    StyleGAN2 has the stride in the second convolution, after a blur; here it is in the blur.

    Attributes:
        dim: channels of the result.
        activation, kernel_init: as in `Design`.
        dtype: computation type; parameters stay float32.

    Reference:
        Karras et al., arXiv 1912.04958, figure 7c.
    """

    dim: int
    activation: Callable[[Array], Array] = scaled_leaky_relu
    kernel_init: Initializer = discriminator_kernel
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, h/2, w/2, dim]."""
        skip = nn.Conv(
            self.dim,
            kernel_size=(1, 1),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name="skip",
        )(blur_pool(x))  # [b, h/2, w/2, dim]
        x = self.activation(self._conv3x3(x.shape[-1], "conv1")(x))  # [b, h, w, c]
        x = blur_pool(x)  # [b, h/2, w/2, c]
        x = self.activation(self._conv3x3(self.dim, "conv2")(x))  # [b, h/2, w/2, dim]
        return (x + skip) / 2**0.5

    def _conv3x3(self, dim: int, name: str) -> nn.Conv:
        return conv3x3(dim, self.kernel_init, self.dtype, name)


def conv3x3(dim: int, kernel_init: Initializer, dtype: Any, name: str) -> nn.Conv:
    """Returns a 3x3 convolution that keeps the sides of the map."""
    return nn.Conv(dim, kernel_size=(3, 3), dtype=dtype, kernel_init=kernel_init, name=name)
