"""Where a script is to write is checked before it does anything: every flag of every script."""

import ast
import os
import re
import sys
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.files import check_folder, check_writable

ROOT = Path(__file__).parents[2]
# Each with inputs that are wrong too, so that the work, had it begun, would say so instead.
NOWHERE = "--workdir=/nowhere"
RECIPE = "--config=configs/digits_nest.py:debug"
MISSING = ["--config.data.name=npz:/nowhere.npz", RECIPE]
OUTPUTS = {
    ("tools/benchmark.py", "output"): ["forward", "--model=no_model", "--output={}"],
    ("tools/compile_for.py", "hlo"): ["--topology=x", "--model=x", "--batch_size=1", "--hlo={}"],
    ("tools/compile_for.py", "output"): [
        *("--topology=x", "--model=x", "--batch_size=1", "--output={}")
    ],
    ("tools/convert_weights.py", "output"): [NOWHERE, "--output={}.npz", "--to=npz"],
    ("tools/explain.py", "output"): ["gradcat", NOWHERE, "--output={}.png"],
    ("tools/export.py", "output"): [NOWHERE, "--output={}.jax"],
    ("benchmarks/measure_gpu.py", "output"): ["--minutes=0.1", "--only=nothing", "--output={}"],
    ("tools/predict.py", "annotated_folder"): [
        *(NOWHERE, "--config=configs/digits_detr.py:debug", "--annotated_folder={}", "/nowhere.png")
    ],
    ("tools/predict.py", "explain_folder"): [
        *(NOWHERE, "--explain=gradcat", "--explain_folder={}", "/nowhere.png")
    ],
    ("tools/report.py", "output"): ["--output={}.html", "tests"],
    ("tools/sample.py", "grid"): [NOWHERE, "--grid={}.png"],
    ("tools/sample.py", "npz"): [NOWHERE, "--npz={}.npz"],
    ("tools/sample.py", "statistics"): [NOWHERE, "--compare", "--statistics={}.npz"],
    ("tools/tables.py", "output"): ["show", "nest_cifar", "--output={}"],
    ("tools/visualize.py", "output"): ["batch", *MISSING[::-1], "--output={}.png"],
}
# Folders that a script works in, which it looks at first anyway, and what is only read.
OTHERS = {"workdir", "data_dir"}
WRITES = re.compile(r"\bwrit|append|\bkeeps\b|folder of the run", re.I)


def flags_that_write() -> set[tuple[str, str]]:
    """(file, name) of the flags with texts for values whose help says that something is written."""
    found = set()
    for path in [*ROOT.glob("*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("[a-z]*/**/*.py")]:
        if "tests" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and ast.unparse(node.func)
            if called == "flags.DEFINE_string" and WRITES.search(ast.unparse(node)):
                found.add((path.relative_to(ROOT).as_posix(), ast.literal_eval(node.args[0])))
            if called == "define_output_flags":
                found.add((path.relative_to(ROOT).as_posix(), "output"))
    return {(file, name) for file, name in found if name not in OTHERS}


def test_no_flag_is_missing_here():
    assert flags_that_write() == set(OUTPUTS)


@pytest.mark.parametrize(("script", "flag"), OUTPUTS)
def test_checked_before_the_work(run_script, tmp_path, script, flag):
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "in_a_file"
    arguments = [argument.format(target) for argument in OUTPUTS[script, flag]]
    code, _, stderr = run_script(script, *arguments)
    assert code == 2, stderr
    (line,) = stderr.strip().splitlines()
    assert f"--{flag}={target}" in line and "no" in line.rpartition(":")[2] + line.split(": ")[2]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("tools/visualize.py", ["batch", *MISSING[::-1], "--output=a.svg"], "must end with .png"),
        ("tools/sample.py", [NOWHERE, "--grid=a.jpg"], "must end with .png"),
        ("tools/sample.py", [NOWHERE, "--npz=a"], "must end with .npz"),
        ("tools/export.py", [NOWHERE, "--output=a.onnx"], "must end with .jax"),
        ("tools/explain.py", ["gradcat", NOWHERE, "--output=a.gif"], "must end with .png or .svg"),
        (
            "tools/export.py",
            [NOWHERE, "--output=a.onnx", "--format=onnx"],
            "pip install --no-deps jax2onnx",
        ),
    ],
)
def test_formats_are_checked_before_the_work(run_script, monkeypatch, script, arguments, words):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    code, _, stderr = run_script(script, *arguments)
    assert code == 2 and words in stderr and len(stderr.strip().splitlines()) == 1


def test_what_can_be_written(tmp_path, monkeypatch):
    check_writable("--output", tmp_path / "a.png", (".png", ".svg"))
    check_folder("--folder", tmp_path / "a" / "b")
    with pytest.raises(ConfigError, match="^--output=.*: is a folder$"):
        check_writable("--output", tmp_path)
    with pytest.raises(ConfigError, match="there is no such folder: .*/a$"):
        check_writable("--output", tmp_path / "a" / "b.png")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="/file is no folder$"):
        check_folder("--folder", tmp_path / "file" / "a")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(ConfigError, match=f"no file can be written in {tmp_path}$"):
        check_writable("--output", tmp_path / "a.png")
    with pytest.raises(ConfigError, match="no file can be written in"):
        check_folder("--folder", tmp_path / "a" / "b")
