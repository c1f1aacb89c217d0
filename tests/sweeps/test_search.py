import collections
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import ConfigError, Interrupted
from sweeps import search as searching
from sweeps import start as starting
from sweeps.launchers.local import Local
from sweeps.runs import read_runs
from sweeps.search import SearchFailed, open_study, search
from sweeps.search_plan import plan_search, read_plan
from sweeps.search_results import in_words, results
from sweeps.states import read_note, state_of
from sweeps.values import Interval, parse_space
from tests.sweeps.fake_job import fake
from tests.sweeps.search_fake import plan
from tests.sweeps.test_launching import (
    finals,
    is_amid_a_run,
    kill_everything,
    seeds,
    starts,
    wait_for,
)

SEARCH, ROOT = Path(__file__).with_name("search_fake.py"), Path(__file__).parents[2]
QUICK = {"seconds": "0.005"}


@pytest.fixture(autouse=True)
def fake_runs(monkeypatch):
    monkeypatch.setattr("sweeps.runs.Run.command", fake)
    monkeypatch.setattr(searching, "check_runs", lambda runs: None)


def begin(folder, parallel, trials, **fixed):
    texts = [f"{key}={text}" for key, text in fixed.items()]
    command = [sys.executable, str(SEARCH), str(folder), str(parallel), str(trials), *texts]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True
    )


def states(folder):
    """Returns how many trials Optuna has in each state."""
    trials = open_study(folder, read_plan(folder)).get_trials()
    return collections.Counter(trial.state.name for trial in trials)


def statuses(folder):
    return collections.Counter(state_of(folder, run).status for run in read_runs(folder))


@pytest.mark.parametrize(
    ("text", "space"),
    [
        ("log:1e-4:1e-2", Interval(1e-4, 1e-2, is_log=True)),
        ("log:8:512", Interval(8, 512, is_log=True)),
        ("uniform:0:0.3", Interval(0.0, 0.3)),
        ("uniform:-1:4", Interval(-1, 4)),
        ("1:6", Interval(1, 5)),
        ("0:10:5", Interval(0, 5, step=5)),
        ("4:5", Interval(4, 4)),
        ("3:0:-1", ["3", "2", "1"]),
        ("0:3,7", ["0", "1", "2", "7"]),
        ("(64,64),(96,96)", ["(64,64)", "(96,96)"]),
        ("folder:/a", ["folder:/a"]),
    ],
)
def test_spaces_are_written_as_values_are(text, space):
    assert parse_space("key", text) == space


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("log:0:1", "an empty range; allowed: log:LOW:HIGH, 0 < LOW < HIGH"),
        ("log:-1:1", "an empty range"),
        ("uniform:1:0.5", "an empty range; allowed: uniform:LOW:HIGH, LOW < HIGH"),
        ("uniform:1:1", "an empty range"),
        ("log:a:b", "the ends are no numbers; allowed: log:LOW:HIGH"),
        ("uniform:0:inf", "the ends are no numbers"),
        ("uniform:0:True", "the ends are no numbers"),
        ("5:5", "5:5 is an empty range"),
        ("a,a", "a comes twice"),
    ],
)
def test_spaces_without_sense_are_refused(text, problem):
    with pytest.raises(ConfigError, match=f"--sweep.model.depth='{text}': {problem}"):
        parse_space("model.depth", text)


def test_values_are_short_and_in_the_space():
    assert Interval(1e-4, 1e-2, is_log=True).text(0.00123456) == "0.001235"
    run = plan().run(7, {"lr": 0.00123456, "width": "16"})
    assert run.name == "007,lr=0.001235,width=16"
    assert run.values == {"lr": "0.001235", "width": "16"}
    corners = [dict(run.values) for run in plan().corners()]
    assert [list(values.values()) for values in corners] == [
        *(["1e-05", "8"], ["0.1", "8"], ["1e-05", "16"])
    ]


