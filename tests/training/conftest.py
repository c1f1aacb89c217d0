import pytest

from harness.steps import plan_steps
from training.reporting import Reporter


class NoBatches:
    seconds_waited = 0.0


@pytest.fixture
def make_reporter(tmp_path):
    """Returns a function that makes the reporter of a run of ten steps in tmp_path."""
    steps = plan_steps(
        num_epochs=10.0,
        log_every_steps=1,
        evaluate_every_epochs=1.0,
        save_every_epochs=1.0,
        num_examples=100,
        batch_size=100,
    )

    def make(first_step=0, log_to=()):
        return Reporter(
            tmp_path,
            first_step=first_step,
            steps=steps,
            batches=NoBatches(),
            config={"seed": 0},
            log_to=log_to,
        )

    return make
