"""`pip install -e .`, the command nest-tnt and the module nest_tnt; other installs are refused."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import nest_tnt

ROOT = Path(__file__).parents[2]
# What the test environment has, for a new one that has nothing.
WITH_PACKAGES = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib"), "JAX_PLATFORMS": "cpu"}


def command(*arguments, folder):
    """nest-tnt as its installed script calls it."""
    call = "import sys; sys.argv[0] = 'nest-tnt'; import nest_tnt; nest_tnt.main()"
    return subprocess.run(
        [sys.executable, "-c", call, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_the_command_lists_every_script(tmp_path):
    done = command(folder=tmp_path)
    listed = dict(re.findall(r"^  (\w+) +(\S.*)$", done.stdout, re.M))
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"__init__"}
    assert listed.keys() == {"train", "evaluate"} | tools and done.returncode == 0
    assert listed["predict"] == "Names the classes of images, or finds what lies where in them."
    assert "JAX" not in done.stderr


def test_the_command_runs_a_script_from_anywhere(tmp_path):
    done = command("verify", "nowhere", folder=tmp_path)
    assert done.returncode == 2 and str(tmp_path / "nowhere") in done.stderr
    assert done.stderr.startswith("nest-tnt verify: ")
    done = command("verify", "--help", folder=tmp_path)
    assert done.stdout.startswith("usage: nest-tnt verify [flags]") and done.returncode == 0
    help_pages = {command(*asked, folder=tmp_path).stdout for asked in ((), ("--helpfull",))}
    assert len(help_pages) == 1
    done = command("trane", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "nest-tnt: 'trane' is unknown; did you mean train?\n"


def test_names_that_others_have_already(tmp_path):
    (tmp_path / "data.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", "import data, nest_tnt"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: nest_tnt has a module called data, as has ")
    assert str(tmp_path / "data.py") in last and last.endswith("import nest_tnt before it")
    for line in ("import nest_tnt, data", "import nest_tnt; from harness import errors as data"):
        done = subprocess.run(
            [sys.executable, "-c", f"{line}; print(data.__file__)"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.stdout.startswith(str(ROOT)), done.stderr


def test_what_the_module_has():
    assert nest_tnt.ConfigError.__module__ == "harness.errors"
    assert "Predictor" in dir(nest_tnt)
    with pytest.raises(AttributeError, match="nest_tnt has no 'Predicter'; it has ConfigError, "):
        _ = nest_tnt.Predicter


def test_dependencies_are_those_of_the_requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dynamic = project["tool"]["setuptools"]["dynamic"]["dependencies"]
    assert dynamic == {"file": ["requirements.txt"]}
    assert project["tool"]["setuptools"]["py-modules"] == ["nest_tnt"]


@pytest.mark.slow  # pip fetches setuptools
def test_pip_installs_the_checkout_and_no_copy_of_it(tmp_path):
    checkout, folder = tmp_path / "checkout", tmp_path / "elsewhere"
    folder.mkdir()
    left_out = shutil.ignore_patterns(".*", "runs", "docs", "results", "site", "*.egg-info")
    shutil.copytree(ROOT, checkout, ignore=left_out)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    binaries = tmp_path / "venv" / "bin"

    def pip(*arguments):
        call = [binaries / "pip", "install", "--no-deps", *arguments]
        return subprocess.run(call, cwd=folder, capture_output=True, text=True)

    refused = pip(checkout)
    assert refused.returncode == 1
    assert "install it with `pip install -e .` from a clone that stays" in (
        refused.stdout + refused.stderr
    )
    done = pip("-e", checkout)
    assert done.returncode == 0, done.stderr
    (packages,) = (tmp_path / "venv" / "lib").glob("*/site-packages")
    names = {path.name.lower() for path in packages.iterdir()}
    ours = {name for name in names if not name.startswith(("pip", "setuptools", "_distutils"))}
    ours -= {"pkg_resources", "distutils-precedence.pth", "__pycache__"}
    assert ours and all("nest_tnt_jax" in name for name in ours), ours
    told = subprocess.run(
        [binaries / "pip", "show", "nest-tnt-jax"], capture_output=True, text=True
    ).stdout
    (needs,) = re.findall("^Requires: (.*)$", told, re.M)
    assert {"jax", "flax", "importlib_resources", "plotly"} <= set(needs.split(", "))
    done = subprocess.run(
        [binaries / "nest-tnt", "summary", "nest_tiny_s196_224"],
        cwd=folder,
        env=WITH_PACKAGES,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "nest_tiny_s196_224" in done.stdout, done.stderr
