"""Images that cannot be read: counted, listed, and a reason to stop when there are too many."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Protocol

from absl import logging

from harness.arguments import problem
from harness.errors import BadImage

Policy = Literal["replace", "raise"]


class TooManyBadImages(BadImage):
    """More images cannot be read than the recipe allows."""


class BadImagesLog(Protocol):
    """A file that lists unreadable images: workdirs.results.BadImagesFile."""

    path: Path

    def entries(self) -> list[dict[str, Any]]:
        """Returns what it lists: split, index, name, reason."""

    def append(self, entry: dict[str, Any]) -> None:
        """Adds an entry."""


class BadImages:
    """The unreadable images of a run, each once, however many epochs and processes meet it.

    Args:
        policy: "replace" lets a run go on, "raise" stops it at the first one.
        max_bad: with "replace", as many as may be unreadable.

    Attributes:
        deferred: too many are no error of `add`, but of the next `check`: one of several processes
            cannot stop by itself.
    """

    deferred = False

    def __init__(self, policy: Policy, max_bad: int):
        self._limit = max_bad if policy == "replace" else 0
        self._policy = policy
        self._seen: set[tuple[str, str]] = set()  # split and name: numbers change as folders grow
        self._new: list[tuple[str, str, str]] = []  # met since `take_new`: split, name, reason
        self._last = ("", "", "")
        self._file: BadImagesLog | None = None
        self._lock = threading.Lock()  # training and evaluation batches are made by two threads

    def __len__(self) -> int:
        return len(self._seen)

    def keep_in(self, file: BadImagesLog) -> None:
        """Appends the images to a file.

        Images that it and the other processes' files next to it already list do not count again: a
        resumed run goes on counting.
        """
        self._file = file
        self._seen |= {(entry["split"], entry["name"]) for entry in file.entries()}

    def add(self, split: str, entries: Iterable[tuple[int, str, str]]) -> None:
        """Counts the images (index, name, reason) of a split.

        Raises:
            TooManyBadImages: there are more than allowed.
        """
        with self._lock:
            for index, name, reason in entries:
                if (split, name) not in self._seen:
                    self._seen.add((split, name))
                    logging.warning("%s (%s) cannot be read: %s", name, split, reason)
                    if self._file is not None:
                        entry = {"split": split, "index": index, "name": name, "reason": reason}
                        self._file.append(entry)
                    self._new.append((split, name, reason))
                self._last = (split, name, reason)
                if not self.deferred:
                    self._check()  # an earlier run may have listed them

    def take_new(self) -> list[tuple[str, str, str]]:
        """Returns the images (split, name, reason) that this process met since the last call."""
        with self._lock:
            new, self._new = self._new, []
        return new

    def learn(self, entries: Iterable[tuple[str, str, str]]) -> None:
        """Counts images that other processes have met, and list."""
        with self._lock:
            for split, name, reason in entries:
                self._seen.add((split, name))
                self._last = (split, name, reason)

    def too_many(self) -> bool:
        """Returns whether more images cannot be read than may be, and one of them was met."""
        return len(self._seen) > self._limit and any(self._last)

    def check(self) -> None:
        """Raises TooManyBadImages if there are too many."""
        with self._lock:
            self._check()

    def _check(self) -> None:
        if self.too_many():
            raise TooManyBadImages(self._message(*self._last))

    def _message(self, split: str, name: str, reason: str) -> str:
        last = f"{name} ({split}) cannot be read: {reason}"
        if self._policy == "raise":
            return f"{last}; config.data.bad_images=replace goes on without such images"
        listed = f"; all are listed in {self._file.path}" if self._file else ""
        what = f"{len(self._seen)} images cannot be read{listed}; the last: {last}"
        return problem("config.data.max_bad", self._limit, what)
