"""When a run logs, evaluates and saves."""

import numpy as np
import pytest

from harness.steps import plan_steps


def plan(num_examples, batch_size, epochs, every, *, save=1.0):
    return plan_steps(
        num_epochs=epochs,
        log_every_steps=7,
        evaluate_every_epochs=every,
        save_every_epochs=save,
        num_examples=num_examples,
        batch_size=batch_size,
    )


def marked(steps, is_due):
    return [step for step in range(steps.total + 1) if is_due(step)]


def test_evaluations_and_saves():
    steps = plan(100, 10, 3.5, 1.0)
    assert steps.total == 35
    assert marked(steps, steps.logs_at) == [1, 7, 14, 21, 28, 35]
    assert marked(steps, steps.evaluates_at) == [10, 20, 30, 35]
    assert marked(steps, steps.saves_at) == [10, 20, 30, 35]


def test_the_first_run_of_the_issue():
    """1,437 digits in batches of 48: six intervals of 299 steps end 2 before the last, 1,796."""
    steps = plan(1437, 48, 60.0, 10.0)
    assert marked(steps, steps.evaluates_at) == [299, 598, 897, 1196, 1495, 1796]


@pytest.mark.parametrize("seed", range(4))
def test_the_last_two_evaluations_are_apart(seed):
    rng = np.random.default_rng(seed)
    for _ in range(500):
        steps = plan(
            int(rng.integers(1, 400)),
            int(rng.integers(1, 50)),
            float(rng.uniform(0.1, 9.0)),
            float(rng.uniform(0.1, 4.0)),
        )
        evaluations = marked(steps, steps.evaluates_at)
        assert evaluations[-1] == steps.total
        gaps = np.diff(evaluations)
        if len(gaps):
            assert gaps[-1] > steps.evaluate / 10 and gaps[-1] >= 2
        assert (gaps <= max(1.1 * steps.evaluate, steps.evaluate + 1)).all()
