"""SIGTERM and SIGINT: finish the step, save, leave."""

import signal
import sys
import threading
import time

# Schedulers may signal both a process and its group: the same signal again at once is no hurry.
SECONDS_OF_ONE_SIGNAL = 0.5


class Interrupts:
    """Context manager that turns the first SIGTERM or SIGINT into a request to stop.

    A later one has the usual effect, for people in a hurry. (JAX's own preemption notice needs
    jax.distributed.initialize(); this works without.)
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self._received: float | None = None  # when, by time.monotonic()
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
        """True once this process got a signal."""
        return self._received is not None
