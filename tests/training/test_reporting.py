"""What a run leaves for a person to look at."""

import contextlib
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest

import train
from harness.errors import Interrupted, RecordError
from harness.files import Appended
from saving.checkpoints import Checkpoints
from tasks.protocol import Evaluation
from training import reporting
from training.curves import TIMINGS, draw_curves
from training.reporting import Reporter
from workdirs.results import read_metrics

pytestmark = pytest.mark.usefixtures("compiled_once")
FAULT = {"kind": "skipped", "step": 1, "not_finite": ["loss"], "records": [3, 1]}


@pytest.fixture
def reporter(make_reporter):
    return make_reporter()


def test_a_damaged_line_costs_itself_alone(make_reporter, tmp_path):
    lines = ['{"kind": "train", "step": 1, "loss": 2.0}', "\x00\x00", "[]", '{"step": 2}']
    lines += ['{"kind": "train", "step": 2, "loss": 1.0}', '{"kind": "eval", "step": 2}']
    lines += ['{"kind": "train", "step": 3, "loss": 0.5}', '{"kind": "tra']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    with make_reporter(first_step=2) as report:  # the evaluation of step 2 is made again
        assert [(record["kind"], record["step"]) for record in report.records] == [
            ("train", 1),
            ("train", 2),
        ]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_curves_are_drawn_once_a_minute_and_at_the_end(reporter, monkeypatch):
    clock, drawn = [1000.0], []
    monkeypatch.setattr(reporting.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(reporting, "draw_curves", lambda records, *_: drawn.append(len(records)))
    with reporter:
        for step in range(1, 9):  # 20 seconds each
            reporter.evaluation(step, Evaluation({"loss": 1.0 / step}), "test")
            clock[0] += 20.0
        assert drawn == [1, 4, 7]
        reporter.evaluation(10, Evaluation({"loss": 0.1}), "test")
        assert drawn == [1, 4, 7, 9]  # the last step's, before the run is called done
    assert drawn == [1, 4, 7, 9]


def test_nothing_new_is_not_drawn_again(reporter, monkeypatch):
    drawn = []
    monkeypatch.setattr(reporting, "draw_curves", lambda records, *_: drawn.append(len(records)))
    with reporter:
        reporter.evaluation(1, Evaluation({"loss": 1.0}), "test")
    assert drawn == [1]


def test_a_full_disk_does_not_hide_what_ended_the_run(reporter, monkeypatch):
    monkeypatch.setattr(reporting, "draw_curves", failing(OSError("no space left")))
    with pytest.raises(Interrupted), reporter:
        reporter.train(1, {"loss": 1.0})
        raise Interrupted("saved")


def failing(error):
    def fail(*_, **options):
        raise error

    return fail


# What breaks, and what the warning calls it.
ONLY_SHOWN = {
    "draw_curves": "curves.png: OSError: no space left",
    "save_png": "pictures: OSError: no space left",
    "open_logs": "logging: OSError: no space left",
    "tqdm.tqdm.update": "the console: OSError: no space left",
    "parameter_overview.get_parameter_overview": "parameters.txt: OSError: no space left",
    "in_words": "the console: OSError: no space left",
    "finish_logs": "logging: OSError: no space left",
}


@pytest.mark.parametrize("what", ONLY_SHOWN)
def test_what_is_only_for_looking_at_costs_one_warning(make_reporter, monkeypatch, capsys, what):
    monkeypatch.setattr(f"training.reporting.{what}", failing(OSError("no\nspace left")))
    monkeypatch.setattr(reporting, "SECONDS_BETWEEN_CURVES", 0.0)
    picture = np.zeros((4, 6, 3), np.uint8)
    with make_reporter() as report:
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
        report.show_parameters({}, printed=False)
        report.start(mesh, [])
        for step in (1, 2, 10):
            report.progress(step)
            report.train(step, {"loss": 1.0}, [FAULT])
            assert list(report.watched([1, 2], "test")) == [1, 2]
            report.evaluation(step, Evaluation({"loss": 1.0}, {"samples": picture}), "test")
        report.finish({"loss": 1.0}, "test", 1.0)
    assert len(report.records) == 6 == len((report._path).read_text().splitlines())
    said = capsys.readouterr().out
    assert said.count("warning: ") == said.count(f"warning: {ONLY_SHOWN[what]}") == 1, said


def test_not_even_a_console_that_fails_to_warn(make_reporter, monkeypatch):
    monkeypatch.setattr(reporting.tqdm.tqdm, "write", failing(ValueError("closed")))
    monkeypatch.setattr(reporting, "draw_curves", failing(MemoryError()))
    with make_reporter() as report:
        report.train(1, {"loss": 1.0})
        report.evaluation(1, Evaluation({"loss": 1.0}), "test")
    assert len(report.records) == 2


def test_a_folder_in_the_place_of_each_file_to_look_at(small_config, tmp_path, monkeypatch, capsys):
    for name in ("curves.png", "log_to.json"):
        (tmp_path / name / "below").mkdir(parents=True)
    (tmp_path / "tensorboard").write_text("no folder")
    monkeypatch.setattr(reporting, "draw_curves", draw_curves)
    small_config.loop.num_epochs = 2.0
    train.train_and_evaluate(small_config, tmp_path, profile_steps="2:2")
    said = capsys.readouterr().out
    assert "warning: curves.png: IsADirectoryError" in said
    assert "warning: logging to tensorboard has ended, training goes on" in said
    assert (tmp_path / "DONE").exists()


@pytest.mark.parametrize("module", ["matplotlib", "tensorboardX"])
def test_a_library_that_is_missing(small_config, tmp_path, monkeypatch, capsys, module):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(reporting, "draw_curves", draw_curves)
    small_config.loop.num_epochs = 2.0
    train.train_and_evaluate(small_config, tmp_path)
    assert re.search(f"warning: .*{module}", capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["train", "eval"])
def test_metrics_that_cannot_be_written_end_the_run_once_it_is_saved(
    small_config, tmp_path, monkeypatch, kind
):
    """The same command finds the disk in order, and nothing is missing or twice."""
    train.train_and_evaluate(small_config, tmp_path / "whole")
    number = {"train": 5, "eval": 3}[kind]  # of its kind: at step 12 or 15
    count, record = 0, Reporter._record

    def fails_once(self, what, step, *args):
        nonlocal count
        count += what == kind
        if what == kind and count == number:
            with monkeypatch.context() as patch:
                full = Appended(Path("/dev/full"))
                patch.setattr(self, "_file", full)
                try:
                    record(self, what, step, *args)
                finally:
                    with contextlib.suppress(OSError):
                        full.close()
        record(self, what, step, *args)

    monkeypatch.setattr(Reporter, "_record", fails_once)
    with pytest.raises(RecordError, match=r"metrics.jsonl cannot be written: No space left") as end:
        train.train_and_evaluate(small_config, tmp_path / "run")
    assert end.value.exit_code == 74
    step = {"train": "12", "eval": "15"}[kind]
    assert (tmp_path / "run/checkpoints/latest" / step).is_dir()
    train.train_and_evaluate(small_config, tmp_path / "run")
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")


def lines_of(workdir):
    lines = read_metrics(workdir).sound
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def test_neither_metrics_nor_state_can_be_written(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(Reporter, "_record", failing(RecordError("m cannot be written: full")))
    monkeypatch.setattr(Checkpoints, "save", failing(ValueError("of the\nsame disk")))
    with pytest.raises(RecordError, match="^m cannot .*full; nor is the state saved: of the same"):
        train.train_and_evaluate(small_config, tmp_path)


def test_in_a_hurry_nothing_is_drawn(reporter, monkeypatch):
    drawn = []
    monkeypatch.setattr(reporting, "draw_curves", lambda *_: drawn.append(1))
    with pytest.raises(KeyboardInterrupt), reporter:
        reporter.train(1, {"loss": 1.0})
        raise KeyboardInterrupt
    assert drawn == []


def test_the_picture(tmp_path):
    records = [
        {"kind": kind, "step": step, "loss": 2.0 / step, "protocol": {}, "num_examples": 3}
        | ({"ema_loss": 1.0 / step} if kind == "eval" else {"images_per_second": 1e6})
        for step in (1, 2, 3)
        for kind in ("train", "eval")
    ]
    records = json.loads(json.dumps(records))
    draw_curves(records, tmp_path / "curves.png", 1.0)
    with PIL.Image.open(tmp_path / "curves.png") as image:
        assert image.size == (450, 320)  # one panel: the loss, its average in the same
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    colours = {tuple(pixel) for pixel in np.unique(pixels, axis=0)}
    for name, colour in {"train": (31, 119, 180), "eval": (255, 127, 14)}.items():
        assert colour in colours, name
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
