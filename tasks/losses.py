"""Losses of a classifier: from labels to targets, from logits and targets to a number an image."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

Loss = Literal["softmax", "sigmoid"]
PROBABILITIES = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}  # of logits [b, num_classes]


def targets_of(labels: jax.Array, num_classes: int, loss: Loss) -> jax.Array:
    """Returns what a classifier is to say about images, without smoothing.

    Args:
        labels: [b] integers; with several labels an image, [b, num_classes] of 0 and 1.
        num_classes: number of classes.
        loss: of the classifier.

    Returns:
        [b, num_classes] float32: 1 at an image's classes, but with "softmax", whose probabilities
        sum to one, 1 / k at each of k. An image without a class then has no target and no loss.
    """
    if labels.ndim == 1:
        return jax.nn.one_hot(labels, num_classes)
    targets = labels.astype(jnp.float32)
    if loss == "softmax":
        targets /= jnp.maximum(targets.sum(axis=-1, keepdims=True), 1)
    return targets


def loss_of(
    logits: jax.Array, targets: jax.Array, loss: Loss, where: jax.Array | None = None
) -> jax.Array:
    """Returns the loss of each image in nats, [b].

    Args:
        logits, targets: [b, num_classes].
        loss: "softmax": cross entropy with the softmax. "sigmoid": the classes' binary cross
            entropies, averaged over classes as in torch's BCEWithLogitsLoss and timm's
            BinaryCrossEntropy (and DeiT III, arXiv 2204.07118), not summed.
        where: [b, num_classes], the classes that are compared; None: all.
    """
    if loss == "softmax":
        return optax.softmax_cross_entropy(logits, targets, where=where)
    each = optax.sigmoid_binary_cross_entropy(logits, targets)
    return jnp.mean(each, axis=-1, where=where)
