"""Rules of the layout that a reader relies on."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (
    *("configs", "layers", "nest", "tnt", "baselines", "data", "training", "tools", "tests"),
)
# package -> packages of ours it may import; imports only point down
ALLOWED = {
    "configs": {"configs"},
    "layers": {"layers"},
    "nest": {"nest", "layers"},
    "tnt": {"tnt", "layers"},
    "baselines": {"baselines", "layers"},
    "data": {"data"},
    "training": {"training", "data", "nest", "tnt", "baselines", "layers"},
    "tools": {
        "tools",
        "train",
        "evaluate",
        "training",
        "data",
        "nest",
        "tnt",
        "baselines",
        "layers",
    },
}
FILES = sorted(
    path
    for name in (*PACKAGES, ".")
    for path in (ROOT / name).glob("*.py")
    if not path.name.startswith(".")
)


def imported_modules(path):
    """Yields the full name of each imported module, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_every_package_has_a_rule():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == set(ALLOWED)


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_down(package):
    for path in (ROOT / package).glob("*.py"):
        ours = {name.split(".")[0] for name in imported_modules(path)}
        ours &= {*ALLOWED, "tests", "train", "evaluate"}
        assert ours <= ALLOWED[package], path.name


def test_models_see_no_config_and_no_files():
    for path in [
        p for name in ("nest", "tnt", "baselines", "layers") for p in (ROOT / name).glob("*.py")
    ]:
        names = {name.split(".")[0] for name in imported_modules(path)}
        assert names.isdisjoint({"ml_collections", "absl", "orbax", "grain", "os", "pathlib"}), path


def test_tensorflow_is_never_imported_at_the_top():
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "tensorflow" not in ast.unparse(node), path


def test_files_are_read_in_one_sitting():
    for path in FILES:
        limit = 500 if path.parent.name == "tests" else 300
        assert len(path.read_text().splitlines()) <= limit, path
        assert path.stem not in {"utils", "util", "helpers", "helper", "misc"}, path
    assert len((ROOT / "train.py").read_text().splitlines()) <= 250


def test_no_config_is_read_with_a_default():
    """`.get` would accept a misspelt key; only recipes and the check itself may look around."""
    for path in FILES:
        if path.parent.name in ("configs", "tests"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "get":
                owner = ast.unparse(node.value)
                assert "config" not in owner, f"{path}: {owner}.get"
