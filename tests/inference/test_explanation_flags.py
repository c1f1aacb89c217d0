"""What evaluate.py says of explanations: localisation and faithfulness of a run, from its flags."""

import json

import jax
import numpy as np
import pytest

import train
from configs import digits_mosaic
from data.sources.arrays import ArraySource
from harness.errors import ConfigError
from inference import explanation_flags
from inference.explanation_flags import Explanations
from inference.localization import score_localization
from inference.trained_classifier import TrainedClassifier
from nest.gradcat import gradcat
from tasks.supervised import normalize
from training import experiment


def small_mosaics(model="nest", **changes):
    config = digits_mosaic.get_config(f"{model},debug")
    fields = {
        "nest": {"patch_size": 1, "dims": (8, 8, 8), "depths": (1, 1, 1), "num_heads": (1, 1, 1)},
        "deit": {"dim": 12, "depth": 2, "num_heads": 3},
    }
    config.model.update(fields[model])
    config.data.update(image_size=16, eval_batch_size=16, batch_size=16, eval_split="test[:20]")
    config.data.update(train_split="train[:30]", **changes)
    config.checkpoint.best_metric = ""
    config.mesh.data = 1
    return config


@pytest.fixture(scope="module")
def run():
    return experiment.build(small_mosaics(), training=False)


@pytest.fixture(scope="module")
def state(run):
    return run.init()


@pytest.fixture(scope="module")
def scores(run, state):
    asked = Explanations(localization="gradcat,cam", faithfulness="cam", faithfulness_steps=2)
    return asked.score(run, state)


def test_localisation_of_a_run(run, state, scores):
    found = scores["localization"]
    json.dumps(scores)
    protocol = found["protocol"]
    assert protocol["images"] == 20 and protocol["questions"] == 80 and protocol["classes"] == 10
    assert protocol["split"] == "test[:20]" and protocol["weights"] == "raw"
    where = "30 images of train[:30], on which the model was trained"
    assert protocol["settings_from"] == f"the fewest wrong boxes on {where}"
    assert protocol["iou"] == 0.5 and protocol["way_steps"] == 2
    assert {"gradcat", "cam", "gradcat_path", "whole_image", "center_box", "random"} <= set(found)
    assert found["chance"]["first_step"] == 0.25 and 0 < found["chance"]["full_path"] <= 0.25
    assert found["whole_image"]["gt_known_error"] == 1.0  # a quadrant is a quarter of the image
    assert 1 <= found["gradcat_path"]["step"] <= 2 and 0 < found["cam"]["threshold"] < 1


def test_the_first_step_is_that_of_gradcat(run, state, scores):
    source = run.data.eval_source
    images = np.stack([source[index]["image"] for index in range(20)])
    images = normalize(images, run.task.mean, run.task.std)
    variables = {"params": state.params}
    labels = np.stack([source.boxes(index)[:, 0].astype(int) for index in range(20)])  # [20, 4]
    for sign in (1, -1):
        hits = []
        for quadrant in range(4):
            found = gradcat(run.task.model, variables, images, labels[:, quadrant], sign=sign)
            hits.append(np.asarray(found.path[:, 0]) == quadrant)
        row = scores["localization"][f"gradcat_path[centred,{sign:+d}]"]
        assert row["first_step"] == pytest.approx(np.mean(hits))
    for name in ("gradcat", "gradcat_path"):
        plain = scores["localization"]["gradcat_path[centred,+1]"]
        assert scores["localization"][name]["first_step"] == plain["first_step"]
        assert scores["localization"][name]["full_path"] == plain["full_path"]


def test_faithfulness_of_a_run(run, state, scores):
    found = scores["faithfulness"]
    assert found.keys() == {"cam", "random", "protocol"}
    assert found["protocol"]["questions"] == 80 and found["protocol"]["steps"] == 2
    source = run.data.eval_source
    images = np.stack([source[index]["image"] for index in range(20)])
    logits = run.task.model.apply(
        {"params": state.params}, normalize(images, run.task.mean, run.task.std)
    )
    probabilities = np.asarray(jax.nn.softmax(logits))
    expected = np.mean([probabilities[i, list(source[i]["label"])].mean() for i in range(20)])
    for name in ("cam", "random"):
        assert found[name]["deletion_curve"][0] == pytest.approx(expected, abs=1e-4)
        assert found[name]["insertion_curve"][-1] == pytest.approx(expected, abs=1e-4)
        curve = found[name]["deletion_curve"]
        area = (curve[0] / 2 + curve[1] + curve[2] / 2) / 2
        assert found[name]["deletion"] == pytest.approx(area, abs=1e-4)


