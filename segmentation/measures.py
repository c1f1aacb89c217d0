"""How well a segmentation is: the loss of the pixels, and measures of their confusion.

Shape letters: b batch, h and w sides of the image in pixels, k classes.
"""

from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Metric
from jax import Array

IGNORE = 255  # class of a pixel that counts for nothing, as in ADE20K's padding and its borders


def pixel_losses(logits: Array, segments: Array) -> tuple[Array, Array]:
    """Returns the cross entropy of each pixel in nats, 0 where it is ignored, and which count.

    Args:
        logits: [b, h, w, k].
        segments: [b, h, w], int: classes, or IGNORE.

    Returns:
        Two arrays [b, h, w], float32 and bool.
    """
    chex.assert_equal_shape_prefix([logits, segments], 3)
    counts = segments != IGNORE
    known = jnp.where(counts, segments, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, known)
    return jnp.where(counts, losses, 0), counts


_LOW_BITS = 20


@flax.struct.dataclass
class Confusion(Metric):
    """How often pixels of one class were taken for another, over a whole split.

    The pixels of a data set pass the largest int32, and float32 cannot count so far: each count is
    kept as `high * 2^20 + low`, which adds exactly.

    Attributes:
        low, high: [k, k], int32; rows are true classes, columns what they were taken for.
        loss: sum over the pixels, float32, in nats.
        num_examples: number of images, int32.
    """

    low: Array
    high: Array
    loss: Array
    num_examples: Array

    @classmethod
    def of(cls, logits: Array, segments: Array, mask: Array) -> "Confusion":
        """Counts a batch, of fewer than 2^31 pixels.

        Args:
            logits: [b, h, w, k], float32. The likeliest class is the answer, the first of equals.
            segments: [b, h, w], int: classes, or IGNORE.
            mask: [b], 1 for an image, 0 for padding.
        """
        num_classes = logits.shape[-1]
        chex.assert_shape(mask, logits.shape[:1])
        segments = jnp.where(mask[:, None, None] > 0, segments, IGNORE)
        losses, counts = pixel_losses(logits, segments)
        cells = jnp.where(counts, segments, 0) * num_classes + jnp.argmax(logits, axis=-1)
        pixels = (
            jnp.zeros(num_classes**2, jnp.int32)
            .at[cells.ravel()]
            .add(counts.ravel().astype(jnp.int32))
        )
        pixels = pixels.reshape(num_classes, num_classes)
        zeros = jnp.zeros_like(pixels)
        return cls(pixels, zeros, losses.sum(), (mask > 0).sum(dtype=jnp.int32))._carried()

    def merge(self, other: "Confusion") -> "Confusion":
        return jax.tree.map(jnp.add, self, other)._carried()

    def _carried(self) -> "Confusion":
        carry = self.low >> _LOW_BITS
        return self.replace(low=self.low - (carry << _LOW_BITS), high=self.high + carry)

    def pixels(self) -> np.ndarray:
        """Returns the counts, int64 [k, k]."""
        low, high = (np.asarray(part, np.int64) for part in (self.low, self.high))
        return (high << _LOW_BITS) + low

    def compute(self) -> dict[str, Any]:
        """Returns the measures.

        Returns:
            loss: mean over the pixels, in nats.
            pixel_accuracy: share of the pixels whose class was found.
            mean_iou: mean of `iou` over the classes that have one.
            iou: [k], pixels that are of a class and were taken for it, among those that are or
                were; NaN for a class that is in no image and was found in none.

        Raises:
            ValueError: no pixel counted.
        """
        pixels = self.pixels()
        if not pixels.sum():
            raise ValueError("no pixel was evaluated: every one is ignored")
        right = np.diag(pixels)
        union = pixels.sum(axis=0) + pixels.sum(axis=1) - right
        with np.errstate(invalid="ignore"):
            iou = right / union
        return {
            "loss": float(self.loss) / pixels.sum(),
            "pixel_accuracy": right.sum() / pixels.sum(),
            "mean_iou": np.nanmean(iou),
            "iou": iou,
        }
