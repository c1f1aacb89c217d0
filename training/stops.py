"""What ends a run before its last step, agreed on by all of its processes."""

from collections.abc import Callable

from data.bad_images import BadImages
from parallel import peers

# Steps (or batches of an evaluation) between two agreements: far less than the half minute that a
# preempted machine has, and rare enough to cost nothing.
AGREE_EVERY = 10


class Stops:
    """Signals and unreadable images of any process, as a request to all of them to stop.

    Args:
        interrupted: whether this process got a signal.
        bad: the unreadable images. Alone, a process stops by itself when there are too many. With
            others it goes on, with the images that replace them, until all know of it.
    """

    def __init__(self, interrupted: Callable[[], bool], bad: BadImages):
        self._interrupted, self._bad = interrupted, bad
        self._num_questions, self._agreed = 0, False

    def requested(self) -> bool:
        """True when all processes have to stop.

        They agree at every AGREE_EVERY-th question, so all of them must ask equally often; in
        between, the last answer stands.
        """
        if peers.current() is None:
            return self._interrupted()
        if self._num_questions % AGREE_EVERY == 0:
            signals = peers.gather("signals", self._interrupted())
            too_many = share_bad_images(self._bad)  # in any case: all then end for the same reason
            self._agreed = any(signals) or too_many
        self._num_questions += 1
        return self._agreed


def share_bad_images(bad: BadImages) -> bool:
    """Tells all processes which images any of them could not read; returns if they are too many."""
    if peers.current() is not None:
        for index, entries in enumerate(peers.gather("bad images", bad.take_new())):
            if index != peers.current().index:
                bad.learn(entries)
    return bad.too_many()


def check_bad_images(bad: BadImages) -> None:
    """Raises TooManyBadImages in all processes if together they met too many."""
    share_bad_images(bad)
    bad.check()
