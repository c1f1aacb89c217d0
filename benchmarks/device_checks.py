"""Whether the fast forms give the numbers of the plain ones on this machine's device, and learn.

For whoever has a device for a while: the tests compare them where they can run without it. The
training has no training loop, which a bare machine cannot import.
"""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.jax_steps import Work, create_measured, train_step
from kernels.attention import dot_product_attention

# A small NesT, like that of configs/digits_nest.py.
FIELDS = {"patch_size": 1, "dims": (64, 64, 64), "depths": (1, 1, 2), "num_heads": (2, 2, 2)}
WORK = Work("train", "nest_tiny_s16_32", 96, (16, 16, 1), 10, "bfloat16")
# Of NesT, of its 384 recipe, of TNT's sentences, of its words, of DeiT; (batch, tokens, heads,
# width, heads of keys and values), the batch being blocks or words and sentences together.
SHAPES = {
    "NesT, 14 x 14": (256, 196, 3, 32, 3),
    "NesT, 24 x 24": (64, 576, 4, 32, 4),
    "NesT, multi-query": (64, 196, 6, 32, 1),
    "TNT-S, sentences": (32, 197, 6, 64, 6),
    "TNT-S, words": (2048, 16, 4, 6, 4),
    "TNT-B, words": (2048, 16, 4, 10, 4),
    "DeiT-S": (32, 197, 6, 64, 6),
}
# Largest allowed difference, as a share of the largest number: of results, of gradients.
TOLERANCES = {"float32": (1e-5, 1e-4), "bfloat16": (2e-2, 4e-2)}


def check_attention(dtype: str, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> list[dict]:
    """Compares the form that is chosen here with the plain one in float32 at highest precision.

    Args:
        dtype: that the chosen form computes in.
        shapes: name -> see SHAPES.

    Returns:
        Per shape: the largest differences of results and of gradients, and whether they pass.
    """
    results = []
    for name, (batch, tokens, heads, width, key_heads) in shapes.items():
        keys = jax.random.split(jax.random.key(0), 4)
        query, cotangent = (
            jax.random.normal(key, (batch, tokens, heads, width)).astype(dtype) for key in keys[:2]
        )
        key, value = (
            jax.random.normal(key, (batch, tokens, key_heads, width)).astype(dtype)
            for key in keys[2:]
        )

        def both(implementation, *arrays, cotangent=cotangent):
            def attend(*arrays):
                return dot_product_attention(*arrays, implementation=implementation)

            out, backward = jax.vjp(attend, *arrays)
            return out, backward(cotangent.astype(out.dtype))

        with jax.default_matmul_precision("highest"):
            exact = [array.astype(jnp.float32) for array in (query, key, value)]
            plain = jax.jit(lambda *arrays, both=both: both("plain", *arrays))(*exact)
        fast = jax.jit(lambda *arrays, both=both: both("auto", *arrays))(query, key, value)
        out, gradients = (
            max(map(_difference, jax.tree.leaves(a), jax.tree.leaves(b)))
            for a, b in zip(fast, plain, strict=True)
        )
        allowed = TOLERANCES[dtype]
        passes = bool(out <= allowed[0] and gradients <= allowed[1])
        results.append(
            {
                "check": f"attention: {name}",
                "dtype": dtype,
                "result_difference": out,
                "gradient_difference": gradients,
                "allowed": allowed,
                "passes": passes,
            }
        )
    return results


def check_model(work: Work, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Compares a model's logits and gradients with its kernels and with kernels="plain".

    Args:
        work: names the model, its images and the type.
        fields: of the model.

    Returns:
        As check_attention, of one model.
    """
    images = jax.random.normal(jax.random.key(1), (work.batch_size, *work.image_shape))
    fast = create_measured(work, fields)
    plain = create_measured(work, {**fields, "kernels": "plain"})
    variables = jax.jit(lambda: plain.init(jax.random.key(0), images))()

    def of(model):
        def loss(variables):
            logits = model.apply(variables, images).astype(jnp.float32)
            return jnp.square(logits).mean(), logits

        gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(variables)
        return logits, gradients

    (logits, gradients), (expected, expected_gradients) = of(fast), of(plain)
    out = _difference(logits, expected)
    flat = [
        np.concatenate([np.ravel(np.asarray(x, np.float32)) for x in jax.tree.leaves(tree)])
        for tree in (gradients, expected_gradients)
    ]
    change = float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1]))
    allowed = {"float32": (1e-3, 1e-3), "bfloat16": (5e-2, 1e-1)}[work.dtype]
    return {
        "check": f"model: {work.model}",
        "dtype": work.dtype,
        "result_difference": out,
        "gradient_difference": change,
        "allowed": allowed,
        "passes": bool(out <= allowed[0] and change <= allowed[1]),
    }


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


def _difference(a: jax.Array, b: jax.Array) -> float:
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return float(np.abs(a - b).max() / np.abs(b).max())
