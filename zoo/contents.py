"""What a file of weights holds, whatever its format."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import one_line


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a file holds, in our names.

    Attributes:
        kind: what it is, in words.
        variables: {"params": tree} and other collections of the model.
        fields: fields of the model that the file or its source tells.
        skipped: what is in the file and not needed.
        notes: what a person should know.
        image_size: (height, width) of the images that it is for, if the file or its run tells.
        class_names: in the order of the labels, if the file or its run tells.
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
    return ValueError(f"weights {file}: truncated or damaged file ({one_line(error)})")
