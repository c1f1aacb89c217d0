"""One device equals eight, and each way to place the state equals the others."""

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from harness.errors import ConfigError
from parallel.sharding import create_mesh, state_shardings
from training import experiment


def losses_and_state(config, steps=20):
    run = experiment.build(config)
    state, batches, losses = run.init(), run.data.train_batches(), []
    for _ in range(steps):
        state, scalars = run.train_step(state, next(batches), run.key, run.hyperparameters)
        losses.append(scalars["loss"])
    return run, np.asarray(jax.device_get(losses)), state


@pytest.fixture(scope="module")
def reference():
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (1, 8), (4, 2)])
def test_eight_devices_equal_one(small_config, reference, data, fsdp):
    small_config.model.dims = (32, 64)  # large enough for arrays that FSDP splits
    small_config.optimizer.update(base_lr=1e-3, warmup_epochs=1.0)
    if not reference:
        reference["losses"] = losses_and_state(small_config)[1]
    small_config.mesh.update(data=data, fsdp=fsdp)
    _, losses, state = losses_and_state(small_config)
    np.testing.assert_allclose(losses, reference["losses"], atol=1e-5, rtol=0)
    assert np.ptp(losses) > 0.05  # it is not one loss, 20 times

    kernel = state.params["level2_layer1"]["mlp"]["dense1"]["kernel"]  # [64, 256]
    moment = state.opt_state[1][0].mu["level2_layer1"]["mlp"]["dense1"]["kernel"]
    for array in (kernel, moment, state.ema["level2_layer1"]["mlp"]["dense1"]["kernel"]):
        assert array.addressable_shards[0].data.shape == (64, 256 // fsdp)
    assert len(kernel.sharding.device_set) == 8


@pytest.mark.parametrize(
    ("data", "fsdp"),
    [(4, 2), *(pytest.param(*mesh, marks=pytest.mark.slow) for mesh in ((8, 1), (1, 8)))],
)
def test_every_single_step_agrees_at_a_large_rate(small_config, data, fsdp):
    """Free runs drift apart like any two float32 programs once training is fast; steps may not."""
    small_config.model.dims = (32, 64)
    small_config.optimizer.update(base_lr=1e-2, warmup_epochs=0.0)
    one = experiment.build(small_config)
    small_config.mesh.update(data=data, fsdp=fsdp)
    eight = experiment.build(small_config)
    state = one.init()
    for batch_one, batch_eight, _ in zip(
        one.data.train_batches(), eight.data.train_batches(), range(12), strict=False
    ):
        same_state = jax.device_put(jax.device_get(state), eight.shardings)
        state, scalars = one.train_step(state, batch_one, one.key, one.hyperparameters)
        other, other_scalars = eight.train_step(
            same_state, batch_eight, eight.key, eight.hyperparameters
        )
        assert float(scalars["loss"]) == pytest.approx(float(other_scalars["loss"]), abs=5e-6)
        moments, other_moments = state.opt_state[1][0].mu, other.opt_state[1][0].mu
        largest = max(float(abs(x).max()) for x in jax.tree.leaves(moments))
        chex.assert_trees_all_close(moments, other_moments, atol=1e-5 * largest, rtol=0)


def test_accumulation_equals_the_whole_batch(small_config):
    small_config.model.update(drop_path_rate=0.0, dropout_rate=0.0)
    _, whole, _ = losses_and_state(small_config, steps=6)
    small_config.task.accumulation_steps = 4
    small_config.mesh.update(data=2, fsdp=2)
    _, parts, _ = losses_and_state(small_config, steps=6)
    np.testing.assert_allclose(parts, whole, atol=1e-5, rtol=0)


def test_rule_looks_at_shapes_only():
    mesh = create_mesh(data=2, fsdp=4)
    shapes = {
        "bias": jax.ShapeDtypeStruct((1024,), np.float32),
        "kernel": jax.ShapeDtypeStruct((128, 512), np.float32),
        "odd_width": jax.ShapeDtypeStruct((512, 513), np.float32),
        "odd": jax.ShapeDtypeStruct((513, 515), np.float32),
        "step": jax.ShapeDtypeStruct((), np.int32),
    }
    specs = {name: s.spec for name, s in state_shardings(shapes, mesh).items()}
    assert specs == {
        "bias": P(),
        "kernel": P(None, "fsdp"),
        "odd_width": P("fsdp"),
        "odd": P(),
        "step": P(),
    }


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (dict(data=16, fsdp=1), "config.mesh.data=16: data x fsdp=1 is 16 devices, there are 8"),
        (dict(data=1, fsdp=3), "config.mesh.fsdp=3: .*divisors of the number of devices, 8"),
        (dict(data=0, fsdp=1), "data=0"),
    ],
)
def test_impossible_meshes(axes, message):
    with pytest.raises(ConfigError, match=message):
        create_mesh(**axes)


def test_batch_must_fit_the_devices(small_config):
    small_config.mesh.data = 8
    small_config.data.batch_size = 36
    with pytest.raises(ConfigError, match="36.*8"):
        experiment.build(small_config)
