"""The metric that a sweep goes by."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.strict_config import unknown_name
from saving.checkpoints import LOWER_IS_BETTER
from sweeps.runs import Run
from sweeps.states import state_of
from workdirs.config_file import read_record

DEFAULT = "top1_accuracy"


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of an evaluation, and which end of it is good."""

    name: str
    is_better_higher: bool = True

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """Returns its value, None where it is not measured."""
        return metrics.get(self.name)

    def rank(self, metrics: Mapping[str, float]) -> float:
        """Returns a number that is higher for a better value."""
        value = metrics[self.name]
        return value if self.is_better_higher else -value

    def short(self, metrics: Mapping[str, float]) -> str:
        """Returns the value as one reads it: shares in percent."""
        value = self.value(metrics)
        if value is None:
            return ""
        return f"{value:.2%}" if self.is_share else f"{value:.4g}"

    def in_words(self, metrics: Mapping[str, float]) -> str:
        """Returns "top1_accuracy 97.22%"."""
        return f"{self.name} {self.short(metrics)}" if self.value(metrics) is not None else ""

    @property
    def is_share(self) -> bool:
        """Whether its values are shares of one."""
        return "accuracy" in self.name


def metric_of(folder: Path, runs: Iterable[Run], name: str | None = None) -> Metric:
    """Returns the metric to compare the runs of a sweep by.

    Args:
        folder: of the sweep.
        runs: of the sweep.
        name: chosen by a person; None: the one by which the runs choose their best checkpoint.

    Raises:
        ConfigError: no run has a metric of this name, though some have others.
    """
    if name is not None:
        names = {key for run in runs for key in state_of(folder, run).metrics}
        if names and name not in names:
            raise ConfigError(unknown_name(f"--metric={name}", name, sorted(names)))
        return Metric(name, _is_better_higher(name))
    for run in runs:
        try:
            section = read_record(folder / run.name)["config"]["checkpoint"]
        except (ConfigError, KeyError, TypeError):
            continue
        return metric_of_config(section)
    return Metric(DEFAULT)


def metric_of_config(section: Mapping[str, Any], name: str | None = None) -> Metric:
    """Returns the metric by which a run chooses its best checkpoint.

    Args:
        section: config.checkpoint.
        name: chosen by a person; None: that of the section.
    """
    name, mode = name or section.get("best_metric") or DEFAULT, section.get("best_mode")
    if mode and name == section.get("best_metric"):
        return Metric(name, mode == "max")
    return Metric(name, _is_better_higher(name))


def _is_better_higher(name: str) -> bool:
    return not name.endswith(LOWER_IS_BETTER)
