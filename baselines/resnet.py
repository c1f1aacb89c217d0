"""ResNet, version 1 with bottlenecks, as it is usually trained: the 3x3 convolution has the stride.

Words of the paper (arXiv 1512.03385):
    stem         7x7 convolution and 3x3 max-pool, both with stride 2.
    stage        blocks that work at one resolution; each stage but the first begins by halving it.
    bottleneck   a block of three convolutions: 1x1 to fewer channels, 3x3, 1x1 to four times those.
    shortcut     what is added to a block's result: its input, projected if the shapes differ.

Shape letters: b batch, h and w sides of a stage's plane, c channels inside a bottleneck; its output
has 4c.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels.precision import at_least_float32
from layers.field_checks import (
    check_choices,
    check_counts,
    check_positive,
    check_rates,
    check_tuples,
)
from layers.intermediates import expose
from layers.remat import BlockRemat, recomputed_layer

# PyTorch's padding: the same on both sides. At stride 2, Flax's "SAME" would pad only on the right
# and below, and so shift the picture.
PAD_1 = ((1, 1), (1, 1))
PAD_3 = ((3, 3), (3, 3))

EXPANSION = 4  # channels out of a bottleneck, in multiples of those inside

# Normal with variance 2 / (outputs of a filter), He et al., arXiv 1502.01852, as in torchvision.
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# ResNet paper, table 1. torchvision's resnet50 is the same network.
VARIANTS = {
    "resnet50": {"depths": (3, 4, 6, 3), "dims": (64, 128, 256, 512)},
}


def batch_norm(model: nn.Module, train: bool) -> Callable[..., nn.Module]:
    """Returns the batch norm of a model with the fields of `ResNet`, to be given a name."""
    return partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=model.batch_norm_momentum,
        epsilon=model.batch_norm_epsilon,
        dtype=model.dtype,
    )


class Bottleneck(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(relu(norm(conv(x)))))))).

    Attributes:
        dim: channels inside.
        stride: of the 3x3 convolution and of the shortcut.
        zero_init_last_norm: as in `ResNet`.
        norm: makes a batch norm; takes `name` and `scale_init`.
        dtype: as in `ResNet`.

    Reference:
        ResNet paper, figure 5. The stride is in the 3x3 convolution (torchvision, "v1.5"), where
        the paper has it in the first 1x1.
    """

    dim: int
    stride: int
    zero_init_last_norm: bool
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, any] to [b, h/stride, w/stride, 4c]."""
        conv = partial(nn.Conv, use_bias=False, kernel_init=he_normal_fan_out, dtype=self.dtype)
        strides = (self.stride, self.stride)
        dim_out = EXPANSION * self.dim
        last = nn.initializers.zeros if self.zero_init_last_norm else nn.initializers.ones

        y = conv(self.dim, (1, 1), name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        y = conv(self.dim, (3, 3), strides=strides, padding=PAD_1, name="conv2")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = conv(dim_out, (1, 1), name="conv3")(y)
        y = self.norm(scale_init=last, name="norm3")(y)
        if self.stride > 1 or x.shape[-1] != dim_out:
            x = conv(dim_out, (1, 1), strides=strides, padding="VALID", name="shortcut_conv")(x)
            x = self.norm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Residual network of bottlenecks, for images of any size.

    Batch statistics are computed in float32 over the global batch (under jit the batch is one
    array, however many devices share it), or over each part of it when gradients are accumulated;
    their moving averages are the collection "batch_stats". Each stage's map is sown as
    "intermediates" stage1, stage2, ..., and the input of the head, [b, 4c], as pre_logits. For
    gradients with respect to the maps, see `layers.intermediates.differentiate`.

    Attributes:
        num_classes: number of logits.
        depths: bottlenecks of each stage.
        dims: channels inside a stage's bottlenecks.
        zero_init_last_norm: whether the scale of the last norm of each bottleneck starts as 0, so
            that each block starts as its shortcut.
        batch_norm_momentum: share of the moving averages that a step keeps: 0.9 is PyTorch's
            momentum=0.1. The averaged variance is biased, PyTorch's is unbiased.
        batch_norm_epsilon: added to the variance; 1e-5 is PyTorch's default too.
        dtype: computation type. Parameters, statistics and logits are always float32.
        remat: "block" recomputes each bottleneck in the backward pass, to save memory.

    Reference:
        ResNet paper, table 1; torchvision's resnet50. Initialisation of the head and, if asked for,
        of the last norms: Goyal et al., arXiv 1706.02677, section 5.1.
    """

    num_classes: int
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    zero_init_last_norm: bool = False
    batch_norm_momentum: float = 0.9
    batch_norm_epsilon: float = 1e-5
    dtype: Any = jnp.float32
    remat: BlockRemat = "none"

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the model is built."""
        check_counts(num_classes=self.num_classes)
        check_choices(self)
        check_tuples("stage", depths=self.depths, dims=self.dims)
        check_rates(batch_norm_momentum=self.batch_norm_momentum)
        check_positive(batch_norm_epsilon=self.batch_norm_epsilon)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """Classifies images.

        Args:
            images: [b, height, width, channels], normalised.
            train: whether norms use the batch's statistics (and update the averages, if
                "batch_stats" is mutable) or the averages.

        Returns:
            Logits, [b, num_classes], float32.
        """
        chex.assert_rank(images, 4, custom_message="images: [b, height, width, channels]")
        norm = batch_norm(self, train)
        block_class = recomputed_layer(Bottleneck, self.remat)

        x = nn.Conv(
            self.dims[0],
            (7, 7),
            strides=(2, 2),
            padding=PAD_3,
            use_bias=False,
            kernel_init=he_normal_fan_out,
            dtype=self.dtype,
            name="stem_conv",
        )(images)
        x = nn.relu(norm(name="stem_norm")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=PAD_1)  # [b, h, w, c] of stage 1
        for stage, (depth, dim) in enumerate(zip(self.depths, self.dims, strict=True), start=1):
            for block in range(1, depth + 1):
                x = block_class(
                    dim=dim,
                    stride=2 if stage > 1 and block == 1 else 1,
                    zero_init_last_norm=self.zero_init_last_norm,
                    norm=norm,
                    dtype=self.dtype,
                    name=f"stage{stage}_block{block}",
                )(x)  # [b, h, w, 4c]
            x = expose(self, f"stage{stage}", x)

        x = x.astype(at_least_float32(x)).mean(axis=(1, 2))  # [b, 4c]
        self.sow("intermediates", "pre_logits", x)
        head_init = nn.initializers.normal(0.01)
        logits = nn.Dense(self.num_classes, kernel_init=head_init, name="head")(x)
        chex.assert_shape(logits, (None, self.num_classes))
        return logits
