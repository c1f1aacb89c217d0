"""The trials of a search, chosen by Optuna.

The study is in the sweep's folder, study.log, an append-only file that several launchers can use at
once. A trial is a run of the sweep. One whose launcher was killed is taken up by the next launcher,
and its run goes on from its last checkpoint.
"""

import contextlib
import fcntl
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from sweeps.metric import Metric
from sweeps.runs import MANIFEST, Run, read_runs, write_manifest
from sweeps.specification import Search, read_search
from sweeps.states import evaluations_of, is_running, state_of

STUDY = "study.log"
_NAME = "search"
_STARTUP_TRIALS = 5  # drawn at random before the sampler and the pruner judge


def open_study(folder: Path, wanted: Search) -> Any:
    """Returns the Optuna study of a folder, made if absent.

    Raises:
        ConfigError: Optuna is not installed.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage
    except ImportError:
        raise ConfigError("--search=optuna needs it: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS)
    return optuna.create_study(
        study_name=_NAME,
        storage=JournalStorage(JournalFileBackend(str(folder / STUDY))),
        direction="maximize" if wanted.is_better_higher else "minimize",
        # constant_liar: runs that are under way count as bad, so that others try something else.
        sampler=optuna.samplers.TPESampler(n_startup_trials=_STARTUP_TRIALS, constant_liar=True),
        pruner=pruner if wanted.prunes else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )


def importances(folder: Path) -> dict[str, float]:
    """Returns how much of the metric's variance each key explains (fANOVA), the largest first.

    Returns:
        {} where fewer than two trials are done, or none differ.
    """
    found = read_search(folder)
    if found is None:
        return {}
    import optuna

    study = open_study(folder, found)
    try:
        return dict(optuna.importance.get_param_importances(study))
    except (RuntimeError, ValueError):  # too few, or all the same
        return {}


class Trials:
    """The trials of a study as a supply of runs.

    Args:
        folder: of the sweep.
        wanted: the search.
        trials: how many there are to be in all.
    """

    def __init__(self, folder: Path, wanted: Search, trials: int):
        self._folder, self._search, self._wanted = folder, wanted, trials
        self._ranges = wanted.parsed()
        self._metric = Metric(wanted.metric, wanted.is_better_higher)
        self._study = open_study(folder, wanted)
        self._mine: dict[str, Any] = {}  # name of the run -> trial
        self._claims: dict[str, Any] = {}  # name of the run -> lock file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for file in self._claims.values():
            file.close()

    def num_over(self) -> int:
        """Returns how many trials are done, pruned or failed."""
        return sum(trial.state.is_finished() for trial in self._study.get_trials(deepcopy=False))

    def take(self) -> Run | None:
        """Returns a trial that nobody is at any more, or a new one."""
        import optuna

        with self._alone():
            trials = self._study.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state.is_finished():
                    continue
                if "values" not in trial.user_attrs:  # killed while it was chosen
                    self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                    continue
                run = self._search.run(trial.number, trial.user_attrs["values"])
                if run.name in self._mine or not self._claim(run):
                    continue
                self._mine[run.name] = optuna.trial.Trial(self._study, trial._trial_id)
                status = state_of(self._folder, run).status
                if status in ("done", "failed", "pruned") and not is_running(self._folder, run):
                    self.ended(run)  # its launcher was killed before it could say so
                    continue
                return self._listed(run)
            if self._are_enough(trials):
                return None
            trial = self._study.ask()
            values = {key: each.suggest(trial, key) for key, each in self._ranges.items()}
            trial.set_user_attr("values", values)
            run = self._search.run(trial.number, values)
            self._claim(run)
            self._mine[run.name] = trial
            return self._listed(run)

    def is_empty(self) -> bool:
        """Returns whether all trials are over, or others are at the rest."""
        return not self._mine and self._are_enough(self._study.get_trials(deepcopy=False))

    def _are_enough(self, trials: list[Any]) -> bool:
        return sum("values" in trial.user_attrs for trial in trials) >= self._wanted

    def is_hopeless(self, run: Run) -> bool:
        """Passes a run's evaluations on; returns whether the pruner ends it."""
        trial = self._mine[run.name]
        known = trial.storage.get_trial(trial._trial_id).intermediate_values
        news = False
        for step, metrics in evaluations_of(self._folder, run):
            value = self._metric.value(metrics)
            if value is not None and math.isfinite(value) and step not in known:
                trial.report(value, step)
                news = True
        return news and self._search.prunes and trial.should_prune()

    def ended(self, run: Run) -> None:
        """Tells the study how a run has ended."""
        from optuna.trial import TrialState

        trial, state = self._mine.pop(run.name), state_of(self._folder, run)
        value = self._metric.value(state.metrics)
        is_number = value is not None and math.isfinite(value)
        if state.status == "done" and is_number:
            self._study.tell(trial.number, value)
        elif state.status == "pruned":
            self._study.tell(trial.number, state=TrialState.PRUNED)
        elif state.status in ("failed", "done"):
            self._study.tell(trial.number, state=TrialState.FAIL)
        self._claims.pop(run.name).close()  # interrupted: whoever comes next takes it up

    def _listed(self, run: Run) -> Run:
        """Adds a run to the manifest, if it is not there yet."""
        path = self._folder / MANIFEST
        runs = read_runs(self._folder) if path.exists() and path.stat().st_size else []
        if run.name not in {other.name for other in runs}:
            write_manifest(self._folder, [*runs, run])
        return run

    def _claim(self, run: Run) -> bool:
        """Makes a run ours, until we end, however that happens."""
        path = self._folder / "states" / f"{run.name}.claim"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._claims[run.name] = file
        return True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other launchers from choosing at the same time."""
        with (self._folder / ".search.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
