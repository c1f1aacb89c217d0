"""The page of a sweep, and of two runs side by side, made of runs written by hand."""

import dataclasses
import json
import statistics
from math import comb

import numpy as np
import optuna
import plotly.graph_objects as go
import pytest
from scipy.stats import binomtest

from harness.errors import ConfigError
from reports.answer_sections import Choices
from reports.comparison import comparison_page, named, sign_test, signed
from reports.page import percent, render
from reports.run_record import read_run
from reports.sweep_sections import figure_section, sweep_page
from sweeps.runs import write_manifest
from sweeps.search import open_study, suggest
from sweeps.search_plan import PLAN, Plan
from sweeps.search_results import results as results_of
from tests.reports.pages import NASTY, check_self_contained
from tests.reports.workdirs import RECIPE, records, write_evaluation, write_run, write_sweep

RESULTS = {
    ("1e-3", "0"): 0.80,
    ("1e-3", "1"): 0.82,
    ("1e-3", "2"): 0.87,
    ("1e-2", "0"): 0.90,
    ("1e-2", "1"): 0.94,
    ("1e-1", "0"): 0.60,
}


@pytest.fixture
def sweep(tmp_path):
    """Six runs that are done, one that failed, one under way, one that waits."""
    names = {f"base_lr={lr},seed={seed}": (lr, seed) for lr, seed in RESULTS}
    names |= {"failed": ("1e-1", "1"), "started": ("1e-1", "2"), "waiting": ("1e-1", "3")}
    runs = {n: {"optimizer.base_lr": lr, "seed": seed} for n, (lr, seed) in names.items()}
    folder = write_sweep(tmp_path / "sweep", runs)
    for name, key in names.items():
        if name == "waiting":
            continue
        is_done = key in RESULTS
        value = RESULTS.get(key, 0.5)
        lines = records(20 if is_done else 10, accuracy=value + 0.1)  # its last one is `value`
        write_run(folder / name, done=is_done, lines=lines)
    (folder / "states").mkdir()
    (folder / "states" / "failed.json").write_text(json.dumps({"exit_code": 1, "seconds": 9.0}))
    (folder / "failed.log").write_text("first\nOSError: </script><b>disk</b> full\n")
    return folder


def cells(page, title):
    """Returns the rows of a section's table: the texts and, to sort by, the values."""
    (section,) = [section for section in page.sections if section.title == title]
    table = next(block for block in section.blocks if hasattr(block, "rows"))
    return [dict(zip(table.titles, row, strict=True)) for row in table.rows]


def test_a_sweep(sweep):
    made = sweep_page(sweep)
    page = check_self_contained(render(made))
    assert "This part is left out" not in page.text
    assert "6 done, 1 interrupted, 1 failed, 1 waiting" in page.text
    assert page.sections == ["summary", "runs", "failed-runs", "swept-keys", "curves"]
    settings = cells(made, "Summary")
    found = {row["optimizer.base_lr"].text: row for row in settings}
    assert [row["optimizer.base_lr"].text for row in settings] == ["1e-2", "1e-3", "1e-1"]
    for rate in ("1e-3", "1e-2"):
        values = [100 * value for (lr, _), value in RESULTS.items() if lr == rate]
        expected = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
        assert found[rate]["top1 accuracy, %"].text == expected
    assert found["1e-1"]["top1 accuracy, %"].text == "60.00"  # of one seed
    runs = {row["run"].text: row for row in cells(made, "Runs")}
    assert len(runs) == 9
    for (rate, seed), value in RESULTS.items():
        row = runs[f"base_lr={rate},seed={seed}"]
        assert row["top1 accuracy"].value == pytest.approx(value)
        assert row["seed"].value == float(seed) and row["step"].text == "20"
        assert row["run"].link == f"./base_lr%3D{rate}%2Cseed%3D{seed}"
    assert [runs[name]["status"].kind for name in ("failed", "started", "waiting")] == [
        *("failed", "interrupted", "waiting")
    ]
    assert runs["waiting"]["run"].link == "" and runs["waiting"]["top1 accuracy"].text == "–"
    assert "OSError: </script><b>disk</b> full" in page.text
    assert percent(0.94) in page.text and "base_lr=1e-2,seed=1" in page.text


def test_the_figure_of_a_key(sweep):
    (section,) = [s for s in sweep_page(sweep).sections if s.title == "Swept keys"]
    (block,) = section.blocks
    mean, dots = block.figure.data
    assert block.figure.layout.xaxis.type == "log"
    assert list(mean.x) == [1e-3, 1e-2, 1e-1]
    assert list(mean.y) == pytest.approx([0.83, 0.92, 0.60])
    spread = [statistics.stdev([0.80, 0.82, 0.87]), statistics.stdev([0.90, 0.94]), 0]
    assert list(mean.error_y.array) == pytest.approx(spread)
    expected = sorted((float(rate), value) for (rate, _), value in RESULTS.items())
    np.testing.assert_allclose(sorted(zip(dots.x, dots.y, strict=True)), expected)


