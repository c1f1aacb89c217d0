"""A checkpoint of one mesh goes on, on any other, with the same data."""

import chex
import jax
import numpy as np
import pytest

from saving.checkpoints import Checkpoints
from tests.parallel.test_tensor import small
from training import experiment

STEPS = 6
MESHES = {
    "8 devices": dict(data=4, fsdp=2, tensor=1),
    "8 devices, tensor": dict(data=2, fsdp=2, tensor=2),
    "4 devices": dict(data=1, fsdp=4, tensor=1),
    "2 devices": dict(data=2, fsdp=1, tensor=1),
    "1 device": dict(data=1, fsdp=1, tensor=1),
}


def steps_of(run, state, batches):
    losses = []
    for _ in range(STEPS):
        state, scalars = run.train_step(state, next(batches), run.key, run.hyperparameters)
        losses.append(scalars["loss"])
    return state, np.asarray(jax.device_get(losses))


@pytest.mark.slow
@pytest.mark.parametrize("first", ["8 devices", "1 device"])
def test_any_number_of_devices_goes_on(tmp_path, small_config, first):
    config = small(None, small_config)
    config.mesh.update(**MESHES[first])
    run = experiment.build(config)
    batches = run.data.train_batches()
    state, _ = steps_of(run, run.init(), batches)
    saved_state = jax.device_get(state)  # the next step takes the arrays away
    with Checkpoints(workdir=tmp_path, **config.checkpoint) as saved:
        saved.save(STEPS, state, {"data": batches.get_state()}, wait=True)
    _, expected = steps_of(run, state, batches)
    batches.close()
    assert np.ptp(expected) > 0.01

    for name, mesh in MESHES.items():
        config.mesh.update(**mesh)
        other = experiment.build(config)
        with Checkpoints(workdir=tmp_path, read_only=True, **config.checkpoint) as saved:
            step, state, loop = saved.restore(other.shapes)
        assert step == STEPS and loop["data"] == {"batches": STEPS}
        chex.assert_trees_all_equal(jax.device_get(state), saved_state)
        devices = {len(array.sharding.device_set) for array in jax.tree.leaves(state)}
        assert devices == {np.prod(list(mesh.values()))}
        batches = other.data.train_batches()
        batches.set_state(loop["data"])
        _, losses = steps_of(other, state, batches)
        batches.close()
        print(f"{first} -> {name}: {abs(losses - expected).max():.1e}")
        np.testing.assert_allclose(losses, expected, atol=1e-5, rtol=0)
