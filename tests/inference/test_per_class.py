"""The numbers of each class, against scikit-learn and definitions written out here."""

import csv
import io
import json
import math

import cv2
import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    classification_report,
    confusion_matrix,
    multilabel_confusion_matrix,
    top_k_accuracy_score,
)

import evaluate
import train
from configs import digits_nest_gan
from data.sources.arrays import ArraySource
from harness.errors import ConfigError
from inference.answers import AnswerSheet, PerClass, as_cell, evaluation_path
from inference.per_class import Answers, calibration, per_class
from tests.inference.test_explanation_flags import small_mosaics
from training import experiment
from training.trained_run import restore

NUM_CLASSES = 7


def single_label(rng, num=400, labels=range(NUM_CLASSES)):
    """Answers that are often right, one class never named and one without an image; and scores."""
    labels = np.array(labels)
    own = rng.choice(labels[:-1], num)
    scores = rng.normal(size=(num, NUM_CLASSES)) + 1.5 * np.eye(NUM_CLASSES)[own]
    scores[:, labels[1]] = -9.0
    scores[:, np.setdiff1d(range(NUM_CLASSES), labels)] = -np.inf
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    likeliest, rows = scores.argmax(axis=1), np.arange(num)
    answers = Answers(
        indices=rows,
        truth=np.stack([rows, own], axis=1),
        named=np.stack([rows, likeliest], axis=1),
        likeliest=likeliest,
        confidence=probabilities.max(axis=1),
        probability=probabilities[rows, own],
        rank=(scores > scores[rows, own][:, None]).sum(axis=1),
        labels=labels,
    )
    return answers, own, likeliest, scores


def dense(numbers):
    matrix = np.zeros((NUM_CLASSES, NUM_CLASSES), int)
    for label, other, count in numbers["confusions"]:
        matrix[label, other] = count
    return matrix


@pytest.mark.parametrize("labels", [range(NUM_CLASSES), (1, 3, 4, 6)])
def test_classes_are_those_of_scikit_learn(labels):
    """Also where an answer can be only a part of the classes."""
    labels = list(labels)
    answers, own, likeliest, scores = single_label(np.random.default_rng(0), labels=labels)
    names = [f"class {label}" for label in range(NUM_CLASSES)]
    numbers = per_class(answers, names)
    json.dumps(numbers, allow_nan=False)
    expected = confusion_matrix(own, likeliest, labels=range(NUM_CLASSES))
    np.testing.assert_array_equal(dense(numbers), expected)
    options = {"labels": labels, "output_dict": True, "zero_division": np.nan}
    report = classification_report(own, likeliest, **options)
    assert [row["label"] for row in numbers["classes"]] == labels
    for row in numbers["classes"]:
        label, theirs = row["label"], report[str(row["label"])]
        assert row["name"] == names[label] and row["count"] == theirs["support"]
        assert row["named"] == expected[:, label].sum()
        for name, other in (("recall", "recall"), ("precision", "precision"), ("f1", "f1-score")):
            ours = math.nan if row[name] is None else row[name]
            assert ours == pytest.approx(theirs[other], nan_ok=True), (label, name)
        wrong = expected[label].copy()
        wrong[label] = 0
        assert row["confused_count"] == wrong.max()
        if wrong.any():
            assert row["confused_with"] == wrong.argmax()
            assert row["confused_with_name"] == names[wrong.argmax()]
        if len(labels) > 5 and row["count"]:
            mine = own == label
            top5 = top_k_accuracy_score(own[mine], scores[mine], k=5, labels=range(NUM_CLASSES))
            assert row["top5_accuracy"] == pytest.approx(top5)
    never_named, without_image = numbers["classes"][1], numbers["classes"][-1]
    assert never_named["precision"] is None and never_named["recall"] == 0.0
    assert without_image["recall"] is None and without_image["confused_with"] is None
    occurring = [row["recall"] for row in numbers["classes"] if row["count"]]
    assert numbers["mean_recall"] == pytest.approx(np.mean(occurring))
    if len(labels) == NUM_CLASSES:
        with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
            assert numbers["mean_recall"] == pytest.approx(balanced_accuracy_score(own, likeliest))


