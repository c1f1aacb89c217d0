"""The forward pass of each baseline stays what tests/baselines/test_timm.py found equal to timm's.

That comparison needs PyTorch and is not part of the default run; these stored logits are. After a
change that is meant, run `python -m pytest -m torch`, then UPDATE_GOLDEN=1 for this file.
"""

import json
import os
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from tasks.parameter_masks import parameter_paths
from zoo.registry import create_model

GOLDEN = Path(__file__).parents[1] / "golden" / "baseline_logits.json"
MODELS = {
    "vit_class_token": ("deit_ti_patch16_224", {"depth": 2, "dim": 24, "num_heads": 3}),
    "vit_average": (
        "deit_ti_patch16_224",
        {"depth": 2, "dim": 24, "num_heads": 3, "pooling": "average"},
    ),
    "resnet": ("resnet50", {"depths": (1, 2, 1, 1), "dims": (8, 16, 16, 24)}),
    "wide_resnet": ("wrn28_10", {"depth": 10, "width": 1}),
}


def fixed_variables(model, images):
    """Values that depend on the name alone; deviations and variances are positive."""
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    values = []
    for path, leaf in parameter_paths(shapes).items():
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        value = rng.normal(size=leaf.shape) * (leaf.size / leaf.shape[-1] + 1) ** -0.5
        if path.endswith(("/scale", "/var")):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        values.append(value.astype(np.float32))
    return jax.tree.unflatten(jax.tree.structure(shapes), values)


@pytest.mark.parametrize("name", MODELS)
def test_stored_logits(name):
    variant, fields = MODELS[name]
    model = create_model(variant, num_classes=5, **fields)
    images = np.random.default_rng(7).normal(size=(2, 32, 48, 3)).astype(np.float32)
    logits = jax.jit(model.apply)(fixed_variables(model, images), images)
    stored = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("UPDATE_GOLDEN"):
        stored[name] = np.asarray(logits).tolist()
        GOLDEN.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    expected = np.asarray(stored[name])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert np.ptp(expected) > 0.1
