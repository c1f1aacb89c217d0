"""Checks of the keyword arguments of a recipe; each error names key, value and what is allowed."""

from collections.abc import Iterable
from typing import Any


def check_number(key: str, value: Any, least: float, most: float) -> None:
    """Raises a ValueError unless `value` is a number (no truth value) from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {value!r}; it must be a number")
    if not least <= value <= most:
        raise ValueError(f"{key} is {value}; allowed is {least:g} to {most:g}")


def check_integer(key: str, value: Any, least: int, most: int) -> None:
    """Raises a ValueError unless `value` is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{key} is {value!r}; allowed are whole numbers, {least} to {most}")


def check_choice(key: str, value: Any, choices: Iterable[str]) -> None:
    """Raises a ValueError unless `value` is one of the names in `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{key} is {value!r}; there is: {', '.join(choices)}")


def check_interval(key: str, value: Any, least: float, most: float) -> tuple[float, float]:
    """Returns two numbers, the lower one first, as a tuple; raises a ValueError for all else."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{key} is {value!r}; it must be two numbers, the lower one first")
    for number in value:
        check_number(key, number, least, most)
    if value[0] > value[1]:
        raise ValueError(f"{key} is {tuple(value)}; the lower number comes first")
    return tuple(value)


def as_choices(key: str, value: Any, choices: Iterable[str]) -> tuple[str, ...]:
    """Returns one name, or several in a tuple or list, as a tuple; each must be in `choices`."""
    names = tuple(value) if isinstance(value, tuple | list) else (value,)
    if not names:
        raise ValueError(f"{key} is empty; there is: {', '.join(choices)}")
    for name in names:
        check_choice(key, name, choices)
    return names


def as_height_width(key: str, value: Any) -> tuple[int, int]:
    """Returns an image size, a side or (height, width) in pixels, as (height, width)."""
    size = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(size) != 2:
        raise ValueError(f"{key} is {value!r}; it must be a side or (height, width)")
    for side in size:
        check_integer(key, side, 1, 1 << 14)
    return size