def test_several_labels_an_image():
    """Against the sets themselves; scikit-learn counts each class by itself."""
    rng = np.random.default_rng(1)
    truth = (rng.random((200, 5)) < 0.4).astype(int)
    truth[0] = 0  # an image without a class
    scores = np.round(rng.normal(size=(200, 5)) + truth, 1)  # with equal ones
    order = np.argsort(-scores, axis=1, kind="stable")
    named = np.zeros_like(truth)
    for row, count in enumerate(truth.sum(axis=1)):
        named[row, order[row, :count]] = 1
    answers = Answers(
        indices=np.arange(200),
        truth=np.argwhere(truth),
        named=np.argwhere(named),
        likeliest=order[:, 0],
        confidence=np.full(200, 0.5),
        probability=np.full(200, 0.5),
        scores=scores,
        labels=np.arange(5),
    )
    numbers = per_class(answers, None, is_probability=False)
    assert numbers["calibration"] is None
    for row, theirs in zip(
        numbers["classes"], multilabel_confusion_matrix(truth, named), strict=True
    ):
        (_, false_positive), (false_negative, true_positive) = theirs
        assert row["recall"] == pytest.approx(true_positive / (true_positive + false_negative))
        assert row["precision"] == pytest.approx(true_positive / (true_positive + false_positive))
        label = row["label"]
        expected = average_precision_score(truth[:, label], scores[:, label])
        assert row["average_precision"] == pytest.approx(expected)
    matrix = np.zeros((5, 5), int)
    for own, said in zip(truth, named, strict=True):
        for label in range(5):
            matrix[label, label] += own[label] and said[label]
            for other in range(5):
                is_confusion = own[label] > said[label] and said[other] > own[other]
                matrix[label, other] += is_confusion
    found = np.zeros((5, 5), int)
    for label, other, count in numbers["confusions"]:
        found[label, other] = count
    np.testing.assert_array_equal(found, matrix)
    assert answers.is_right.tolist() == (truth == named).all(axis=1).tolist()
    first = np.take_along_axis(truth, order[:, :1], axis=1)[:, 0] > 0
    assert answers.is_first.tolist() == first.tolist()


def expected_calibration_error(confidence, is_right, num_bins):
    """Guo et al. (2017), equation 5, image by image."""
    total = 0.0
    for m in range(1, num_bins + 1):
        inside = [
            (sure, right)
            for sure, right in zip(confidence, is_right, strict=True)
            if (m - 1) / num_bins < sure <= m / num_bins
        ]
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            mean = sum(sure for sure, _ in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


@pytest.mark.parametrize("num_bins", [10, 15])
def test_calibration(num_bins):
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.11, 1, 500)
    confidence[:3] = (1.0, 0.5, 0.2)  # ends of bins
    is_right = rng.random(500) < confidence**2  # too sure
    found = calibration(confidence, is_right, num_bins)
    expected = expected_calibration_error(confidence.tolist(), is_right.tolist(), num_bins)
    assert found["expected_calibration_error"] == pytest.approx(expected, rel=1e-12)
    assert expected > 0.1
    accuracy, means = calibration_curve(is_right, confidence, n_bins=num_bins)
    filled = [one for one in found["bins"] if one["count"]]
    np.testing.assert_allclose([one["accuracy"] for one in filled], accuracy)
    np.testing.assert_allclose([one["confidence"] for one in filled], means)
    assert found["maximum_calibration_error"] == pytest.approx(abs(accuracy - means).max())
    assert sum(one["count"] for one in found["bins"]) == 500


def test_calibration_of_numbers_that_are_none():
    bins = calibration(np.array([np.nan, 0.75]), np.array([False, True]))
    assert bins["expected_calibration_error"] == pytest.approx(0.25)
    assert calibration(np.array([np.nan]), np.array([False]))["expected_calibration_error"] is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    cache = {}

    def get(config):
        if not cache:
            cache["workdir"] = tmp_path_factory.mktemp("trained")
            train.train_and_evaluate(config, cache["workdir"])
        return cache["workdir"]

    return get


