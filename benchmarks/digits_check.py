"""A short training on digits without the training loop, which a bare machine cannot import."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.jax_steps import Work, create_measured, train_step

# A small NesT, like that of configs/digits_nest.py.
FIELDS = {"patch_size": 1, "dims": (64, 64, 64), "depths": (1, 1, 2), "num_heads": (2, 2, 2)}
WORK = Work("train", "nest_tiny_s16_32", 96, (16, 16, 1), 10, "bfloat16")


def load_digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns images in [-1, 1], 16 x 16, and labels: 1437 to train on and 360 to test."""
    from sklearn import datasets

    digits = datasets.load_digits()
    images = digits.images.repeat(2, 1).repeat(2, 2)[..., None].astype(np.float32) / 8 - 1
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[360:], order[:360]
    return (images[train], digits.target[train]), (images[test], digits.target[test])


def train_digits(steps: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Trains and tests.

    Args:
        steps: updates on 96 images.
        fields: of the model, over FIELDS.

    Returns:
        The accuracy on the test images, the loss of the last step, and the seconds it took.
    """
    (images, labels), (test_images, test_labels) = load_digits()
    model = create_measured(WORK, {**FIELDS, **fields})
    params = jax.jit(lambda: model.init(jax.random.key(0), test_images[:1]))()["params"]
    schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-3, max(1, steps // 10), steps)
    optimizer = optax.adamw(schedule)

    def logits_of(params, statistics, images, key):
        logits = model.apply({"params": params}, images, train=True, rngs={"dropout": key})
        return logits, statistics

    step = jax.jit(train_step(logits_of, optimizer), donate_argnums=0)
    state = params, {}, optimizer.init(params)
    rng = np.random.default_rng(1)
    started = time.perf_counter()
    for seed in range(steps):
        rows = rng.integers(0, len(images), WORK.batch_size)
        state, loss = step(state, images[rows], jnp.asarray(labels[rows], jnp.int32), seed)
    logits = jax.jit(lambda params: model.apply({"params": params}, test_images))(state[0])
    accuracy = float((np.asarray(logits, np.float32).argmax(-1) == test_labels).mean())
    return {
        "check": "digits",
        "steps": steps,
        "fields": dict(fields),
        "top1_accuracy": accuracy,
        "loss": float(loss),
        "seconds": round(time.perf_counter() - started, 1),
        "passes": accuracy > 0.9,
    }
