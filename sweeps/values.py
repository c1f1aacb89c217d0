"""The values of a swept key, as one writes them: 1e-3,3e-3 or 0:5 or (64,64),(96,96)."""

import re
from collections.abc import Iterable

from harness.arguments import Override, problem
from harness.errors import ConfigError

_RANGE = re.compile(r"(-?\d+):(-?\d+)(?::(-?\d+))?")
_OPEN, _CLOSE = "([{", ")]}"


def parse_values(key: str, text: str) -> list[str]:
    """Returns the values that a text lists, each as the command line of one run would have it.

    Commas separate values; those inside brackets or quotes belong to a value. 0:5 stands for
    0,1,2,3,4 and 0:10:5 for 0,5, as in Python; other texts with colons are values of their own.

    Args:
        key: what is swept, for messages: "model.depths".
        text: e.g. "conv_norm_maxpool,max_pool".

    Raises:
        ConfigError: there is no value, an empty one, or one twice.
    """
    values = []
    for item in _split(key, text):
        if match := _RANGE.fullmatch(item):
            start, stop, step = (int(part) if part else 1 for part in match.groups())
            numbers = range(start, stop, step) if step else ()
            if not numbers:
                raise ConfigError(
                    problem(_flag(key), text, f"{item} is an empty range", "FIRST:END, such as 0:5")
                )
            values += map(str, numbers)
        elif item:
            values.append(item)
        else:
            raise ConfigError(
                problem(_flag(key), text, "an empty value", "values between commas; '' is no text")
            )
    return _unequal(key, values)


def parse_recipes(texts: Iterable[str]) -> list[str]:
    """Returns the recipes of "configs/imagenet_nest.py:tiny,:small", each in full.

    A value begins with ":" (the argument of the recipe before it) or is another file; other words
    between commas belong to the argument, which may be several: ":tiny,cifar100,:small,cifar100".

    Raises:
        ConfigError: there is none, or an argument without a recipe.
    """
    recipes: list[str] = []
    for text in texts:
        for item in text.split(","):
            if item.startswith(":"):
                if not recipes:
                    raise ConfigError(problem("--config", text, "an argument without a recipe"))
                recipes.append(recipes[-1].partition(".py")[0] + ".py" + item)
            elif ".py" in item or not recipes:
                recipes.append(item)
            else:
                recipes[-1] += f",{item}"
    if not recipes or not all(recipes):
        raise ConfigError("--config=FILE.py is missing: the recipe of the sweep; see --help")
    return _unequal("config", recipes)


def _split(key: str, text: str) -> list[str]:
    """Splits at the commas that are outside brackets and quotes."""
    items, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
        elif character == "," and depth == 0:
            items.append("")
            continue
        items[-1] += character
    if depth or quote:
        raise ConfigError(problem(_flag(key), text, "a bracket or quote is open"))
    return [item.strip() for item in items]


def _flag(key: str) -> str:
    return f"--sweep.{key}"


def _unequal(key: str, values: list[str]) -> list[str]:
    literals = [Override(value).literal for value in values]
    for index, literal in enumerate(literals):
        if literal in literals[:index]:
            raise ConfigError(problem(_flag(key), ",".join(values), f"{values[index]} comes twice"))
    return values
