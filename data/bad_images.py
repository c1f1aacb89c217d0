"""Images that cannot be read: counted, listed, and a reason to stop when there are too many."""

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from absl import logging

from harness.arguments import problem
from harness.errors import BadImage, record_errors

Policy = Literal["replace", "raise"]


class TooManyBadImages(BadImage):
    """More images cannot be read than the recipe allows."""


class BadImages:
    """The unreadable images of this process, each once, however many epochs meet it.

    Args:
        policy: "replace" lets a run go on, "raise" stops it at the first one.
        max_bad: with "replace", as many as may be unreadable.
    """

    def __init__(self, policy: Policy, max_bad: int):
        self._limit = max_bad if policy == "replace" else 0
        self._policy = policy
        self._seen: set[tuple[str, str]] = set()  # split and name: numbers change as folders grow
        self._path: Path | None = None
        self._lock = threading.Lock()  # training and evaluation batches are made by two threads

    def __len__(self) -> int:
        return len(self._seen)

    def keep_in(self, path: Path) -> None:
        """Appends the images to a file, one JSON object per line.

        Images that the file already lists do not count again: a resumed run goes on counting.
        """
        self._path = path
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self._seen.add((entry["split"], entry["name"]))
                except (ValueError, KeyError, TypeError):
                    continue  # a line cut off by a crash: its image will be met and listed again

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
                    if self._path is not None:
                        entry = {"split": split, "index": index, "name": name, "reason": reason}
                        with record_errors(self._path), self._path.open("a") as file:
                            file.write(json.dumps(entry) + "\n")  # ASCII
                if len(self._seen) > self._limit:  # an earlier run may have listed them
                    raise TooManyBadImages(self._message(split, name, reason))

    def _message(self, split: str, name: str, reason: str) -> str:
        last = f"{name} ({split}) cannot be read: {reason}"
        if self._policy == "raise":
            return f"{last}; config.data.bad_images=replace goes on without such images"
        listed = f"; all are listed in {self._path}" if self._path else ""
        what = f"{len(self._seen)} images cannot be read{listed}; the last: {last}"
        return problem("config.data.max_bad", self._limit, what)
