"""From the scores of the classes to a mask for each: convolutions that all classes share.

Shape letters: b batch, k classes, s heads of the scores, h and w sides of a map, c channels.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from kernels.precision import at_least_float32
from layers.dense import Dense
from layers.initializers import fan_in_uniform


def resize(x: Array, sides: tuple[int, int]) -> Array:
    """Resizes maps linearly; the centres of the corner pixels stay in place.

    Args:
        x: [b, h, w, c].
        sides: height and width of the result.

    Reference:
        PyTorch's interpolate with mode="bilinear", align_corners=True.
    """
    rows, columns = (_weights(*pair) for pair in zip(x.shape[1:3], sides, strict=True))
    rows, columns = rows.astype(x.dtype), columns.astype(x.dtype)
    return jnp.einsum("ph,qw,bhwc->bpqc", rows, columns, x)  # [b, *sides, c]


def _weights(source: int, target: int) -> np.ndarray:
    """Returns what each source adds to each target, float32 [target, source]."""
    at = np.linspace(0, source - 1, target)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(source))).astype(np.float32)


class Depthwise(nn.Module):
    """3x3 convolution of each channel by itself, with the parameters of `nn.Conv`.

    As nine products: XLA's own is several times slower on a CPU, and no faster elsewhere, where
    memory limits both.

    Attributes:
        dtype: computation type; parameters stay float32.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to the same."""
        _, h, w, c = x.shape
        kernel = self.param("kernel", fan_in_uniform, (3, 3, 1, c)).astype(self.dtype)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
        places = [(row, column) for row in range(3) for column in range(3)]
        return sum(x[:, i : i + h, j : j + w] * kernel[i, j, 0] for i, j in places)


class ConvNorm(nn.Module):
    """Convolution without a bias, batch norm, ReLU.

    Attributes:
        dim: channels of the result; None: a 3x3 convolution of each channel by itself instead of a
            1x1 convolution.
        dtype: computation type; parameters and statistics stay float32.
    """

    dim: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [b, h, w, channels] to [b, h, w, dim]."""
        if self.dim is None:
            x = Depthwise(self.dtype, name="conv")(x)
        else:
            options = {"dtype": self.dtype, "kernel_init": fan_in_uniform}
            x = Dense(self.dim, use_bias=False, **options, name="conv")(x)
        # PyTorch's momentum of 0.1 and its epsilon, as in baselines/resnet.py.
        norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name="norm")
        return nn.relu(norm(x))


class MaskHead(nn.Module):
    """A mask for each class, out of its scores, the map they were computed on, and a finer map.

    Weights start as PyTorch's, which the released code keeps.

    Attributes:
        dim: channels inside.
        dtype: computation type; parameters stay float32.

    Reference:
        Trans2Seg paper, section 3.3; official segmentron/models/trans2seg.py, TransformerHead.
    """

    dim: int
    dtype: Any

    @nn.compact
    def __call__(self, scores: Array, coarse: Array, fine: Array | None, train: bool) -> Array:
        """Computes the masks.

        Args:
            scores: [b, k, s, h * w].
            coarse: [b, h, w, c], on which they were computed.
            fine: [b, height, width, any], for masks of its size; None: masks of the coarse map's.
            train: whether batch norms use the batch's statistics.

        Returns:
            Logits, [b, height, width, k], float32.
        """
        b, k, s, _ = scores.shape
        h, w = coarse.shape[1:3]
        scores = scores.reshape(b * k, s, h, w).transpose(0, 2, 3, 1).astype(self.dtype)
        each = partial(self._for_each_class, num_classes=k)
        x = jnp.concatenate([each(coarse), scores], axis=-1)  # [b * k, h, w, c + s]
        x = self._separable(x, "conv1", train)
        x = self._separable(x, "conv2", train)  # [b * k, h, w, dim]
        if fine is not None:
            x = resize(x, fine.shape[1:3])
            detail = ConvNorm(self.dim, self.dtype, name="fine")(fine, train)
            x = x + each(detail)
        x = self._separable(x, "conv3", train)
        x = Dense(1, dtype=self.dtype, kernel_init=fan_in_uniform, name="mask")(
            x
        )  # [b * k, height, width, 1]
        x = x.reshape(b, k, *x.shape[1:3]).transpose(0, 2, 3, 1)  # [b, height, width, k]
        return x.astype(at_least_float32(x))

    def _separable(self, x: Array, name: str, train: bool) -> Array:
        depthwise = ConvNorm(None, self.dtype, name=f"{name}_depthwise")
        pointwise = ConvNorm(self.dim, self.dtype, name=f"{name}_pointwise")
        return pointwise(depthwise(x, train), train)

    def _for_each_class(self, x: Array, num_classes: int) -> Array:
        """Maps [b, ...] to [b * k, ...]: the same for every class of an image."""
        return jnp.repeat(x, num_classes, axis=0)
