"""tools/report.py on runs that were trained: what it says is what the run and its data say."""

import base64
import io
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import evaluate
import train
from configs import digits_nest_gan
from reports.answer_sections import Choices
from reports.evaluation import TrainedRun, find_evaluation
from reports.explained import chosen_images, chosen_methods
from reports.page import percent, render
from reports.run_record import read_run
from reports.run_sections import run_page
from tests.inference.test_explanation_flags import small_mosaics
from tests.reports.pages import NASTY, check_self_contained
from tests.reports.workdirs import write_run
from training.experiment import check_config
from workdirs.config_file import read_config
from workdirs.records import write_record


@pytest.fixture
def workdir(trained_workdir, tmp_path):
    """A copy of the trained run."""
    return shutil.copytree(trained_workdir, tmp_path / "run")


def pictures(page):
    """Returns the embedded pictures as arrays."""
    links = [attributes["href"] for tag, attributes in page.tags if tag == "image"]
    encoded = [link.removeprefix("data:image/png;base64,") for link in links]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in encoded]


def test_by_command_line(workdir, run_script):
    code, out, err = run_script("tools/report.py", str(workdir))
    assert code == 0 and out == f"wrote {workdir / 'report.html'}\n", err
    assert "evaluating test[:101] (101 images) at step 20" in err
    page = check_self_contained((workdir / "report.html").read_text())
    assert page.sections == [
        *("summary", "curves", "speed", "classes", "mistakes", "calibration"),
        *("explanations", "config", "environment"),
    ]
    assert "This part is left out" not in page.text
    metrics = json.loads((workdir / "DONE").read_text())
    assert percent(metrics["top1_accuracy"]) in page.text
    numbers = json.loads((workdir / "evaluation_latest_test_-101_per_class.json").read_text())
    assert percent(numbers["calibration"]["expected_calibration_error"]) in page.text
    assert percent(numbers["mean_recall"]) in page.text
    # What evaluate.py writes of the same checkpoint is the same.
    config = read_config(workdir)
    own = evaluate.evaluate_workdir(config, workdir, per_class=True)["per_class"].numbers
    assert own["confusions"] == numbers["confusions"] and own["classes"] == numbers["classes"]
    expected = own["calibration"]["expected_calibration_error"]
    found = numbers["calibration"]["expected_calibration_error"]
    assert found == pytest.approx(expected, rel=1e-5)
    # The next page takes what is there.
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("evaluation*")}
    code, _, err = run_script("tools/report.py", str(workdir), "--explain=none")
    assert code == 0 and "evaluating" not in err
    assert {path: path.stat().st_mtime_ns for path in workdir.glob("evaluation*")} == before


def test_pictures_are_those_of_the_data(workdir):
    trained = TrainedRun(workdir)
    page = run_page(read_run(workdir), Choices(explain="none"))
    evaluation = find_evaluation(trained, "test[:101]")
    mistakes = evaluation.mistakes(24)
    assert len(mistakes) > 3 and all(one.labels != one.named for one in mistakes)
    confidences = [one.confidence for one in mistakes]
    assert confidences == sorted(confidences, reverse=True)
    everything = [one for one in evaluation.predictions if one.labels != one.named]
    assert max(one.confidence for one in everything) == confidences[0]
    images = np.concatenate([np.asarray(b["image"]) for b in trained.run.data.eval_batches()])
    shown = pictures(check_self_contained(render(page)))
    assert len(shown) == len(mistakes)
    for picture, one in zip(shown, mistakes, strict=True):
        np.testing.assert_array_equal(picture, images[one.index][..., 0])


def test_evaluations_of_other_checkpoints_do_not_count(workdir):
    split = "test[:101]"
    assert find_evaluation(TrainedRun(workdir), split) is None
    run_page(read_run(workdir), Choices(explain="none"))
    trained = TrainedRun(workdir)
    assert find_evaluation(trained, split).numbers["step"] == 20
    assert find_evaluation(TrainedRun(workdir, ema=True), split) is None
    assert find_evaluation(TrainedRun(workdir, "best"), split) is None
    assert find_evaluation(trained, "test") is None
    file = workdir / "evaluation_latest_test_-101_per_class.json"
    text = file.read_text()
    for damaged in (text[:-9], text.replace('"step": 20', '"step": 19'), "[]", ""):
        file.write_text(damaged)
        assert find_evaluation(trained, split) is None
    file.write_text(text)
    assert find_evaluation(trained, split) is not None
    os.utime(file, (1, 1))  # written before the checkpoint
    assert find_evaluation(trained, split) is None


