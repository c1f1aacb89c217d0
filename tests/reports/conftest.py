"""Runs that are trained for a few steps, once for all tests of a file."""

import numpy as np
import pytest

import train
from configs import digits_nest
from tests.reports.pages import NASTY


def small_config():
    config = digits_nest.get_config()
    config.model.update(patch_size=1, dims=(16, 32), depths=(1, 1), num_heads=(2, 2))
    config.model.drop_path_rate = 0.0
    config.data.update(image_size=8, batch_size=32, eval_batch_size=64, train_split="train[:160]")
    config.data.eval_split = "test[:101]"
    config.task.ema_decay = 0.9
    config.optimizer.update(base_lr=1e-2, warmup_epochs=1.0)
    config.mesh.data = 1
    config.loop.update(num_epochs=4.0, log_every_steps=3)
    config.loop.update(evaluate_every_epochs=2.0, save_every_epochs=4.0)
    return config


@pytest.fixture(scope="session")
def trained_workdir(tmp_path_factory):
    """A run on 8x8 digits; its tests leave it as it is."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train.train_and_evaluate(small_config(), workdir)
    return workdir


@pytest.fixture(scope="session")
def nasty_workdir(tmp_path_factory):
    """A run whose folder and classes have HTML in their names."""
    folder = tmp_path_factory.mktemp("<img src=x onerror=alert(4)>")
    rng = np.random.default_rng(0)
    arrays = {"class_names": np.array(NASTY)}
    for split, count in (("train", 64), ("test", 24)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 8, 8, 1), np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, len(NASTY), count)
    np.savez(folder / "<b>data.npz", **arrays)
    config = small_config()
    config.data.update(name=f"npz:{folder / '<b>data.npz'}", train_split="train")
    config.data.eval_split = "test"
    config.loop.num_epochs = 2.0
    workdir = folder / "<b>run"
    train.train_and_evaluate(config, workdir)
    return workdir
