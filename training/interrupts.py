"""SIGTERM and SIGINT: finish the step, save, leave."""

import signal
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils


class Interrupts:
    """Context manager that turns the first SIGTERM or SIGINT into a request to stop.

    The second one has the usual effect, for people in a hurry. (JAX's own preemption notice needs
    jax.distributed.initialize(); this works without.)
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self._received = False
        self._agreed = False
        self._previous = {}

    def __enter__(self):
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, _frame):
        self._received = True
        for each, handler in self._previous.items():
            signal.signal(each, handler)
        name = signal.Signals(number).name
        print(f"\n{name}: finishing the step and saving; once more stops at once", file=sys.stderr)

    def stop_now(self) -> bool:
        """True when this process may stop by itself, in the middle of an evaluation."""
        return self._received and jax.process_count() == 1

    def requested(self, *, agree: bool) -> bool:
        """True when all processes have to stop after this step.

        Args:
            agree: with several processes, exchange who got a signal; a collective, so all of them
                must pass the same value. Between two agreements the last answer stands.
        """
        if jax.process_count() == 1:
            return self._received
        if agree:
            received = multihost_utils.process_allgather(np.asarray(self._received))
            self._agreed = bool(received.any())
        return self._agreed
