"""Rules of the layout that a reader relies on. Run by path, this file prints the rooms."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOOR = ("harness", "process", "parallel", "workdirs")
MODELS = ("nest", "nest.gan", "tnt", "baselines")
# room -> what it may import of ours besides itself: rooms, or single modules of one.
# Imports only point down the house.
ALLOWED = {
    "configs": (),
    "kernels": (),
    "layers": ("kernels",),
    "harness": ("process",),
    "process": ("harness.errors", "harness.arguments", "harness.files"),
    "parallel": ("harness", "process.streams"),
    "workdirs": ("harness", "process.identity"),
    "nest": ("kernels", "layers"),
    "nest.gan": ("nest", "kernels", "layers"),
    "tnt": ("kernels", "layers"),
    "baselines": ("kernels", "layers", "nest", "nest.gan"),
    "data.sources": ("harness", "data.images"),
    "data.augment": ("harness",),
    "data": ("harness", "process", "data.sources", "data.augment"),
    "data.annotations": ("harness", "data", "data.sources", "data.augment"),
    "zoo.released": ("harness",),
    "zoo": ("harness", "workdirs", "kernels", "layers", *MODELS, "zoo.released"),
    "features": ("kernels", "layers", *MODELS, "zoo"),
    "detection": ("kernels", "layers", "features"),
    "segmentation": ("kernels", "layers", "features"),
    # The GAN is one of the kinds that tasks/table.py lists; it stands on what all kinds share.
    "tasks.gan": (
        *(*FLOOR, "nest.gan", "data", "zoo"),
        *("tasks.metrics", "tasks.ema", "tasks.optimizers", "tasks.protocol", "tasks.schedules"),
        *("tasks.parameter_masks", "tasks.skipping"),
    ),
    "tasks": (
        *(*FLOOR, "kernels", *MODELS, "data", "data.annotations", "data.augment", "zoo"),
        *("tasks.gan", "detection", "segmentation"),
    ),
    "saving": (*FLOOR, "zoo"),
    "training": (
        *(*FLOOR, "kernels", "data", "data.annotations", "data.augment", "zoo", "zoo.released"),
        *("tasks", "saving"),
    ),
    "preview": (
        *(*FLOOR, "kernels", "data", "data.augment", "zoo", "zoo.released", "tasks", "training"),
    ),
}
ALLOWED["inference"] = tuple(room for room in ALLOWED if room != "configs")
ALLOWED["inference.annotating"] = (*ALLOWED["inference"], "inference")
ALLOWED["inference.pictures"] = (*ALLOWED["inference"], "inference")
ALLOWED["sweeps"] = (*ALLOWED["training"], "training", "sweeps.launchers")
ALLOWED["sweeps.launchers"] = (*ALLOWED["training"], "training", "sweeps")
ALLOWED["reports"] = (
    *(*ALLOWED["inference.pictures"], "inference.pictures", "inference.annotating", "sweeps"),
)
ALLOWED["benchmarks"] = (*ALLOWED["inference"], "inference")
ALLOWED["benchmarks.compiled"] = (*ALLOWED["benchmarks"], "benchmarks")
ALLOWED["paper_tables"] = (*ALLOWED["benchmarks"], "benchmarks", "sweeps", "sweeps.launchers")
ALLOWED["."] = (*ALLOWED["inference"], "inference", "inference.pictures")  # train, evaluate
ALLOWED["tools"] = (*ALLOWED, "train", "evaluate")
FILES = sorted(
    path
    for path in ROOT.rglob("*.py")
    if not any(part.startswith((".", "venv", "runs")) for part in path.relative_to(ROOT).parts)
)
PRODUCT = [path for path in FILES if path.relative_to(ROOT).parts[0] != "tests"]


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def room_of(path: Path) -> str:
    return ".".join(path.parent.relative_to(ROOT).parts) or "."


MODULES = {module_name(path): path for path in PRODUCT}


def imported_modules(path: Path):
    """Yields the full name of each imported module, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else node.module for name in names)


