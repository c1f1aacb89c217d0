"""Readable names of ImageNet's classes."""

import functools
import re
from collections.abc import Collection
from importlib import resources

_SYNSET = re.compile(r"n\d{8}")


@functools.cache
def imagenet_names() -> dict[str, str]:
    """Returns WordNet's number of each ImageNet class -> its names, in the order of the labels.

    They come with the code of TensorFlow Datasets, and neither need TensorFlow nor any data:
    "n01440764" -> "tench, Tinca tinca". Empty where a version of it lacks them.
    """
    try:
        from tensorflow_datasets.datasets.siscore.labels import IMAGENET_LABELS_LIST as names

        folder = resources.files("tensorflow_datasets.datasets") / "imagenet2012"
        synsets = (folder / "labels.txt").read_text(encoding="utf-8").split()
    except (ImportError, OSError):
        return {}
    return dict(zip(synsets, names, strict=True)) if len(synsets) == len(names) else {}


def readable(names: Collection[str]) -> tuple[str, ...]:
    """Replaces WordNet's numbers by ImageNet's names; all other names stay.

    Args:
        names: of classes. ImageNet's folders, and the sets made from them, have such numbers.
    """
    if not any(_SYNSET.fullmatch(name) for name in names):
        return tuple(names)
    table = imagenet_names()
    return tuple(table.get(name, name) for name in names)


def short_name(name: str) -> str:
    """Returns the first of the synonyms that name a class of ImageNet; any other name is whole."""
    return name.split(",")[0] if "," in name and name in imagenet_names().values() else name


def is_imagenet(num_classes: int, names: Collection[str] | None) -> bool:
    """Returns whether a model of so many classes, which knows data of these, is one of ImageNet.

    Args:
        num_classes: of the model.
        names: of the data's classes: all of ImageNet's, or some.
    """
    known = imagenet_names()
    return num_classes == len(known) and names is not None and known.keys() >= set(names)
