"""Recipes by name, for commands that read several; --config of one is harness/commandline.py's."""

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
    file, colon, argument = name.partition(":")
    path = find_recipe(file)
    if not path.is_file():
        raise ConfigError(f"--config={name}: there is no file {local_path('--config', file)}")
    spec = importlib.util.spec_from_file_location(f"{path.stem}_recipe", path)
    if spec is None:
        raise ConfigError(f"--config={name}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    call_recipe(name, path, lambda: spec.loader.exec_module(module))
    if not hasattr(module, "get_config"):
        raise ConfigError(f"--config={name}: {path} has no get_config()")
    return module, argument if colon else None


def load_config(name: str) -> ConfigDict:
    """Returns the config of a recipe.

    Raises:
        ConfigError: as load_recipe; or get_config refuses the argument.
    """
    module, argument = load_recipe(name)
    arguments = () if argument is None else (argument,)
    return call_recipe(name, Path(module.__file__), lambda: module.get_config(*arguments))


def call_recipe(name: str, path: Path, function: Callable[[], Any]) -> Any:
    """Calls a recipe's code, in which anything can go wrong.

    Args:
        name: of the recipe, for messages.
        path: of its file.
        function: calls it.

    Raises:
        ConfigError: it raised something; says where.
    """
    try:
        return function()
    except ValueError as error:  # a recipe's own, which explains itself
        raise ConfigError(f"--config={name}: {one_line(error)}") from error
    except Exception as error:
        places = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename) == path
        ]
        line = getattr(error, "lineno", None) or (places[-1] if places else None)
        place = f"{path}, line {line}" if line else str(path)
        what = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(f"--config={name}: {what} ({place})") from error
