"""Class names in another order than somebody thinks of."""

import re
import unicodedata
from collections.abc import Iterable, Sequence


def in_label_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sorts class names; as numbers if all of them are, so that 2 comes before 10."""
    names = sorted(names)
    if all(re.fullmatch("[0-9]+", name) for name in names):
        names.sort(key=int)
    return tuple(names)


def two_orders(names: Sequence[str]) -> bool:
    """Returns whether names are sorted as numbers and would be in another order as text."""
    return tuple(names) == in_label_order(names) != tuple(sorted(names))


def places(names: Sequence[str], known: Sequence[str]) -> list[int]:
    """Returns the place that each name has among the known ones.

    An accent may be composed with its letter or stand alone, as file systems have it.

    Raises:
        ValueError: "they differ in 'cat', ...": a name is not known, or one occurs twice.
    """
    names, known = (
        [unicodedata.normalize("NFC", name) for name in both] for both in (names, known)
    )
    place = {name: label for label, name in enumerate(known)}
    if set(names) - set(known) or len(place) < len(known) or len(set(names)) < len(names):
        other = sorted(set(names) ^ set(known))
        twice = sorted({name for both in (names, known) for name in both if both.count(name) > 1})
        more = f" and {len(other) - 5} more" if len(other) > 5 else ""
        twice = f"they have {twice[0]!r} twice" if twice else ""
        raise ValueError(twice or f"they differ in {', '.join(map(repr, other[:5]))}{more}")
    return [place[name] for name in names]


def assumed_order(names: Sequence[str]) -> str:
    """Returns the note for weights that do not name their classes, where the data names its own."""
    few = ", ".join(names if len(names) < 5 else [*names[:3], "...", names[-1]])
    as_numbers = ", sorted as numbers; others sort them as text" if two_orders(names) else ""
    return (
        "the weights do not name their classes: they are taken to be in the order of the data set, "
        f"{few}{as_numbers}"
    )


def check_order(file: object, names: Sequence[str], known: Sequence[str] | None) -> None:
    """Raises ValueError if a person's file has a name that is known at another place."""
    labels = {name: label for label, name in enumerate(known or ())}
    for label, name in enumerate(names):
        if labels.get(name, label) != label:
            raise ValueError(
                f"{file} has the classes in another order than the weights: label {label} is "
                f"{known[label]!r} there, {name!r} here"
            )
