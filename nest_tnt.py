"""What `pip install -e .` installs: the names for other Python code, and the command `nest-tnt`.

    from nest_tnt import Predictor, create_model, load_config, train_and_evaluate

The rooms have plain names such as `data` and `tools`, so none of them is installed: importing this
module puts the checkout first on sys.path instead. In a process that has imported another module of
a room's name by then, that is refused.
"""

import ast
import difflib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
# name -> module that defines it, imported when the name is first used
PUBLIC = {
    "ConfigError": "harness.errors",
    "Explanation": "inference.prediction",
    "Prediction": "inference.prediction",
    "Predictor": "inference.predictor",
    "create_model": "zoo.registry",
    "draw_explanation": "inference.pictures.overlay",
    "evaluate_weights": "evaluate",
    "evaluate_workdir": "evaluate",
    "load_config": "workdirs.config_file",
    "load_variables": "zoo.load",
    "train_and_evaluate": "train",
}
__all__ = sorted(PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"nest_tnt has no {name!r}; it has {', '.join(sorted(PUBLIC))}")
    return getattr(importlib.import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(PUBLIC)


def _put_checkout_first() -> None:
    """Raises ImportError if a module of a room's name comes from elsewhere."""
    rooms = [path.parent.name for path in ROOT.glob("*/__init__.py")]
    for name in [*rooms, "train", "evaluate"]:
        found = sys.modules.get(name)
        file = getattr(found, "__file__", None)
        if found is not None and not (file and Path(file).resolve().is_relative_to(ROOT)):
            raise ImportError(
                f"nest_tnt has a module called {name}, as has {file or 'a folder'}, which is "
                "imported already: import nest_tnt before it"
            )
    if str(ROOT) not in sys.path[:1]:
        sys.path.insert(0, str(ROOT))


def scripts() -> dict[str, Path]:
    """Returns name -> file of everything that `nest-tnt` runs."""
    files = [ROOT / "train.py", ROOT / "evaluate.py", *sorted((ROOT / "tools").glob("*.py"))]
    return {path.stem: path for path in files if path.stem != "__init__"}


def main() -> None:
    """Runs one of the checkout's scripts: `nest-tnt train ...` is `python train.py ...`."""
    known, (name, *rest) = scripts(), sys.argv[1:] or ["--help"]
    if name in known:
        sys.stdout.flush()
        named = os.environ | {"NEST_TNT_COMMAND": f"nest-tnt {name}"}  # see process/first.py
        os.execve(sys.executable, [sys.executable, str(known[name]), *rest], named)
    from harness.help import asks_for_help

    if not asks_for_help([name]):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known)}"
        print(f"nest-tnt: {name!r} is unknown; {hint}", file=sys.stderr)
        sys.exit(2)
    print("nest-tnt NAME [FLAGS]; nest-tnt NAME --help shows the flags of one.\n")
    for known_name, path in known.items():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        print(f"  {known_name:<16}{docstring.partition(chr(10))[0]}")
    print(f"\nThe scripts and the recipes (configs/) are in {ROOT}")


_put_checkout_first()
