"""Every run of a sweep, built before the first one starts: a typo costs seconds, not a night."""

import json
from collections.abc import Iterable

from ml_collections import ConfigDict

from harness.errors import ConfigError
from harness.overrides import apply_overrides
from sweeps.runs import Run
from training import experiment
from workdirs.config_file import load_config

_SHOWN = 5


def config_of(run: Run) -> ConfigDict:
    """Returns the config of a run, as train.py would have it.

    Raises:
        ConfigError: the recipe does not exist or fails.
    """
    config = load_config(run.config)
    apply_overrides(config, run.overrides.items())
    return config


def check_runs(runs: Iterable[Run]) -> None:
    """Builds every run, without a parameter in memory, and raises if one cannot work.

    What is not found here is what depends on the devices of the run: whether the batch can be
    divided among them, and whether memory suffices.

    Raises:
        ConfigError: names the runs and what is wrong with each; the first five.
    """
    built, problems = set(), {}
    for run in runs:
        try:
            config = config_of(run)
            plain = experiment.check_config(config)
            # The seed decides nothing that can fail, and the mesh is that of other devices.
            same = json.dumps({**plain, "seed": 0, "mesh": {}}, sort_keys=True, default=str)
            if same not in built:
                mesh = {"data": -1, "fsdp": 1}
                experiment.build(config, plain=plain | {"mesh": mesh})
                built.add(same)
        except ConfigError as error:
            problems.setdefault(str(error), []).append(run.name)
    if problems:
        lines = [
            f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {what}"
            for what, names in problems.items()
        ]
        more = [f"and {len(lines) - _SHOWN} more problems"] if len(lines) > _SHOWN else []
        separator = "\n  " if lines[1:] else " "
        raise ConfigError(separator.join(["nothing is started:", *lines[:_SHOWN], *more]))
