"""What the tests of several models share: random inputs and parameters, and the golden names."""

import os
from pathlib import Path

import jax
import numpy as np

GOLDEN = Path(__file__).parent / "golden"


def random_array(*shape):
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def fill(shapes, seed=0):
    """Parameters of which none is zero or one, so that a forgotten tensor shows."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)


def random_params(module, *inputs, seed=0):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return fill(shapes.get("params", {}), seed)


def lines_of(shapes):
    """One line per parameter: its name and its shape."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    names = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves)
    return [f"{name} {leaf.shape}\n" for name, (_, leaf) in zip(names, leaves, strict=True)]


def check_golden(file_name, lines):
    """Compares parameter names, which are a public format; UPDATE_GOLDEN=1 rewrites the file."""
    file = GOLDEN / file_name
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text("".join(lines))
    assert "".join(lines) == file.read_text(), f"UPDATE_GOLDEN=1 rewrites {file}"
