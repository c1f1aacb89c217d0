"""The steps of docs/extending.md, "Add your own model", done with a toy model."""

import importlib
import re
from pathlib import Path

import jax
import pytest

import evaluate
import train
from zoo.load import parameter_shapes
from zoo.registry import MODELS, create_model

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"

# Step 1: a linen module with plain fields, num_classes among them.
MODULE = '''\
"""A perceptron on patches: the smallest model that the loop trains."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array


class PatchPerceptron(nn.Module):
    num_classes: int
    dim: int
    patch_size: int = 4
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(self.dim, patch, strides=patch, name="patch_embedding")(images)
        x = nn.gelu(x.reshape(x.shape[0], -1))
        x = nn.Dropout(self.dropout_rate, name="drop")(x, deterministic=not train)
        return nn.Dense(self.num_classes, name="head")(x).astype(jnp.float32)
'''

# Step 2: a name for it, in MODELS of zoo/registry.py.
ENTRY = """"patch_perceptron": (PatchPerceptron, {"dim": 32}),"""

# Step 3: a recipe.
RECIPE = """\
from configs import digits_nest


def get_config(argument: str | None = None):
    config = digits_nest.get_config(argument)
    config.model = {"name": "patch_perceptron", "dropout_rate": 0.1}
    return config
"""

# Step 4: train and evaluate it, as any other.
COMMANDS = """\
python train.py --config=configs/digits_toy.py --workdir=runs/toy
python evaluate.py --workdir=runs/toy
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Does steps 1 to 3 outside the repository; returns the recipe's module."""
    (tmp_path / "toy_model.py").write_text(MODULE)
    (tmp_path / "digits_toy.py").write_text(RECIPE)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("toy_model")
    entries = eval(f"{{{ENTRY}}}", vars(module))
    for name, entry in entries.items():
        monkeypatch.setitem(MODELS, name, entry)
    return importlib.import_module("digits_toy")


def test_trains_and_evaluates(toy, tmp_path):
    config = toy.get_config()
    config.mesh.data = 1
    config.data.eval_split = "test[:101]"
    config.loop.update(num_epochs=4.0, evaluate_every_epochs=2.0)
    config.optimizer.warmup_epochs = 0.5
    metrics = train.train_and_evaluate(config, tmp_path / "toy")
    assert metrics["top1_accuracy"] > 0.5 and metrics["num_examples"] == 101
    evaluated = evaluate.evaluate_workdir(config, tmp_path / "toy")
    last = {name: value for name, value in metrics.items() if not name.startswith("best_")}
    assert {name: evaluated[name] for name in last} == last


def test_fields_can_be_set_and_are_checked(toy):
    """Step 5: a row in the table of exact counts of tests/zoo/test_registry.py."""
    model = create_model("patch_perceptron", num_classes=10, dim=8)
    count = sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(model, (16, 16, 1))))
    assert count == (16 * 8 + 8) + (16 * 8 * 10 + 10)
    with pytest.raises(ValueError, match="^dims: unknown; did you mean 'dim'"):
        create_model("patch_perceptron", num_classes=10, dims=8)


def test_the_page_shows_these_steps():
    section = PAGE.read_text().split("## Add your own model")[1].split("\n## ")[0]
    section = re.sub("^    ", "", section, flags=re.M)  # code is indented in its step
    for part in (MODULE, ENTRY, RECIPE, COMMANDS):
        assert part.strip() in section
