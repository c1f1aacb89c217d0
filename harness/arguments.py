"""What is wrong with a value of a config, always in one form.

    config.optimizer.base_lr='fast': of type str; allowed: float
    config.data.bad_images='rais': unknown; did you mean 'raise'? allowed: replace, raise
    config.augment.flip.probability=2.0: out of range; allowed: 0 to 1

The strict checker (harness/strict_config.py) finds wrong names, types and choices. The functions
that a config calls check ranges, and how their values go together.
"""

import ast
import difflib
import math
from collections.abc import Iterable
from typing import Any

MAX_SIDE = 1 << 14  # of an image, pixels


def problem(key: str, value: Any, what: str, allowed: str = "") -> str:
    """Returns "key=value: what is wrong; allowed: ..."."""
    return f"{key}={value!r}: {what}{f'; allowed: {allowed}' if allowed else ''}"


def unknown(name: Any, allowed: Iterable[str]) -> str:
    """Returns "unknown; did you mean 'x'? allowed: x, y", the hint only where a name is near."""
    allowed = [str(choice) for choice in allowed]
    close = difflib.get_close_matches(str(name), allowed, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown; {hint}allowed: {', '.join(allowed) or 'none'}"


def check_range(
    key: str,
    value: float,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Raises a ValueError unless value is finite, least <= value <= most and above < value < below.

    Args:
        key: for the message.
        value: a number.
        least, most: the range with its ends.
        above, below: the range without its ends.
    """
    if least <= value <= most and above < value < below:
        return
    ends = {"at least": least, "above": above, "at most": most, "below": below}
    allowed = " and ".join(f"{word} {end}" for word, end in ends.items() if math.isfinite(end))
    if math.isfinite(least) and math.isfinite(most):
        allowed = f"{least} to {most}"
    if abs(value) == math.inf:
        allowed += " and finite"
    raise ValueError(problem(key, value, "out of range", allowed))


def check_interval(key: str, value: tuple[float, float], least: float, most: float) -> None:
    """Raises a ValueError unless `value` holds two numbers in the range, the lower one first."""
    low, high = value
    if not least <= low <= high <= most:
        allowed = f"{least} to {most}, the lower number first"
        raise ValueError(problem(key, value, "no interval in the range", allowed))


def as_names(key: str, value: str | tuple[str, ...]) -> tuple[str, ...]:
    """Returns one name, or several in a tuple, as a tuple; raises a ValueError if it is empty."""
    names = (value,) if isinstance(value, str) else tuple(value)
    if not names:
        raise ValueError(problem(key, value, "empty", "one name or more"))
    return names


def as_height_width(key: str, value: int | tuple[int, int]) -> tuple[int, int]:
    """Returns an image size, a side or (height, width) in pixels, as (height, width)."""
    size = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(size) != 2 or not all(isinstance(s, int) and 1 <= s <= MAX_SIDE for s in size):
        allowed = f"a side or (height, width), 1 to {MAX_SIDE} pixels"
        raise ValueError(problem(key, value, "not the size of an image", allowed))
    return size


class Override(str):
    """The text of a value on the command line, whose key may want a string or a literal."""

    @property
    def literal(self) -> Any:
        """The Python literal that the text is, "true" and "false" too, or the text: a word."""
        text = self.capitalize() if self in ("true", "false") else str(self)
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError):
            return str(self)


def as_field(text: str) -> tuple[str, Any]:
    """Returns name and value of one --fields=NAME=VALUE.

    Raises:
        ValueError: it has another form.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--fields={text}: looks like --fields=gelu=exact")
    return name, Override(value).literal
