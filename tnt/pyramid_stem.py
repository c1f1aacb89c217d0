"""The convolutions of PyramidTNT: from the image to words and sentences, and to fewer of them.

Shape letters: b batch, h and w sides of a stage's plane in sentences, n = h * w sentences, m = 16
words of a sentence, c channels of a word, d channels of a sentence.
"""

from functools import partial
from typing import Any

from flax import linen as nn
from jax import Array

from kernels.target import Kernels
from layers.layer_norm import LayerNorm
from tnt.block import LAYER_NORM_EPSILON
from tnt.stem import patches

SIDE = 4  # of a sentence in words

# Official initialisation of a convolution: normal with variance 2 / (outputs of a filter).
_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(dim: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    """Returns a 3x3 convolution, padded as in PyTorch."""
    sides = {"kernel_size": (3, 3), "strides": (stride, stride), "padding": 1}
    return nn.Conv(dim, **sides, dtype=dtype, kernel_init=_conv_init, name=name)


class PyramidStem(nn.Module):
    """Convolutions from the image to the first words and sentences.

    Attributes:
        inner_dim: channels of a word, c.
        outer_dim: channels of a sentence, d.
        dtype: computation type; parameters and statistics stay float32.

    Reference:
        Official pyramid_tnt.py, Stem.
    """

    inner_dim: int
    outer_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, images: Array, train: bool) -> tuple[Array, Array]:
        """Maps [b, height, width, channels] to words [b, n, m, c] and sentences [b, h, w, d]."""
        conv = partial(self._conv, train=train)
        c = self.inner_dim
        x = conv(images, 2 * c, 2, "common")
        words = patches(conv(x, c, 1, "words"), SIDE, SIDE)  # [b, n, SIDE, SIDE, c]
        for number, dim, stride in ((1, 4 * c, 2), (2, 8 * c, 2), (3, self.outer_dim, 1)):
            x = conv(x, dim, stride, f"sentences{number}")
        return words.reshape(*words.shape[:2], SIDE**2, c), x

    def _conv(self, x: Array, dim: int, stride: int, name: str, train: bool) -> Array:
        x = _conv(dim, stride, self.dtype, f"{name}_conv")(x)
        # PyTorch's momentum of 0.1 and its epsilon, as in baselines/resnet.py.
        norm = nn.BatchNorm(
            not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name=f"{name}_norm"
        )
        return nn.relu(norm(x))


class Aggregation(nn.Module):
    """Layer norm and a convolution of stride 2.

    Attributes:
        dim: channels of the result.
        dtype: computation type; parameters stay float32.
        kernels: "auto", or "plain" for the forms that define the numbers.
    """

    dim: int
    dtype: Any
    kernels: Kernels

    def _norm(self, x: Array) -> Array:
        return LayerNorm(LAYER_NORM_EPSILON, self.dtype, self.kernels, name="norm")(x)

    def _conv(self, x: Array) -> Array:
        return _conv(self.dim, 2, self.dtype, "conv")(x)


class SentenceAggregation(Aggregation):
    """Makes one sentence of four.

    Reference:
        Official pyramid_tnt.py, SentenceAggregation.
    """

    @nn.compact
    def __call__(self, sentences: Array) -> Array:
        """Maps [b, h, w, d] to [b, h/2, w/2, dim]."""
        return self._conv(self._norm(sentences))


class WordAggregation(Aggregation):
    """Lays the words of four neighbouring sentences side by side, and makes one of four of them.

    Reference:
        Official pyramid_tnt.py, WordAggregation.
    """

    @nn.compact
    def __call__(self, words: Array, plane: tuple[int, int]) -> Array:
        """Maps [b, n, m, c], of sentences on a plane of (h, w), to [b, n/4, m, dim]."""
        b, _, m, c = words.shape
        h, w = plane
        x = self._norm(words).reshape(b, h // 2, 2, w // 2, 2, SIDE, SIDE, c)
        x = x.transpose(0, 1, 3, 2, 5, 4, 6, 7)  # [b, h/2, w/2, 2, SIDE, 2, SIDE, c]
        x = self._conv(x.reshape(-1, 2 * SIDE, 2 * SIDE, c))  # [b * n/4, SIDE, SIDE, dim]
        return x.reshape(b, -1, m, self.dim)  # [b, n/4, m, dim]
