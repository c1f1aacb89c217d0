"""What a terminal gets: names of files and classes cannot move its cursor or change its title.

Not for files: JSON and CSV keep names as they are.
"""

import re
import sys
from typing import Any

from absl import logging

from harness.errors import escaped
from process.streams import end_starting

# What a progress bar of tqdm writes, each in a call of its own or before a line.
_BAR = re.compile("\r?(?:(?:\x1b\\[A)+|[\n ]*)\r?")


class EscapingStream:
    """A text stream that writes what `escaped` makes of a text, in any encoding.

    Args:
        stream: sys.stdout or sys.stderr.
        has_bars: whether tqdm moves the cursor there, as it does on stderr if that is a terminal.
    """

    def __init__(self, stream: Any, *, has_bars: bool = False):
        self._stream, self._has_bars = stream, has_bars

    def write(self, text: str) -> int:
        """Writes a text; the movements of a progress bar are left as they are."""
        end_starting()
        bar = _BAR.match(text)[0] if self._has_bars and self._stream.isatty() else ""
        if len(bar) < len(text):
            bar = bar[: bar.startswith("\r")]  # of a longer text only the way to its start
        rest = escaped(text[len(bar) :])
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(bar + rest.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines) -> None:
        """Writes texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self):
        return iter(self._stream)


class _EscapingFormatter(logging.PythonFormatter):
    def format(self, record) -> str:
        return escaped(super().format(record))


def escape_streams() -> None:
    """Lets everything that this process prints and logs go through `escaped`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, EscapingStream):
            setattr(sys, name, EscapingStream(stream, has_bars=name == "stderr"))
    logging.get_absl_handler().setFormatter(_EscapingFormatter())
