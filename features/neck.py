"""A neck: from the maps of a backbone to maps of the strides that a head wants.

Shape letters: b batch, h and w sides of a map in tokens, c channels.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from features.backbone import EPSILON
from features.map_infos import MapInfo
from layers.field_checks import check_counts, check_fields, field_error, is_count, is_counts
from layers.initializers import glorot_uniform
from layers.layer_norm import LayerNorm


def check_pyramid(strides: Any, infos: Sequence[MapInfo]) -> None:
    """Raises ValueError unless the maps can be brought to these strides."""
    check_fields(is_counts, "a tuple of positive integers", strides=strides)
    if list(strides) != sorted(set(strides)):
        raise field_error("strides", strides, "wrong", "each once, in increasing order")
    for stride, info in zip(strides, sources(strides, infos), strict=True):
        ratio = max(stride, info.stride) / min(stride, info.stride)
        if not ratio.is_integer() or not is_count(int(ratio)) or int(ratio) & (int(ratio) - 1):
            what = f"{stride} is no power of two away from {info.name}, of stride {info.stride}"
            raise field_error("strides", strides, what)


def sources(strides: Sequence[int], infos: Sequence[MapInfo]) -> tuple[MapInfo, ...]:
    """Returns the map that each stride is made of: as many maps in order, else the nearest."""
    if len(strides) == len(infos):
        return tuple(infos)

    def distance(stride: int, info: MapInfo) -> float:
        return max(stride, info.stride) / min(stride, info.stride)

    # Of equally near ones the last, which has seen most layers.
    return tuple(min(reversed(infos), key=lambda info: distance(s, info)) for s in strides)


class Pyramid(nn.Module):
    """Maps of growing strides out of maps of any strides, such as TNT's, which all have one.

    A map becomes finer by transposed convolutions of stride 2 and coarser by convolutions of
    stride 2, each with layer norm and GELU, until it has the wanted stride. A 3x3 convolution and
    a layer norm end it.

    Attributes:
        infos: of the maps.
        dim: channels of the results.
        strides: of the results in pixels of the image, in increasing order.
        dtype: computation type; parameters stay float32.

    Reference:
        TNT paper, section 4.3: the outputs of blocks 3, 6, 9 and 12, which are at 1/16, become 1/4
        to 1/32 by deconvolutions and convolutions "with proper stride". It leaves out the sides of
        the kernels and the norm; PyramidTNT's neck (arXiv 2201.00978) has transposed convolutions
        of stride 2 and 3x3 convolutions, with batch norm and GELU.
    """

    infos: tuple[MapInfo, ...]
    dim: int
    strides: tuple[int, ...] = (4, 8, 16, 32)
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the neck is built."""
        check_counts(dim=self.dim)
        check_pyramid(self.strides, self.infos)
        super().__post_init__()

    @nn.compact
    def __call__(self, maps: Sequence[Array]) -> list[Array]:
        """Maps [b, h, w, c] of `infos` to [b, h, w, dim] of `strides`."""
        given = dict(zip(self.infos, maps, strict=True))
        results = []
        for stride, info in zip(self.strides, sources(self.strides, self.infos), strict=True):
            name, x, at = f"stride{stride}", given[info], info.stride
            while at != stride:
                finer = at > stride
                at = at // 2 if finer else at * 2
                conv = nn.ConvTranspose if finer else nn.Conv
                side = (2, 2) if finer else (3, 3)
                x = self._conv(conv, side, (2, 2), f"{name}_to{at}")(x)
                x = nn.gelu(self._norm(x, f"{name}_to{at}_norm"), approximate=False)
            x = self._conv(nn.Conv, (3, 3), (1, 1), f"{name}_conv")(x)
            results.append(self._norm(x, f"{name}_norm"))  # [b, h, w, dim]
        return results

    def _conv(self, kind, kernel_size, strides, name) -> nn.Module:
        options = {"dtype": self.dtype, "kernel_init": glorot_uniform, "name": name}
        return kind(self.dim, kernel_size, strides, **options)

    def _norm(self, x: Array, name: str) -> Array:
        return LayerNorm(EPSILON, self.dtype, name=name)(x)
