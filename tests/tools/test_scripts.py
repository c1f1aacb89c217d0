"""What all scripts have in common: they run by path from anywhere, and as modules."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "tools").glob("*.py") if path.stem != "__init__")


def test_every_script_finds_the_rooms_with_the_same_line():
    lines = [[line for line in path.open() if "sys.path" in line] for path in SCRIPTS]
    assert len(SCRIPTS) >= 8 and all(found == lines[0] for found in lines) and len(lines[0]) == 1


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(
    ("command", "folder"), [(["-m", "tools.predict"], ROOT), ([ROOT / "tools/predict.py"], "/")]
)
def test_help_shows_the_flags_that_other_rooms_define(command, folder):
    done = subprocess.run(
        [sys.executable, *command, "--help"],
        cwd=folder,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    shown = {line.split()[0].split("=")[0] for line in done.stdout.splitlines() if line.strip()}
    assert {"--workdir", "--weights", "--config", "--checkpoint", "--ema"} <= shown, done.stderr
    starting = f"{ROOT / 'tools/predict.py'}: starting ..."  # where imports take a second
    assert done.returncode == 0 and set(done.stderr.splitlines()) <= {starting}


# What people need first, in this order, of the scripts where that is not the recipe.
FIRST = {
    "evaluate.py": ("--workdir", "--checkpoint", "--config", "--weights", "--ema", "--split"),
    "tools/predict.py": ("--workdir", "--checkpoint", "--config", "--weights", "--ema"),
    "tools/export.py": ("--workdir", "--checkpoint", "--config", "--weights", "--ema"),
    "tools/explain.py": ("--workdir", "--checkpoint", "--config", "--weights", "--ema"),
    "train.py": ("--config", "--workdir", "--print_config", "--dry_run"),
}
DISTRIBUTED = ("train.py", "evaluate.py")


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("path", [*SCRIPTS, ROOT / "train.py", ROOT / "evaluate.py"], ids=name_of)
def test_help_fits_on_a_screen(run_script, monkeypatch, path, columns):
    name = name_of(path)
    monkeypatch.setattr("benchmarks.compiled.targets.prepare_environment", lambda: None)
    monkeypatch.setenv("COLUMNS", str(columns))
    code, text, stderr = run_script(name, "--help")
    assert (code, stderr) == (0, "")
    lines = text.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= columns
    assert lines[0].startswith(f"usage: python {name} [flags]")
    flags = [line.split()[0].split("=")[0] for line in lines if line.startswith("  --")]
    first = FIRST.get(name, ())
    assert tuple(flags[: len(first)]) == first
    assert ("--coordinator" in flags) == (name in DISTRIBUTED)
    assert flags[-2:] == ["--traceback", "--compilation_cache"]
    assert any(line.startswith("    python ") for line in lines), "an example"
    if columns == 80:
        assert run_script(name, "-h") == run_script(name, "--help")
        assert run_script(name, "-h", "--nonsense", "x")[:2] == (0, text)
        assert set(flags) <= set(re.findall(r"--\w+", run_script(name, "--helpfull")[1]))


def test_help_for_conversions_shows_their_input(run_script):
    text = run_script("tools/convert_weights.py", "-h")[1]
    for flag in ("--workdir", "--input", "--model", "--output", "--to"):
        assert f"  {flag}=" in text
    assert (
        "usage: python tools/visualize.py [flags] batch|operations"
        in (run_script("tools/visualize.py", "-h")[1])
    )


@pytest.mark.parametrize("script", ["train.py", "tools/predict.py", "tools/visualize.py"])
@pytest.mark.parametrize("recipe", ["digits_nest", "digits_nest_gan"])
def test_help_with_a_config_lists_its_sections(run_script, script, recipe):
    code, text, _ = run_script(script, f"--config=configs/{recipe}.py:debug", "-h")
    listed = dict(re.findall(r"^  --config\.(\w+) +(\S.*)$", text, re.M))
    assert code == 0 and listed["data"] == "data/pipeline.py: Data"
    assert listed["loop"] == "harness/steps.py: plan_steps"
    if "gan" in recipe:
        assert listed["generator"] == "zoo/registry.py: create_generator"
        assert listed["task"] == "tasks/gan/options.py: GanOptions"
    else:
        assert listed["optimizer"] == "tasks/optimizers.py: create_optimizer"
        assert listed["model"] == "zoo/registry.py: create_model"


def test_help_with_a_wrong_config_says_so(run_script):
    code, text, stderr = run_script("train.py", "--help", "--config", "configs/none.py")
    assert code == 2 and text.startswith("usage: ") and "no such file" in stderr
    assert len(stderr.splitlines()) == 1
