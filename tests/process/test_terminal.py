"""Nothing that a name holds reaches a terminal as it is."""

import io
import json
import sys

import pytest
from absl import logging

from harness.errors import escaped, printable
from inference.prediction import Guess
from process.terminal import EscapingStream
from tools.predict import as_json, as_table

NASTY = "\x1b[31mred\x1b]0;title\x07\x9b2J\x7f\r\x08\u202ecod\u2066\udcff"
ROW = Guess(3, NASTY, 0.5)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def is_clean(text):
    return all(c in "\n\t" or (c.isprintable() and not "\ud800" <= c <= "\udfff") for c in text)


def test_escaped():
    assert escaped("a\x1b[2J\u009b\udcff\tä漢\n") == "a\\x1b[2J\\u009b\\udcff\tä漢\n"
    assert is_clean(escaped("".join(map(chr, range(0x3000))).replace("\u00ad", "")[:0xA0]))
    assert printable("a\nb\x1b") == "a b\\x1b"


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_whatever_is_printed(stream):
    inner = stream()
    print(NASTY, NASTY, sep="\n", file=EscapingStream(inner))
    assert is_clean(inner.getvalue()) and "\\x1b[31mred" in inner.getvalue()
    EscapingStream(inner).writelines([NASTY])
    assert is_clean(inner.getvalue())


def test_a_stream_that_cannot_write_a_letter():
    inner = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print("ä\udcff", file=EscapingStream(inner), flush=True)
    assert inner.buffer.getvalue() == b"\\xe4\\udcff\n"


def test_a_progress_bar_still_moves():
    inner = Terminal()
    stream = EscapingStream(inner, has_bars=True)
    for text in ("\r 50%|##", "\n", "\x1b[A", "\r     \r"):
        stream.write(text)
    assert inner.getvalue() == "\r 50%|##\n\x1b[A\r     \r"
    for text in (f"\r{NASTY}", f"\n{NASTY}", f"\x1b[A{NASTY}"):
        inner = Terminal()
        EscapingStream(inner, has_bars=True).write(text)
        assert is_clean(inner.getvalue().removeprefix("\r"))


def test_a_table_and_json_of_predictions():
    table = as_table(NASTY, [ROW], 4)
    assert is_clean(table) and "\\x1b[31mred" in table
    line = as_json(NASTY, [ROW])
    assert is_clean(line) and json.loads(line)["predictions"][0]["name"] == NASTY


def test_scripts(run_script, tmp_path):
    name = "\x1b]0;title\x07"
    for line in (("evaluate.py",), ("tools/predict.py", "a.png"), ("tools/sweep.py", "status")):
        code, out, err = run_script(line[0], *line[1:], f"--workdir={tmp_path / name}")
        assert code == 2 and is_clean(out + err) and "\\x1b]0;title\\x07" in err
    assert isinstance(sys.stdout, EscapingStream)
    format_ = logging.get_absl_handler().python_handler.formatter.format
    assert is_clean(format_(logging.get_absl_logger().makeRecord("", 30, "", 1, name, (), None)))
