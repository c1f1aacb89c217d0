"""What reading a weights file or a checkpoint gives, in any format."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from harness.errors import innermost

# The newest weights; their moving average; the average where there is one, else what there is.
Which = Literal["raw", "ema", "ema_or_raw"]


class NoAverage(ValueError):
    """A file or checkpoint holds no moving average."""


@dataclasses.dataclass(frozen=True)
class StoredWeights:
    """The weights in a file, under the names that the model here gives them.

    Attributes:
        kind: what the file is, in words.
        variables: {"params": tree} and other collections of the model.
        fields: fields of the model that the file or its source fixes.
        skipped: what the file holds besides, which is not needed.
        notes: what a person should know.
        image_size: (height, width) of the images the weights were made for, if known.
        class_names: in the order of the labels, if known.
    """

    kind: str
    variables: dict[str, Any]
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    class_names: tuple[str, ...] | None = None


def damaged(file: Path, error: Exception) -> ValueError:
    """Returns the error for a file whose content cannot be decoded, in one line."""
    return ValueError(f"weights {file}: truncated or damaged file ({innermost(error)})")
