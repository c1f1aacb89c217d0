"""The best checkpoint is the one that the log and its own records say, or it is refused or lost."""

import json

import pytest

from harness.errors import ConfigError
from saving.checkpoints import Checkpoints
from saving.verification import verify_checkpoints
from tests.saving.test_damaged_checkpoints import (
    SHAPES,
    SOUND,
    assert_is,
    flip,
    largest,
    loop_of,
    restored,
    state_of,
    states,
    without_checksums,
    write_run,
)
from workdirs.checksums import record_checksum


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["largest", "loop/metadata"])
def test_a_damaged_best_checkpoint(run, capsys, name):
    step = run / "checkpoints" / "best" / "3"
    flip(largest(step) if name == "largest" else step / name)
    with Checkpoints(workdir=run) as saved:
        assert_is(saved.restore(SHAPES), 3)
        saved.save_best(4, state_of(4), loop_of(4), {"top1_accuracy": 0.01})
        assert saved.best(1) == {"best_top1_accuracy": 0.01, "best_epoch": 4.0}
    (line,) = capsys.readouterr().err.splitlines()  # said once, in one line
    assert line.startswith(f"note: checkpoint {step} is damaged (") and "moved to" in line
    assert line.endswith("takes its place as the best, though it may be worse")
    (aside,) = (run / "checkpoints" / "unreadable").iterdir()
    assert aside.name.startswith("best_3_")
    assert states(run)["best/4"] == "sound"


def test_the_best_of_other_evaluations_is_none(run, capsys):
    """Of another split, for example. It stays until there is a new one."""

    def best_after(step, value, split):
        with Checkpoints(workdir=run, measured_with={"data.eval_split": split}) as saved:
            saved.restore(SHAPES)
            if value is not None:
                saved.save_best(step, state_of(step), loop_of(step), {"top1_accuracy": value})
            return saved.best(1).get("best_top1_accuracy")

    assert best_after(4, 0.31, "test") == 0.31  # the one before does not say: it counts
    assert best_after(5, None, "validation") is None
    assert "best/4 was the best of other evaluations" in capsys.readouterr().err
    assert best_after(5, None, "test") == 0.31
    assert best_after(5, 0.2, "validation") == 0.2
    assert best_after(6, 0.1, "validation") == 0.2
    assert capsys.readouterr().err.count("other evaluations") == 1


@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_renamed_best_checkpoint_is_refused(run, has_checksums):
    """Before training: its epoch would otherwise be written to DONE."""
    best = run / "checkpoints" / "best"
    if not has_checksums:
        without_checksums(best / "3")
    (best / "3").rename(best / "30")
    for _ in range(2):
        with pytest.raises(ConfigError, match="best/30 is that of step 3 under another name"):
            restored(run)
    (best / "30").rename(best / "3")
    with Checkpoints(workdir=run) as saved:
        saved.restore(SHAPES)
        assert saved.best(1) == {"best_top1_accuracy": 0.3, "best_epoch": 3.0}


@pytest.mark.parametrize("change", [{"best_value": 0.9}, {"best_value": "x"}, {"window": []}])
@pytest.mark.parametrize("is_noted", [True, False])
def test_another_best_value(run, change, is_noted, capsys):
    """In the loop record alone, or with its checksum."""
    step = run / "checkpoints" / "best" / "3"
    (step / "files.json").unlink()
    loop = json.loads((step / "loop" / "metadata").read_text()) | change
    (step / "loop" / "metadata").write_text(json.dumps(loop))
    if is_noted and "window" not in change:
        record = json.loads((step / "checksums" / "metadata").read_text())
        record["loop"] = record_checksum(loop)
        (step / "checksums" / "metadata").write_text(json.dumps(record))
    assert states(run)["best/3"] == "damaged"
    with Checkpoints(workdir=run) as saved:
        assert_is(saved.restore(SHAPES), 3)
        assert saved.best(1) == {}
    assert capsys.readouterr().err.count("best/3 is damaged") == 1


def test_the_best_value_is_that_of_the_log(run):
    line = {"kind": "eval", "step": 3, "top1_accuracy": 0.3}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert states(run) == SOUND
    (run / "metrics.jsonl").write_text(json.dumps(line | {"top1_accuracy": 0.4}) + "\n")
    found = [f.text for f in verify_checkpoints(run) if f.path.parent.name == "best"]
    assert found == ["top1_accuracy is 0.3, and metrics.jsonl has 0.4"]


@pytest.mark.parametrize("best", [5, [1], {"metric": "top1_accuracy"}, None])
def test_a_note_of_another_shape_is_damage(run, best):
    step = run / "checkpoints" / "best" / "3"
    record = json.loads((step / "checksums" / "metadata").read_text()) | {"best": best}
    (step / "checksums" / "metadata").write_text(json.dumps(record))
    (step / "files.json").unlink()
    assert states(run)["best/3"] == "damaged"
    assert_is(restored(run), 3)
    assert "best/3" not in states(run)


@pytest.mark.parametrize(
    "loop",
    [
        *({}, {"data": 5, "window": []}, {"data": {"batches": "3"}, "window": []}),
        *({"data": {"batches": 3}, "window": 5}, {"data": {"batches": 3}, "window": [1]}),
        {"data": {"batches": 3}, "window": [], "faults": [1]},
    ],
)
def test_a_loop_record_of_another_shape_is_damage_without_checksums_too(run, loop):
    step = run / "checkpoints" / "latest" / "3"
    without_checksums(step)
    (step / "loop" / "metadata").write_text(json.dumps(loop))
    assert_is(restored(run), 2)


@pytest.mark.parametrize(
    "record", [{}, {"step": "3"}, {"step": 3, "arrays": [], "loop": ""}, {"step": 3, "arrays": {}}]
)
def test_checksums_of_another_shape_are_damage(run, record):
    step = run / "checkpoints" / "latest" / "3"
    (step / "checksums" / "metadata").write_text(json.dumps(record))
    (step / "files.json").unlink()
    assert states(run)["latest/3"] == "damaged"
    with pytest.raises(ConfigError, match="checksums/metadata has other keys"):
        restored(run, read_only=True)
    assert_is(restored(run), 2)
