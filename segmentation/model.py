"""Trans2Seg on the maps of any classifier (arXiv 2101.08461).

Shape letters: b batch, h and w sides of a map, k classes, c channels.
"""

from typing import Any

import chex
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from features.backbone import Backbone
from features.map_infos import offer_of
from features.neck import Pyramid, check_pyramid, sources
from layers.dense import Dense
from layers.field_checks import check_counts, check_divisor, check_mlp_ratio, field_error
from layers.initializers import glorot_uniform
from segmentation.decoder import ClassDecoder
from segmentation.mask_head import MaskHead, resize


class Segmenter(nn.Module):
    """A class for every pixel.

    The classes attend to the coarsest map, whose size is that of the images of the first call: a
    perceptron of the decoder runs over its places. The finest of several maps gives the masks their
    detail.

    Attributes:
        num_classes: k.
        backbone: whose maps are taken.
        strides: a neck brings the maps to these strides in pixels first, one or two; None: as they
            are.
        dim: channels of the decoder.
        num_layers: of the decoder.
        num_heads: attention heads of the decoder.
        mlp_ratio: hidden width of the decoder's perceptrons, in multiples of `dim`.
        mask_dim: channels of the convolutions that make the masks.
        dtype: computation type. Parameters and logits are always float32.

    Reference:
        Trans2Seg paper, section 3; the defaults are those of the official code
        (segmentron/config/settings.py). As in the TNT paper, section 4.3, the backbone stands for
        convolutional network and transformer encoder.
    """

    num_classes: int
    backbone: Backbone
    strides: tuple[int, ...] | None = None
    dim: int = 256
    num_layers: int = 4
    num_heads: int = 8
    mlp_ratio: float = 3
    mask_dim: int = 64
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the model is built."""
        counts = ("num_classes", "dim", "num_layers", "num_heads", "mask_dim")
        check_counts(**{name: getattr(self, name) for name in counts})
        check_divisor(self.dim, f"dim={self.dim}", num_heads=self.num_heads)
        check_mlp_ratio(self.mlp_ratio, (self.dim,))
        infos = used = self.backbone.infos
        if self.strides is not None:
            check_pyramid(self.strides, infos)
            used = sources(self.strides, infos)
        if len(used) > 2 or set(used) != set(infos):
            field = "maps" if self.strides is None else "strides"
            what = "leaves maps unused: " + ", ".join(info.name for info in infos)
            raise field_error(field, getattr(self, field, self.backbone.maps), what, "one or two")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """Classifies pixels.

        Args:
            images: [b, height, width, channels], normalised.
            train: whether dropout and drop path of the backbone act (they draw from the stream
                "dropout") and batch norms use the batch's statistics.

        Returns:
            Logits, [b, height, width, num_classes], float32.

        Raises:
            ValueError: the images do not fit the backbone.
        """
        chex.assert_rank(images, 4, custom_message="images: [b, height, width, channels]")
        maps = self.backbone(images, train)
        if self.strides is not None:
            neck = Pyramid(self.backbone.infos, self.dim, self.strides, self.dtype, name="neck")
            maps = neck(maps)
        projection = Dense(
            self.dim, dtype=self.dtype, kernel_init=glorot_uniform, name="projection"
        )
        coarse = projection(maps[-1])  # [b, h, w, c]
        fine = maps[0] if len(maps) > 1 else None
        scores = ClassDecoder(
            self.num_classes,
            self.num_layers,
            self.num_heads,
            self.mlp_ratio,
            self.dtype,
            name="decoder",
        )(coarse.reshape(len(coarse), -1, self.dim))  # [b, k, heads, h * w]
        masks = MaskHead(self.mask_dim, self.dtype, name="masks")(scores, coarse, fine, train)
        return resize(masks, images.shape[1:3])  # [b, height, width, k]


def create_segmenter(
    classifier: nn.Module,
    num_classes: int,
    *,
    maps: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
    dim: int = 256,
    num_layers: int = 4,
    num_heads: int = 8,
    mlp_ratio: float = 3,
    mask_dim: int = 64,
) -> Segmenter:
    """Builds a segmenter; the config's section `decoder` is the keyword arguments.

    Args:
        classifier: of zoo/registry.py; its computation type is the segmenter's.
        num_classes: of pixels.
        maps: numbers of the classifier's levels (NesT), stages (ResNet, PyramidTNT), layers (TNT)
            or blocks (ViT) whose maps are taken, lowest first, counted from 1: one or two. None:
            the first and the last of a pyramid, the last of the others.
        strides, dim, num_layers, num_heads, mlp_ratio, mask_dim: see `Segmenter`.

    Raises:
        ValueError: values that do not fit each other or the classifier.
    """
    offer = offer_of(classifier)
    if maps is None and offer.is_pyramid:
        maps = (1, len(offer.maps))
    return Segmenter(
        num_classes=num_classes,
        backbone=Backbone(classifier, maps),
        strides=strides,
        dim=dim,
        num_layers=num_layers,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        mask_dim=mask_dim,
        dtype=classifier.dtype,
    )