def read_predictions(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_of_a_run(small_config, trained):
    """Each image once for any batch size; the sums are those of the metrics."""
    workdir = trained(small_config)
    found = {}
    for batch_size, ema in ((64, False), (7, False), (64, True)):
        small_config.data.eval_batch_size = batch_size
        run = experiment.build(small_config, training=False)
        _, state, _ = restore(run, workdir)
        sheet = AnswerSheet(run, state, ema=ema)
        for _ in sheet.watched(run.data.eval_batches()):
            pass
        found[batch_size, ema] = sheet.results()
    result = evaluate.evaluate_workdir(small_config, workdir, per_class=True)
    own = result["per_class"].answers
    for (_, ema), one in found.items():
        answers = one.answers
        assert answers.indices.tolist() == list(range(101))
        prefix = "ema_" if ema else ""
        assert answers.is_right.mean() == pytest.approx(result[f"{prefix}top1_accuracy"])
        assert (answers.rank < 5).mean() == pytest.approx(result[f"{prefix}top5_accuracy"])
        loss = -np.log(answers.probability).mean()
        assert loss == pytest.approx(result[f"{prefix}loss"], rel=1e-5)
        assert one.numbers["weights"] == ("ema" if ema else "raw")
    np.testing.assert_array_equal(found[7, False].answers.named, own.named)
    assert not np.array_equal(found[64, True].answers.confidence, own.confidence)
    source = result["per_class"].source
    assert own.truth[:, 1].tolist() == [source[index]["label"] for index in range(101)]


def test_files(small_config, trained, run_script):
    workdir = trained(small_config)
    code, out, err = run_script("evaluate.py", f"--workdir={workdir}", "--per_class")
    assert code == 0, err
    result = json.loads(out)
    assert "per_class" not in result
    numbers = json.loads((workdir / "evaluation_latest_test_-101_per_class.json").read_text())
    assert numbers["step"] == result["step"] and numbers["num_examples"] == 101
    assert numbers["checkpoint"] == result["checkpoint"] and numbers["split"] == "test[:101]"
    rows = read_predictions(workdir / "evaluation_latest_test_-101_predictions.csv")
    assert [int(row["index"]) for row in rows] == list(range(101))
    assert rows[3]["image"] == "record 3 of digits test"
    truth, said = ([int(row[name]) for row in rows] for name in ("label", "predicted"))
    matrix = np.zeros((10, 10), int)
    for label, other, count in numbers["confusions"]:
        matrix[label, other] = count
    np.testing.assert_array_equal(confusion_matrix(truth, said, labels=range(10)), matrix)
    right = [row["correct"] == "true" for row in rows]
    assert np.mean(right) == pytest.approx(result["top1_accuracy"])
    confidence = [float(row["confidence"]) for row in rows]
    expected = expected_calibration_error(confidence, right, 15)
    found = numbers["calibration"]["expected_calibration_error"]
    assert found == pytest.approx(expected, abs=1e-5)  # six digits in the CSV
    sure = [row["label_probability"] == row["confidence"] for row in rows]
    assert sure == right


def test_of_weights(small_config, trained):
    """Of a weights file as of the run that it is of."""
    workdir = trained(small_config)
    of_run = evaluate.evaluate_workdir(small_config, workdir, per_class=True)["per_class"]
    of_weights = evaluate.evaluate_weights(small_config, workdir, per_class=True)["per_class"]
    assert of_weights.predictions() == of_run.predictions()


def test_several_labels_of_a_run(tmp_path):
    for loss in ("softmax", "sigmoid"):
        config = small_mosaics()
        config.task.loss = loss
        run = experiment.build(config, training=False)
        sheet = AnswerSheet(run, run.init())
        for _ in sheet.watched(run.data.eval_batches()):
            pass
        results = sheet.results()
        answers = results.answers
        assert len(answers.indices) == 20 and len(answers.truth) == len(answers.named) == 80
        assert (results.numbers["calibration"] is None) == (loss == "softmax")
        paths = results.write(evaluation_path(tmp_path / loss, "test[:20]"), {})
        rows = read_predictions(paths[1])
        assert [len(row["label"].split()) for row in rows] == [4] * 20
        first = [row["predicted"].split()[0] for row in rows]
        assert first == [str(label) for label in answers.likeliest]
        sums = run.eval_step(run.init(), next(iter(run.data.eval_batches())), run.key)[0]
        named = float(sums["raw"].classes_named.compute())
        share = answers.num_right[:16] / 4
        assert share.mean() == pytest.approx(named)


def test_a_part_of_the_classes(small_config, trained, tmp_path):
    """Data with some of the classes, in another order: numbers by the trained labels."""
    workdir = trained(small_config)
    rng = np.random.default_rng(0)
    arrays = {"test_images": rng.integers(0, 256, (9, 8, 8, 1), np.uint8)}
    arrays |= {"test_labels": np.arange(9) % 3, "class_names": np.array(["8", "2", "5"])}
    arrays |= {f"train_{key}": arrays[f"test_{key}"] for key in ("images", "labels")}
    np.savez(tmp_path / "some.npz", **arrays)
    small_config.data.update(name=f"npz:{tmp_path / 'some.npz'}", eval_split="test")
    result = evaluate.evaluate_workdir(small_config, workdir, per_class=True)
    per_class = result["per_class"]
    assert [row["label"] for row in per_class.numbers["classes"]] == [2, 5, 8]
    assert [row["count"] for row in per_class.numbers["classes"]] == [3, 3, 3]
    assert per_class.answers.truth[:3, 1].tolist() == [8, 2, 5]
    assert set(per_class.answers.likeliest.tolist()) <= {2, 5, 8}
    assert per_class.answers.is_right.mean() == pytest.approx(result["top1_accuracy"])


def test_unreadable_images_are_left_out(small_config, trained, tmp_path):
    for label in range(10):
        (tmp_path / "test" / str(label)).mkdir(parents=True)
        image = np.full((8, 8, 3), 20 * label, np.uint8)
        cv2.imwrite(str(tmp_path / "test" / str(label) / "a.png"), image)
    (tmp_path / "test" / "3" / "a.png").write_bytes(b"no image")
    small_config.data.update(name=f"folder:{tmp_path}", eval_split="test", eval_batch_size=4)
    run = experiment.build(small_config, training=False)
    sheet = AnswerSheet(run, run.init())
    for _ in sheet.watched(run.data.eval_batches()):
        pass
    results = sheet.results()
    rows = list(csv.DictReader(io.StringIO(results.predictions())))
    named = {row["label"]: row["image"] for row in rows}
    others = [str(label) for label in range(10) if label != 3]
    assert named == {label: str(tmp_path / "test" / label / "a.png") for label in others}
    source = run.data.eval_source
    for row, index in zip(rows, results.answers.indices.tolist(), strict=True):
        assert source.describe(index) == row["image"] and int(row["index"]) == index


def test_no_cell_is_a_formula():
    names = ["=1+1", "+a", "-b", "@SUM(A1)", "\t=1", " =1", "＝1", "plain", "a,b", '"q"']
    rows = np.arange(len(names))
    pairs = np.stack([rows, rows], axis=1)
    half = np.full(len(names), 0.5)
    answers = Answers(rows, pairs, pairs, rows, half, half, rows, rank=rows * 0)
    images = np.zeros((len(names), 1, 1, 1), np.uint8)
    source = ArraySource(images, rows)
    source.describe = lambda index: names[index]
    table = PerClass({}, answers, names, source).predictions()
    read = list(csv.reader(io.StringIO(table)))[1:]
    for row, name in zip(read, names, strict=True):
        for cell in row:
            assert not cell.strip().startswith(("=", "+", "-", "@", "＝")), row
        for cell in (row[1], row[3], row[5]):
            assert cell.removeprefix("'") == name
    assert as_cell("") == "" and as_cell("plain") == "plain"


def test_what_it_is_not_for(small_config, monkeypatch, tmp_path):
    gan = experiment.build(digits_nest_gan.get_config("debug"), training=False)
    with pytest.raises(ConfigError, match="^--per_class needs a classifier and a single process$"):
        AnswerSheet(gan, None)
    run = experiment.build(small_config, training=False)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ConfigError, match="single process"):
        AnswerSheet(run, None)
