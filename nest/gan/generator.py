"""The transposed NesT: a generator of images, NesT's tree upside down.

Words, in addition to those of nest/model.py:
    latent          the noise that one image is made from.
    level           transformer layers over all blocks, with shared weights, as in NesT. Levels are
                    numbered as they run: level 1 is the top of the tree, with one block.
    de-aggregation  the step between two levels: one block becomes four of the same size.

Shape letters: b batch, z latent channels, h and w sides of a level's plane in tokens, t blocks,
n tokens of a block, c channels, p side of a patch in pixels, k channels of an image.
"""

from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from kernels.target import Kernels
from layers.attention import Attention
from layers.drop_path import drop_path_rates
from layers.embeddings import PositionEmbedding
from layers.field_checks import (
    check_choices,
    check_counts,
    check_mlp_ratio,
    check_optional_counts,
    check_rates,
)
from layers.initializers import truncated_normal
from layers.layer_norm import LayerNorm
from layers.mlp import Gelu
from layers.remat import Remat, recomputed_layer
from layers.shared_fields import shared_fields
from layers.transformer_layer import LAYER_NORM_EPSILON, TransformerLayer
from nest.blocks import block, unblock
from nest.checks import check_levels
from nest.gan.checks import block_side, check_labels, check_shuffled_dims
from nest.gan.deaggregation import (
    DEAGGREGATIONS,
    DeaggregationName,
    keep_variance,
    pixel_shuffle,
)

ClassConditioning = Literal["concatenate", "add"]
CLASS_CONDITIONINGS = {
    "concatenate": lambda noise, classes: jnp.concatenate([noise, classes], axis=-1),
    "add": jnp.add,
}
OutputActivation = Literal["none", "tanh"]
OUTPUT_ACTIVATIONS = {"none": lambda x: x, "tanh": jnp.tanh}


