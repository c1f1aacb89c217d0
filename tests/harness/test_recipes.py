"""A recipe is the user's code: what goes wrong in it is one line that says where, and exit 2."""

import re
from pathlib import Path

import pytest

import train  # noqa: F401  (before its output is captured)
from harness.recipes import recipe_config

ROOT = Path(__file__).parents[2]

# Text of the recipe, what the line says, and the number of the line that it names.
WRONG = {
    "name": ("x = 1\ny = nothing\n", "NameError: name 'nothing' is not defined", 2),
    "name inside": ("def get_config():\n    return nothing\n", "NameError: .*'nothing'", 2),
    "syntax": ("x = 1\ndef get_config(:\n", "SyntaxError: ", 2),
    "indentation": ("def get_config():\n  x = 1\n    y = 2\n", "IndentationError: ", 3),
    "unclosed": ("x = (1,\n", "SyntaxError: '\\(' was never closed", 1),
    "import": ("\n\nimport nothing_such\n", "ModuleNotFoundError: .*'nothing_such'", 3),
    "import from": ("from configs.common import nix\n", "ImportError: cannot import name 'nix'", 1),
    "division": ("def get_config():\n    return 1 / 0\n", "ZeroDivisionError: ", 2),
    "number": ("def get_config():\n    return int('x')\n", "ValueError: invalid literal", 2),
    "key": ("def get_config():\n    return {}['epochs']\n", "KeyError: 'epochs'", 2),
    "attribute": ("def get_config():\n    return (1).x\n", "AttributeError: .*'x'", 2),
    "assertion": ("def get_config():\n    assert False\n", "AssertionError", 2),
    "endless": ("def get_config():\n    return get_config()\n", "RecursionError: ", 2),
    "exit": ("raise SystemExit(7)\n", "SystemExit: 7", 1),
    "below": (
        "def f(x):\n    return x.y\n\ndef get_config():\n    return list(map(f, [1]))\n",
        "AttributeError",
        2,
    ),
    "returns nothing": ("\ndef get_config():\n    pass\n", "get_config returns NoneType", 2),
    "returns a dict": ("\ndef get_config():\n    return {}\n", "get_config returns dict", 2),
    "arguments": ("def get_config(a, b):\n    return a\n", "TypeError: get_config.* missing", None),
    "no function": ("x = 1\n", "has no function get_config", None),
    "no function but a value": ("get_config = 1\n", "has no function get_config", None),
    "empty": ("", "has no function get_config", None),
    "explains itself": (
        "def get_config():\n    raise ValueError('model=x: unknown')\n",
        ": model=x: unknown$",
        None,
    ),
    "computes from an override": (
        "from configs import digits_nest\n\ndef get_config():\n"
        "    config = digits_nest.get_config()\n"
        "    config.loop.num_epochs = 10.0 / config.data.get_ref('batch_size')\n"
        "    return config\n",
        "ZeroDivisionError",
        None,
    ),
}


@pytest.mark.parametrize("traceback", [False, True])
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_in_a_recipe(run_script, tmp_path, kind, traceback):
    text, message, line = WRONG[kind]
    recipe = tmp_path / "mine.py"
    recipe.write_text(text)
    code, stdout, stderr = run_script(
        "train.py",
        *(["--traceback"] if traceback else []),
        f"--config={recipe}",
        f"--workdir={tmp_path / 'run'}",
        *(["--config.data.batch_size=0"] if "override" in kind else []),
    )
    *before, last = stderr.strip().splitlines()
    assert (code, stdout) == (2, "")
    assert last.startswith(f"train.py: --config={recipe}: ") and re.search(message, last), last
    assert ("Traceback (most recent call last):" in before) == traceback
    assert traceback or before == []
    if line:
        assert last.endswith(f"({recipe}:{line})"), last
    assert not (tmp_path / "run").exists()


BYTES = {
    "binary.py": (b"\x89PNG\r\n\x1a\n\0\0", "SyntaxError|ValueError"),
    "latin1.py": (b"x = '\xe9'\n", "SyntaxError: .*(utf-8|encoding)"),
    "notes.txt": (b"get_config", "not a Python file"),
    "config.yaml": (b"model: {}\n", "not a Python file"),
    "noext": (b"x = 1\n", "not a Python file"),
    "list.json": (b"[1]", "JSON of another shape"),
    "half.json": (b'{"config": {', "no JSON"),
    "other.json": (b'{"model": {}}', "JSON of another shape"),
    "empty.json": (b"", "empty"),
}


@pytest.mark.parametrize("file", BYTES)
def test_what_is_no_recipe(run_script, tmp_path, file):
    content, message = BYTES[file]
    (tmp_path / file).write_bytes(content)
    code, stdout, stderr = run_script("train.py", f"--config={tmp_path / file}", "--print_config")
    (line,) = stderr.strip().splitlines()
    assert (code, stdout) == (2, "") and re.search(message, line) and file in line, line


def test_what_is_no_file(run_script, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    for given, message in {
        str(tmp_path): r"a folder; .*/NAME\.py",
        f"{tmp_path}/run": r"a folder; a recipe is a file: --config=.*/run/config\.json$",
        "configs": r"a folder",
        "configs/digits_nset.py": r"no such file, .*; did you mean configs/digits_nest\.py\?",
        f"{tmp_path}/none.py": "no such file",
        f"{tmp_path}/none.json": "no such file",
        f"{tmp_path}/run/config.json:debug": "no such file|not a Python",
        "": "empty",
    }.items():
        code, stdout, stderr = run_script("train.py", f"--config={given}", "--print_config")
        (line,) = stderr.strip().splitlines()
        assert (code, stdout) == (2, "") and re.search(message, line), line


def test_a_recipe_is_found_beside_the_scripts(tmp_path, monkeypatch):
    """From any folder; one that lies where the user stands comes first."""
    monkeypatch.chdir(tmp_path)
    assert recipe_config("configs/digits_nest.py:debug").data.name == "digits"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits_nest.py").write_text(
        "from ml_collections import ConfigDict\n\n"
        "def get_config():\n    return ConfigDict({'a': 1})\n"
    )
    assert recipe_config("configs/digits_nest.py").to_dict() == {"a": 1}
