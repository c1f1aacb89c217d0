"""Splits of a data set as a recipe writes them: "train[:80%]+validation"."""

import re

from data.datasets import Dataset
from data.sources import arrays
from harness.arguments import unknown

_PART = re.compile(r"(?P<base>\w+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")
_Part = tuple[str, str | None, str | None]


def parse_split(dataset: Dataset, split: str) -> list[_Part]:
    """Takes a split like "train[:80%]+validation" apart.

    Args:
        dataset: whose split it is.
        split: names in the data set's `splits` or `aliases`, each optionally with a slice, joined
            by "+". Slice boundaries are whole percents or record numbers, negative ones count from
            the end, as in TensorFlow Datasets.

    Returns:
        For each part its split's name and the two boundaries as written, None where left out.

    Raises:
        ValueError: malformed, no such split, or one under two names, whose images would count
            twice.
    """
    names = {**{name: name for name in dataset.splits}, **dataset.aliases}
    parsed, written = [], {}
    for part in split.split("+"):
        match = _PART.fullmatch(part.strip())
        if match is None or match["base"] not in names:
            what = unknown(part.split("[")[0], names)
            raise ValueError(
                f"{part.strip()!r} is {what} of {dataset.name!r}, each also sliced, as "
                "'train[:80%]' or 'train[100:200]', and joined, as 'train+test[:50%]'"
            )
        base = names[match["base"]]
        if (other := written.setdefault(base, match["base"])) != match["base"]:
            raise ValueError(
                f"{other!r} and {match['base']!r} are the same split of {dataset.name!r}"
            )
        parsed.append((base, match["start"], match["stop"]))
    return parsed


def load_source(dataset: Dataset, split: str, image_size: tuple[int, int]) -> arrays.Source:
    """Loads a split, a slice of one, or several joined.

    Args:
        dataset: from `open_dataset`.
        split: as `parse_split` takes it.
        image_size: height and width in pixels of the images wanted.

    Returns:
        A random-access source.

    Raises:
        ValueError: an unknown split, or a slice outside the split or without a record.
    """
    parts = [_load_part(dataset, part, image_size) for part in parse_split(dataset, split)]
    return parts[0] if len(parts) == 1 else arrays.Concatenated(parts)


def load_for(key: str, dataset: Dataset, split: str, image_size: tuple[int, int]) -> arrays.Source:
    """Loads what a key of a config names, as `load_source` does, and tries a record.

    Raises:
        ValueError: as `load_source`, or no record can be read; names the key.
    """
    try:
        return arrays.tried(load_source(dataset, split, image_size))
    except ValueError as error:
        hint = ""
        if key == "config.data.train_split" and "train" not in dataset.splits:
            hint = "; there is nothing to train on, it can only be evaluated"
        raise ValueError(f"{key}={split!r}: {error}{hint}") from None


def _load_part(dataset: Dataset, part: _Part, image_size: tuple[int, int]) -> arrays.Source:
    base, start, stop = part
    source = dataset.load(base, image_size)
    total = len(source)
    first = 0 if start is None else _boundary(start, total)
    last = total if stop is None else _boundary(stop, total)
    if not 0 <= first < last <= total:
        raise ValueError(
            f"records {first} to {last} of {base!r} of {dataset.name!r}; allowed: at least one "
            f"record of 0 to {total}"
        )
    return source if (first, last) == (0, total) else arrays.Subset(source, range(first, last))


def _boundary(text: str, total: int) -> int:
    """Returns the record number that a slice boundary such as "80%", "100" or "-20%" means."""
    number = round(int(text[:-1]) * total / 100) if text.endswith("%") else int(text)
    return number + total if text.startswith("-") else number
