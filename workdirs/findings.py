"""What a check of stored files found: one line each, for `tools/verify.py`."""

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Finding:
    """How one file, or one array in a checkpoint, stands.

    Attributes:
        path: of the file or of the checkpoint's folder.
        state: "sound"; "unknown": written without a checksum, so nobody can say; "damaged".
        text: what was compared, or what is wrong, in a few words.
    """

    path: Path
    state: Literal["sound", "unknown", "damaged"]
    text: str
