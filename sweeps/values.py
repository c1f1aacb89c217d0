"""The values of a swept key, as one writes them: 1e-3,3e-3 or 0:5 or (64,64),(96,96)."""

import dataclasses
import math
import re
from collections.abc import Iterable

from harness.arguments import Override, problem
from harness.errors import ConfigError
from harness.recipes import recipe_from_root

_RANGE = re.compile(r"(-?\d+):(-?\d+)(?::(-?\d+))?")
_INTERVAL = re.compile(r"(log|uniform|int):([^:,]+):([^:,]+)")
_OPEN, _CLOSE = "([{", ")]}"


def parse_values(key: str, text: str) -> list[str]:
    """Returns the values that a text lists, each as the command line of one run would have it.

    Commas separate values; those inside brackets or quotes belong to a value. 0:5 stands for
    0,1,2,3,4 and 0:10:5 for 0,5, as in Python; other texts with colons are values of their own.

    Args:
        key: what is swept, for messages: "model.depths".
        text: e.g. "conv_norm_maxpool,maxpool".

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
        elif _INTERVAL.fullmatch(item):
            raise ConfigError(problem(_flag(key), text, "a range: it needs --search=optuna"))
        elif item:
            values.append(item)
        else:
            raise ConfigError(
                problem(_flag(key), text, "an empty value", "values between commas; '' is no text")
            )
    return _unequal(key, values)


@dataclasses.dataclass(frozen=True)
class Interval:
    """Where a search looks for the value of a key; whole numbers if its ends are."""

    low: int | float
    high: int | float
    is_log: bool = False
    step: int = 1  # of whole numbers

    def text(self, value: int | float) -> str:
        """Returns a value in it as the command line of a run has it, short enough for a name."""
        return str(value) if isinstance(value, int) else f"{value:.4g}"


def parse_space(key: str, text: str) -> Interval | list[str]:
    """Returns where a search looks for the value of a key.

    log:1e-4:1e-2 has every order of magnitude equally often, uniform:0:1 every number, int:2:6
    every whole one; the ends are included. 1:6 is 1, 2, 3, 4, 5, as `parse_values` has it, and so
    are values between commas, though without an order.

    Raises:
        ConfigError: as parse_values; or no interval.
    """
    if _RANGE.fullmatch(text):
        numbers = [int(value) for value in parse_values(key, text)]
        step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
        if step > 0:
            return Interval(numbers[0], numbers[-1], step=step)
    match = _INTERVAL.fullmatch(text)
    if not match:
        return parse_values(key, text)
    kind, *ends = match.groups()
    low, high = (Override(end).literal for end in ends)
    types = (int,) if kind == "int" else (int, float)
    if not all(type(end) in types and math.isfinite(end) for end in (low, high)):
        what = f"the ends are no {'whole ' * (kind == 'int')}numbers"
        raise ConfigError(problem(_flag(key), text, what, f"{kind}:LOW:HIGH"))
    if not low < high or (kind == "log" and low <= 0):
        allowed = f"{kind}:LOW:HIGH, {'0 < ' if kind == 'log' else ''}LOW < HIGH"
        raise ConfigError(problem(_flag(key), text, "an empty range", allowed))
    if kind != "int":
        low, high = float(low), float(high)
    return Interval(low, high, is_log=kind == "log")


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
    return _unequal("config", [recipe_from_root(recipe) for recipe in recipes])


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
