"""Numbers that a step gets as values: another one is no other program, and does what it says."""

import jax
import numpy as np
import optax
import pytest

import train
from tasks.optimizers import create_optimizer
from tasks.schedules import create_schedule
from training import experiment

OTHERS = {
    "rates": {"optimizer.base_lr": 3e-3, "optimizer.final_lr": 1e-5, "optimizer.warmup_lr": 1e-6},
    "length": {"loop.num_epochs": 3.0, "optimizer.warmup_epochs": 0.0},
    "seed": {"seed": 7},
    "intervals": {"loop.log_every_steps": 7, "loop.save_every_epochs": 0.5},
    "others": {
        "optimizer.weight_decay": 0.2,
        "optimizer.eps": 1e-6,
        "optimizer.cooldown_epochs": 0.5,
        "task.ema_decay": 0.5,
    },
}


def with_values(config, values):
    config = config.copy_and_resolve_references()
    for key, value in values.items():
        *sections, name = key.split(".")
        place = config
        for section in sections:
            place = place[section]
        with place.ignore_type():
            place[name] = value
    return config


def test_others_compile_nothing(small_config, tmp_path, compiles):
    small_config.loop.num_epochs = 2.0
    train.train_and_evaluate(small_config, tmp_path / "first")
    finals = {}
    for name, values in OTHERS.items():
        del compiles[:]
        finals[name] = train.train_and_evaluate(with_values(small_config, values), tmp_path / name)
        assert "compile_requests_use_cache" in compiles, name
        assert "cache_misses" not in compiles, name
    assert len({metrics["loss"] for metrics in finals.values()}) >= 4  # they have an effect
    # And what decides the program's form does compile: the count can fail.
    del compiles[:]
    other = with_values(small_config, {"optimizer.b2": 0.9876, "task.ema_decay": None})
    train.train_and_evaluate(other, tmp_path / "other")
    assert "cache_misses" in compiles or "cache_hits" in compiles


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_values_are_those_of_a_step(name, small_config):
    """A step with another task's values is a step of the other task."""
    changes = {"base_lr": 3e-3, "weight_decay": 0.3, "warmup_epochs": 0.5}
    changes |= {"momentum": 0.5, "eps": 1e-3} if name == "sgd" else {"eps": 1e-3}
    given = {"name": name, "batch_size": 8, "steps_per_epoch": 4.0, "total_steps": 40}
    plain = create_optimizer(base_lr=1e-2, **given)
    other = create_optimizer(**changes, **given)
    params = {"kernel": np.linspace(-1, 1, 6, dtype=np.float32)}
    grads = {"kernel": np.cos(params["kernel"])}
    updates, _ = plain.update(grads, plain.init(params), params, other.hyperparameters)
    expected, _ = other.update(grads, other.init(params), params)
    np.testing.assert_array_equal(updates["kernel"], expected["kernel"])
    unchanged, _ = plain.update(grads, plain.init(params), params)
    assert not np.allclose(unchanged["kernel"], expected["kernel"])


@pytest.mark.parametrize("decay_from", ["warmup", "start"])
@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_rates_have_the_bits_of_constants(kind, decay_from):
    """As optax's own schedules give them with their numbers in the program."""
    parts = {"peak": 2e-3, "final": 1e-5, "start": 1e-6, "warmup_steps": 22, "total_steps": 237}
    ours = create_schedule(kind=kind, decay_from=decay_from, cooldown_steps=15, **parts)
    skipped = 22 if decay_from == "start" else 0
    steps = 237 - 15 - 22 + skipped
    decay = {
        "cosine": optax.cosine_decay_schedule(2e-3, steps, alpha=1e-5 / 2e-3),
        "linear": optax.linear_schedule(2e-3, 1e-5, steps),
    }[kind]
    theirs = optax.join_schedules(
        [optax.linear_schedule(1e-6, 2e-3, 22), lambda step: decay(step + skipped)], [22]
    )
    ours_at = jax.jit(lambda count, numbers: ours(count, numbers))
    theirs_at = jax.jit(lambda count: theirs(count + 1))
    for count in range(240):
        rate, expected = ours_at(np.int32(count), ours.numbers), theirs_at(np.int32(count))
        np.testing.assert_allclose(rate, expected, rtol=2e-6, atol=1e-9)


def test_a_step_computes_its_rate_from_the_values(small_config):
    run = experiment.build(small_config)
    assert run.hyperparameters["optimizer"]["schedule"]["peak"] == np.float32(1e-2)
    state, batch = run.init(), next(run.data.train_batches())
    values = jax.tree.map(lambda leaf: leaf, run.hyperparameters)
    values["optimizer"]["schedule"]["peak"] = np.float32(5e-2)
    values["optimizer"]["schedule"]["start_minus_peak"] = np.float32(-5e-2)
    _, scalars = run.train_step(state, batch, run.key, values)
    assert float(scalars["learning_rate"]) == pytest.approx(5e-2 / 5)  # the first of five steps
