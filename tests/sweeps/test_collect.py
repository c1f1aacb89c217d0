import csv
import statistics

import pytest

from harness.errors import ConfigError
from sweeps import collect, status
from sweeps.metric import Metric, metric_of
from sweeps.plots import draw_key
from sweeps.runs import name_runs
from sweeps.start import start
from sweeps.states import State
from tests.sweeps.launch_fake import fake

ACCURACY = Metric("top1_accuracy")


def row(accuracy, status="done", **values):
    run = name_runs("r.py", {}, [{k: str(v) for k, v in values.items()}])[0]
    return collect.Row(run, State(status, {"top1_accuracy": accuracy} if accuracy else {}))


ROWS = [
    row(0.90, depth=2, dim=64, seed=0),
    row(0.94, depth=2, dim=64, seed=1),
    row(0.95, depth=10, dim=64, seed=0),
    row(0.80, "running", depth=10, dim=64, seed=1),
    row(None, "failed", depth=10, dim=96, seed=0),
]


def test_seeds_are_put_together_and_only_finished_runs_count():
    groups = collect.grouped(ROWS, ACCURACY)
    assert [dict(group.values) for group in groups] == [
        {"depth": "2", "dim": "64"},
        {"depth": "10", "dim": "64"},
        {"depth": "10", "dim": "96"},
    ]
    assert [group.results for group in groups] == [(0.90, 0.94), (0.95,), ()]
    assert groups[0].mean == pytest.approx(0.92)
    assert groups[0].spread == pytest.approx(statistics.stdev([0.90, 0.94]))
    assert groups[1].spread is None and groups[2].mean is None
    assert collect.swept_keys(ROWS) == ["depth", "dim"]


def test_a_key_is_followed_for_each_setting_of_the_others_in_order_of_size():
    series = collect.by_key(reversed(ROWS), "depth", ACCURACY)
    assert {k: [g.values["depth"] for g in v] for k, v in series.items()} == {
        "dim=96": ["10"],
        "dim=64": ["2", "10"],  # not as text, where "10" comes first
    }


def test_markdown_has_mean_and_spread():
    lines = collect.as_markdown(ROWS, ACCURACY).splitlines()
    assert lines[0] == "| depth | dim | top1_accuracy | runs |"
    assert lines[2:] == [
        "| 2 | 64 | 92.00 ± 2.83 | 2 |",
        "| 10 | 64 | 95.00 | 1 |",
        "| 10 | 96 | – | 0 |",
    ]
    losses = [
        collect.Row(row(None, seed=seed).run, State("done", {"loss": loss}))
        for seed, loss in enumerate((1.0, 2.0))
    ]
    assert "1.5 ± 0.7071" in collect.as_markdown(losses, Metric("loss", False))


def test_csv_has_every_run_and_metric():
    rows = list(csv.DictReader(collect.as_csv(ROWS).splitlines()))
    assert [r["status"] for r in rows] == ["done", "done", "done", "running", "failed"]
    assert rows[1]["depth"] == "2" and rows[1]["top1_accuracy"] == "0.94"
    assert rows[4]["top1_accuracy"] == ""


def test_swept_recipes_are_in_the_csv_once():
    runs = name_runs("a.py", {}, [{"config": "a.py:x", "seed": "1"}, {"config": "b.py"}])
    rows = [collect.Row(run, State("waiting")) for run in runs]
    parsed = list(csv.DictReader(collect.as_csv(rows).splitlines()))
    assert [(r["config"], r["seed"]) for r in parsed] == [("a.py:x", "1"), ("b.py", "")]


@pytest.mark.parametrize("values", [("1e-4", "1e-2"), ("maxpool", "conv"), ("0", "-5"), ("1", "1")])
def test_pictures_of_numbers_and_words(values, tmp_path):
    rows = [row(0.9 + i / 100, lr=v, seed=i) for i, v in enumerate(values)]
    series = collect.by_key(rows, "lr", ACCURACY)
    figure = draw_key(series, "lr", ACCURACY)
    figure.savefig(tmp_path / "plot.png")
    axes = figure.axes[0]
    assert axes.get_xscale() == ("log" if values[0] == "1e-4" else "linear")
    key_axis = axes.yaxis if "conv" in values else axes.xaxis
    assert key_axis.get_label_text() == "lr"


def test_collecting_a_folder_writes_what_people_open(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sweeps.runs.Run.command", fake)
    monkeypatch.setattr("sweeps.start.check_runs", lambda runs: None)
    combos = [{"model.depth": d, "seed": s} for d in "12" for s in "01"]
    from sweeps.launchers.local import Local

    start(tmp_path, name_runs("r.py", {"steps": "2"}, combos), Local(parallel=4))
    written = [path.name for path in collect.collect(tmp_path)]
    assert written == ["results.csv", "results.md", "plot_model.depth.png"]
    assert all((tmp_path / name).stat().st_size for name in written)
    status.show(tmp_path)
    assert "4 done; best top1_accuracy" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="did you mean 'top1_accuracy'"):
        collect.collect(tmp_path, "top1_acuracy")


def test_the_metric_is_the_one_that_chooses_the_best_checkpoint(tmp_path):
    run = row(0.9, seed=0).run
    assert metric_of(tmp_path, [run]) == ACCURACY  # nothing has run yet
    (tmp_path / run.name).mkdir()
    for section, expected in (
        ('{"best_metric": "loss", "best_mode": "min"}', Metric("loss", False)),
        ('{"best_metric": "frechet_distance"}', Metric("frechet_distance", False)),
        ('{"best_metric": ""}', ACCURACY),
    ):
        (tmp_path / run.name / "config.json").write_text(
            f'{{"config": {{"checkpoint": {section}}}}}'
        )
        assert metric_of(tmp_path, [run]) == expected
    assert metric_of(tmp_path, [run], "ema_loss") == Metric("ema_loss", False)


@pytest.mark.parametrize(
    ("states", "seconds"),
    [
        ([State("done", seconds=100), State("waiting")], None),  # nothing runs
        ([State("done", seconds=100), State("running", step=1, total_steps=2, seconds=50)], 50),
        ([State("done", seconds=100)] + [State("running", step=0, seconds=1)] * 2, 100),
        ([State("running", step=5, total_steps=10, seconds=20), State("waiting")], 60),
    ],
)
def test_the_time_left_follows_from_what_runs_have_taken(states, seconds):
    left = status.seconds_left(states)
    assert left == (seconds if seconds is None else pytest.approx(seconds))
