"""Which file or checkpoint folder a path to weights means."""

import re
from pathlib import Path

from harness.trees import listed

# The folders that a model hub makes hold one of these.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def find_weights_file(path: str | Path, checkpoint: str = "latest") -> Path:
    """Finds what a path means.

    Args:
        path: a weights file; a workdir of ours, its folder `checkpoints`, one of the two in that,
            or one checkpoint; a folder of the official NesT, whose newest checkpoint counts, or the
            prefix of one checkpoint in it (".../ckpt-39"); a folder of a model hub.
        checkpoint: "latest" or "best", of a workdir.

    Returns:
        A file, or the folder of one checkpoint of ours (".../checkpoints/best/1200").

    Raises:
        FileNotFoundError: if nothing is there, naming the checkpoints near it.
        ValueError: if the path is empty or not on this machine, or `checkpoint` is another word.
    """
    if checkpoint not in ("latest", "best"):
        raise ValueError(f"checkpoint={checkpoint!r} does not exist; choose from 'latest', 'best'")
    if not str(path).strip():
        raise ValueError("the weights path is empty")
    if "://" in str(path):
        raise ValueError(f"weights {path}: copy remote files to this machine first")
    path = Path(path).expanduser().absolute()  # its parents tell what it belongs to
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path, checkpoint)
    file = path.with_name(f"{path.name}.flax")
    if file.is_file():
        return file
    near = _numbered(path.parent) if path.parent.is_dir() else {}
    there = f"; {path.parent} has {listed([near[n].stem for n in sorted(near)])}" if near else ""
    raise FileNotFoundError(f"weights {path}: no such file or folder{there}")


def is_checkpoint(path: Path) -> bool:
    """Tells whether a folder is one checkpoint of ours."""
    return path.name.isdigit() and (path / "state").is_dir()


def _in_folder(folder: Path, checkpoint: str) -> Path:
    if is_checkpoint(folder):
        return folder
    if (folder / "checkpoints").is_dir():  # a workdir
        folder = folder / "checkpoints"
    if (folder / "latest").is_dir() or (folder / "best").is_dir():
        folder = folder / checkpoint
    if folder.name in ("latest", "best"):
        steps = [step for step in folder.glob("*") if is_checkpoint(step)]
        if not steps:
            raise FileNotFoundError(f"weights {folder}: no finished checkpoint in this folder")
        return max(steps, key=lambda step: int(step.name))
    for name in _HUB_FILES:
        if (folder / name).is_file():
            return folder / name
    return _newest_official(folder)


def _newest_official(folder: Path) -> Path:
    """Asks the folder's `checkpoint` file, as the official code does, or takes the highest number.

    The file names the path on the machine that wrote it, so only the last part counts.
    """
    index = folder / "checkpoint"
    text = index.read_text(errors="replace") if index.is_file() else ""
    named = re.search(r'^model_checkpoint_path:\s*"(?:.*/)?([^/"]+)"', text, re.MULTILINE)
    if named:
        file = folder / f"{named[1]}.flax"
        if not file.is_file():
            raise FileNotFoundError(f"weights {file}: named by {index}, but not there")
        return file
    numbered = _numbered(folder)
    if not numbered:
        raise FileNotFoundError(
            f"weights {folder}: no checkpoint (ckpt-N.flax) in this folder, nor checkpoints of "
            f"ours, nor {' nor '.join(_HUB_FILES)}"
        )
    return numbered[max(numbered)]


def _numbered(folder: Path) -> dict[int, Path]:
    matches = ((re.fullmatch(r"ckpt-(\d+)\.flax", file.name), file) for file in folder.iterdir())
    return {int(match[1]): file for match, file in matches if match}
