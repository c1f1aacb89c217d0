"""What the fields of the baselines may be, and what to say when they are not."""

from collections.abc import Iterable, Mapping
from typing import Any


def is_number(value: object) -> bool:
    """True for Python's numbers; NumPy's scalars would promote bfloat16 to float32."""
    return type(value) in (int, float)


def is_count(value: object) -> bool:
    """True for positive integers."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_counts(value: object) -> bool:
    """True for tuples of positive integers that are not empty."""
    return isinstance(value, tuple) and len(value) > 0 and all(map(is_count, value))


def check_counts(model: Any, fields: Iterable[str]) -> None:
    """Raises ValueError for a field that is not a positive integer."""
    for field in fields:
        if not is_count(getattr(model, field)):
            raise ValueError(f"{field}={getattr(model, field)!r} must be a positive integer")


def check_rates(model: Any, fields: Iterable[str]) -> None:
    """Raises ValueError for a field that is not a number in [0, 1)."""
    for field in fields:
        rate = getattr(model, field)
        if not is_number(rate) or not 0 <= rate < 1:
            raise ValueError(f"{field}={rate!r} must be a number, at least 0 and below 1")


def check_positive(model: Any, fields: Iterable[str]) -> None:
    """Raises ValueError for a field that is not a finite number above 0."""
    for field in fields:
        value = getattr(model, field)
        if not is_number(value) or not 0 < value < float("inf"):
            raise ValueError(f"{field}={value!r} must be a finite number above 0")


def check_names(model: Any, names: Mapping[str, Iterable[str]]) -> None:
    """Raises ValueError for a field that is none of its allowed names (field -> names)."""
    for field, allowed in names.items():
        value = getattr(model, field)
        if value not in allowed:
            raise ValueError(f"{field}={value!r} does not exist; choose from {', '.join(allowed)}")