class NestGenerator(nn.Module):
    """Makes images from noise by a hierarchy of NesT's transformer layers.

    [b, z] -> [b, 1, n, c1] -> [b, 4, n, c2] -> ... -> [b, t, n, p^2 * k] -> image. Attention never
    leaves a block. The result of each level's layers is sown as "intermediates" level1, level2, ...
    and the pixels of each token, before blocks become an image, as "pixels".

    Attributes:
        image_size: side of the images in pixels; a multiple of patch_size * 2^(levels - 1).
        dims: channels of each level, the top level with its one block first.
        depths: transformer layers of each level.
        num_heads: attention heads of each level.
        num_channels: channels of an image.
        latent_dim: channels of the noise.
        patch_size: side of the square of pixels that a token of the last level becomes.
        block_size: side of a block in tokens. None: what follows from the image size. If given, the
            image size must be patch_size * block_size * 2^(levels - 1).
        num_classes: classes of a conditional generator. None: it takes no labels.
        class_conditioning: how a class's embedding, as wide as the noise, meets it: "concatenate"
            or "add".
        mlp_ratio: hidden width of the perceptron, in multiples of a level's width.
        attention: "multi_head" or "multi_query".
        qkv_bias: whether query, key and value have a bias.
        deaggregation: a key of `nest.gan.deaggregation.DEAGGREGATIONS`.
        gelu: "tanh" or "exact".
        output_activation: "none" leaves the pixels unbounded, "tanh" keeps them in -1..1.
        drop_path_rate: drop-path rate of the last layer; it grows linearly from 0.
        dtype: computation type. Parameters and images are always float32.
        remat: what the backward pass recomputes, to save memory: "none", "attention", "dots" or
            "block", see layers/remat.py.
        kernels: "auto" for the fastest form of each operation, or "plain" for the ones that define
            the numbers.

    Reference:
        NesT paper, section on image generation. Its widths, depths, norm and training are not
        published as code; what it leaves open follows the classifier and HiT-GAN (arXiv
        2106.07631).
    """

    image_size: int
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    num_channels: int = 3
    latent_dim: int = 128
    patch_size: int = 1
    block_size: int | None = None
    num_classes: int | None = None
    class_conditioning: ClassConditioning = "concatenate"
    mlp_ratio: float = 4
    attention: Attention = "multi_head"
    qkv_bias: bool = True
    deaggregation: DeaggregationName = "pixel_shuffle"
    gelu: Gelu = "tanh"
    output_activation: OutputActivation = "none"
    drop_path_rate: float = 0.0
    dtype: Any = jnp.float32
    remat: Remat = "none"
    kernels: Kernels = "auto"

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the model is built."""
        check_counts(
            image_size=self.image_size,
            num_channels=self.num_channels,
            latent_dim=self.latent_dim,
            patch_size=self.patch_size,
        )
        check_optional_counts(num_classes=self.num_classes, block_size=self.block_size)
        check_levels(dims=self.dims, depths=self.depths, num_heads=self.num_heads)
        check_choices(self)
        check_rates(drop_path_rate=self.drop_path_rate)
        check_mlp_ratio(self.mlp_ratio, self.dims)
        self.block_side()
        check_shuffled_dims(self.dims, self.deaggregation)
        super().__post_init__()

    def block_side(self) -> int:
        """Returns the side of a block in tokens; ValueError if the image size does not fit."""
        return block_side(
            self.image_size,
            patch_size=self.patch_size,
            levels=len(self.dims),
            block_size=self.block_size,
        )

    @nn.compact
    def __call__(self, noise: Array, labels: Array | None = None, train: bool = False) -> Array:
        """Makes images.

        Args:
            noise: [b, latent_dim], of mean 0 and variance 1.
            labels: [b], integers; exactly if num_classes is given.
            train: whether drop path acts; it draws from the stream "dropout".

        Returns:
            Images, [b, image_size, image_size, num_channels], float32; black is -1 and white 1.

        Raises:
            AssertionError: if the noise has another shape.
            ValueError: if labels are missing or not asked for.
        """
        levels = len(self.dims)
        side = self.block_side()
        rates = iter(drop_path_rates(self.drop_path_rate, sum(self.depths)))
        shared = shared_fields(self, TransformerLayer, but=("num_heads", "drop_path_rate"))
        layer_class = recomputed_layer(TransformerLayer, self.remat, train=2)

        x = self._latent(noise, labels)  # [b, z], or [b, 2 * z] with a class
        x = nn.Dense(
            side * side * self.dims[0],
            dtype=self.dtype,
            kernel_init=keep_variance,
            name="latent_projection",
        )(x)  # [b, n * c]
        x = x.reshape(-1, 1, side * side, self.dims[0])  # [b, 1, n, c]
        for level in range(1, levels + 1):
            x = PositionEmbedding(self.dtype, name=f"level{level}_position")(x)
            for layer in range(1, self.depths[level - 1] + 1):
                x = layer_class(
                    **shared,
                    num_heads=self.num_heads[level - 1],
                    drop_path_rate=next(rates),
                    name=f"level{level}_layer{layer}",
                )(x, train)  # [b, t, n, c]
            blocks_per_side = 2 ** (level - 1)
            tokens = side * side
            chex.assert_shape(x, (None, blocks_per_side**2, tokens, self.dims[level - 1]))
            self.sow("intermediates", f"level{level}", x)
            if level < levels:
                x = unblock(x, (side, side), (blocks_per_side, blocks_per_side))  # [b, h, w, c]
                x = DEAGGREGATIONS[self.deaggregation](
                    dim=self.dims[level],
                    dtype=self.dtype,
                    name=f"level{level}_deaggregation",
                )(x)  # [b, 2h, 2w, c of the next level]
                x = block(x, (side, side))  # [b, 4t, n, c of the next level]

        x = LayerNorm(LAYER_NORM_EPSILON, self.dtype, self.kernels, name="norm")(x)
        x = nn.Dense(
            self.patch_size**2 * self.num_channels, kernel_init=truncated_normal, name="to_pixels"
        )(x.astype(jnp.float32))  # [b, t, n, p^2 * k]
        self.sow("intermediates", "pixels", x)
        x = unblock(x, (side, side), (blocks_per_side, blocks_per_side))  # [b, h, w, p^2 * k]
        x = pixel_shuffle(x, self.patch_size)  # [b, p * h, p * w, k]
        chex.assert_shape(x, (None, self.image_size, self.image_size, self.num_channels))
        return OUTPUT_ACTIVATIONS[self.output_activation](x)

    def _latent(self, noise: Array, labels: Array | None) -> Array:
        """Joins the noise, [b, z], with the embedding of the class, if there are classes."""
        chex.assert_shape(noise, (None, self.latent_dim), custom_message="noise: [b, latent_dim]")
        check_labels(labels, self.num_classes, "generator")
        if labels is None:
            return noise
        classes = nn.Embed(
            self.num_classes,
            self.latent_dim,
            dtype=self.dtype,
            embedding_init=nn.initializers.normal(1.0),  # as strong as the noise
            name="class_embedding",
        )(labels)  # [b, z]
        return CLASS_CONDITIONINGS[self.class_conditioning](noise, classes)


def latent_shape(model: NestGenerator, batch_size: int) -> tuple[int, int]:
    """Returns the shape of the noise for a batch."""
    return (batch_size, model.latent_dim)


def generator_shapes(model: NestGenerator) -> dict[str, Any]:
    """Finds the shapes of a generator's parameters without computing any.

    Returns:
        The tree under "params" of its variables, with `jax.ShapeDtypeStruct` leaves.
    """
    noise = jax.ShapeDtypeStruct(latent_shape(model, 1), jnp.float32)
    labels = None if model.num_classes is None else jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), noise, labels)["params"]


def with_stored_sizes(model: NestGenerator, params: dict[str, Any]) -> NestGenerator:
    """Returns a generator with the channels and the classes that stored parameters are for.

    Args:
        model: a generator whose other fields fit the parameters.
        params: the tree under "params" of its variables.

    Raises:
        ValueError: if the parameters are not those of a generator.
    """
    shapes = {
        name: np.shape(params.get(layer, {}).get(leaf))
        for name, layer, leaf in (
            ("pixels", "to_pixels", "bias"),
            ("classes", "class_embedding", "embedding"),
        )
    }
    if not shapes["pixels"]:
        raise ValueError(
            f"parameters {', '.join(sorted(params))} are not a generator's: no to_pixels"
        )
    return model.clone(
        num_channels=shapes["pixels"][0] // model.patch_size**2,
        num_classes=shapes["classes"][0] if shapes["classes"] else None,
    )
