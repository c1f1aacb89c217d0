"""SIGTERM and SIGINT: finish the step, save, leave."""

import signal
import sys
import threading
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

# Schedulers may signal both a process and its group: the same signal again at once is no hurry.
SECONDS_OF_ONE_SIGNAL = 0.5
# Steps (or batches of an evaluation) between two agreements: far less than the half minute that a
# preempted machine has, and rare enough to cost nothing.
AGREE_EVERY = 10


class Interrupts:
    """Context manager that turns the first SIGTERM or SIGINT into a request to stop.

    A later one has the usual effect, for people in a hurry. (JAX's own preemption notice needs
    jax.distributed.initialize(); this works without.)
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self._received: float | None = None  # when, by time.monotonic()
        self._agreed = False
        self._num_questions = 0
        self._previous = {}

    def __enter__(self):
        # Only the main thread may set handlers; a run in another one cannot be interrupted so.
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, _frame):
        now = time.monotonic()
        if self._received is not None:
            if now - self._received > SECONDS_OF_ONE_SIGNAL:
                signal.signal(number, self._previous[number])
                signal.raise_signal(number)
            return
        self._received = now
        name = signal.Signals(number).name
        print(f"\n{name}: finishing the step and saving; once more stops at once", file=sys.stderr)

    def requested(self) -> bool:
        """True when all processes have to stop.

        With several processes the answer is agreed on at every AGREE_EVERY-th question, in a
        collective, so all of them must ask equally often; in between, the last answer stands.
        """
        if jax.process_count() == 1:
            return self._received is not None
        if self._num_questions % AGREE_EVERY == 0:
            received = multihost_utils.process_allgather(np.asarray(self._received is not None))
            self._agreed = bool(received.any())
        self._num_questions += 1
        return self._agreed
