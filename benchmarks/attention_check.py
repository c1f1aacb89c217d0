"""Whether the fast forms give the numbers of the plain ones on this machine's device.

For whoever has a device for a while: the tests compare them where they can run without it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.jax_steps import Work, create_measured
from kernels.attention import dot_product_attention

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


def _difference(a: jax.Array, b: jax.Array) -> float:
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return float(np.abs(a - b).max() / np.abs(b).max())