def test_links_lead_from_the_page_to_the_runs(sweep, tmp_path, run_script):
    code, out, err = run_script("tools/report.py", str(sweep), "--each", "--no_evaluate")
    assert code == 0 and len(out.splitlines()) == 9, err
    page = check_self_contained((sweep / "report.html").read_text())
    links = [a["href"] for tag, a in page.tags if tag == "a" and a["href"].startswith("./")]
    assert len(links) == 8 and "./base_lr%3D1e-3%2Cseed%3D0/report.html" in links
    run = check_self_contained((sweep / "failed" / "report.html").read_text())
    assert "OSError: </script><b>disk</b> full" in run.text
    elsewhere = sweep_page(sweep, page_folder=tmp_path / "elsewhere")
    link = cells(elsewhere, "Runs")[0]["run"].link
    assert link == "./../sweep/base_lr%3D1e-3%2Cseed%3D0/report.html"


def test_words_as_values_and_names_with_html(tmp_path):
    texts = [*NASTY, "max_pool"]
    runs = {f"<b>{i}": {"model.<i>name": text} for i, text in enumerate(texts)}
    folder = write_sweep(tmp_path / "sweep", runs)
    for i, name in enumerate(runs):
        write_run(folder / name, lines=records(accuracy=0.5 + i / 10))
    page = check_self_contained(render(sweep_page(folder)))
    assert all(text in page.text for text in texts)
    figure = page.figures[0]["layout"]["xaxis"]
    assert len(figure["ticktext"]) == 5 and "<" not in "".join(figure["ticktext"])


def test_nothing_has_begun(tmp_path):
    folder = write_sweep(tmp_path / "sweep", {"a": {"seed": "0"}, "b": {"seed": "1"}})
    page = check_self_contained(render(sweep_page(folder)))
    assert page.sections == ["summary", "runs"] and "2 waiting" in page.text
    with pytest.raises(ConfigError, match="not the folder of a sweep"):
        sweep_page(tmp_path)


def test_another_metric(sweep):
    made = sweep_page(sweep, "loss")
    assert "best loss" in check_self_contained(render(made)).text
    with pytest.raises(ConfigError, match="--metric=los: unknown; did you mean 'loss'"):
        sweep_page(sweep, "los")


def test_further_sections(sweep):
    more = figure_section("Search", {"history": go.Figure()}, "20 trials")
    page = check_self_contained(render(sweep_page(sweep, more=[more])))
    assert page.sections == ["summary", "runs", "failed-runs", "swept-keys", "search", "curves"]
    assert "20 trials" in page.text


@pytest.fixture
def searched(tmp_path):
    """Six trials of Optuna, of which the third was pruned; the accuracy goes by base_lr alone."""
    ranges = {"optimizer.base_lr": "log:1e-4:1e-2", "model.<b>name": "x,<i>y"}
    wanted = Plan(RECIPE, {}, ranges, "top1_accuracy", True)
    folder = tmp_path / "search"
    (folder / "states").mkdir(parents=True)
    (folder / PLAN).write_text(json.dumps(dataclasses.asdict(wanted)))
    study, runs, results = open_study(folder, wanted), [], []
    for number in range(6):
        trial = study.ask()
        values = {key: suggest(trial, key, text) for key, text in ranges.items()}
        results.append(0.8 + 100 * float(values["optimizer.base_lr"]) / 10)
        runs.append(wanted.run(number, values))
        is_pruned = number == 2
        lines = records(10 if is_pruned else 20, accuracy=results[-1] + 0.1)
        write_run(folder / runs[-1].name, done=not is_pruned, lines=lines)
        if is_pruned:
            results[-1] += 0.1
            record = json.dumps({"exit_code": 75, "pruned": True})
            (folder / "states" / f"{runs[-1].name}.json").write_text(record)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, results[-1])
    write_manifest(folder, runs)
    return folder, runs, results


def test_a_search(searched):
    folder, runs, results = searched
    made = sweep_page(folder)
    page = check_self_contained(render(made))
    assert "This part is left out" not in page.text and "1 pruned" in page.text
    assert page.sections == ["summary", "runs", "search", "curves"]
    (section,) = [section for section in made.sections if section.title == "Search"]
    ranges, history, rate, name, importance = section.blocks
    assert [row[1].text for row in ranges.rows] == ["log:1e-4:1e-2", "x,<i>y"]
    best, trials = history.figure.data
    assert list(trials.y) == pytest.approx(results)
    done = [result for i, result in enumerate(results) if i != 2]
    assert list(best.y) == pytest.approx(np.maximum.accumulate(done))
    assert list(best.x) == [0, 1, 3, 4, 5]
    assert [symbol == "circle-open" for symbol in trials.marker.symbol].index(True) == 2
    (trace,) = rate.figure.data
    assert rate.figure.layout.xaxis.type == "log"
    assert list(trace.x) == [float(run.values["optimizer.base_lr"]) for run in runs]
    assert name.figure.layout.xaxis.ticktext == ("x", "&lt;i&gt;y")
    shares = results_of(folder).importance
    (bar,) = importance.figure.data
    assert sorted(bar.x) == list(bar.x) == sorted(shares.values())
    assert importance.figure.layout.yaxis.ticktext[-1] == "optimizer.base_lr"


def test_a_search_without_its_study(searched):
    """Or that has no result yet."""
    folder, runs, _ = searched
    (folder / "search.journal").unlink()
    page = check_self_contained(render(sweep_page(folder)))
    assert "matters" not in page.text and not (folder / "search.journal").exists()
    for run in runs:
        for name in ("metrics.jsonl", "DONE"):
            (folder / run.name / name).unlink(missing_ok=True)
    assert "No trial has a result yet" in check_self_contained(render(sweep_page(folder))).text


ANSWERS = {
    "a": [(0, 0, 0.9), (0, 1, 0.8), (1, 1, 0.7), (1, 1, 0.6), (2, 0, 0.9), (2, 2, 0.5)],
    "b": [(0, 0, 0.9), (0, 0, 0.8), (1, 1, 0.7), (1, 0, 0.6), (2, 2, 0.9), (2, 2, 0.5)],
}


@pytest.fixture
def pair(tmp_path):
    for i, (name, answers) in enumerate(ANSWERS.items()):
        lines = records(accuracy=0.8 + i / 10)
        workdir = write_run(tmp_path / name, lines=lines, changes={"seed": i})
        write_evaluation(workdir, answers, ["zero", "<b>one", "two"])
    return tmp_path / "a", tmp_path / "b"


def test_two_runs_side_by_side(pair, run_script, tmp_path):
    output = tmp_path / "page.html"
    code, out, err = run_script(
        "tools/report.py", "--compare", *map(str, pair), f"--output={output}"
    )
    assert code == 0 and out == f"wrote {output}\n", err
    page = check_self_contained(output.read_text())
    assert "This part is left out" not in page.text
    assert page.sections == ["summary", "config", "curves", "classes", "answers", "calibration"]
    made = comparison_page(tuple(map(read_run, pair)))
    rows = {row[""].text: row for row in cells(made, "Summary")}
    assert rows["top1 accuracy"]["a"].value == pytest.approx(0.7)
    assert rows["top1 accuracy"]["difference"].text == "+10.00 %"
    assert rows["steps"]["difference"].text == "0"
    assert [row["key"].text for row in cells(made, "Config")] == ["seed"]
    classes = {row["class"].text: row["difference"].text for row in cells(made, "Classes")}
    assert classes == {"zero": "+50.0", "<b>one": "−50.0", "two": "+50.0"}
    answers = {row[""].text: row["images"].value for row in cells(made, "Answers")}
    assert answers == {
        **{"both are right": 3, "only a is right": 1, "only b is right": 2, "both are wrong": 0}
    }
    curves = next(figure for figure in page.figures if len(figure["data"]) == 6)
    assert [trace["name"] for trace in curves["data"]][:3] == ["a train", "a eval EMA", "a eval"]


def test_runs_that_cannot_be_compared(pair, tmp_path):
    a, b = map(read_run, pair)
    write_evaluation(pair[1], ANSWERS["b"], ["zero", "one", "two"])
    page = check_self_contained(render(comparison_page((a, b))))
    assert "other classes" in page.text and "other images" in page.text
    bare = read_run(write_run(tmp_path / "c"))
    page = check_self_contained(render(comparison_page((a, bare), Choices(evaluate=False))))
    assert "c: The run has not been evaluated by class" in page.text
    assert "calibration" in page.sections
    (tmp_path / "c" / "config.json").write_text("{")
    page = check_self_contained(render(comparison_page((a, read_run(tmp_path / "c")))))
    assert "A config is missing" in page.text


def test_runs_of_one_name(tmp_path):
    runs = [read_run(write_run(tmp_path / name / "run")) for name in ("x", "y")]
    assert named(runs) == ("x/run", "y/run")
    assert named([runs[0], runs[0]])[0].endswith("x/run")


def test_the_test_of_mcnemar():
    for first, second in ((0, 0), (1, 14), (5, 5), (30, 12), (0, 3)):
        total = first + second
        expected = binomtest(first, total).pvalue if total else 1.0
        assert sign_test(first, second) == pytest.approx(expected)
    assert sign_test(1, 2) == min(1, 2 * (comb(3, 0) + comb(3, 1)) / 8)
    assert [signed(x) for x in (0.04, -0.04, 1.25, -3.0)] == ["0.0", "0.0", "+1.2", "−3.0"]