def test_killed_in_the_middle_it_goes_on_to_exactly_so_many_trials(tmp_path):
    process = begin(tmp_path, 2, 16, **QUICK)
    wait_for(lambda: len(finals(tmp_path)) >= 4 and is_amid_a_run(tmp_path))
    kill_everything(tmp_path, process)
    before = len(finals(tmp_path))
    assert before < 16 and states(tmp_path)["RUNNING"] >= 1
    process = begin(tmp_path, 2, 16, **QUICK)
    wait_for(lambda: len(finals(tmp_path)) >= before + 2)
    process.send_signal(signal.SIGINT)
    assert process.wait() == Interrupted.exit_code
    assert not states(tmp_path)["FAIL"] and len(read_runs(tmp_path)) < 16
    assert begin(tmp_path, 2, 16, **QUICK).wait() == 0
    assert states(tmp_path).keys() <= {"COMPLETE", "PRUNED"}
    assert states(tmp_path).total() == len(read_runs(tmp_path)) == 16
    assert statuses(tmp_path).keys() <= {"done", "pruned"}
    assert len({run.values["lr"] for run in read_runs(tmp_path)}) == 16
    assert not list(tmp_path.glob("*/trained_again"))
    found = results(tmp_path)
    assert 1e-4 < float(found.best.run.values["lr"]) < 1e-2
    assert begin(tmp_path, 2, 16, **QUICK).wait() == 0
    assert len(read_runs(tmp_path)) == 16


