"""Checks every file of a workdir outside its checkpoints against the checksums it has."""

import functools
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.files import is_temporary
from harness.steps import steps_of
from workdirs.config_file import read_record
from workdirs.findings import Finding
from workdirs.progress import read_saved
from workdirs.records import (
    CHECKSUMS,
    CannotRead,
    DamagedFile,
    checksum_path,
    parse_lines,
    read_bytes,
)
from workdirs.results import is_bad_image, is_metrics, read_metrics

# Folders whose files are not of the run itself, or are checked by themselves.
_LEFT_OUT = ("checkpoints", CHECKSUMS)
_EVENTS = "events.out.tfevents."  # of TensorBoard
_PNG = b"\x89PNG\r\n\x1a\n"


def verify_files(workdir: Path) -> list[Finding]:
    """Returns how each file of a workdir stands; those in checkpoints/ are not looked at.

    Raises:
        ConfigError: a file cannot be read now.
    """
    saved = _saved_step(workdir)  # first: a run that goes on logs before it saves
    found = [_checked(path) for path in _files(workdir)]
    metrics = workdir / "metrics.jsonl"
    if missing := _missing_lines(workdir, saved):
        found = [one for one in found if one.path != metrics or one.state == "damaged"]
        if all(one.path != metrics for one in found):
            found.append(Finding(metrics, "damaged", missing))
    for sums in sorted({workdir / CHECKSUMS, *workdir.glob(f"*/{CHECKSUMS}")}):
        if sums.exists() and not sums.is_dir():
            found.append(Finding(sums, "damaged", "it should be a folder"))
        for path in sorted(sums.iterdir()) if sums.is_dir() else ():
            is_there = (sums.parent / path.name.removesuffix(".sha256")).exists()
            if not is_there and not is_temporary(path):
                found.append(Finding(path, "damaged", "the file of this checksum is gone"))
    return found


def _saved_step(workdir: Path) -> int:
    try:
        return read_saved(workdir) or 0
    except (FileNotFoundError, DamagedFile):  # of an earlier version; said by itself
        return 0


def _missing_lines(workdir: Path, saved: int) -> str:
    """Returns what metrics.jsonl lacks that was in it before a step was saved; "" for nothing.

    All lines of the steps before are. That of the step itself is if the disk was not full, so it
    counts for finished runs alone.
    """
    try:
        record, is_done = read_record(workdir), (workdir / "DONE").is_file()
        lines = read_metrics(workdir).sound
    except CannotRead:
        raise
    except ConfigError:  # said by itself
        return ""
    steps = steps_of(record["config"], record.get("num_examples"))
    if not saved or steps is None:
        return ""
    last = dict.fromkeys(("train", "eval"), 0)
    last |= {line["kind"]: line["step"] for line in lines}
    expected = saved if is_done else (saved - 1) // steps.log * steps.log
    for kind in last if is_done else ("train",):
        if last[kind] < expected:
            return f"step {saved} was saved, and the last line of kind {kind} is of {last[kind]}"
    return ""


def _files(folder: Path) -> Iterator[Path]:
    """Yields the files below a workdir, and folders that stand in the place of its files."""
    for path in sorted(folder.iterdir()):
        if path.name in _LEFT_OUT or path.name.startswith(".lock"):
            continue
        if path.is_symlink() and not checksum_path(path).exists():  # of somebody else
            continue
        if is_temporary(path):  # of a process that was killed, or is writing now
            continue
        if path.is_dir() and not _should_be_file(path):
            yield from _files(path)
        elif path.is_file() or _should_be_file(path):
            yield path


def _should_be_file(path: Path) -> bool:
    return (
        path.suffix in (".json", ".jsonl", ".txt", ".png", ".csv")
        or path.name == "DONE"
        or path.name.startswith(_EVENTS)
        or checksum_path(path).exists()
    )


def _own_check(path: Path) -> Callable[[Path, bytes], Finding] | None:
    """Returns what compares a file with the checksums inside it, None for one that has none."""
    if path.suffix == ".png":
        return functools.partial(_by_chunks, is_sound=_is_png, what="the CRCs of its chunks")
    if path.name.startswith(_EVENTS):
        return _by_records
    if path.name == "metrics.jsonl":
        return functools.partial(_by_lines, is_sound=is_metrics)
    if path.name.startswith("bad_images") and path.suffix == ".jsonl":
        return functools.partial(_by_lines, is_sound=is_bad_image, may_be_empty=False)
    return None


def _checked(path: Path) -> Finding:
    own, has_checksum = _own_check(path), checksum_path(path).exists()
    if own is None and not has_checksum and path.is_file():  # it may be of any size
        return Finding(path, "unknown", "it has no checksum")
    try:
        content = read_bytes(path, "restore it from a copy")
    except DamagedFile as error:
        return Finding(path, "damaged", str(error).removeprefix(f"{path} "))
    if content is None:
        return Finding(path, "unknown", "it went away meanwhile")
    if has_checksum:
        return Finding(path, "sound", "SHA-256")
    return own(path, content) if own else Finding(path, "unknown", "it has no checksum")


def _by_records(path: Path, content: bytes) -> Finding:
    if not content:  # a run that was killed may have had no time to write any
        return Finding(path, "unknown", "it is empty")
    return _by_chunks(path, content, is_sound=_is_events, what="the CRCs of its records")


def _by_lines(
    path: Path,
    content: bytes,
    *,
    is_sound: Callable[[dict[str, Any]], bool],
    may_be_empty: bool = True,
) -> Finding:
    if not content and not may_be_empty:
        return Finding(path, "damaged", "it is empty")
    found = parse_lines(content, is_sound)
    if found.damage or found.is_cut:
        return Finding(path, "damaged", found.damage or "its last line is cut off")
    if found.unknown:
        return Finding(path, "unknown", f"{found.unknown} lines have no checksum")
    return Finding(path, "sound", f"CRC-32 of {len(found.records)} lines")


def _by_chunks(
    path: Path, content: bytes, *, is_sound: Callable[[bytes], bool], what: str
) -> Finding:
    try:
        sound = is_sound(content)
    except struct.error:  # it ends within a number
        sound = False
    if sound:
        return Finding(path, "sound", what)
    return Finding(path, "damaged", f"it is cut off or not what it was, by {what}")


def _is_png(content: bytes) -> bool:
    place, kind = len(_PNG), b""
    if not content.startswith(_PNG):
        return False
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, place)
        (crc,) = struct.unpack_from(">I", content, place + 8 + length)
        if zlib.crc32(content[place + 4 : place + 8 + length]) != crc:
            return False
        place += 12 + length
    return place == len(content)


def _is_events(content: bytes) -> bool:
    """Returns whether a file of TensorBoard is whole: records of length, CRC, data, CRC.

    Reference: https://www.tensorflow.org/tutorials/load_data/tfrecord
    """
    place = 0
    while place < len(content):
        length, crc = struct.unpack_from("<QI", content, place)
        if crc != _masked_crc(content[place : place + 8]):
            return False
        (crc,) = struct.unpack_from("<I", content, place + 12 + length)
        if crc != _masked_crc(content[place + 12 : place + 12 + length]):
            return False
        place += 16 + length
    return True


def _masked_crc(content: bytes) -> int:
    from tensorboardX.crc32c import crc32c  # what writes these files brings it

    crc = crc32c(content)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
