"""What a search may choose a value from: log:1e-4:1e-2, uniform:0:0.5, int:1:8, or a list."""

import dataclasses
import math
import re
from typing import Any

from harness.arguments import problem
from harness.errors import ConfigError
from sweeps.values import parse_values

_RANGE = re.compile(r"(log|uniform|int):([^:]+):([^:]+)")
_ALLOWED = "log:LOW:HIGH, uniform:LOW:HIGH, int:LOW:HIGH, or values between commas"


@dataclasses.dataclass(frozen=True)
class Range:
    """Values of one key: an interval, or a list of texts."""

    kind: str  # "log", "uniform", "int" or "choices"
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()

    def suggest(self, trial: Any, key: str) -> str:
        """Returns the value that an Optuna trial chooses, as the command line has it."""
        if self.kind == "choices":
            return trial.suggest_categorical(key, self.choices)
        if self.kind == "int":
            return str(trial.suggest_int(key, int(self.low), int(self.high)))
        value = trial.suggest_float(key, self.low, self.high, log=self.kind == "log")
        return f"{value:.6g}"

    def examples(self) -> tuple[str, ...]:
        """Returns values that cover it: both ends, or all choices."""
        if self.kind == "choices":
            return self.choices
        form = str if self.kind == "int" else "{:.6g}".format
        kind = int if self.kind == "int" else float
        return form(kind(self.low)), form(kind(self.high))


def parse_range(key: str, text: str) -> Range:
    """Returns what a key may be.

    Args:
        key: of the config, for messages.
        text: e.g. "log:1e-4:1e-2".

    Raises:
        ConfigError: it is no range, or an empty one.
    """
    match = _RANGE.fullmatch(text)
    if match is None:
        if text.partition(":")[0] in ("log", "uniform", "int"):
            raise ConfigError(problem(f"--sweep.{key}", text, "not a range", _ALLOWED))
        return Range("choices", choices=tuple(parse_values(key, text)))
    kind, *ends = match.groups()
    try:
        low, high = (int(end) if kind == "int" else float(end) for end in ends)
    except ValueError:
        raise ConfigError(problem(f"--sweep.{key}", text, "not numbers", _ALLOWED)) from None
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(problem(f"--sweep.{key}", text, "an empty range", "LOW below HIGH"))
    if kind == "log" and low <= 0:
        raise ConfigError(problem(f"--sweep.{key}", text, "out of range", "above 0"))
    return Range(kind, low, high)
