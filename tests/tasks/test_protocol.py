"""What a new kind of training gets from Task, and that a run compiles its steps once."""

import chex
import jax
import jax.numpy as jnp
import pytest

import train
from harness.errors import NonFiniteError
from tasks.classification import Classification
from tasks.protocol import Evaluation, Task


class Mean(Task):
    """Moves a number towards the mean of the batches: all that a task has to define."""

    def init(self, key):
        return {"mean": jnp.zeros(())}

    def train_step(self, state, batch, key, hyperparameters):
        return jax.tree.map(lambda x: x + 0.1 * (batch["image"].mean() - x), state), {}

    def eval_step(self, state, batch, key):
        return {}, ()

    def summarize(self, sums, rows):
        return Evaluation({})

    def metric_names(self):
        return ()

    def parameters(self, state):
        return state


def test_what_a_task_need_not_define():
    task, batches = Mean(), [{}]
    state = task.init(jax.random.key(0))
    assert task.model is None
    assert task.eval_batches(batches) is batches
    assert jax.jit(task.is_good)(state)
    assert task.trainable(state) == {"mean": True}
    task.check({"loss": 1.0}, 3)
    with pytest.raises(NonFiniteError, match="loss=nan.*step 3"):
        task.check({"loss": float("nan")}, 3)
    with pytest.raises(NotImplementedError, match="Mean takes no weights files"):
        task.with_variables(state, {})


def test_a_run_traces_each_step_once(small_config, tmp_path, monkeypatch):
    """Not once per evaluation, nor again for the last batch of one, which is padded."""
    for name in ("train_step", "eval_step"):
        once = chex.assert_max_traces(getattr(Classification, name), 1)
        monkeypatch.setattr(Classification, name, once)
    small_config.loop.num_epochs = 2.0
    chex.clear_trace_counter()
    train.train_and_evaluate(small_config, tmp_path)
