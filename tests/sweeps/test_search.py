import json
import signal

import optuna
import pytest

from harness.errors import ConfigError, Interrupted
from sweeps.launchers.local import Local
from sweeps.ranges import parse_range
from sweeps.runs import read_runs
from sweeps.search import plan_search, search
from sweeps.specification import Search, read_search
from sweeps.states import state_of
from sweeps.trials import importances, open_study
from tests.sweeps.launch_fake import RANGES, fake
from tests.sweeps.test_launching import (
    finals,
    is_amid_a_run,
    kill_everything,
    launch,
    starts,
    wait_for,
)


@pytest.fixture(autouse=True)
def fake_runs(monkeypatch):
    monkeypatch.setattr("sweeps.runs.Run.command", fake)


def wanted(*, prunes=True, **fixed):
    return Search("r.py", {"steps": "10", **fixed}, RANGES, "top1_accuracy", True, prunes)


def trials_of(folder):
    return open_study(folder, read_search(folder)).trials


@pytest.mark.parametrize(
    ("text", "kind", "examples"),
    [
        ("log:1e-4:1e-2", "log", ("0.0001", "0.01")),
        ("uniform:0:0.5", "uniform", ("0", "0.5")),
        ("int:1:8", "int", ("1", "8")),
        ("maxpool,avgpool", "choices", ("maxpool", "avgpool")),
        ("0:3", "choices", ("0", "1", "2")),
        ("folder:/a:b,folder:/b", "choices", ("folder:/a:b", "folder:/b")),
    ],
)
def test_ranges_are_written_like_values(text, kind, examples):
    parsed = parse_range("key", text)
    assert (parsed.kind, parsed.examples()) == (kind, examples)
    trial = optuna.trial.FixedTrial(
        {"key": examples[0] if kind == "choices" else float(examples[0])}
    )
    assert parsed.suggest(trial, "key") in examples or kind == "int"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("log:0:1", "above 0"),
        ("log:1e-2:1e-4", "an empty range"),
        ("uniform:1:1", "an empty range"),
        ("int:1:2.5", "not numbers"),
        ("log:1:a", "not numbers"),
        ("uniform:0:inf", "an empty range"),
        ("log:1", "not a range"),
        ("uniform:0:nan", "an empty range"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(text, problem):
    with pytest.raises(ConfigError, match=f"--sweep.optimizer.base_lr=.*{problem}"):
        parse_range("optimizer.base_lr", text)


def test_killed_in_the_middle_a_search_ends_with_as_many_trials_and_a_good_one(tmp_path):
    process = launch(tmp_path, 3, 16, 10, "search")
    wait_for(lambda: len(finals(tmp_path)) >= 3 and is_amid_a_run(tmp_path))
    kill_everything(tmp_path, process)
    process = launch(tmp_path, 3, 16, 10, "search")
    wait_for(lambda: len(finals(tmp_path)) >= 6 and is_amid_a_run(tmp_path))
    process.send_signal(signal.SIGTERM)
    assert process.wait() == Interrupted.exit_code
    assert launch(tmp_path, 3, 16, 10, "search").wait() == 0
    runs = read_runs(tmp_path)
    assert len(runs) == len({run.name for run in runs}) == 16
    states = {run.name: state_of(tmp_path, run) for run in runs}
    assert {state.status for state in states.values()} <= {"done", "pruned"}
    trials = trials_of(tmp_path)
    assert len(trials) == 16 and all(trial.state.is_finished() for trial in trials)
    for trial in trials:  # what Optuna was told is what the runs say
        state = states[f"trial={trial.number:04d}"]
        if state.status == "done":
            assert trial.value == state.metrics["top1_accuracy"]
        else:
            assert trial.state == optuna.trial.TrialState.PRUNED
    best = max(
        trial.params["optimizer.base_lr"]
        for trial in trials
        if trial.value == max(t.value for t in trials if t.value is not None)
    )
    assert 1e-4 < best < 1e-2
    assert not list(tmp_path.glob("*/trained_again"))
    assert importances(tmp_path) == {"optimizer.base_lr": 1.0}


def test_bad_runs_are_pruned(tmp_path):
    search(tmp_path, wanted(seconds="0.1"), 14, Local(parallel=2))
    pruned = [t for t in trials_of(tmp_path) if t.state == optuna.trial.TrialState.PRUNED]
    assert pruned
    best = max(t.value for t in trials_of(tmp_path) if t.state.name == "COMPLETE")
    assert all(t.value < best for t in pruned)
    run = next(r for r in read_runs(tmp_path) if r.name == f"trial={pruned[0].number:04d}")
    state = state_of(tmp_path, run)
    assert state.status == "pruned" and state.step < 10


def test_two_launchers_share_a_search(tmp_path):
    processes = [launch(tmp_path, 2, 8, 10, "search") for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(trials_of(tmp_path)) == 8
    assert all(number == 1 for number in starts(tmp_path).values())
    assert len(read_runs(tmp_path)) == 8


def test_failed_trials_count_and_end_nothing(tmp_path):
    states = search(tmp_path, wanted(fail="3", prunes=False), 3, Local(parallel=3))
    assert [state.status for state in states.values()] == ["failed"] * 3
    assert {t.state for t in trials_of(tmp_path)} == {optuna.trial.TrialState.FAIL}
    assert len(search(tmp_path, None, 4, Local(parallel=1))) == 4  # one more


def test_a_trial_whose_launcher_died_while_choosing_is_replaced(tmp_path):
    search(tmp_path, wanted(), 1, Local(parallel=1))
    open_study(tmp_path, wanted()).ask()  # and nothing more
    states = search(tmp_path, wanted(), 3, Local(parallel=1))
    assert [state.status for state in states.values()] == ["done"] * 3


def test_other_folders_are_refused(tmp_path):
    search(tmp_path, wanted(), 1, Local(parallel=1))
    other = Search("r.py", {"steps": "11"}, RANGES, "top1_accuracy", True, True)
    with pytest.raises(ConfigError, match="holds another search .*fixed: .*10.* there, .*11.* now"):
        search(tmp_path, other, 1, Local(parallel=1))
    with pytest.raises(ConfigError, match="holds no search"):
        search(tmp_path / "empty", None, 1, Local(parallel=1))
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "runs.jsonl").write_text("")
    with pytest.raises(ConfigError, match="a sweep that is no search"):
        search(tmp_path / "sweep", wanted(), 1, Local(parallel=1))
    (tmp_path / "search.json").write_text(json.dumps({"config": "r.py"}))
    with pytest.raises(ConfigError, match=r"search\.json is unreadable"):
        search(tmp_path, wanted(), 1, Local(parallel=1))


def test_a_search_is_built_at_its_ends_before_anything_starts():
    def plan(**ranges):
        ranges = {key.replace("__", "."): text for key, text in ranges.items()}
        return plan_search(config="configs/digits_nest.py:debug", fixed=[], ranges=ranges.items())

    found = plan(optimizer__base_lr="log:1e-4:1e-1", model__aggregation="maxpool,avgpool")
    assert found.metric == "top1_accuracy" and found.is_better_higher
    for ranges, problem in (
        ({"optimizer__base_rl": "log:1e-4:1e-1"}, "did you mean 'base_lr'"),
        ({"model__drop_path_rate": "uniform:0:2"}, "drop_path_rate=2"),
        ({"model__aggregation": "maxpool,agvpool"}, "did you mean 'avgpool'"),
        ({}, "nothing is searched"),
    ):
        with pytest.raises(ConfigError, match=problem):
            plan(**ranges)
