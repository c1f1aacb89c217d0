"""Trans2Seg's transformer decoder: each class asks the image where it is.

Words of the paper (arXiv 2101.08461):
    class embedding    a learned vector for each class, the query of the decoder.
    scores             what a class's query gives with the token of each place, before a softmax.

Shape letters: b batch, k classes, n tokens of the image, h heads, d channels of a head, c = h * d.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels.precision import at_least_float32
from layers.dense import Dense
from layers.initializers import glorot_uniform, truncated_normal
from layers.layer_norm import LayerNorm
from layers.mlp import Mlp

EPSILON = 1e-5
MAP_MLP_RATIO = 3  # of the perceptron on the scores of all places


class ClassAttention(nn.Module):
    """Attention of the classes to the image, which also hands its scores on.

    Attributes:
        num_heads: h.
        values: whether the classes take something from the image, or only scores are wanted.
        dtype: computation type; parameters stay float32.

    Reference:
        Trans2Seg paper, section 3.2; official segmentron/modules/transformer.py, Attention_Decoder.
    """

    num_heads: int
    values: bool
    dtype: Any

    @nn.compact
    def __call__(self, queries: Array, tokens: Array) -> tuple[Array | None, Array]:
        """Maps queries [b, k, c] and tokens [b, n, c] to queries, or None, and scores [b, k, h, n].

        The scores are float32.
        """
        b, k, c = queries.shape
        h, d = self.num_heads, c // self.num_heads
        dense = partial(Dense, dtype=self.dtype, kernel_init=glorot_uniform)

        def project(x: Array, features: int | tuple[int, int], name: str) -> Array:
            return dense(features, use_bias=False, name=name)(x)

        # As released: the vectors of all classes, one after the other, are cut into h parts, so
        # that a head's query of a class comes from the vector of another. Below they are put
        # together again in the same way.
        query = project(queries, c, "query").reshape(b, h, k, d)
        key = project(tokens, (h, d), "key")  # [b, n, h, d]
        scores = jnp.einsum("bhkd,bnhd->bhkn", query, key)
        scores = scores.astype(at_least_float32(scores)) * d**-0.5  # [b, h, k, n]
        x = None
        if self.values:
            value = project(tokens, (h, d), "value")  # [b, n, h, d]
            weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
            x = jnp.einsum("bhkn,bnhd->bhkd", weights, value).reshape(b, k, c)
            x = dense(c, name="out")(x)
        return x, scores.transpose(0, 2, 1, 3)


class ClassDecoder(nn.Module):
    """Layers of attention of the classes to the image; the last one's scores are the result.

    As released, what a layer finds takes the place of the queries, and wherever the paper has a
    residual branch without a function of its own, the released code adds its input to itself.
    Dense layers start by Xavier, as PVT (arXiv 2102.12122, section 5.3) says of all that is new.
    Released weights that lead to no result (the values of the last layer, the perceptrons on the
    scores of the others) are left out.

    Attributes:
        num_classes: k.
        num_layers: of the decoder.
        num_heads: attention heads, h.
        mlp_ratio: hidden width of the perceptrons on queries and tokens, in multiples of c.
        dtype: computation type; parameters stay float32.

    Reference:
        Official segmentron/modules/transformer.py, Block_Decoder and forward_decoder.
    """

    num_classes: int
    num_layers: int
    num_heads: int
    mlp_ratio: float
    dtype: Any

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Maps tokens [b, n, c] to scores [b, k, h, n], float32."""
        b, n, c = tokens.shape
        embedding = self.param("class_embedding", truncated_normal, (self.num_classes, c))
        embedding = jnp.broadcast_to(embedding.astype(self.dtype), (b, self.num_classes, c))
        queries = embedding
        for layer in range(1, self.num_layers + 1):
            is_last, name = layer == self.num_layers, f"layer{layer}"
            x, scores = ClassAttention(
                self.num_heads, not is_last, self.dtype, name=f"{name}_attention"
            )(
                self._norm(queries, f"{name}_norm_queries"),
                self._norm(tokens, f"{name}_norm_tokens"),
            )
            if is_last:
                break
            queries, tokens = (
                2 * y + self._mlp(2 * y, c * self.mlp_ratio, f"{name}_{of}_mlp")
                for y, of in ((x, "queries"), (tokens, "tokens"))
            )
            queries = queries + embedding
        # Over the places: the only part that is tied to the size of the map.
        return 2 * scores + self._mlp(2 * scores, MAP_MLP_RATIO * n, "scores_mlp")

    def _norm(self, x: Array, name: str) -> Array:
        return LayerNorm(EPSILON, self.dtype, name=name)(x)

    def _mlp(self, x: Array, hidden_dim: float, name: str) -> Array:
        x = self._norm(x, f"{name}_norm")
        mlp = Mlp(int(hidden_dim), dtype=self.dtype, kernel_init=glorot_uniform, name=name)
        return mlp(x, deterministic=True)
