"""Files of a workdir: read whole or refused in one line."""

import errno
import json
import os
import random
import subprocess

import pytest

from harness.errors import ConfigError
from harness.files import write_text
from workdirs import records
from workdirs.class_file import own_classes
from workdirs.config_file import read_config
from workdirs.records import (
    CannotRead,
    DamagedFile,
    checksum_path,
    json_line,
    parse_lines,
    read_json,
    write_record,
)
from workdirs.results import is_bad_image, is_metrics, keep_metrics, parse_metrics, read_done

METRICS = {"kind": "train", "step": 3, "loss": 2.5, "top1_accuracy": 0.5, "protocol": {"a": "b"}}
BAD = {"split": "train", "index": 3, "name": "ä\udcff.png", "reason": "it is empty"}
# What may lie where a file should, and words of the message.
DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "no text": lambda content: b"\xff\xfe\xfa" + content,
    "a list": lambda content: b"[1]",
    "a number": lambda content: b"7",
    "deep": lambda content: b"[" * 100_000,
    "null": lambda content: b"null",
}


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("record", [METRICS, BAD])
def test_no_bit_of_a_line_flips_silently(record):
    is_sound = is_metrics if record is METRICS else is_bad_image
    good = json_line(record).encode()
    for content in (good, good * 2):
        whole = parse_lines(content, is_sound)
        assert whole.sound == [record] * content.count(b"\n") and not whole.unknown
        for bit in range(8 * len(content)):
            found = parse_lines(flipped(content, bit), is_sound)
            assert found.damage or found.is_cut, flipped(content, bit)
            assert all(line == record for line in found.sound)


def test_a_damaged_line_costs_itself_alone():
    lines = [json_line(METRICS | {"step": step}) for step in range(5)]
    lines[1] = lines[1].replace("2.5", "2.4")
    lines[3] = "\0" * len(lines[3]) + "\n"
    assert [r and r["step"] for r in parse_metrics("".join(lines))] == [0, None, 2, None, 4]
    found = parse_lines("".join(lines), is_metrics)
    assert found.damage == "lines 2, 4" and not found.is_cut


def test_lines_of_earlier_versions():
    found = parse_lines(json.dumps(METRICS) + "\n" + json_line(METRICS), is_metrics)
    assert found.sound == [METRICS] * 2 and found.unknown == 1


def test_metrics_go_on_after_damage_that_is_said_once(tmp_path, caplog):
    lines = [json_line(METRICS | {"step": step}) for step in range(4)]
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines[0] + "{]\n" + json.dumps(METRICS) + "\n" + lines[3] + lines[1][:20])
    for _ in range(2):
        kept = keep_metrics(tmp_path, 3)
        assert [record["step"] for record in kept] == [0, 3, 3]
    (warning,) = caplog.messages
    assert warning.startswith(f"{path}: lines 2, 5 ")
    # What is kept is kept as it is, and a line can follow.
    assert path.read_text() == lines[0] + json.dumps(METRICS) + "\n" + lines[3]


def test_metrics_that_are_lost_are_said(tmp_path, caplog):
    for step, said in ((0, 0), (4, 1)):
        (tmp_path / "metrics.jsonl").write_text("")
        assert keep_metrics(tmp_path, step) == []
        assert len(caplog.messages) == said


FILES = {
    "config.json": (json.dumps({"config": {"seed": 1, "data": {}}}), read_config),
    "DONE": (json.dumps({"loss": 0.5}), read_done),
    "classes.txt": ("cat\ndog\n", own_classes),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [*DAMAGE, "folder"])
@pytest.mark.parametrize("with_checksum", [True, False])
def test_damage_is_one_line_that_names_the_file(tmp_path, name, damage, with_checksum):
    text, read = FILES[name]
    path = tmp_path / name
    write_record(path, text)
    assert read(tmp_path)
    if not with_checksum:
        checksum_path(path).unlink()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(DAMAGE[damage](text.encode()))
    if name == "classes.txt" and not with_checksum and damage not in ("empty", "zeros", "folder"):
        return  # names can be anything
    with pytest.raises(DamagedFile) as error:
        read(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{path} is ") and "\n" not in message and len(message) < 600
    assert error.value.exit_code == 2


@pytest.mark.parametrize("name", FILES)
def test_no_bit_of_a_file_flips_silently(tmp_path, name):
    text, read = FILES[name]
    path = tmp_path / name
    write_record(path, text)
    for target in (path, checksum_path(path)):
        good = target.read_bytes()
        for bit in random.Random(0).sample(range(8 * len(good)), 12):
            target.write_bytes(flipped(good, bit))
            with pytest.raises(DamagedFile, match="not as it was written|is no line of sha256sum"):
                read(tmp_path)
        target.write_bytes(good)
    assert read(tmp_path)


def test_a_change_on_purpose(tmp_path):
    write_record(tmp_path / "classes.txt", "cat\ndog\n")
    write_text(tmp_path / "classes.txt", "cat\nhound\n")
    with pytest.raises(DamagedFile, match="changed on purpose, delete ") as error:
        own_classes(tmp_path)
    (tmp_path / str(error.value).rpartition("delete ")[2]).unlink()
    assert own_classes(tmp_path) == ("cat", "hound")


def test_sha256sum_reads_the_checksums(tmp_path):
    write_record(tmp_path / "DONE", "{}")
    done = subprocess.run(["sha256sum", "-c", "checksums/DONE.sha256"], cwd=tmp_path, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_reason_that_passes_is_no_damage(tmp_path, monkeypatch, code):
    write_record(tmp_path / "DONE", "{}")

    def fails(path, *_):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(CannotRead) as error:
        read_done(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'DONE'} cannot be read now ({os.strerror(code)}); nothing is changed"
    )


def test_what_is_being_replaced_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / "DONE"
    write_record(path, '{"a": 1}')
    old = path.read_bytes()
    write_record(path, '{"a": 2}')
    contents = [old]
    original = records._read

    def read(where, todo):
        return contents.pop() if where == path and contents else original(where, todo)

    monkeypatch.setattr(records, "_read", read)
    assert read_json(path, "", lambda value: True) == {"a": 2}


@pytest.mark.linux
def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []
    fsync, replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (seen.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))
    )
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda a, b: (seen.append("replaced"), replace(a, b))[1]
    )
    write_text(tmp_path / "DONE", "x")
    temporary, *others = seen
    assert temporary.startswith(f"{tmp_path}/DONE.") and temporary.endswith(".tmp")
    assert others == ["replaced", str(tmp_path)]


@pytest.mark.linux
def test_an_old_checksum_is_gone_on_the_disk_before_the_new_text(tmp_path, monkeypatch):
    """Whatever a power cut leaves is on the disk by then: never a new text with an old checksum."""
    write_record(tmp_path / "DONE", "{}")
    on_disk, fsync, replace = [], os.fsync, type(tmp_path).replace

    def note(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(tmp_path / "checksums"):
            on_disk.append((tmp_path / "checksums" / "DONE.sha256").exists())
        fsync(descriptor)

    def check(source, target):
        if target == tmp_path / "DONE":
            assert on_disk == [False]
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(type(tmp_path), "replace", check)
    write_record(tmp_path / "DONE", '{"a": 1}')
    assert on_disk == [False, True]


def test_absent_files(tmp_path):
    assert read_done(tmp_path) is None and own_classes(tmp_path) is None
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        read_config(tmp_path)
