"""Signals that ask a run to stop: finish the step, save, leave."""

from process.signals import STOPPING, StopSignals


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

    def requested(self) -> bool:
        """True once this process got a signal."""
        return self.received()
