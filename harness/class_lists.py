"""Lists of class names whose order is not the one that somebody thinks of."""

from collections.abc import Sequence


def assumed_order(names: Sequence[str]) -> str:
    """Returns the note for weights that do not name their classes, where the data names its own."""
    few = ", ".join(names if len(names) < 5 else [*names[:3], "...", names[-1]])
    as_numbers = ""
    if list(names) != sorted(names):
        as_numbers = ", sorted as numbers; others sort them as text"
    return (
        "the weights do not name their classes: they are taken to be in the order of the data set, "
        f"{few}{as_numbers}"
    )


def check_order(file: object, names: Sequence[str], known: Sequence[str] | None) -> None:
    """Raises ValueError if a person's file gives the names that are known in another order."""
    if known is not None and list(names) != list(known) and sorted(names) == sorted(known):
        first = next(i for i, (a, b) in enumerate(zip(names, known, strict=True)) if a != b)
        raise ValueError(
            f"{file} has the classes in another order than the weights: label {first} is "
            f"{known[first]!r} there, {names[first]!r} here"
        )
