"""What a run leaves for a person to look at."""

import json

import numpy as np
import PIL.Image
import pytest

from harness.errors import Interrupted
from tasks.protocol import Evaluation
from training import reporting
from training.curves import draw_curves


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
    def no_space(*_):
        raise OSError("no space left")

    monkeypatch.setattr(reporting, "draw_curves", no_space)
    with pytest.raises(Interrupted), reporter:
        reporter.train(1, {"loss": 1.0})
        raise Interrupted("saved")


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
