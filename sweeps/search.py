"""Search for good values of some keys with Optuna; each trial is a run of the sweep.

A search's folder is that of a sweep, and has

search.json     what is searched
search.journal  what Optuna knows: all trials, for any number of launchers at once
"""

import contextlib
import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

from harness.arguments import problem
from harness.errors import ConfigError, NonFiniteError, RunError, input_errors
from harness.files import write_text
from harness.locks import locked, take_lock
from sweeps.check import check_runs
from sweeps.launchers.local import Local
from sweeps.runs import MANIFEST, Run, read_runs, write_manifest
from sweeps.search_plan import PLAN, Plan, number_of, read_plan
from sweeps.states import evaluations, read_note, state_of
from sweeps.values import Interval, parse_space
from workdirs.records import read_bytes

JOURNAL = "search.journal"
DEFAULT_TRIALS = 20
_HOPELESS = 3  # trials that failed before any has ended well


class SearchFailed(RunError):
    """Trials fail, other than by diverging; Optuna cannot mend that."""


def search(
    folder: Path,
    plan: Plan,
    launcher: Local,
    *,
    num_trials: int | None = None,
    prune: bool = True,
    retry_failed: bool = False,
) -> None:
    """Runs trials until there are so many; goes on where an earlier call was ended.

    Several calls may be at it at once, also on machines that share the folder.

    Args:
        folder: of the search, made if absent.
        plan: what is searched.
        launcher: runs them.
        num_trials: in all; None: as many as before, 20 at first.
        prune: whether trials that look worse than most are ended early.
        retry_failed: whether those that failed before start again.

    Raises:
        ConfigError: the plan cannot work, or the folder is that of something else.
        SearchFailed: the first trials fail one like the other.
        Interrupted: by a signal.
    """
    if num_trials is not None and num_trials < 1:
        raise ConfigError(problem("--trials", num_trials, "out of range", "1 or more"))
    before = read_plan(folder)
    if before is None and (folder / MANIFEST).exists():
        raise ConfigError(f"{folder} holds a sweep that is no search; choose another --workdir")
    if before not in (None, plan):
        old, new = (json.dumps(dataclasses.asdict(p)) for p in (before, plan))
        raise ConfigError(f"{folder} holds another search: {old} there, {new} now")
    if before is None:
        check_runs(plan.corners())
        with input_errors():
            (folder / "states").mkdir(parents=True, exist_ok=True)
            write_text(folder / PLAN, json.dumps(dataclasses.asdict(plan), indent=2) + "\n")
    with contextlib.closing(Trials(folder, plan, num_trials, prune, retry_failed)) as trials:
        launcher.work(folder, trials, what=trials.in_words(), total=trials.total)


