"""Wide residual network for small images: norm and activation before each convolution.

Words of the paper (arXiv 1605.07146):
    group   blocks that work at one resolution and width; groups 2 and 3 begin by halving it.
    block   norm, ReLU, 3x3 convolution, twice, added to the block's input.
    width   k, how many times wider than the first residual networks for CIFAR.

Shape letters: b batch, h and w sides of a group's plane, c channels of a group.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from baselines.resnet import PAD_1, batch_norm, he_normal_fan_out
from kernels.precision import at_least_float32
from layers.field_checks import (
    check_choices,
    check_counts,
    check_positive,
    check_rates,
    field_error,
)
from layers.intermediates import expose
from layers.remat import BlockRemat, recomputed_layer

GROUP_DIMS = (16, 32, 64)  # at width 1; the first convolution has 16 channels at any width

# Wide ResNet paper, table 1 and section 3: WRN-28-10.
VARIANTS = {
    "wrn28_10": {"depth": 28, "width": 10},
}


class WideBlock(nn.Module):
    """shortcut(x) + conv(dropout(relu(norm(conv(relu(norm(x))))))).

    If the shape changes, the shortcut is a 1x1 convolution of the activated input.

    Attributes:
        dim: channels.
        stride: of the first convolution and of the shortcut.
        dropout_rate: between the two convolutions.
        norm: makes a batch norm; takes `name`.
        dtype: as in `WideResNet`.

    Reference:
        Wide ResNet paper, figure 1 (d); its authors' code for the shortcut. The official NesT
        repository has a shortcut without parameters, zero-padded average pooling.
    """

    dim: int
    stride: int
    dropout_rate: float
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [b, h, w, any] to [b, h/stride, w/stride, c]."""
        conv = partial(nn.Conv, use_bias=False, kernel_init=he_normal_fan_out, dtype=self.dtype)
        strides = (self.stride, self.stride)
        y = nn.relu(self.norm(name="norm1")(x))
        if self.stride > 1 or x.shape[-1] != self.dim:
            x = conv(self.dim, (1, 1), strides=strides, padding="VALID", name="shortcut")(y)
        y = conv(self.dim, (3, 3), strides=strides, padding=PAD_1, name="conv1")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = nn.Dropout(self.dropout_rate, name="drop")(y, deterministic=not train)
        return x + conv(self.dim, (3, 3), padding=PAD_1, name="conv2")(y)


class WideResNet(nn.Module):
    """Wide residual network, for images of any size.

    Batch statistics as in `baselines.resnet.ResNet`. Each group's map is sown as "intermediates"
    group1, group2, group3, and the input of the head, [b, c], as pre_logits. For gradients with
    respect to the maps, see `layers.intermediates.differentiate`.

    Attributes:
        num_classes: number of logits.
        depth: number of convolutions, 6n + 4 with n blocks per group.
        width: multiple of GROUP_DIMS.
        dropout_rate: rate between the two convolutions of a block; the paper has 0 or 0.3.
        batch_norm_momentum, batch_norm_epsilon: as in `baselines.resnet.ResNet`.
        dtype: computation type. Parameters, statistics and logits are always float32.
        remat: "block" recomputes each block in the backward pass, to save memory.

    Reference:
        Wide ResNet paper, table 1; kernel initialisation of the official NesT repository's
        models/wide_resnet.py, head as in the authors' code.
    """

    num_classes: int
    depth: int
    width: int
    dropout_rate: float = 0.0
    batch_norm_momentum: float = 0.9
    batch_norm_epsilon: float = 1e-5
    dtype: Any = jnp.float32
    remat: BlockRemat = "none"

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the model is built."""
        check_counts(num_classes=self.num_classes, depth=self.depth, width=self.width)
        if self.depth < 10 or (self.depth - 4) % 6:
            raise field_error("depth", self.depth, "wrong", "6n + 4: 10, 16, 22, 28, ...")
        check_rates(dropout_rate=self.dropout_rate, batch_norm_momentum=self.batch_norm_momentum)
        check_positive(batch_norm_epsilon=self.batch_norm_epsilon)
        check_choices(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """Classifies images.

        Args:
            images: [b, height, width, channels], normalised.
            train: whether dropout acts (it draws from the stream "dropout"), and whether norms use
                the batch's statistics (and update the averages, if "batch_stats" is mutable) or
                the averages.

        Returns:
            Logits, [b, num_classes], float32.
        """
        chex.assert_rank(images, 4, custom_message="images: [b, height, width, channels]")
        norm = batch_norm(self, train)
        block_class = recomputed_layer(WideBlock, self.remat, train=2)

        x = nn.Conv(
            GROUP_DIMS[0],
            (3, 3),
            padding=PAD_1,
            use_bias=False,
            kernel_init=he_normal_fan_out,
            dtype=self.dtype,
            name="stem",
        )(images)
        for group, dim in enumerate(GROUP_DIMS, start=1):
            for block in range(1, (self.depth - 4) // 6 + 1):
                x = block_class(
                    dim=dim * self.width,
                    stride=2 if group > 1 and block == 1 else 1,
                    dropout_rate=self.dropout_rate,
                    norm=norm,
                    dtype=self.dtype,
                    name=f"group{group}_block{block}",
                )(x, train)  # [b, h, w, c]
            x = expose(self, f"group{group}", x)
        x = nn.relu(norm(name="norm")(x))
        x = x.astype(at_least_float32(x)).mean(axis=(1, 2))  # [b, c]
        self.sow("intermediates", "pre_logits", x)
        head_init = nn.initializers.he_normal()
        logits = nn.Dense(self.num_classes, kernel_init=head_init, name="head")(x)
        chex.assert_shape(logits, (None, self.num_classes))
        return logits
