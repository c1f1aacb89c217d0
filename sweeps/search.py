"""A search: each run's values follow from the results of those before it; sweeps/trials.py asks
Optuna for them.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from harness.errors import ConfigError, input_errors
from sweeps.check import check_runs, config_of
from sweeps.launchers.local import Local
from sweeps.metric import DEFAULT, is_better_higher
from sweeps.plan import config_key
from sweeps.ranges import parse_range
from sweeps.runs import MANIFEST, Run, read_runs
from sweeps.specification import Search, read_search, write_search
from sweeps.states import State, state_of
from sweeps.trials import Trials
from training import experiment


def plan_search(
    *,
    config: str,
    fixed: Iterable[tuple[str, str]],
    ranges: Iterable[tuple[str, str]],
    metric: str | None = None,
    prunes: bool = True,
) -> Search:
    """Returns a search, each of whose values has been tried to build.

    Args:
        config: recipe.
        fixed: (key, text) of all runs.
        ranges: (key, text) of those that are searched.
        metric: of the evaluation, to be optimized; None: the recipe's checkpoint.best_metric.
        prunes: whether a run ends early that is worse than half of those before it, at the same
            step.

    Raises:
        ConfigError: there is nothing to search, or some run of it cannot work.
    """
    fixed = {config_key(key): text for key, text in fixed}
    ranges = {config_key(key): text for key, text in ranges}
    if not ranges:
        raise ConfigError("nothing is searched: give --sweep.KEY=log:LOW:HIGH; see --help")
    if both := fixed.keys() & ranges.keys():
        raise ConfigError(f"--sweep.{min(both)}: the key is given twice")
    parsed = {key: parse_range(key, text) for key, text in ranges.items()}
    # Every end and choice of each key, with the others at their first: not every combination.
    first = {key: each.examples()[0] for key, each in parsed.items()}
    probes = [{**first, key: text} for key, each in parsed.items() for text in each.examples()]
    check_runs(
        Run(f"{key}={values[key]}", config, {**fixed, **values}, {})
        for key, values in zip(
            (k for k, e in parsed.items() for _ in e.examples()), probes, strict=True
        )
    )
    section = experiment.check_config(config_of(Run("", config, {**fixed, **first}, {})))
    section = section["checkpoint"]
    name = metric or section["best_metric"] or DEFAULT
    mode = None if metric else section["best_mode"]
    higher = mode == "max" if mode else is_better_higher(name)
    return Search(config, fixed, ranges, name, higher, prunes)


def search(folder: Path, wanted: Search | None, trials: int, launcher: Local) -> dict[str, State]:
    """Runs trials until there are as many as wanted, each done, pruned or failed.

    Args:
        folder: of the sweep, made if absent.
        wanted: None: the one that the folder holds.
        trials: how many in all, also of other launchers and earlier calls.
        launcher: of this machine.

    Returns:
        Where each run stands, by its name.

    Raises:
        ConfigError: the folder holds another search or sweep.
        Interrupted: by a signal; the trials that were under way are taken up again.
    """
    found = read_search(folder)
    if wanted is None and found is None:
        raise ConfigError(f"{folder} holds no search: give --config and --sweep.KEY=log:LOW:HIGH")
    if found and wanted and found != wanted:
        fields = dataclasses.asdict(found), dataclasses.asdict(wanted)
        differing = [
            f"{name}: {there!r} there, {fields[1][name]!r} now"
            for name, there in fields[0].items()
            if there != fields[1][name]
        ]
        raise ConfigError(f"{folder} holds another search ({'; '.join(differing)})")
    if found is None and (folder / MANIFEST).exists():
        raise ConfigError(f"{folder} holds a sweep that is no search; choose another --workdir")
    if found is None:
        with input_errors():
            folder.mkdir(parents=True, exist_ok=True)
            write_search(folder, wanted)
    with Trials(folder, found or wanted, trials) as supply:
        launcher.work(folder, supply, f"{trials} trials, {supply.num_over()} over before")
    return {run.name: state_of(folder, run) for run in read_runs(folder)}
