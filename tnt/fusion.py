"""From the words of a sentence to what TNT adds to the sentence before each outer block.

The words of a sentence are concatenated into one vector and projected to the sentence's width. The
three fusions differ in their layer norms; the paper's has none.

Shape letters: b batch, n sentences, m words of a sentence, c channels of a word, d of a sentence.
"""

from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels.target import Kernels
from layers.initializers import truncated_normal
from layers.layer_norm import LayerNorm
from tnt.block import LAYER_NORM_EPSILON


class Fusion(nn.Module):
    """What all fusions have in common: their fields and the layers that they are made of.

    Attributes:
        dim: channels of a sentence, d.
        dtype: computation type; parameters stay float32.
        kernels: "auto", or "plain" for the forms that define the numbers.
    """

    dim: int
    dtype: Any = jnp.float32
    kernels: Kernels = "auto"

    def _norm(self, x: Array, name: str) -> Array:
        return LayerNorm(LAYER_NORM_EPSILON, self.dtype, self.kernels, name=name)(x)

    def _project(self, x: Array, use_bias: bool) -> Array:
        return nn.Dense(
            self.dim,
            use_bias=use_bias,
            dtype=self.dtype,
            kernel_init=truncated_normal,
            name="projection",
        )(x)


class NormProjectNorm(Fusion):
    """Layer norm over all words at once, projection, layer norm: the released models.

    Attributes:
        use_bias: whether the projection has a bias; only the one that starts the sentences does.

    Reference:
        Official tnt_pytorch/tnt.py, Block and TNT: proj_norm1, proj, proj_norm2.
    """

    use_bias: bool = False

    @nn.compact
    def __call__(self, words: Array) -> Array:
        """Maps [b, n, m, c] to [b, n, d]."""
        x = words.reshape(*words.shape[:2], -1)  # [b, n, m * c]
        x = self._project(self._norm(x, "norm_words"), self.use_bias)
        return self._norm(x, "norm_sentences")  # [b, n, d]


class WordNormProject(Fusion):
    """Layer norm of each word by itself, then a projection: timm's first port.

    Reference:
        timm/models/tnt.py, Block with legacy=True.
    """

    @nn.compact
    def __call__(self, words: Array) -> Array:
        """Maps [b, n, m, c] to [b, n, d]."""
        x = self._norm(words, "norm_words")  # [b, n, m, c]
        return self._project(x.reshape(*x.shape[:2], -1), use_bias=True)  # [b, n, d]


class Project(Fusion):
    """A projection alone: the paper.

    Reference:
        TNT paper, section 2.2.
    """

    @nn.compact
    def __call__(self, words: Array) -> Array:
        """Maps [b, n, m, c] to [b, n, d]."""
        return self._project(words.reshape(*words.shape[:2], -1), use_bias=True)  # [b, n, d]


FusionName = Literal["released", "legacy", "paper"]
FUSIONS = {
    "released": NormProjectNorm,
    "legacy": WordNormProject,
    "paper": Project,
}
