"""Lists that a person writes, one thing a line, on any system."""

import os

import pytest

from harness.files import read_lines, write_text
from workdirs.class_file import read_classes

NAMES = ["tench, Tinca tinca", "ä", " two words ", "x\x85y\u2028z"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end", "end end"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_line_ends_and_marks_of_all_systems(tmp_path, end, last, encoding):
    text = end.join(NAMES) + last.replace("end", end).replace(" ", "")
    (tmp_path / "names.txt").write_bytes(text.encode(encoding))
    assert read_lines(tmp_path / "names.txt") == NAMES
    assert read_classes(tmp_path / "names.txt") == NAMES


def test_names_that_are_no_text_come_back_as_they_were_written(tmp_path):
    names = [os.fsdecode(b"caf\xe9"), "b"]
    write_text(tmp_path / "classes.txt", "".join(f"{name}\n" for name in names))
    assert (tmp_path / "classes.txt").read_bytes() == b"caf\xe9\nb\n"
    assert read_classes(tmp_path / "classes.txt") == names
