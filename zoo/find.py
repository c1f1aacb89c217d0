"""The file or checkpoint folder that a path to weights stands for."""

import difflib
import re
from pathlib import Path
from typing import Literal, get_args

from harness.files import run_path
from harness.lease_files import in_bucket
from harness.strict_config import check_arguments
from harness.trees import listed
from workdirs.step_files import is_step, steps_in
from zoo.released.locate import is_released, locate, named_checkpoint
from zoo.released.table import RELEASED

# A folder from a model hub holds one of these.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
Checkpoint = Literal["latest", "best"]
CHECKPOINTS = get_args(Checkpoint)  # folders of a workdir's `checkpoints`


def weights_path(key: str, path: str | Path) -> str | Path:
    """Returns a path to weights as `run_path` does; the name of released weights stays a name."""
    return str(path) if is_released(path) else run_path(key, path)


def find_weights_file(path: str | Path, checkpoint: Checkpoint = "latest") -> Path:
    """Finds the weights that a path stands for.

    Args:
        path: a weights file; a workdir, its folder `checkpoints`, one of the two folders in that,
            or one checkpoint; a folder of the official NesT, whose newest checkpoint counts, or the
            prefix of one checkpoint in it (".../ckpt-39"); a folder from a model hub; the name of
            released weights (zoo/released/table.py), which are downloaded if they are not here.
        checkpoint: "latest" or "best", of a workdir.

    Returns:
        A file, or the folder of one of this repository's checkpoints (".../best/1200").

    Raises:
        FileNotFoundError: nothing is there; the message names the checkpoints near it.
        ValueError: the path is empty or not on this machine, or `checkpoint` is another word;
            released weights cannot be downloaded.
    """
    check_arguments(find_weights_file, checkpoint=checkpoint)
    if is_released(path):
        path = locate(str(path))
    path = run_path("weights", path)  # its parents say which run it is of
    if in_bucket(path):
        if not is_checkpoint(found := _in_folder(path, checkpoint)):
            raise ValueError(f"weights {found}: not of a run; copy them to this machine first")
        return found
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path, checkpoint)
    file = path.with_name(f"{path.name}.flax")
    if file.is_file():
        return file
    near = _numbered(path.parent) if path.parent.is_dir() else {}
    there = f"; {path.parent} has {listed([near[n].stem for n in sorted(near)])}" if near else ""
    if close := difflib.get_close_matches(path.name, RELEASED, n=1, cutoff=0.8):
        there += f"; of the released weights that have a name, {close[0]} is near"
    raise FileNotFoundError(f"weights {path}: no such file or folder{there}")


def find_checkpoint(workdir: Path, checkpoint: Checkpoint = "latest") -> Path:
    """Returns the folder of a run's newest "latest" or "best" checkpoint (".../best/1200").

    Raises:
        FileNotFoundError: the run has saved none.
        ValueError: `checkpoint` is another word.
    """
    check_arguments(find_checkpoint, checkpoint=checkpoint)
    return _newest(run_path("workdir", workdir) / "checkpoints" / checkpoint)


def is_checkpoint(path: Path) -> bool:
    """Returns whether a folder is one of this repository's checkpoints."""
    return is_step(path.name) and (path.parent.name in CHECKPOINTS or (path / "state").is_dir())


def _newest(folder: Path) -> Path:
    steps = steps_in(folder)
    if not steps:
        raise FileNotFoundError(f"{folder}: no finished checkpoint there; no run has saved one")
    return folder / str(steps[-1])


def _in_folder(folder: Path, checkpoint: str) -> Path:
    if is_checkpoint(folder):
        return folder
    if (folder / "checkpoints").is_dir():  # a workdir
        folder = folder / "checkpoints"
    if any((folder / name).is_dir() for name in CHECKPOINTS):
        folder = folder / checkpoint
    if folder.name in CHECKPOINTS:
        return _newest(folder)
    for name in _HUB_FILES:
        if (folder / name).is_file():
            return folder / name
    return _newest_official(folder)


def _newest_official(folder: Path) -> Path:
    """Goes by the folder's `checkpoint` file, as the official code does, or the highest number."""
    index = folder / "checkpoint"
    if named := named_checkpoint(index):
        file = folder / f"{named}.flax"
        if not file.is_file():
            raise FileNotFoundError(f"weights {file}: named by {index}, but not there")
        return file
    numbered = _numbered(folder)
    if not numbered:
        raise FileNotFoundError(
            f"weights {folder}: no checkpoint (ckpt-N.flax) in this folder, nor checkpoints of a "
            f"run, nor {' nor '.join(_HUB_FILES)}"
        )
    return numbered[max(numbered)]


def _numbered(folder: Path) -> dict[int, Path]:
    matches = ((re.fullmatch(r"ckpt-(\d+)\.flax", file.name), file) for file in folder.iterdir())
    return {int(match[1]): file for match, file in matches if match}
