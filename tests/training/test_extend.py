"""--extend: a run goes on for longer; and what else a resumed run may do otherwise than before."""

import json
import os
import signal

import chex
import pytest

import train
from harness.errors import ConfigError, Interrupted
from saving.restoring import read_best_value
from training import experiment
from training.beginning import Start, _extension
from training.trained_run import restore
from workdirs.comparison import LENGTH
from workdirs.config_file import note_changes, read_record, write_config
from workdirs.results import DONE_ASIDE, read_done
from workdirs.verification import verify_files


@pytest.fixture
def config(compiled_once, small_config):
    small_config.loop.num_epochs = 2.0  # 10 steps
    return small_config


def longer(config, num_epochs=4.0):
    config = config.copy_and_resolve_references()
    config.loop.num_epochs = num_epochs
    return config


def state_of(config, workdir):
    return restore(experiment.build(config), workdir)[:2]


def test_a_constant_schedule_is_exact(config, tmp_path, capsys):
    config.optimizer.schedule = "constant"
    train.train_and_evaluate(config, tmp_path / "extended")
    done = (tmp_path / "extended" / "DONE").read_text()
    with pytest.raises(ConfigError, match=r"loop.num_epochs: 2.0 there, 4.0 now; with --extend"):
        train.train_and_evaluate(longer(config), tmp_path / "extended")
    assert (tmp_path / "extended" / "DONE").read_text() == done
    capsys.readouterr()
    metrics = train.train_and_evaluate(longer(config), tmp_path / "extended", extend=True)
    said = capsys.readouterr().out
    assert "extended to 4 epochs, from step 10 on" in said and "so long from the start" in said
    assert "resuming at step 10" in said

    train.train_and_evaluate(longer(config), tmp_path / "whole")
    (step, state), (whole_step, whole) = (
        state_of(longer(config), tmp_path / name) for name in ("extended", "whole")
    )
    assert step == whole_step == 20
    chex.assert_trees_all_equal(state, whole)
    assert read_done(tmp_path / "extended") == metrics
    assert not (tmp_path / "extended" / DONE_ASIDE).exists()
    record = read_record(tmp_path / "extended")
    assert record["config"]["loop"]["num_epochs"] == 4.0
    assert record["before"] == [{"loop.num_epochs": 2.0}]
    assert "damaged" not in str(verify_files(tmp_path / "extended"))
    # The same line again: finished; a shorter one is refused.
    train.train_and_evaluate(longer(config), tmp_path / "extended", extend=True)
    assert "is finished" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="num_epochs=2.0: .*of 4 epochs.*makes none shorter"):
        train.train_and_evaluate(config, tmp_path / "extended", extend=True)
    with pytest.raises(ConfigError, match="num_epochs: 4.0 there, 2.0 now$"):
        train.train_and_evaluate(config, tmp_path / "extended")


def test_a_cosine_is_recomputed_and_an_extension_can_be_killed(
    config, tmp_path, capsys, monkeypatch
):
    train.train_and_evaluate(config, tmp_path)
    capsys.readouterr()
    requested = experiment.build

    def build(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return requested(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "build", build)
        with pytest.raises(Interrupted):
            train.train_and_evaluate(longer(config), tmp_path, extend=True)
    said = capsys.readouterr().out
    assert "config.optimizer.schedule='cosine' is that of the new length from here on" in said
    assert not (tmp_path / "DONE").exists() and (tmp_path / DONE_ASIDE).exists()
    train.train_and_evaluate(longer(config), tmp_path)  # the plain command goes on
    assert (tmp_path / "DONE").exists() and not (tmp_path / DONE_ASIDE).exists()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    rates = {line["step"]: line["learning_rate"] for line in lines if line["kind"] == "train"}
    assert rates[1] == pytest.approx(2e-3) and rates[9] < 5e-3  # of the short one, near its end
    assert rates[12] > 4e-3 and rates[20] < 1e-3  # the long one's middle and end


def test_an_unfinished_run_is_extended(config, tmp_path, monkeypatch):
    config.optimizer.schedule = "constant"
    config.loop.save_every_epochs = 0.6

    def interrupt(self, step, *_):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("training.running.Running.progress", interrupt)
        with pytest.raises(Interrupted):
            train.train_and_evaluate(config, tmp_path / "extended")
    train.train_and_evaluate(longer(config), tmp_path / "extended", extend=True)
    train.train_and_evaluate(longer(config), tmp_path / "whole")
    chex.assert_trees_all_equal(
        *(state_of(longer(config), tmp_path / name)[1] for name in ("extended", "whole"))
    )


def test_what_is_not_the_state_may_change(config, tmp_path, monkeypatch):
    def interrupt(self, step, *_):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    config.loop.log_every_steps = 50
    with monkeypatch.context() as patch:
        patch.setattr("training.running.Running.progress", interrupt)
        with pytest.raises(Interrupted):
            train.train_and_evaluate(config, tmp_path / "run")
    other = config.copy_and_resolve_references()
    other.loop.update(log_every_steps=2, evaluate_every_epochs=0.4, save_every_epochs=0.2)
    other.checkpoint.keep_last = 3
    other.data.eval_split = "test[:64]"
    train.train_and_evaluate(other, tmp_path / "run")
    now = read_record(tmp_path / "run")["config"]
    assert now["loop"]["log_every_steps"] == 2 and now["checkpoint"]["keep_last"] == 3
    assert now["data"]["eval_split"] == "test[:64]"
    train.train_and_evaluate(config, tmp_path / "whole")
    chex.assert_trees_all_equal(
        *(state_of(config, tmp_path / name)[1] for name in ("run", "whole"))
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    steps = {k: [x["step"] for x in lines if x["kind"] == k] for k in ("train", "eval")}
    assert steps == {"train": [1, 6, 8, 10], "eval": [5, 6, 8, 10]}
    (best,) = (tmp_path / "run" / "checkpoints" / "best").iterdir()
    value, measured = read_best_value(best)
    assert measured["data.eval_split"] == "test[:64]" and "data.eval_batch_size" not in measured
    after = [x["top1_accuracy"] for x in lines if x["kind"] == "eval" and x["step"] > 5]
    assert value == max(after) == read_done(tmp_path / "run")["best_top1_accuracy"]
    assert [x["num_examples"] for x in lines if x["kind"] == "eval"] == [101, 64, 64, 64]
    # The data of the training are still compared.
    other.data.train_split = "train[:161]"
    with pytest.raises(ConfigError, match="data.train_split"):
        train.train_and_evaluate(other, tmp_path / "run")


def test_an_extension_says_that_the_warm_up_was_a_shorter_one(config, tmp_path):
    config.optimizer.update(schedule="constant", warmup_epochs=3.0)
    config = longer(config, 8.0)
    start = Start(config, experiment.check_config(config), (LENGTH,))
    built = experiment.build(config, plain=start.plain)
    write_config(tmp_path, start.plain)
    for before, words in (
        (4.0, "as a run that was so long from the start"),
        (2.0, "to fit 2 epochs: a run that was so long from the start would differ"),
        (6.0, "to fit 2 epochs: a run that was so long from the start would differ"),
    ):
        record = read_record(tmp_path)
        record["config"]["loop"]["num_epochs"] = before
        note_changes(tmp_path, record, start.plain, [LENGTH])
        first, last = _extension(start, built, 10, tmp_path)
        assert first == "extended to 8 epochs, from step 10 on" and last.endswith(words)


def test_extend_with_restart(config, tmp_path):
    with pytest.raises(ConfigError, match="--extend goes on.*--restart starts over"):
        train.train_and_evaluate(config, tmp_path, extend=True, restart=True)
