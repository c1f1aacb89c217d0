"""Inception-v3 for inference: the feature space of the Frechet inception distance.

Modules have torchvision's names, which are those of TensorFlow's graph: an array's path here is its
name in a state dict. Two networks differ in their pools alone:

    torchvision's   average pools count the padding's zeros; 1000 classes.
    FID's           TensorFlow's graph of 2015-12-05: average pools leave the padding out, and the
                    last block takes the maximum instead of the average; 1008 classes.

Words of the paper (arXiv 1512.00567):
    stem         convolutions and pools from 299x299 down to 35x35.
    block        parallel branches on one grid, 35x35, 17x17 or 8x8 (figures 5, 6 and 7), whose
                 results are concatenated.
    reduction    a block that halves the grid: convolutions and a pool with stride 2 (figure 10).

Shape letters: b batch, h and w sides of the image, c channels; a grid's sides are those of a
299x299 image.
"""

from typing import Literal

import chex
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from layers.field_checks import check_counts

EPSILON = 1e-3  # of all norms


class ConvNorm(nn.Module):
    """relu(norm(conv(x))), the norm with its stored statistics.

    Attributes:
        dim: channels out.
        kernel_size: rows and columns.
        stride: of both.
        padding: "SAME" or "VALID".
    """

    dim: int
    kernel_size: tuple[int, int]
    stride: int = 1
    padding: Literal["SAME", "VALID"] = "SAME"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Conv(
            self.dim,
            self.kernel_size,
            strides=(self.stride, self.stride),
            padding=self.padding,
            use_bias=False,
            # An accelerator's default, bfloat16 or TF32, would move the distances.
            precision=lax.Precision.HIGHEST,
            name="conv",
        )(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=EPSILON, name="bn")(x))


def average_pool(x: Array, *, count_padding: bool) -> Array:
    """Averages over the 3x3 around each place of [b, h, w, c].

    Args:
        x: the grid.
        count_padding: whether to divide by 9 at the border too, not by the number of real places.
    """
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=count_padding)


class Block35(nn.Module):
    """Maps [b, 35, 35, any] to [b, 35, 35, 224 + pool_dim]; figure 5.

    Attributes:
        pool_dim: channels of the pool's branch.
        count_padding: see average_pool.
    """

    pool_dim: int
    count_padding: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        single = ConvNorm(64, (1, 1), name="branch1x1")(x)
        five = ConvNorm(48, (1, 1), name="branch5x5_1")(x)
        five = ConvNorm(64, (5, 5), name="branch5x5_2")(five)
        double = ConvNorm(64, (1, 1), name="branch3x3dbl_1")(x)
        double = ConvNorm(96, (3, 3), name="branch3x3dbl_2")(double)
        double = ConvNorm(96, (3, 3), name="branch3x3dbl_3")(double)
        pool = average_pool(x, count_padding=self.count_padding)
        pool = ConvNorm(self.pool_dim, (1, 1), name="branch_pool")(pool)
        return jnp.concatenate([single, five, double, pool], axis=-1)


class Reduction35(nn.Module):
    """Maps [b, 35, 35, c] to [b, 17, 17, 480 + c]."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = ConvNorm(384, (3, 3), 2, "VALID", name="branch3x3")(x)
        double = ConvNorm(64, (1, 1), name="branch3x3dbl_1")(x)
        double = ConvNorm(96, (3, 3), name="branch3x3dbl_2")(double)
        double = ConvNorm(96, (3, 3), 2, "VALID", name="branch3x3dbl_3")(double)
        pool = nn.max_pool(x, (3, 3), (2, 2))
        return jnp.concatenate([three, double, pool], axis=-1)


class Block17(nn.Module):
    """Maps [b, 17, 17, any] to [b, 17, 17, 768]; figure 6.

    Attributes:
        dim: channels inside the branches of 7x7, as 1x7 and 7x1.
        count_padding: see average_pool.
    """

    dim: int
    count_padding: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        single = ConvNorm(192, (1, 1), name="branch1x1")(x)
        seven = ConvNorm(self.dim, (1, 1), name="branch7x7_1")(x)
        seven = ConvNorm(self.dim, (1, 7), name="branch7x7_2")(seven)
        seven = ConvNorm(192, (7, 1), name="branch7x7_3")(seven)
        double = ConvNorm(self.dim, (1, 1), name="branch7x7dbl_1")(x)
        double = ConvNorm(self.dim, (7, 1), name="branch7x7dbl_2")(double)
        double = ConvNorm(self.dim, (1, 7), name="branch7x7dbl_3")(double)
        double = ConvNorm(self.dim, (7, 1), name="branch7x7dbl_4")(double)
        double = ConvNorm(192, (1, 7), name="branch7x7dbl_5")(double)
        pool = average_pool(x, count_padding=self.count_padding)
        pool = ConvNorm(192, (1, 1), name="branch_pool")(pool)
        return jnp.concatenate([single, seven, double, pool], axis=-1)


class Reduction17(nn.Module):
    """Maps [b, 17, 17, c] to [b, 8, 8, 512 + c]."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = ConvNorm(192, (1, 1), name="branch3x3_1")(x)
        three = ConvNorm(320, (3, 3), 2, "VALID", name="branch3x3_2")(three)
        seven = ConvNorm(192, (1, 1), name="branch7x7x3_1")(x)
        seven = ConvNorm(192, (1, 7), name="branch7x7x3_2")(seven)
        seven = ConvNorm(192, (7, 1), name="branch7x7x3_3")(seven)
        seven = ConvNorm(192, (3, 3), 2, "VALID", name="branch7x7x3_4")(seven)
        pool = nn.max_pool(x, (3, 3), (2, 2))
        return jnp.concatenate([three, seven, pool], axis=-1)


