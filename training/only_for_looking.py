"""What is only for looking at never ends a run."""

import contextlib
import functools
from collections.abc import Callable, Iterator

from harness.errors import one_line


class OnlyForLooking:
    """Runs what a run shows: the first failure of each kind is a warning, and the run goes on.

    Args:
        say: takes a line for the person who looks. It may fail, too.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say, self._failed = say, set()

    @contextlib.contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Runs the block; `what` it shows, for the warning."""
        try:
            yield
        except Exception as error:  # of any kind: a full disk, a library that is broken
            if what not in self._failed:
                self._failed.add(what)
                kind = type(error).__name__
                with contextlib.suppress(Exception):
                    self._say(f"warning: {what}: {kind}: {one_line(error)}; training goes on")


def only_shown(what: str) -> Callable:
    """Makes a method of Reporter do nothing in processes that show nothing, and never raise."""

    def decorate(method):
        @functools.wraps(method)
        def guarded(self, *args, **options) -> None:
            if self.active:
                with self.looking(what):
                    method(self, *args, **options)

        return guarded

    return decorate