def test_explanations(workdir):
    run = read_run(workdir)
    page = check_self_contained(render(run_page(run, Choices(explain="all"))))
    for title in ("GradCAT, for", "CAM, for", "Grad-CAM, for", "attention rollout"):
        assert title in page.text
    trained = TrainedRun(workdir)
    evaluation = find_evaluation(trained, "test[:101]")
    assert chosen_methods(trained, "auto") == ("gradcat",)
    assert chosen_methods(trained, "rollout, cam") == ("rollout", "cam")
    chosen = chosen_images(evaluation)
    assert [one.is_right for one in chosen] == [False] * 3 + [True] * 3
    assert len({one.index for one in chosen}) == 6
    wrong = check_self_contained(render(run_page(run, Choices(explain="nonsense"))))
    assert "This part is left out" in wrong.text and "nonsense" in wrong.text


def test_without_data_or_checkpoint(workdir, nasty_workdir, tmp_path):
    """What is lost costs its own part, and the sentence says what."""
    page = check_self_contained(render(run_page(read_run(workdir), Choices(evaluate=False))))
    assert "python evaluate.py --workdir=" in page.text and "mistakes" not in page.sections
    run_page(read_run(workdir), Choices(explain="none"))
    record = json.loads((workdir / "config.json").read_text())
    record["config"]["data"]["name"] = "npz:/nowhere/a.npz"
    write_record(workdir / "config.json", json.dumps(record))
    page = check_self_contained(render(run_page(read_run(workdir), Choices())))
    assert "The pictures are left out" in page.text and "record " in page.text
    assert {"classes", "mistakes", "calibration"} <= set(page.sections)
    shutil.rmtree(workdir / "checkpoints")
    page = check_self_contained(render(run_page(read_run(workdir), Choices())))
    assert "The run is not evaluated: " in page.text


def strings_of(value):
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings_of(item)
    elif isinstance(value, str):
        yield value


def test_html_in_names(nasty_workdir, tmp_path):
    """The folder, the data set and the classes of a run are text wherever they are named."""
    workdir = shutil.copytree(nasty_workdir, tmp_path / "<i>copy")
    page = check_self_contained(render(run_page(read_run(workdir), Choices())))
    for name in NASTY:
        assert page.text.count(name) >= 3
    assert page.text.startswith("<i>copy")
    tags = {tag for tag, _ in page.tags}
    assert tags.isdisjoint({"b", "i", "img"})
    texts = list(strings_of(page.figures))
    assert any("&lt;script&gt;" in text for text in texts)
    found = {tag for text in texts for tag in re.findall("<[^>]*>?", text)}
    assert found <= {"<br>", "<extra>", "</extra>"}  # ours


def test_several_labels(tmp_path):
    config = small_mosaics()
    config.loop.update(num_epochs=2.0, evaluate_every_epochs=2.0, save_every_epochs=2.0)
    train.train_and_evaluate(config, tmp_path / "run")
    page = run_page(read_run(tmp_path / "run"), Choices(explain="none"))
    page = check_self_contained(render(page))
    assert "This part is left out" not in page.text
    assert "set accuracy" in page.text and "average precision" in page.text
    assert "missed" in page.text and "its numbers are no probabilities" in page.text


def test_a_gan(tmp_path):
    lines = [{"kind": "train", "step": 1, "generator_loss": 1.0, "images_per_second": 9.0}]
    lines.append({"kind": "eval", "step": 1, "frechet_distance": 12.5, "num_samples": 64})
    workdir = write_run(tmp_path / "run", lines=lines)
    record = json.loads((workdir / "config.json").read_text())
    record["config"] = check_config(digits_nest_gan.get_config("debug"))
    write_record(workdir / "config.json", json.dumps(record))
    Image.new("L", (8, 6)).save(workdir / "samples_0000001.png")
    page = check_self_contained(render(run_page(read_run(workdir))))
    assert page.sections == ["summary", "curves", "speed", "samples", "config", "environment"]
    assert "frechet distance 12.5" in page.text and "samples, step 1" in page.text


def test_wrong_command_lines(workdir, tmp_path, run_script):
    other = str(write_run(tmp_path / "other"))
    for arguments, what in (
        ((), "is missing; see --help"),
        ((str(tmp_path / "none"),), f"{tmp_path}/none: there is no such folder"),
        ((str(tmp_path),), "is not the folder of a run"),
        ((str(workdir), other), "give one folder, or two with --compare"),
        (("--compare", other), "give one folder, or two with --compare"),
        ((other, f"--output={tmp_path}"), "is a folder"),
        ((other, f"--output={tmp_path}/no/a.html"), "there is no such folder"),
    ):
        code, _, err = run_script("tools/report.py", *arguments)
        assert code == 2 and what in err and err.count("\n") == 1, err