class Trials:
    """The trials as a source of runs, see sweeps/launchers/local.py.

    A trial belongs to the process that holds its lock in states/, so that those of a launcher that
    was killed are free for the next one.

    Args: as `search`.
    """

    def __init__(self, folder: Path, plan: Plan, num_trials: int, prune: bool, retry_failed: bool):
        self._folder, self._plan = folder, plan
        self._prune, self._retry_failed = prune, retry_failed
        self._study = open_study(folder, plan)
        self.total = num_trials or self._study.user_attrs.get("trials", DEFAULT_TRIALS)
        self._study.set_user_attr("trials", self.total)
        self._ours: dict[str, tuple[Any, Any]] = {}  # name of a run -> its trial, its lock
        self._failed: set[str] = set()
        self._again: list[Run] = []

    def in_words(self) -> str:
        """Returns "7 of 20 trials are over"."""
        over = sum(trial.state.is_finished() for trial in self._study.get_trials(deepcopy=False))
        return f"{over} of {self.total} trials are over"

    def close(self) -> None:
        """Lets go of the trials."""
        for _, lock in self._ours.values():
            lock.close()

    def next(self) -> Run | None:
        if self._again:
            return self._again.pop()
        with locked(self._folder / "states" / "search.lock"):  # one launcher at a time
            known = self._study.get_trials(deepcopy=False)
            ours = {trial.number for trial, _ in self._ours.values()}
            for frozen in known:
                if frozen.state.is_finished() or frozen.number in ours:
                    continue
                if run := self._adopt(frozen):
                    return run
            if len(known) >= self.total:
                return None
            return self._ask(len(known))

    def _ask(self, number: int) -> Run:
        import optuna

        # A seed of its own for each trial: the sampler of a new process would begin again.
        self._study.sampler = optuna.samplers.TPESampler(
            seed=number,
            n_startup_trials=min(10, 3 + 2 * len(self._plan.spaces)),
            multivariate=True,
            constant_liar=True,
        )
        trial = self._study.ask()
        params = {key: suggest(trial, key, text) for key, text in self._plan.spaces.items()}
        run = self._plan.run(trial.number, params)
        self._hold(run, trial)
        return run

    def _adopt(self, frozen) -> Run | None:
        """Returns the run of an unfinished trial if nobody is at it and there is more to do."""
        import optuna

        trial = optuna.trial.Trial(self._study, frozen._trial_id)
        # A launcher may have been killed between two suggestions.
        params = {key: suggest(trial, key, text) for key, text in self._plan.spaces.items()}
        run = self._plan.run(frozen.number, params)
        if run.name in self._failed or not self._hold(run, trial):
            return None
        status = state_of(self._folder, run).status
        if status in ("done", "pruned") or (status == "failed" and not self._retry_failed):
            self.ended(run)
            return None
        return run

    def _hold(self, run: Run, trial) -> bool:
        """Returns whether the trial is ours now; its run is in the manifest then."""
        lock = take_lock(self._folder / "states" / f"{run.name}.lock")
        if lock is None:
            return False
        self._ours[run.name] = trial, lock
        runs = read_runs(self._folder) if (self._folder / MANIFEST).exists() else []
        if run not in runs:
            write_manifest(self._folder, sorted([*runs, run], key=number_of))
        return True

    def again(self, run: Run) -> None:
        self._again.append(run)

    def goes_on(self, run: Run) -> bool:
        trial, _ = self._ours[run.name]
        if self._report(run, trial) == 0 or not self._prune:
            return True
        state = state_of(self._folder, run)
        is_last = state.total_steps is not None and state.step >= state.total_steps
        return is_last or not trial.should_prune()

    def _report(self, run: Run, trial) -> int:
        """Tells Optuna of evaluations that it does not know; returns how many."""
        known = self._study._storage.get_trial(trial._trial_id).intermediate_values
        values = [record.get(self._plan.metric) for record in evaluations(self._folder / run.name)]
        new = {n: value for n, value in enumerate(values, 1) if n not in known}
        for number, value in new.items():
            if isinstance(value, int | float):
                trial.report(value, number)
        return len(new)

    def ended(self, run: Run) -> None:
        from optuna.trial import TrialState

        state, (trial, lock) = state_of(self._folder, run), self._ours[run.name]
        code = read_note(self._folder, run).get("exit_code")
        value = state.metrics.get(self._plan.metric)
        if state.status == "interrupted":
            pass  # the trial stays open
        elif state.status == "done" and value is not None:
            self._report(run, trial)
            self._study.tell(trial.number, value)
        elif state.status == "pruned" or code == NonFiniteError.exit_code:
            # Diverged is bad, which Optuna learns from pruned trials, not from failed ones.
            self._study.tell(trial.number, state=TrialState.PRUNED)
        else:
            self._failed.add(run.name)  # stays open, for --retry_failed
        del self._ours[run.name]
        lock.close()
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(self._failed) >= _HOPELESS and not finished:
            raise SearchFailed(f"{len(self._failed)} trials failed: {run.name}: {state.last_line}")


def suggest(trial, key: str, text: str) -> Any:
    """Returns the value that an Optuna trial chooses for a key, in the space that a text is."""
    space = parse_space(key, text)
    if not isinstance(space, Interval):
        return trial.suggest_categorical(key, space)
    if isinstance(space.low, int):
        return trial.suggest_int(key, space.low, space.high, step=space.step)
    return trial.suggest_float(key, space.low, space.high, log=space.is_log)


class _JournalLock:
    """As JournalFileBackend wants it; unlike Optuna's own, it ends with its process."""

    def __init__(self, path: Path):
        self._path, self._held = path, contextlib.ExitStack()

    def acquire(self) -> bool:
        self._held.enter_context(locked(self._path))
        return True

    def release(self) -> None:
        self._held.close()


def open_study(folder: Path, plan: Plan):
    """Returns Optuna's study of a search, made if absent.

    Raises:
        ConfigError: Optuna is not installed.
    """
    optuna = import_optuna()
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    path, lock = folder / JOURNAL, _JournalLock(folder / "states" / "journal.lock")
    lock.acquire()
    content = read_bytes(path, "restore it, or search in another folder")
    # A line that a power cut tore would make the next one unreadable.
    if content and not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])
    lock.release()
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path), lock)),
        study_name="search",
        direction="maximize" if plan.is_better_higher else "minimize",
        pruner=_pruner(optuna),
        load_if_exists=True,
    )


def _pruner(optuna):
    # The worst third. The worse half would have many that are only slower at first, such as those
    # with high learning rates, and Optuna would learn that these are bad.
    return optuna.pruners.PercentilePruner(67.0, n_startup_trials=5, n_warmup_steps=2)


def import_optuna():
    """Returns Optuna, with its own log lines off.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        install = "pip install -r requirements-sweeps.txt"
        raise ConfigError(f"--search=optuna needs Optuna: {install}") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna
