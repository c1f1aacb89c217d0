"""A workdir is read as far as it can be, and what is missing is said."""

import fcntl
import json
import math

import pytest

from harness.errors import ConfigError
from reports.answer_sections import Choices
from reports.curves import panels
from reports.page import render
from reports.recipe import command_line, from_recipe, recipe_of
from reports.run_record import read_run
from reports.run_sections import run_page
from tests.reports.pages import check_self_contained
from tests.reports.workdirs import RECIPE, records, write_run, write_sweep
from workdirs.config_file import read_config, read_record

UNTOUCHED = Choices(evaluate=False, explain="none")


def shown(workdir):
    """Returns the run's page as text, and its sections."""
    return check_self_contained(render(run_page(read_run(workdir), UNTOUCHED)))


def test_a_finished_run(tmp_path):
    run = read_run(write_run(tmp_path / "run", classes=["a", "b"]))
    assert run.status == "done" and run.problems == [] and run.step == 20
    assert run.steps.total == 20 and run.steps.per_epoch == 5.0
    assert run.metrics["top1_accuracy"] == pytest.approx(0.8) and "best_epoch" not in run.metrics
    assert "num_examples" not in run.metrics
    name, value, step = run.best
    assert (name, step) == ("top1_accuracy", 10) and value == pytest.approx(0.9)
    assert run.training_seconds == pytest.approx(20 * 32 / 64)
    assert run.class_names == ("a", "b")
    page = shown(run.workdir)
    for text in ("80.00 %", "best top1 accuracy", "epoch 2.0", "20 of 20", "10 s", "64"):
        assert text in page.text
    assert page.sections[:3] == ["summary", "curves", "speed"]
    titles = {figure["layout"]["xaxis"]["title"]["text"] for figure in page.figures}
    assert titles == {"epoch"}


def test_metrics_of_single_classes_have_no_curves(tmp_path):
    """A segmentation has hundreds; the table of the last evaluation lists them."""
    lines = [r | ({"iou/cat": 0.5} if r["kind"] == "eval" else {}) for r in records(20)]
    run = read_run(write_run(tmp_path / "run", lines=lines))
    assert run.metrics["iou/cat"] == 0.5 and "loss" in panels(run)
    assert not [name for name in panels(run) if "/" in name]
    assert "iou/cat" in shown(run.workdir).text


