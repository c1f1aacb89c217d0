"""The two discriminators: a residual convolutional network, and NesT with one output.

Shape letters: b batch, h and w sides of a map, c channels.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from layers.attention import Attention
from layers.field_checks import (
    check_choices,
    check_counts,
    check_image_size,
    check_optional_counts,
    check_tuples,
)
from layers.remat import BlockRemat, Remat, recomputed_layer
from layers.shared_fields import shared_fields
from nest.aggregation import AggregationName
from nest.gan.checks import check_labels
from nest.gan.stylegan import (
    DESIGNS,
    DesignName,
    ResidualBlock,
    conv3x3,
    minibatch_deviation,
)
from nest.model import Nest


class ConvDiscriminator(nn.Module):
    """Residual convolutional network with one output: whether an image is real.

    Real and generated images belong in separate calls, because the minibatch deviation alone would
    tell them apart. The result of each resolution is sown as "intermediates" level1, level2, ...

    Attributes:
        dims: channels at each resolution, starting with the image's; each is half the one before.
        num_classes: classes of a conditional discriminator. None: it takes no labels.
        design: a key of `nest.gan.stylegan.DESIGNS`: "stylegan2", but for the equalized learning
            rate (see `discriminator_kernel`) and the order of blur and stride (see
            `ResidualBlock`), or "hit_gan", without classes exactly the official HiT-GAN code's.
        deviation_group: images per group of the minibatch deviation; must divide the batch.
            "hit_gan" has no such deviation and takes any batch.
        dtype: computation type. Parameters and logits are always float32.
        remat: "block" recomputes each residual block in the backward pass, to save memory.

    Reference:
        StyleGAN2, arXiv 1912.04958, section 4 and figure 7; HiT-GAN, arXiv 2106.07631, official
        models/discriminators.py. Classes by projection: Miyato and Koyama, arXiv 1802.05637.
    """

    dims: tuple[int, ...]
    num_classes: int | None = None
    design: DesignName = "stylegan2"
    deviation_group: int = 4
    dtype: Any = jnp.float32
    remat: BlockRemat = "none"

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the model is built."""
        check_tuples("resolution", dims=self.dims)
        check_choices(self)
        check_counts(deviation_group=self.deviation_group)
        check_optional_counts(num_classes=self.num_classes)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Array, labels: Array | None = None, train: bool = False) -> Array:
        """Judges images.

        Args:
            images: [b, h, w, channels]; black is -1 and white 1.
            labels: [b], integers; exactly if num_classes is given.
            train: ignored, as there is neither dropout nor drop path.

        Returns:
            Logits, [b], float32; above 0 for real.

        Raises:
            ValueError: if the resolutions do not divide the image, if the groups do not divide the
                batch, or if labels are missing or not asked for.
        """
        del train
        chex.assert_rank(images, 4, custom_message="images: [b, h, w, channels]")
        check_labels(labels, self.num_classes, "discriminator")
        unit = 2 ** (len(self.dims) - 1)
        rule = f"height and width multiples of {unit} with {len(self.dims)} entries in dims"
        check_image_size(images.shape[1:3], unit, rule)
        block_class = recomputed_layer(ResidualBlock, self.remat)
        first_kernel, activation, kernel_init, has_deviation = DESIGNS[self.design]
        x = nn.Conv(
            self.dims[0],
            kernel_size=(first_kernel, first_kernel),
            dtype=self.dtype,
            kernel_init=kernel_init,
            name="from_pixels",
        )(images)  # [b, h, w, c]
        x = activation(x)
        self.sow("intermediates", "level1", x)
        for level, dim in enumerate(self.dims[1:], start=2):
            block = block_class(
                dim, activation, kernel_init, self.dtype, name=f"level{level}_block"
            )
            x = block(x)  # [b, h/2, w/2, c]
            self.sow("intermediates", f"level{level}", x)

        if has_deviation:
            x = minibatch_deviation(x, self.deviation_group)  # [b, h, w, c + 1]
        x = conv3x3(self.dims[-1], kernel_init, self.dtype, "last_conv")(x)  # [b, h, w, c]
        x = activation(x).reshape(x.shape[0], -1)  # [b, h * w * c]
        x = nn.Dense(self.dims[-1], dtype=self.dtype, kernel_init=kernel_init, name="last_dense")(x)
        x = activation(x).astype(jnp.float32)  # [b, c]
        logits = nn.Dense(1, kernel_init=kernel_init, name="head")(x)[:, 0]  # [b]
        if labels is None:
            return logits
        classes = nn.Embed(
            self.num_classes, self.dims[-1], embedding_init=_embedding_init, name="class_embedding"
        )(labels)  # [b, c]
        return logits + (x * classes).sum(axis=-1)


def _embedding_init(key: Array, shape: tuple[int, int], dtype: Any) -> Array:
    """A class's product with the features starts as large as the head's."""
    return jax.random.normal(key, shape, dtype) * shape[1] ** -0.5


class NestDiscriminator(nn.Module):
    """The classifier with one output: whether an image is real.

    With classes, the classifier has one more output per class, and that of the image's class is
    added to the first: the projection of Miyato and Koyama (arXiv 1802.05637) with a bias.

    Attributes:
        num_classes: classes of a conditional discriminator. None: it takes no labels.
        dims and the rest: as in `nest.model.Nest`, whose other fields keep their defaults, the
            official choices.
    """

    dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    patch_size: int
    block_size: int | tuple[int, int] | None = None
    num_classes: int | None = None
    mlp_ratio: float = 4
    attention: Attention = "multi_head"
    aggregation: AggregationName = "conv_norm_maxpool"
    drop_path_rate: float = 0.0
    dtype: Any = jnp.float32
    remat: Remat = "none"

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the model is built."""
        check_optional_counts(num_classes=self.num_classes)
        self._classifier(parent=None)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Array, labels: Array | None = None, train: bool = False) -> Array:
        """Judges images.

        Args:
            images: [b, h, w, channels]; black is -1 and white 1.
            labels: [b], integers; exactly if num_classes is given.
            train: whether drop path acts; it draws from the stream "dropout".

        Returns:
            Logits, [b], float32; above 0 for real.

        Raises:
            ValueError: if the levels do not divide the image, or labels are missing or not asked
                for.
        """
        check_labels(labels, self.num_classes, "discriminator")
        logits = self._classifier(name="nest")(images, train)  # [b, 1 + classes]
        if labels is None:
            return logits[:, 0]
        of_class = jnp.take_along_axis(logits, 1 + labels[:, None], axis=1)  # [b, 1]
        return logits[:, 0] + of_class[:, 0]

    def _classifier(self, **module: Any) -> Nest:
        return Nest(
            num_classes=1 + (self.num_classes or 0),
            kernels="plain",  # a gradient penalty differentiates the gradient once more
            **shared_fields(self, Nest, but=("num_classes",)),
            **module,
        )
