"""Workdirs and weights files of the code before the rooms (commit 92c2a70) still work.

tests/fixtures/README.md says how they were made, and what the old code computed from them.
"""

import json
import tarfile

import jax
import numpy as np
import pytest

import train
from evaluate import evaluate_workdir
from workdirs.config_file import read_config
from workdirs.results import read_done
from zoo.load import load_weights
from zoo.registry import create_model

# Other processors round differently, and 24 steps of training enlarge that.
SAME = {"rel": 1e-3, "abs": 1e-4}


@pytest.fixture(scope="module")
def expected(fixtures):
    return json.loads((fixtures / "before_rooms" / "expected.json").read_text())


@pytest.fixture
def old(fixtures, tmp_path):
    with tarfile.open(fixtures / "before_rooms" / "workdirs.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.parametrize("name", ["nest", "gan"])
def test_an_interrupted_run_goes_on(old, expected, name, capsys):
    workdir = old / f"{name}_interrupted"
    logged = (workdir / "metrics.jsonl").read_text()
    metrics = train.train_and_evaluate(read_config(workdir), workdir)
    assert "resuming at step 36" in capsys.readouterr().out
    last = {name: value for name, value in metrics.items() if not name.startswith("best_")}
    assert last == pytest.approx(expected[f"{name}_final"], **SAME)
    assert (workdir / "metrics.jsonl").read_text().startswith(logged)
    assert read_done(workdir) == metrics


def test_a_finished_run_stays_finished(old, expected, capsys):
    workdir = old / "nest_finished"
    metrics = train.train_and_evaluate(read_config(workdir), workdir)
    assert "is finished" in capsys.readouterr().out
    assert metrics == expected["nest_final"]


@pytest.mark.parametrize(("name", "which"), [("finished", "latest"), ("interrupted", "best")])
def test_checkpoints_evaluate(old, expected, name, which):
    workdir = old / f"nest_{name}"
    found = evaluate_workdir(read_config(workdir), workdir, checkpoint=which)
    assert found.pop("checkpoint").startswith(str(workdir / "checkpoints" / which))
    split, known = found.pop("split"), expected[f"nest_{name}_{which}"]
    assert split == known.pop("split")
    assert found == pytest.approx(known, rel=1e-5)


@pytest.mark.parametrize("file", ["nest.npz", "nest.safetensors", "nest_finished"])
def test_weights_load(fixtures, old, expected, file):
    """Files, and the workdir that they were taken from, read as weights."""
    config = read_config(old / "nest_finished")
    model = create_model(**config.model.to_dict(), num_classes=10)
    path = old / file if file == "nest_finished" else fixtures / "before_rooms" / file
    params = load_weights(path, model, image_size=(8, 8, 1))
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    logits = jax.jit(model.apply)({"params": params}, images)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)