def ours(path: Path) -> set[str]:
    return {name for name in imported_modules(path) if name in MODULES}


def table_of_rooms() -> str:
    """Returns a line per room: modules, lines, and the rooms that it imports from."""
    lines = [f"{'room':<14}{'modules':>8}{'lines':>7}  imports from"]
    for room in ALLOWED:
        paths = [path for path in PRODUCT if room_of(path) == room]
        used = {room_of(MODULES[name]) for path in paths for name in ours(path)} - {room}
        size = sum(len(path.read_text().splitlines()) for path in paths)
        modules = sum(path.name != "__init__.py" for path in paths)
        lines.append(
            f"{room.replace('.', '/') if room != '.' else 'train, evaluate':<14}{modules:>8}"
            f"{size:>7}  {' '.join(sorted(used)) or '-'}"
        )
    return "\n".join(lines)


def test_every_room_has_a_rule(capsys):
    with capsys.disabled():
        print("\n" + table_of_rooms())
    assert {room_of(path) for path in PRODUCT} == set(ALLOWED)
    for room in set(ALLOWED) - {"."}:
        assert (ROOT / room.replace(".", "/") / "__init__.py").is_file(), room


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_point_down(room):
    for path in (path for path in PRODUCT if room_of(path) == room):
        for name in ours(path):
            allowed = {room, *ALLOWED[room]}
            assert room_of(MODULES[name]) in allowed or name in allowed, f"{path}: {name}"
        assert "tests" not in {name.split(".")[0] for name in imported_modules(path)}, path


def test_no_module_imports_itself_by_a_detour():
    """Also not for type checking, nor inside a function."""
    left = {name: ours(path) - {name} for name, path in MODULES.items()}
    while leaves := [name for name, imports in left.items() if not imports & left.keys()]:
        for name in leaves:
            del left[name]
    assert not left, f"a circle among, or above, {sorted(left)}"


def test_each_room_says_what_lives_there_and_what_does_not():
    for room in set(ALLOWED) - {"."}:
        text = ast.get_docstring(
            ast.parse((ROOT / room.replace(".", "/") / "__init__.py").read_text())
        )
        first, _, second = text.partition("\n\n")
        assert "\n" not in first and second.startswith("Not here: "), room


def test_models_see_no_config_and_no_files():
    for path in (path for path in PRODUCT if room_of(path) in (*MODELS, "layers", "kernels")):
        names = {name.split(".")[0] for name in imported_modules(path)}
        assert names.isdisjoint({"ml_collections", "absl", "orbax", "grain", "os", "pathlib"}), path


def test_tensorflow_is_never_imported_at_the_top():
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "tensorflow" not in ast.unparse(node), path


def test_rooms_and_files_are_read_in_one_sitting():
    modules = Counter(room_of(path) for path in PRODUCT if path.name != "__init__.py")
    assert {room: n for room, n in modules.items() if n > 16 and room != "configs"} == {}
    for path in FILES:
        limit = 300 if path in PRODUCT else 500
        assert len(path.read_text().splitlines()) <= limit, path


def test_names_explain_themselves():
    banned = {"utils", "util", "helpers", "helper", "misc", "stored", "elsewhere", "adapt"}
    shadowing = {"timm", "torch", "pytorch", "tensorflow", "jax", "flax", "optax", "grain"}
    for path in PRODUCT:
        assert path.stem not in banned | shadowing, path
        assert path.stem != "common" or room_of(path) == "configs", path


def test_no_config_is_read_with_a_default():
    """`.get` would accept a misspelt key; only recipes and the check itself may look around."""
    for path in PRODUCT:
        if room_of(path) == "configs":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "get":
                owner = ast.unparse(node.value)
                assert "config" not in owner, f"{path}: {owner}.get"


if __name__ == "__main__":
    print(table_of_rooms())
