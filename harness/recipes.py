"""Recipes by name, for commands that read several; --config of one is harness/commandline.py's."""

import difflib
import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from harness.errors import ConfigError, one_line
from harness.files import local_path

ROOT = Path(__file__).parents[1]


def find_recipe(file: str) -> Path:
    """Returns the path of a recipe: relative to here or, if it is not there, to the checkout."""
    here = local_path("--config", file)
    return here if here.is_file() else ROOT / file


def recipe_from_root(name: str) -> str:
    """Returns a recipe, with its argument, whose path is the same wherever one stands.

    It begins at the checkout or, of a recipe elsewhere, at the root of the file system.
    """
    file, colon, argument = name.partition(":")
    path = find_recipe(file)
    return f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}{colon}{argument}"


def load_recipe(name: str) -> tuple[ModuleType, str | None]:
    """Returns the module of a recipe and its argument.

    Args:
        name: "configs/imagenet_nest.py" or, with an argument, "configs/imagenet_nest.py:tiny".

    Raises:
        ConfigError: the file does not exist, or fails when it is read.
    """
    local_path("--config", name)  # of a URL, what stands before the colon would be taken for a file
    file, colon, argument = name.partition(":")
    path = find_recipe(file)
    if not path.is_file():
        raise ConfigError(f"--config={name}: {_what_is_there(file, path)}")
    if path.suffix != ".py":
        raise ConfigError(f"--config={name}: not a Python file (.py), nor a run's config.json")
    spec = importlib.util.spec_from_file_location(f"{path.stem}_recipe", path)
    module = importlib.util.module_from_spec(spec)
    call_recipe(name, path, lambda: spec.loader.exec_module(module))
    if not callable(getattr(module, "get_config", None)):
        raise ConfigError(f"--config={name}: {path} has no function get_config")
    return module, argument if colon else None


def _what_is_there(file: str, path: Path) -> str:
    here = local_path("--config", file)
    if here.is_dir() or path.is_dir():
        within = "/config.json" if (here / "config.json").exists() else "/NAME.py"
        return f"a folder; a recipe is a file: --config={file.rstrip('/')}{within}"
    recipes = [f"configs/{recipe.name}" for recipe in (ROOT / "configs").glob("*.py")]
    close = difflib.get_close_matches(file, recipes, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"no such file, here ({here}) or in {ROOT}{hint}"


def recipe_config(name: str) -> ConfigDict:
    """Returns the config of a recipe.

    Raises:
        ConfigError: as load_recipe; or get_config refuses the argument, or returns no config.
    """
    module, argument = load_recipe(name)
    arguments = () if argument is None else (argument,)
    path = Path(module.__file__)
    config = call_recipe(name, path, lambda: module.get_config(*arguments))
    if not isinstance(config, ConfigDict):
        line = module.get_config.__code__.co_firstlineno
        what = f"get_config returns {type(config).__name__}, not a ConfigDict ({path}:{line})"
        raise ConfigError(f"--config={name}: {what}")
    return config


def call_recipe(name: str, path: Path | None, function: Callable[[], Any]) -> Any:
    """Calls a recipe's code, in which anything can go wrong.

    Args:
        name: of the recipe, for messages.
        path: of its file; None: the recipe's own.
        function: calls it.

    Raises:
        ConfigError: it raised something; says where.
    """
    path = find_recipe(name.partition(":")[0]) if path is None else path
    try:
        return function()
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, ValueError) and (frames[-1].line or "").startswith("raise "):
            raise ConfigError(f"--config={name}: {one_line(error)}") from error  # explains itself
        lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
        place = f"{path}:{lines[-1]}" if lines else str(path)
        what = one_line(error)
        if isinstance(error, SyntaxError) and error.filename and error.lineno:
            place, what = f"{error.filename}:{error.lineno}", error.msg
        what = f"{type(error).__name__}: {what}"
        raise ConfigError(f"--config={name}: {what} ({place})") from error
