"""What a search searches: a recipe, keys and their spaces, a metric."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.strict_config import unknown_name
from sweeps.check import config_of
from sweeps.metric import metric_of_config
from sweeps.plan import config_key
from sweeps.runs import Run, name_runs
from sweeps.values import Interval, parse_space
from training import experiment
from workdirs.records import read_json

PLAN = "search.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is searched."""

    config: str  # the recipe, with its argument
    fixed: Mapping[str, str]  # overrides of all trials
    spaces: Mapping[str, str]  # key -> as on the command line, see sweeps.values.parse_space
    metric: str
    is_better_higher: bool

    def run(self, number: int, params: Mapping[str, Any]) -> Run:
        """Returns the run of a trial."""
        texts = {}
        for key, value in params.items():
            space = parse_space(key, self.spaces[key])
            texts[key] = space.text(value) if isinstance(space, Interval) else value
        (run,) = name_runs(self.config, self.fixed, [texts])
        return dataclasses.replace(run, name=f"{number:03d},{run.name}")

    def corners(self) -> list[Run]:
        """Returns runs that have each end and choice of each key once."""
        ends = {}
        for key, text in self.spaces.items():
            space = parse_space(key, text)
            if isinstance(space, Interval):
                space = [space.text(space.low), space.text(space.high)]
            ends[key] = space
        first = {key: texts[0] for key, texts in ends.items()}
        others = [first | {key: text} for key, texts in ends.items() for text in texts[1:]]
        return name_runs(self.config, self.fixed, [first, *others])


def number_of(run: Run) -> int:
    """Returns the number of the trial of a run."""
    return int(run.name.partition(",")[0])


def plan_search(
    recipes: list[str],
    fixed: Iterable[tuple[str, str]],
    swept: Iterable[tuple[str, str]],
    metric: str | None = None,
) -> Plan:
    """Returns a checked plan.

    Args:
        recipes: of --config; one.
        fixed: (key, text) of all trials.
        swept: (key, space).
        metric: to search by; None: the one by which the recipe chooses its best checkpoint.

    Raises:
        ConfigError: something in it cannot work.
    """
    if len(recipes) != 1:
        raise ConfigError("--search needs one recipe: --config=FILE.py")
    fixed, spaces = {config_key(key): text for key, text in fixed}, {}
    for key, text in swept:
        key = config_key(key)
        if key in spaces or key in fixed:
            raise ConfigError(f"--sweep.{key}: the key is given twice")
        parse_space(key, text)
        spaces[key] = text
    if not spaces:
        raise ConfigError("--search needs --sweep.KEY=SPACE, such as log:1e-4:1e-2; see --help")
    config = config_of(Run("search", recipes[0], fixed, {}))
    chosen = metric_of_config(experiment.check_config(config)["checkpoint"], metric)
    plan = Plan(recipes[0], fixed, spaces, chosen.name, chosen.is_better_higher)
    if metric is not None:
        config.mesh = {"data": -1, "fsdp": 1}
        names = experiment.build(config).task.metric_names()
        if metric not in names:
            raise ConfigError(unknown_name(f"--metric={metric}", metric, names))
    return plan


def read_plan(folder: Path) -> Plan | None:
    """Returns the plan of a search's folder; None for other folders."""
    path = folder / PLAN
    record = read_json(path, "restore it, or search in another folder", _is_plan)
    return None if record is None else Plan(**record)


def _is_plan(record: Any) -> bool:
    if not isinstance(record, dict) or record.keys() != {f.name for f in dataclasses.fields(Plan)}:
        return False
    texts = [record["config"], record["metric"]]
    for mapping in (record["fixed"], record["spaces"]):
        if not isinstance(mapping, dict):
            return False
        texts += mapping.values()
    return all(isinstance(text, str) for text in texts)
