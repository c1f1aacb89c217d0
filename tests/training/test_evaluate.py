"""evaluate.py gives what train.py logged, and refuses what is not there."""

import json

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_serialize

import evaluate
import train
from harness.errors import ConfigError
from nest.convert_official import to_official
from saving.checkpoints import Checkpoints
from tests.training.test_trained_run import write_old_config
from training import experiment
from workdirs.config_file import read_config, write_config
from workdirs.results import read_metrics


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    cache = {}

    def get(config):
        if not cache:
            cache["workdir"] = tmp_path_factory.mktemp("trained")
            cache["metrics"] = train.train_and_evaluate(config, cache["workdir"])
        return cache["workdir"], cache["metrics"]

    return get


def test_equals_training_log(small_config, trained):
    workdir, metrics = trained(small_config)
    metrics = {name: value for name, value in metrics.items() if not name.startswith("best_")}
    result = evaluate.evaluate_workdir(small_config, workdir)
    assert {name: result[name] for name in metrics} == metrics
    assert result["num_examples"] == 101
    records = read_metrics(workdir).sound
    last = [record for record in records if record["kind"] == "eval"][-1]
    assert {name: last[name] for name in metrics} == metrics
    assert result["step"] == last["step"] == 20


def test_best_checkpoint(small_config, trained):
    workdir, _ = trained(small_config)
    records = read_metrics(workdir).sound
    evaluations = [record for record in records if record["kind"] == "eval"]
    best = max(evaluations, key=lambda record: record["top1_accuracy"])  # the first of equals
    result = evaluate.evaluate_workdir(small_config, workdir, checkpoint="best")
    assert (result["step"], result["top1_accuracy"]) == (best["step"], best["top1_accuracy"])


def test_any_split_and_batch_size(small_config, trained):
    workdir, metrics = trained(small_config)
    small_config.data.eval_batch_size = 7
    result = evaluate.evaluate_workdir(small_config, workdir, split="test[:101]")
    assert result["top1_accuracy"] == metrics["top1_accuracy"]
    assert result["loss"] == pytest.approx(metrics["loss"], rel=1e-6)
    assert evaluate.evaluate_workdir(small_config, workdir, split="train")["num_examples"] == 1437
    with pytest.raises(ConfigError, match="valid.*train, test"):
        evaluate.evaluate_workdir(small_config, workdir, split="valid")


def test_config_of_the_workdir(small_config, trained):
    workdir, metrics = trained(small_config)
    config = read_config(workdir)
    assert experiment.check_config(config) == experiment.check_config(small_config)
    assert evaluate.evaluate_workdir(config, workdir)["loss"] == metrics["loss"]


def test_differences_from_training_are_noted(small_config, trained, tmp_path, run_script):
    """Also when an earlier version wrote the run's config."""
    workdir, metrics = trained(small_config)
    (tmp_path / "checkpoints").symlink_to(workdir / "checkpoints")
    write_old_config(tmp_path, small_config)
    (tmp_path / "now").mkdir()
    write_config(tmp_path / "now", small_config.to_dict())
    command = ("evaluate.py", f"--workdir={tmp_path}", f"--config={tmp_path}/now/config.json")
    _, out, err = run_script(*command)
    assert json.loads(out)["loss"] == metrics["loss"] and "not as trained" not in err
    _, _, err = run_script(*command, "--config.task.label_smoothing=0.2")
    note, written = err.splitlines()
    assert note == "note: not as trained: task.label_smoothing: 0.1 there, 0.2 now"
    assert written.startswith("written: ")


def test_more_devices_than_trained_on(small_config, trained):
    workdir, metrics = trained(small_config)
    small_config.mesh.update(data=4, fsdp=2)
    result = evaluate.evaluate_workdir(small_config, workdir)
    assert result["top1_accuracy"] == metrics["top1_accuracy"]


def test_weights_in_the_official_format(small_config, trained, tmp_path):
    """The parameters of a run, written as the official code would, evaluate to the same."""
    workdir, metrics = trained(small_config)
    run = experiment.build(small_config)
    with Checkpoints(workdir=workdir, read_only=True) as saved:
        _, state, _ = saved.restore(run.shapes)
    params = jax.tree.map(np.asarray, state.params)
    official = {"optimizer": {"target": to_official(params, small_config.model.depths)}}
    (tmp_path / "ckpt-3.flax").write_bytes(msgpack_serialize(official))
    result = evaluate.evaluate_weights(small_config, tmp_path)
    assert result["top1_accuracy"] == metrics["top1_accuracy"]
    assert result["loss"] == pytest.approx(metrics["loss"], rel=1e-6)


def test_checkpoint_of_another_model(small_config, trained):
    workdir, _ = trained(small_config)
    small_config.model.update(dims=(16, 16, 32), depths=(1, 1, 1), num_heads=(2, 2, 2))
    with pytest.raises(ConfigError) as error:
        evaluate.evaluate_workdir(small_config, workdir)
    message = str(error.value)
    assert "missing: params/level2_aggregation/conv/bias" in message
    assert "mis-shaped: " in message and "params/level2_layer1/" in message
    assert "\n" not in message
    small_config.model.update(dims=(16,), depths=(1,), num_heads=(2,))
    with pytest.raises(ConfigError, match="extra: params/level1_aggregation/"):
        evaluate.evaluate_workdir(small_config, workdir)


def test_nothing_there(small_config, tmp_path, run_script):
    with pytest.raises(ConfigError, match=f"^{tmp_path}/checkpoints/latest: no finished"):
        evaluate.evaluate_workdir(small_config, tmp_path)
    (tmp_path / "checkpoints" / "latest" / "3" / "state").mkdir(parents=True)
    command = ("evaluate.py", "--config=configs/digits_nest.py", f"--workdir={tmp_path}")
    code, _, err = run_script(*command)
    assert code == 2 and "not the folder of a run" in err
    for path in (tmp_path / "none", "", tmp_path / "checkpoints"):
        with pytest.raises(ConfigError, match="weights"):
            evaluate.evaluate_weights(small_config, path)
    (tmp_path / "empty.flax").touch()
    with pytest.raises(ConfigError, match="empty.flax"):
        evaluate.evaluate_weights(small_config, tmp_path / "empty.flax")