def test_under_way(tmp_path):
    """A lock says so; the last line may be cut off."""
    text = [*records(12), '{"kind": "train", "step": 13, "lo']
    workdir = write_run(tmp_path / "run", done=False, lines=text)
    assert read_run(workdir).status == "interrupted"
    with (workdir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = read_run(workdir)
        assert run.status == "running" and run.step == 12 and run.problems == []
        page = shown(workdir)
        assert "running" in page.text and "12 of 20" in page.text
        assert "under way" in page.text  # why it is not evaluated


def test_damaged_lines(tmp_path):
    lines = [
        *records(5),
        "no JSON\n",
        '{"kind": "train"}\n',
        '["kind", "step"]\n',
        '{"kind": "train", "step": "6"}\n',
        *records(7)[6:],
        '{"kind": "train", "step": 8, "loss": NaN, "grad_norm": Infinity, "x": [1]}\n',
        '{"kind": "other", "step": 9}\n',
        *records(10)[9:],
    ]
    run = read_run(write_run(tmp_path / "run", lines=lines))
    assert len(run.problems) == 1 and "lines 7, 8, 9, 10, 14" in run.problems[0]
    assert [record["step"] for record in run.train] == list(range(1, 11))
    page = shown(run.workdir)
    assert "lines 7, 8, 9, 10, 14" in page.text and len(page.figures) >= 6


def test_diverged(tmp_path):
    lines = [*records(5), {"kind": "train", "step": 6, "loss": math.nan}]
    run = read_run(write_run(tmp_path / "run", done=False, lines=lines))
    assert run.status == "diverged"
    assert "diverged" in shown(run.workdir).text
    sweep = write_sweep(tmp_path / "sweep", {"seed=0": {"seed": "0"}, "seed=1": {"seed": "1"}})
    for name, code in (("seed=0", 3), ("seed=1", 1)):
        workdir = write_run(sweep / name, done=False)
        (sweep / "states").mkdir(exist_ok=True)
        (sweep / "states" / f"{name}.json").write_text(json.dumps({"exit_code": code}))
        (sweep / f"{name}.log").write_text("a\nits <last> words\n")
        assert read_run(workdir).status == {3: "diverged", 1: "failed"}[code]
        assert "its <last> words" in shown(workdir).text


@pytest.mark.parametrize("damage", ["config.json", "DONE", "metrics.jsonl", "classes.txt"])
@pytest.mark.parametrize("content", [b"{", b"[1, 2]", b"\xff\xfe\x00", b"", b'{"config": 3}'])
def test_damaged_files(tmp_path, damage, content):
    workdir = write_run(tmp_path / "run", classes=["a"])
    (workdir / damage).write_bytes(content)
    run = read_run(workdir)
    page = shown(workdir)
    if damage == "config.json":
        assert any("config" in problem for problem in run.problems)
        assert "80.00 %" in page.text and "step" in str(page.figures[0]["layout"]["xaxis"])
    if damage == "metrics.jsonl":
        assert "Nothing is logged yet" in page.text or "not readable" in page.text


def test_missing_files(tmp_path):
    for name in ("metrics.jsonl", "config.json", "DONE"):
        workdir = write_run(tmp_path / f"without {name}")
        (workdir / name).unlink()
        run = read_run(workdir)
        assert run.status == ("interrupted" if name == "DONE" else "done")
        shown(workdir)
    workdir = tmp_path / "only"
    (workdir / "checkpoints").mkdir(parents=True)
    assert len(read_run(workdir).problems) == 2
    shown(workdir)
    with pytest.raises(ConfigError, match="not the folder of a run"):
        read_run(tmp_path)


def test_wrong_types_in_the_config(tmp_path):
    for key, value in (("loop", 3), ("checkpoint", []), ("data", None), ("task", "gan")):
        workdir = write_run(tmp_path / key)
        record = json.loads((workdir / "config.json").read_text())
        record["config"][key] = value
        record["versions"], record["command"] = [1], "train.py"
        (workdir / "config.json").write_text(json.dumps(record))
        assert "80.00 %" in shown(workdir).text


def test_a_command_is_shown_as_one_types_it():
    assert command_line(["train.py", "--config=a b"]) == "python train.py '--config=a b'"
    assert command_line(["nest-tnt train", "--seed=1"]) == "nest-tnt train --seed=1"
    assert command_line([]) == command_line("train.py") == ""


def test_changes_from_the_recipe(tmp_path):
    changes = {"model.drop_path_rate": 0.25, "augment": {}}
    workdir = write_run(tmp_path / "run", changes=changes)
    record = read_record(workdir)
    found = from_recipe(record["command"], read_config(workdir), workdir)
    assert found.recipe == RECIPE
    expected = {"data.batch_size", "data.train_split", "model.drop_path_rate"}
    assert expected <= set(found.changes)
    assert found.changes["model.drop_path_rate"][1] == "0.25"
    assert any(key.startswith("augment.random_affine") for key in found.changes)
    assert "Changed from configs/digits_nest.py:debug" in shown(workdir).text


def test_recipes_that_are_gone(tmp_path):
    (tmp_path / "broken.py").write_text("def get_config(): raise KeyError('<b>')")
    (tmp_path / "runs").mkdir()
    near = tmp_path / "runs" / "near.py"
    near.write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')")
    for recipe, what in (
        ("gone.py", "no longer there"),
        (str(tmp_path / "broken.py"), "cannot be read any more"),
        ("configs/digits_nest.py:other", "cannot be read any more"),
        (str(near), "lies next to the run: it is not run"),
    ):
        workdir = write_run(tmp_path / "runs" / "a", command=["train.py", "--config", recipe])
        assert what in shown(workdir).text
    assert not (tmp_path / "it_ran").exists()
    workdir = write_run(tmp_path / "run", command=["notebook.py"])
    assert "names no recipe" in shown(workdir).text


def test_the_recipe_of_a_command():
    assert recipe_of(["train.py", "--config=a.py:x", "--config.seed=1"]) == "a.py:x"
    assert recipe_of(["train.py", "-config", "a.py"]) == "a.py"
    for command in (["train.py", "config=a.py"], ["train.py", "--config"], [], None, "text"):
        assert recipe_of(command) == ""


def test_pictures_and_bad_images(tmp_path):
    from PIL import Image

    workdir = write_run(tmp_path / "run")
    for step in range(0, 60, 5):
        Image.new("L", (8, 6)).save(workdir / f"samples_{step:07d}.png")
    (workdir / "samples_0000099.png").write_bytes(b"no picture")
    Image.new("L", (8, 6)).save(workdir / "curves.png")
    entry = {"split": "train", "index": 3, "name": "<i>.png", "reason": "broken"}
    (workdir / "bad_images.jsonl").write_text(json.dumps(entry) + "\n")
    page = shown(workdir)
    assert "samples" in page.sections
    assert "samples, step 0" in page.text and "samples_0000099.png is left out" in page.text
    assert "1 images could not be read" in page.text and "<i>.png" in page.text
    (workdir / "bad_images.jsonl").write_text("{")
    assert "Of bad_images.jsonl, what is not readable is left out: line 1" in shown(workdir).text
