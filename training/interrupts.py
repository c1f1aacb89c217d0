"""Signals that ask a run to stop: finish the step, save, leave."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from harness.process import STOPPING, StopSignals

# Steps (or batches of an evaluation) between two agreements: far less than the half minute that a
# preempted machine has, and rare enough to cost nothing.
AGREE_EVERY = 10


class Interrupts(StopSignals):
    """Context manager that turns the first of the STOPPING signals into a request to stop.

    A later one ends the process at once, for people in a hurry. (JAX's own preemption notice needs
    jax.distributed.initialize(); this works without.)
    """

    def __init__(self):
        super().__init__(
            STOPPING,
            "finishing the step and saving; once more stops at once",
            "stopped at once; the same command resumes from the last checkpoint",
        )
        self._agreed = False
        self._num_questions = 0

    def requested(self) -> bool:
        """True when all processes have to stop.

        With several processes the answer is agreed on at every AGREE_EVERY-th question, in a
        collective, so all of them must ask equally often; in between, the last answer stands.
        """
        if jax.process_count() == 1:
            return self.received()
        if self._num_questions % AGREE_EVERY == 0:
            received = multihost_utils.process_allgather(np.asarray(self.received()))
            self._agreed = bool(received.any())
        self._num_questions += 1
        return self._agreed