def test_thresholds_are_conventions_where_there_is_nothing_to_choose_on(run, state, monkeypatch):
    def without_boxes(dataset, split, size):
        images = np.zeros((3, *size, 1), np.uint8)
        return ArraySource(images, [0, 1, 2])

    classifier, source = TrainedClassifier.of_run(run, state), run.data.eval_source
    monkeypatch.setattr("inference.localization.splits.load_source", without_boxes)
    found = score_localization(classifier, (), source, "test[:20]", tolerance=4)
    assert found["protocol"]["settings_from"].startswith("conventions")
    assert found["protocol"]["pointing_tolerance"] == 4
    assert (found["random"]["threshold"], found["center_box"]["side"]) == (0.2, 0.7)
    with pytest.raises(ValueError, match=r"no image of 'train\[:3\]' has a box"):
        score_localization(classifier, (), source, "test[:20]", "train[:3]")


def test_auto_asks_for_small_splits_with_boxes(run, state, monkeypatch, capsys):
    asked = []

    def note(*arguments):
        asked.append(arguments[1])
        return {}

    monkeypatch.setattr(explanation_flags, "score_localization", note)
    assert Explanations("auto").score(run, state) == {"localization": {}}
    assert asked == [("gradcat", "cam", "gradcam", "rollout")]
    monkeypatch.setattr(explanation_flags, "AUTO_IMAGES", 19)
    assert Explanations("auto").score(run, state) == {}
    assert "note: test[:20] has boxes; --localization=all" in capsys.readouterr().err
    assert Explanations("all").score(run, state) == {"localization": {}}
    assert Explanations().score(run, state) == {}
    plain = experiment.build(small_mosaics(name="digits"), training=False)
    assert Explanations("auto").score(plain, state) == {}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"localization": "gradcan"}, "--localization=gradcan: method='gradcan' is unknown"),
        ({"faithfulness": "cam,"}, "--faithfulness=cam,: method='' is unknown"),
        ({"localization": "gradcat"}, "--localization=gradcat: GradCAT needs the levels"),
        ({"localization": "cam", "localization_split": "tests"}, "split 'tests': .*train, test"),
        ({"faithfulness": "cam", "faithfulness_steps": 300}, "steps=300 must lie in 1 to 256"),
    ],
)
def test_errors_in_one_line(asked, words):
    run = experiment.build(small_mosaics("deit"), training=False)
    with pytest.raises(ConfigError, match=words) as error:
        Explanations(**asked).score(run, run.init())
    assert "\n" not in str(error.value)


def test_data_without_boxes_and_other_tasks_are_refused(run, state):
    plain = experiment.build(small_mosaics(name="digits"), training=False)
    with pytest.raises(ConfigError, match=r"digits has no boxes in test\[:20\]"):
        Explanations("cam").score(plain, state)
    with pytest.raises(ConfigError, match="--faithfulness needs a classifier"):
        Explanations(faithfulness="cam").score(type("Gan", (), {"task": None}), state)


def test_the_command_prints_one_line_and_draws_the_curves(tmp_path, run_script):
    config = small_mosaics()
    config.loop.num_epochs, config.optimizer.warmup_epochs = 1.0, 0.0
    train.train_and_evaluate(config, tmp_path / "run")
    code, out, err = run_script(
        "evaluate.py",
        f"--workdir={tmp_path}/run",
        "--localization=cam",
        "--faithfulness=cam",
        "--faithfulness_steps=2",
    )
    assert code == 0, err
    (line,) = out.splitlines()
    result = json.loads(line)
    assert result["localization"].keys() >= {"cam", "random", "chance", "protocol"}
    assert result["faithfulness"].keys() == {"cam", "random", "protocol"}
    written = tmp_path / "run/evaluation_latest_test_-20.json"
    assert json.loads(written.read_text()) == result
    assert (tmp_path / "run/evaluation_latest_test_-20_faithfulness.png").stat().st_size > 5000