class Block8(nn.Module):
    """Maps [b, 8, 8, any] to [b, 8, 8, 2048]; figure 7.

    Attributes:
        count_padding: see average_pool.
        max_pool: whether the pool's branch takes the maximum.
    """

    count_padding: bool
    max_pool: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        single = ConvNorm(320, (1, 1), name="branch1x1")(x)
        three = ConvNorm(384, (1, 1), name="branch3x3_1")(x)
        three_row = ConvNorm(384, (1, 3), name="branch3x3_2a")(three)
        three_column = ConvNorm(384, (3, 1), name="branch3x3_2b")(three)
        double = ConvNorm(448, (1, 1), name="branch3x3dbl_1")(x)
        double = ConvNorm(384, (3, 3), name="branch3x3dbl_2")(double)
        double_row = ConvNorm(384, (1, 3), name="branch3x3dbl_3a")(double)
        double_column = ConvNorm(384, (3, 1), name="branch3x3dbl_3b")(double)
        if self.max_pool:
            pool = nn.max_pool(x, (3, 3), padding="SAME")
        else:
            pool = average_pool(x, count_padding=self.count_padding)
        pool = ConvNorm(192, (1, 1), name="branch_pool")(pool)
        branches = [single, three_row, three_column, double_row, double_column, pool]
        return jnp.concatenate(branches, axis=-1)


class InceptionV3(nn.Module):
    """Inception-v3 without its auxiliary classifier, with the norms' stored statistics.

    Attributes:
        num_classes: number of logits.
        fid_pools: whether to have the pools of FID's network rather than torchvision's.

    Reference:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv
        1512.00567, table 1; torchvision's inception_v3; for `fid_pools` pytorch-fid, inception.py.
    """

    num_classes: int
    fid_pools: bool

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the model is built."""
        check_counts(num_classes=self.num_classes)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """Classifies images.

        Args:
            images: [b, h, w, 3] in -1..1, 299x299 or any other size of at least 75x75.
            train: must be False; the network is for inference only.

        Returns:
            Logits, [b, num_classes], float32. The input of the layer "fc" is the features pool3,
            [b, 2048].
        """
        if train:
            raise ValueError("InceptionV3 is for inference only")
        chex.assert_shape(images, (None, None, None, 3), custom_message="images: [b, h, w, 3]")
        counted = not self.fid_pools
        x = ConvNorm(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(images)
        x = ConvNorm(32, (3, 3), padding="VALID", name="Conv2d_2a_3x3")(x)
        x = ConvNorm(64, (3, 3), name="Conv2d_2b_3x3")(x)  # [b, 147, 147, 64]
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = ConvNorm(80, (1, 1), name="Conv2d_3b_1x1")(x)
        x = ConvNorm(192, (3, 3), padding="VALID", name="Conv2d_4a_3x3")(x)
        x = nn.max_pool(x, (3, 3), (2, 2))  # [b, 35, 35, 192]
        for name, pool_dim in zip("bcd", (32, 64, 64), strict=True):
            x = Block35(pool_dim, counted, name=f"Mixed_5{name}")(x)  # [b, 35, 35, 224 + pool_dim]
        x = Reduction35(name="Mixed_6a")(x)  # [b, 17, 17, 768]
        for name, dim in zip("bcde", (128, 160, 160, 192), strict=True):
            x = Block17(dim, counted, name=f"Mixed_6{name}")(x)
        x = Reduction17(name="Mixed_7a")(x)  # [b, 8, 8, 1280]
        x = Block8(counted, max_pool=False, name="Mixed_7b")(x)  # [b, 8, 8, 2048]
        x = Block8(counted, max_pool=self.fid_pools, name="Mixed_7c")(x)
        x = x.astype(jnp.float32).mean(axis=(1, 2))  # [b, 2048]
        chex.assert_shape(x, (None, 2048))
        return nn.Dense(self.num_classes, precision=lax.Precision.HIGHEST, name="fc")(x)