def test_two_launchers_share_a_search(tmp_path):
    processes = [begin(tmp_path, 1, 12, **QUICK) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert states(tmp_path).total() == len(read_runs(tmp_path)) == 12
    assert len({run.values["lr"] for run in read_runs(tmp_path)}) == 12
    assert set(starts(tmp_path).values()) == {1}
    # Each knew of the other's trials: both sampled from all of them.
    assert [run.name.partition(",")[0] for run in read_runs(tmp_path)] == [
        f"{number:03d}" for number in range(12)
    ]


def test_orphans_are_waited_for(tmp_path):
    process = begin(tmp_path, 2, 2, steps="40")
    wait_for(lambda: len(list(tmp_path.glob("*/metrics.jsonl"))) == 2)
    process.kill()  # its runs go on
    process.wait()
    assert begin(tmp_path, 2, 2, steps="40").wait() == 0
    assert set(starts(tmp_path).values()) == {1} and states(tmp_path) == {"COMPLETE": 2}


def test_what_looks_worse_than_most_is_ended_early(tmp_path):
    search(tmp_path, plan(steps="12", seconds="0.05"), Local(parallel=1), num_trials=12)
    assert states(tmp_path)["PRUNED"] == statuses(tmp_path)["pruned"] >= 1
    ended = [run for run in read_runs(tmp_path) if state_of(tmp_path, run).status == "pruned"]
    assert all(state_of(tmp_path, run).step < 12 for run in ended)
    assert all(run.name not in finals(tmp_path) for run in ended)
    assert "more were ended early" in in_words(results(tmp_path), tmp_path)
    search(tmp_path / "all", plan(steps="6", **QUICK), Local(), num_trials=8, prune=False)
    assert states(tmp_path / "all") == {"COMPLETE": 8}


@pytest.mark.parametrize("code", [1, 3])
def test_trials_that_fail(tmp_path, code):
    """Diverged ones are bad ones; what failed otherwise may go better another time."""
    fixed = {"fail": str(code), "fails_above": "1e-2", **QUICK}
    search(tmp_path, plan(**fixed), Local(parallel=2), num_trials=12, prune=False)
    high = [run for run in read_runs(tmp_path) if float(run.values["lr"]) > 1e-2]
    assert high and statuses(tmp_path) == {"done": 12 - len(high), "failed": len(high)}
    open_state = {1: "RUNNING", 3: "PRUNED"}[code]
    assert states(tmp_path) == {"COMPLETE": 12 - len(high), open_state: len(high)}
    before = starts(tmp_path)
    search(tmp_path, plan(**fixed), Local(parallel=2), retry_failed=True, prune=False)
    again = {name for name, number in starts(tmp_path).items() if number > before[name]}
    assert again == ({run.name for run in high} if code == 1 else set())
    assert states(tmp_path).total() == 12


def test_a_search_in_which_all_fails_ends_soon(tmp_path):
    with pytest.raises(SearchFailed, match="3 trials failed: .*: it cannot go on"):
        search(tmp_path, plan(fail="1", **QUICK), Local(), num_trials=12)
    assert len(read_runs(tmp_path)) == 3
    with pytest.raises(SearchFailed):  # and lets the others save
        search(tmp_path / "b", plan(fail="1", seconds="0.1"), Local(parallel=4), num_trials=12)
    wait_for(lambda: "running" not in statuses(tmp_path / "b"))
    assert not finals(tmp_path / "b")


def test_a_torn_line_of_the_journal_is_cut_off(tmp_path):
    search(tmp_path, plan(**QUICK), Local(), num_trials=2)
    with (tmp_path / "search.journal").open("ab") as file:
        file.write(b'{"op_code":')
    search(tmp_path, plan(**QUICK), Local(), num_trials=3)
    assert states(tmp_path) == {"COMPLETE": 3}
    assert read_note(tmp_path, read_runs(tmp_path)[2])["exit_code"] == 0


def test_what_it_has_found(tmp_path):
    assert results(tmp_path) is None
    search(tmp_path, plan(**QUICK), Local(parallel=2), num_trials=12, prune=False)
    found = results(tmp_path)
    values = {
        run.name: state_of(tmp_path, run).metrics["top1_accuracy"] for run in read_runs(tmp_path)
    }
    assert [trial.run.name for trial in found.history] == list(values)
    assert found.best.run.name == max(values, key=values.get)
    bests = [trial.best for trial in found.history]
    assert bests == sorted(bests) and bests[-1] == found.best.value == max(values.values())
    assert found.importance.keys() == {"lr", "width"}
    assert sum(found.importance.values()) == pytest.approx(1.0)
    assert found.importance["lr"] > 0.8  # the width changes nothing


def test_the_folder_of_something_else_is_refused(tmp_path, monkeypatch):
    search(tmp_path / "a", plan(**QUICK), Local(), num_trials=1)
    with pytest.raises(ConfigError, match="holds another search: .*there, .*now"):
        search(tmp_path / "a", plan(seconds="0.006"), Local(), num_trials=1)
    monkeypatch.setattr(starting, "check_runs", lambda runs: None)
    with pytest.raises(ConfigError, match="holds another sweep"):
        starting.start(tmp_path / "a", seeds(1), Local())
    starting.start(tmp_path / "b", seeds(1), Local())
    with pytest.raises(ConfigError, match="holds a sweep that is no search"):
        search(tmp_path / "b", plan(), Local())
    (tmp_path / "a/search.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"search\.json is JSON of another shape"):
        read_plan(tmp_path / "a")


def test_without_optuna(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install -r requirements-sweeps\.txt"):
        search(tmp_path / "s", plan(), Local())


BASE = ("configs/digits_nest.py:debug", [], [("optimizer.base_lr", "log:1e-4:1e-2")], None)


def test_a_plan_of_a_recipe():
    found = plan_search([BASE[0]], [("seed", "3")], BASE[2], None)
    assert (found.metric, found.is_better_higher) == ("top1_accuracy", True)
    assert found.corners()[1].overrides == {"seed": "3", "optimizer.base_lr": "0.01"}
    found = plan_search([BASE[0]], [], BASE[2], "ema_loss")
    assert (found.metric, found.is_better_higher) == ("ema_loss", False)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({0: []}, "--search needs one recipe"),
        ({0: ["a.py", "b.py"]}, "--search needs one recipe"),
        ({2: []}, r"--search needs --sweep\.KEY=SPACE"),
        ({1: [("optimizer.base_lr", "1")]}, "given twice"),
        ({3: "top1_acuracy"}, "did you mean 'top1_accuracy'"),
        ({1: [("optimiser.base_lr", "1")]}, "did you mean 'optimizer'"),
    ],
)
def test_plans_that_cannot_work_are_refused(changed, problem):
    arguments = [[BASE[0]], *BASE[1:]]
    for index, value in changed.items():
        arguments[index] = value
    with pytest.raises(ConfigError, match=problem):
        plan_search(*arguments)


def test_on_the_command_line(tmp_path, run_script, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr("sweeps.runs.Run.command", fake)
    folder = tmp_path / "search"
    line = ["tools/sweep.py", f"--workdir={folder}"]
    first = [*line, "--config=configs/digits_nest.py:debug", "--search=optuna", "--trials=3"]
    bad = run_script(*first, "--sweep.model.drop_path_rate=uniform:0:1.5")
    assert bad[0] == 2 and "nothing is started: " in bad[2] and not folder.exists()
    for more, problem in (
        ("--launch=print", "--search needs --launch=local"),
        ("--zip", "neither --zip nor --sweep=NAME"),
        ("--trials=0", "--trials=0: out of range"),
    ):
        bad = run_script(*first, more, "--sweep.optimizer.base_lr=log:1e-4:1e-2")
        assert bad[0] == 2 and problem in bad[2], bad[2]
    code, out, _ = run_script(*first, "--sweep.optimizer.base_lr=log:1e-4:1e-2")
    assert code == 0 and "best of 3 trials" in out and "with optimizer.base_lr=" in out
    code, out, _ = run_script(*line, "--trials=4")  # the same, one more
    assert code == 0 and "best of 4 trials" in out
    assert "004" not in json.dumps([run.name for run in read_runs(folder)])
    code, out, _ = run_script("tools/sweep.py", "status", f"--workdir={folder}")
    assert code == 0 and "4 done" in out
