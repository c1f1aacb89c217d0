"""How the config of a run differs from its recipe, or from another run's."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from harness.errors import ConfigError
from harness.recipes import ROOT, find_recipe
from training.experiment import check_config
from training.trained_run import in_few_words
from workdirs.comparison import config_changes
from workdirs.config_file import load_config


@dataclasses.dataclass(frozen=True)
class FromRecipe:
    """What a run changed.

    Attributes:
        recipe: as in the command, "configs/digits_nest.py:debug"; "" if it names none.
        changes: key -> the recipe's value and the run's, as text; None if the recipe cannot be read
            any more, which `problem` says.
        problem: a sentence.
    """

    recipe: str
    changes: dict[str, tuple[str, str]] | None
    problem: str = ""


def changes(before: ConfigDict, now: ConfigDict) -> dict[str, tuple[str, str]]:
    """Returns where two configs differ in what they compute: key -> both values, as text."""
    return config_changes(_checked(before), _checked(now))


def _checked(config: ConfigDict) -> dict[str, Any]:
    try:
        return in_few_words(check_config(config, needs_data=False))
    except ConfigError:  # a recipe that needs a value, or a run of an earlier version
        return in_few_words(config.to_dict())


def from_recipe(command: Any, config: ConfigDict, workdir: Path) -> FromRecipe:
    """Reads the recipe of a run again, and compares.

    Args:
        command: of config.json, a list of arguments.
        config: the run's.
        workdir: of the run. A recipe is code: one that lies next to the run, which may have come
            from somewhere else, is not run.
    """
    recipe = recipe_of(command)
    if not recipe:
        return FromRecipe("", None, "The command names no recipe, so there is no comparison.")
    path, colon, argument = recipe.partition(":")
    file = find_recipe(path)
    if not file.is_file():
        return FromRecipe(recipe, None, f"The recipe {path} is no longer there to compare with.")
    place, runs = file.resolve(), workdir.parent.resolve()
    if place.is_relative_to(runs) and not place.is_relative_to(ROOT / "configs"):
        return FromRecipe(recipe, None, f"The recipe {path} lies next to the run: it is not run.")
    try:
        loaded = load_config(f"{file}{colon}{argument}")
    except ConfigError as error:
        return FromRecipe(recipe, None, f"The recipe cannot be read any more: {error}")
    return FromRecipe(recipe, changes(loaded, config))


def recipe_of(command: Any) -> str:
    """Returns the recipe that a command names, "" if none."""
    arguments = [str(argument) for argument in command] if isinstance(command, list) else []
    for number, argument in enumerate(arguments):
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "config" and argument.startswith("-"):
            return value if equals else "".join(arguments[number + 1 : number + 2])
    return ""


def command_line(command: Any) -> str:
    """Returns a command as one types it."""
    if not isinstance(command, list) or not command:
        return ""
    script, *rest = map(str, command)
    start = script.split() if script.startswith("nest-tnt ") else ["python", script]
    return shlex.join([*start, *rest])
