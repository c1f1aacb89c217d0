"""What a search has found: the best trial, how it got there, and which keys matter."""

import contextlib
import dataclasses
from pathlib import Path

from sweeps.metric import Metric
from sweeps.runs import Run, read_runs
from sweeps.search import import_optuna, open_study
from sweeps.search_plan import read_plan
from sweeps.states import state_of


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """A trial and what came out."""

    run: Run
    status: str  # as sweeps/states.py has it
    value: float | None  # of a finished one
    best: float | None  # of this and those before


@dataclasses.dataclass(frozen=True)
class Results:
    """What a search has found."""

    metric: Metric
    best: TrialResult | None
    history: list[TrialResult]
    importance: dict[str, float]  # key -> its share of the variance of the metric; {} if unknown


def results(folder: Path) -> Results | None:
    """Returns what the search in a folder has found, None for the folder of something else.

    The importance is that of Optuna's fANOVA, over the finished trials; it needs two.

    Raises:
        ConfigError: the folder is damaged, or Optuna is not installed.
    """
    plan = read_plan(folder)
    if plan is None:
        return None
    metric, best, history = Metric(plan.metric, plan.is_better_higher), None, []
    for run in read_runs(folder):
        state = state_of(folder, run)
        value = metric.value(state.metrics) if state.status == "done" else None
        is_best = value is not None and (
            best is None or metric.rank(state.metrics) > metric.rank({metric.name: best.value})
        )
        so_far = value if is_best else best and best.value
        history.append(TrialResult(run, state.status, value, so_far))
        best = history[-1] if is_best else best
    optuna = import_optuna()
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    importance = {}
    # Too few trials, or all equally good.
    with contextlib.suppress(ValueError, RuntimeError):
        study = open_study(folder, plan)
        importance = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return Results(metric, best, history, dict(importance))


def in_words(found: Results, folder: Path) -> str:
    """Returns a few lines: the best trial, how to train it again, what matters."""
    if found.best is None:
        return "no trial has ended"
    best, values = found.best, ", ".join(f"{k}={v}" for k, v in found.best.run.values.items())
    done = sum(trial.value is not None for trial in found.history)
    pruned = sum(trial.status == "pruned" for trial in found.history)
    lines = [
        f"best of {done} trials ({pruned} more were ended early): "
        f"{found.metric.in_words({found.metric.name: best.value})} with {values}",
        f"its folder: {folder / best.run.name}",
    ]
    if len(found.importance) > 1:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in found.importance.items())
        lines.append(f"what matters: {shares}")
    return "\n".join(lines)
