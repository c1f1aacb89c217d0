"""DETR: detection transformer (arXiv 2005.12872), on the maps of any classifier.

Words of the paper:
    object query    a place for one object; each predicts one box and its class, or none.
    memory          the tokens of the image, as the encoder leaves them.

Shape letters: b batch, h and w sides of the map, n = h * w tokens of the image, q object queries,
l predictions one after the other, c channels, k logits.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from detection.heads import Heads
from detection.losses import Classes
from detection.positions import box_positions, map_positions
from detection.transformer import LAYER_NORM_EPSILON, DecoderLayer, EncoderLayer
from features.backbone import Backbone
from features.padding import map_mask
from layers.field_checks import (
    check_choices,
    check_counts,
    check_divisor,
    check_fields,
    check_positive,
    check_rates,
    field_error,
    is_count,
)
from layers.initializers import fan_in_uniform, glorot_uniform
from layers.layer_norm import LayerNorm
from layers.shared_fields import shared_fields

Queries = Literal["learned", "encoder"]
_ANCHOR_SIZE = 0.1  # side of the box that each place of the map starts from, in shares of the image


class Predictions(NamedTuple):
    """What DETR predicts, after each layer of the decoder.

    Attributes:
        logits: [l, b, q, k], float32.
        boxes: [l, b, q, 4], (cx, cy, w, h) in shares of the image without its padding, float32.
        proposals: of `queries="encoder"`: the logits [b, n, k] and boxes [b, n, 4] of the places of
            the map, from which the queries are taken; None otherwise.
        is_place: [b, n], True for places with image; None without proposals.
        is_query: [b, q], False for queries from places in the padding, which are taken where an
            image has fewer places than there are queries, and count for nothing; None without
            proposals.
    """

    logits: Array
    boxes: Array
    proposals: tuple[Array, Array] | None = None
    is_place: Array | None = None
    is_query: Array | None = None


class Detr(nn.Module):
    """Detection transformer.

    The defaults are the paper's. `queries="encoder"` is what makes it learn in a fraction of its
    500 epochs: every place of the map predicts a box from where it is; the most certain ones are
    the object queries (two-stage Deformable DETR), whose boxes each decoder layer moves a little,
    and by whose box they are placed in attention (DAB-DETR).

    Attributes:
        backbone: whose last map is looked at.
        num_logits: a logit per class; with a softmax one more, the last, for no object.
        dim: channels of a token, a multiple of 8.
        num_heads: attention heads.
        mlp_dim: hidden width of the perceptrons.
        num_encoder_layers, num_decoder_layers: how many.
        num_queries: objects that an image can have at most.
        pool: side of the squares of the map whose average is a token, a divisor of both sides of
            the map; 2 after a stride of 16.
        queries: "learned": the paper's, the same for all images. "encoder": see above.
        prior: probability of each class at the start, where every class has a sigmoid of its own;
            None: the initial biases are 0.
        temperature: of the sines of positions; DAB-DETR has 20.
        dropout_rate: of all layers.
        dtype: computation type. Parameters and predictions are always float32.

    Reference:
        Carion et al., arXiv 2005.12872, section 3.2 and A.4; official models/detr.py. Zhu et al.,
        arXiv 2010.04159, sections 4.2 and A.4; Liu et al., arXiv 2201.12329.
    """

    backbone: Backbone
    num_logits: int
    dim: int = 256
    num_heads: int = 8
    mlp_dim: int = 2048
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    num_queries: int = 100
    pool: int = 1
    queries: Queries = "learned"
    prior: float | None = None
    temperature: float = 10_000.0
    dropout_rate: float = 0.1
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the model is built."""
        check_counts(
            num_logits=self.num_logits,
            dim=self.dim,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            num_decoder_layers=self.num_decoder_layers,
            num_queries=self.num_queries,
            pool=self.pool,
        )
        check_divisor(self.dim, f"dim={self.dim}", num_heads=self.num_heads)
        if self.dim % 8:
            raise field_error("dim", self.dim, "sines of a box need another", "multiples of 8")
        check_fields(_is_amount, "0 or more", num_encoder_layers=self.num_encoder_layers)
        check_positive(temperature=self.temperature)
        check_choices(self)
        check_rates(dropout_rate=self.dropout_rate)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: Array, image_mask: Array | None = None, train: bool = False
    ) -> Predictions:
        """Detects objects.

        Args:
            images: [b, height, width, channels], normalised.
            image_mask: [b, height, width], False where an image is padded, right and below; None:
                nowhere.
            train: whether dropout acts; it draws from the stream "dropout".
        """
        if image_mask is None:
            image_mask = jnp.ones(images.shape[:3], bool)
        x = self.backbone(images, train)[-1]  # [b, h, w, c]
        check_pool(self.pool, x.shape[1:3])
        x = nn.avg_pool(x, (self.pool, self.pool), (self.pool, self.pool))
        b, h, w, _ = x.shape
        places = map_mask(image_mask, (h, w))  # [b, h, w]
        x = nn.Dense(self.dim, dtype=self.dtype, kernel_init=fan_in_uniform, name="projection")(x)
        positions = map_positions(places, self.dim, self.temperature)
        x, positions = (y.reshape(b, h * w, self.dim) for y in (x, positions))  # [b, n, c]
        mask = places.reshape(b, h * w)  # [b, n]

        shared = shared_fields(self, EncoderLayer)
        for layer in range(1, self.num_encoder_layers + 1):
            x = EncoderLayer(**shared, name=f"encoder{layer}")(x, positions, mask, train)
        if self.queries == "learned":
            return self._decode_learned(x, positions, mask, train)
        anchors = _anchors(image_mask, (h, w))
        return self._decode_proposed(x, positions, mask, anchors, train)

    def _decode_learned(self, memory: Array, positions: Array, mask: Array, train: bool):
        size = (self.num_queries, self.dim)
        placed = self.param("queries", nn.initializers.normal(1.0), size)
        placed = jnp.broadcast_to(placed, (len(memory), *size))  # [b, q, c]
        x = jnp.zeros_like(placed, dtype=self.dtype)
        norm, heads = self._norm("decoder_norm"), Heads(**self._heads(), name="heads")
        logits, boxes = [], []
        for layer in self._decoder_layers():
            x = layer(x, placed, memory, positions, mask, train)
            of_classes, of_boxes = heads(norm(x))
            logits.append(of_classes)
            boxes.append(jax.nn.sigmoid(of_boxes))
        return Predictions(jnp.stack(logits), jnp.stack(boxes))

    def _decode_proposed(
        self, memory: Array, positions: Array, mask: Array, anchors: Array, train: bool
    ):
        proposed = nn.Dense(
            self.dim, dtype=self.dtype, kernel_init=glorot_uniform, name="proposal_dense"
        )(memory)
        proposed = self._norm("proposal_norm")(proposed)  # [b, n, c]
        of_classes, of_boxes = Heads(**self._heads(), name="proposal_heads")(proposed)
        proposals = of_classes, jax.nn.sigmoid(of_boxes + _logit(anchors))
        certainty = jnp.where(mask, of_classes.max(axis=-1), -jnp.inf)  # [b, n]
        chosen = jax.lax.top_k(certainty, self.num_queries)[1]  # [b, q]
        is_query = jnp.take_along_axis(mask, chosen, axis=1)
        chosen = chosen[..., None]
        x = jnp.take_along_axis(proposed, chosen, axis=1)  # [b, q, c]
        box = jax.lax.stop_gradient(jnp.take_along_axis(proposals[1], chosen, axis=1))  # [b, q, 4]

        norm, heads = self._norm("decoder_norm"), Heads(**self._heads(), name="heads")
        dense = partial(nn.Dense, self.dim, dtype=self.dtype, kernel_init=fan_in_uniform)
        place1, place2 = dense(name="place_dense1"), dense(name="place_dense2")
        logits, boxes = [], []
        for layer in self._decoder_layers():
            placed = place2(nn.relu(place1(box_positions(box, self.dim, self.temperature))))
            x = layer(x, placed, memory, positions, mask, train, is_query)
            of_classes, of_boxes = heads(norm(x))
            logits.append(of_classes)
            boxes.append(jax.nn.sigmoid(of_boxes + _logit(box)))
            box = jax.lax.stop_gradient(boxes[-1])
        return Predictions(jnp.stack(logits), jnp.stack(boxes), proposals, mask, is_query)

    def _decoder_layers(self):
        shared = shared_fields(self, DecoderLayer)
        for layer in range(1, self.num_decoder_layers + 1):
            yield DecoderLayer(**shared, name=f"decoder{layer}")

    def _norm(self, name: str) -> LayerNorm:
        return LayerNorm(LAYER_NORM_EPSILON, self.dtype, name=name)

    def _heads(self) -> dict[str, Any]:
        return {
            "num_logits": self.num_logits,
            "prior": self.prior,
            "moves": self.queries == "encoder",
            "dtype": self.dtype,
        }


def _anchors(image_mask: Array, sides: tuple[int, int]) -> Array:
    """Returns a small box around the middle of each place of a map of (h, w), [b, n, 4]."""
    centers = []
    for axis, side in ((2, sides[1]), (1, sides[0])):  # x, y
        real = image_mask.any(axis=3 - axis).sum(axis=1)[:, None]  # [b, 1], pixels
        center = (jnp.arange(side) + 0.5) * (image_mask.shape[axis] / side) / real  # [b, side]
        center = jnp.expand_dims(center, 3 - axis)  # [b, 1, w] or [b, h, 1]
        centers.append(jnp.broadcast_to(center, (len(image_mask), *sides)))
    centers = jnp.stack(centers, axis=-1).reshape(len(image_mask), -1, 2)  # [b, n, 2]
    return jnp.concatenate([centers, jnp.full_like(centers, _ANCHOR_SIZE)], axis=-1)


def check_pool(pool: int, sides: tuple[int, int]) -> None:
    """Raises ValueError unless squares of a side fill a map of (h, w) without a rest."""
    if any(side % pool for side in sides):
        rule = "a divisor of both its sides; or images with other sides"
        raise field_error("pool", pool, f"does not divide the map of {sides}", rule)


def _is_amount(value: Any) -> bool:
    return is_count(value) or value == 0


def _logit(shares: Array) -> Array:
    """The inverse of the sigmoid, where a box at the edge still moves."""
    return jax.scipy.special.logit(jnp.clip(shares, 1e-3, 1 - 1e-3))


def create_detector(
    classifier: nn.Module,
    num_classes: int,
    *,
    classes: Classes = "softmax",
    map_number: int | None = None,
    pool: int = 1,
    dim: int = 256,
    num_heads: int = 8,
    mlp_dim: int = 2048,
    num_encoder_layers: int = 6,
    num_decoder_layers: int = 6,
    num_queries: int = 100,
    queries: Queries = "learned",
    prior: float = 0.01,
    temperature: float = 10_000.0,
    dropout_rate: float = 0.1,
) -> Detr:
    """Builds a detector; the config's section `detector` is the keyword arguments.

    Args:
        classifier: of zoo/registry.py; its computation type is the detector's.
        num_classes: of objects.
        classes: "softmax", with one logit more for no object, or a sigmoid for each class, see
            losses.class_loss.
        map_number: of the classifier's level (NesT), stage (ResNet, PyramidTNT), layer (TNT) or
            block (ViT) whose map is taken, counted from 1; None: the last.
        pool, dim, num_heads, mlp_dim, num_encoder_layers, num_decoder_layers: see `Detr`.
        num_queries, queries, temperature, dropout_rate: see `Detr`.
        prior: see `Detr`; without effect with "softmax".

    Raises:
        ValueError: values that do not fit each other or the classifier.
    """
    if not 0 < prior < 1:
        raise field_error("prior", prior, "no probability", "above 0 and below 1")
    return Detr(
        backbone=Backbone(classifier, None if map_number is None else (map_number,)),
        num_logits=num_classes + (classes == "softmax"),
        pool=pool,
        dim=dim,
        num_heads=num_heads,
        mlp_dim=mlp_dim,
        num_encoder_layers=num_encoder_layers,
        num_decoder_layers=num_decoder_layers,
        num_queries=num_queries,
        queries=queries,
        prior=None if classes == "softmax" else prior,
        temperature=temperature,
        dropout_rate=dropout_rate,
        dtype=classifier.dtype,
    )
