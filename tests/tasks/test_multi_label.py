"""Several labels an image: targets, losses, metrics and whole runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score

import evaluate
import train
from data import datasets, selection, splits
from tasks.losses import loss_of, targets_of
from tasks.metrics import ClassificationMetrics, MultiLabelMetrics, is_first
from tests.tasks.test_metrics import evaluated_in_parts
from training import experiment
from training.batch_pictures import augmented_batch, draw_batch

LOSSES = ("softmax", "sigmoid")


@pytest.fixture
def mosaic_config(small_config):
    small_config.data.name = "digits_mosaic"
    small_config.augment = {}
    return small_config


def logits_and_labels(seed=0, count=103, num_classes=10):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, num_classes)).astype(np.float32)
    labels = (rng.random((count, num_classes)) < 0.3).astype(np.int32)
    labels[:4] = [[0] * num_classes, [1] * num_classes, [0] * num_classes, [1] * num_classes]
    return logits, labels


def of(logits, labels, loss="softmax"):
    return MultiLabelMetrics.of(logits, labels, np.ones(len(labels)), loss).summary()


# --- metrics --------------------------------------------------------------------------------------


@pytest.mark.parametrize("are_tied", [False, True])
def test_ranking_precision_is_that_of_scikit_learn(are_tied):
    logits, labels = logits_and_labels()
    if are_tied:
        logits = np.round(logits)
    expected = label_ranking_average_precision_score(labels, logits)
    found = of(logits, labels)["label_ranking_average_precision"]
    assert found == pytest.approx(expected, abs=1e-6)


def test_what_is_named():
    logits, labels = logits_and_labels()
    shares, first = [], []
    for row, own in zip(logits, labels, strict=True):
        order, count = np.argsort(-row, kind="stable"), own.sum()
        first.append(own[order[0]])
        shares.append(own[order[:count]].mean() if count else np.nan)
    summary, has_label = of(logits, labels), labels.any(-1)
    assert (~has_label).sum() >= 2
    shares = np.array(shares)[has_label]
    assert summary["classes_named"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert summary["set_accuracy"] == pytest.approx(np.mean(shares == 1), abs=1e-6)
    assert summary["top1_accuracy"] == pytest.approx(np.array(first)[has_label].mean())
    assert summary["num_examples"] == 103
    np.testing.assert_array_equal(is_first(logits, labels), np.array(first) > 0)


def test_ties_go_to_the_lower_class_and_nan_is_never_right():
    constant = of(np.zeros((2, 4), np.float32), np.array([[1, 1, 0, 0], [0, 0, 1, 1]]))
    assert (constant["classes_named"], constant["set_accuracy"]) == (0.5, 0.5)
    broken = np.array([[np.nan, 2.0, 1.0]], np.float32)
    found = of(broken, np.array([[0, 1, 0]]))
    assert found["top1_accuracy"] == found["classes_named"] == 0
    assert np.isnan(found["loss"])


@pytest.mark.parametrize("batch_size", [7, 103, 200])
def test_padding_never_counts(batch_size):
    logits, labels = logits_and_labels()
    parts = evaluated_in_parts(MultiLabelMetrics, logits, labels, batch_size)
    assert parts == pytest.approx(of(logits, labels), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_classes_that_are_not_compared_do_not_count(loss):
    logits, labels = logits_and_labels()
    answers = [1, 2, 5, 7]
    masked = np.full_like(logits, -np.inf)
    masked[:, answers] = logits[:, answers]
    only = np.zeros_like(labels)
    only[:, answers] = labels[:, answers]
    expected = of(logits[:, answers], labels[:, answers], loss)
    assert of(masked, only, loss) == pytest.approx(expected, rel=1e-5)
    single = np.array(answers)[labels[:, 0]]
    ones = np.ones(len(single))
    expected = ClassificationMetrics.of(logits[:, answers], labels[:, 0], ones, loss).summary()
    assert ClassificationMetrics.of(masked, single, ones, loss).summary() == pytest.approx(
        expected, rel=1e-5
    )


# --- losses ---------------------------------------------------------------------------------------


def test_targets():
    labels = jnp.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(targets_of(labels, 4, "sigmoid"), labels)
    shares = [[0.5, 0, 0.5, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    np.testing.assert_array_equal(targets_of(labels, 4, "softmax"), shares)
    for loss in LOSSES:
        np.testing.assert_array_equal(targets_of(jnp.array([2, 0]), 3, loss), np.eye(3)[[2, 0]])


def test_losses_by_hand():
    logits, labels = logits_and_labels()
    targets = np.asarray(targets_of(jnp.asarray(labels), 10, "softmax"))
    each = np.log(np.exp(logits.astype(float)).sum(-1, keepdims=True)) - logits
    found = loss_of(logits, targets, "softmax")
    np.testing.assert_allclose(found, (targets * each).sum(-1), rtol=1e-5, atol=1e-6)
    chance = 1 / (1 + np.exp(-logits.astype(float)))
    each = -labels * np.log(chance) - (1 - labels) * np.log(1 - chance)
    found = loss_of(logits, labels.astype(np.float32), "sigmoid")
    np.testing.assert_allclose(found, each.mean(-1), rtol=1e-5)


@pytest.mark.torch
def test_sigmoid_is_the_loss_of_torch_and_timm(torch, timm):
    from timm.loss import BinaryCrossEntropy

    logits, labels = logits_and_labels()
    targets = 0.9 * labels.astype(np.float32) + 0.01
    ours = float(loss_of(logits, targets, "sigmoid").mean())
    arrays = torch.from_numpy(logits), torch.from_numpy(targets)
    for theirs in (torch.nn.BCEWithLogitsLoss(), BinaryCrossEntropy(smoothing=0.0)):
        assert ours == pytest.approx(float(theirs(*arrays)), rel=1e-5)
    # With labels instead of targets, timm smooths as we do.
    smoothed = BinaryCrossEntropy(smoothing=0.1)(arrays[0], torch.arange(103) % 10)
    targets = 0.9 * np.eye(10, dtype=np.float32)[np.arange(103) % 10] + 0.01
    assert float(loss_of(logits, targets, "sigmoid").mean()) == pytest.approx(float(smoothed))


# --- runs -----------------------------------------------------------------------------------------


def losses_and_first_batch(config, steps):
    run = experiment.build(config)
    state, batches, losses = run.init(), run.data.train_batches(), []
    first = None
    for _ in range(steps):
        batch = next(batches)
        first = first or jax.device_get(batch)
        state, scalars = run.train_step(state, batch, run.key, run.hyperparameters)
        losses.append(float(scalars["loss"]))
    batches.close()
    return losses, first


@pytest.mark.parametrize("loss", LOSSES)
def test_devices_and_parts_make_no_difference(mosaic_config, loss):
    mosaic_config.model.update(drop_path_rate=0.0, dropout_rate=0.0)
    mosaic_config.optimizer.update(base_lr=1e-3)
    mosaic_config.task.loss = loss
    mixup = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}
    mosaic_config.device_augment = {"mixup_cutmix": mixup}
    one, first = losses_and_first_batch(mosaic_config, 4)
    assert first["label"].shape == (32, 10) and first["label"].dtype == np.int32
    np.testing.assert_array_equal(first["label"].sum(-1), 4)
    mosaic_config.mesh.update(data=4, fsdp=2)
    mosaic_config.task.accumulation_steps = 2
    eight, batch = losses_and_first_batch(mosaic_config, 4)
    np.testing.assert_allclose(eight, one, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(batch["label"], first["label"])
    assert one[-1] < one[0]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_and_its_evaluation(mosaic_config, loss, tmp_path, capsys):
    mosaic_config.task.loss = loss
    mosaic_config.checkpoint.best_metric = "ema_classes_named"
    mosaic_config.loop.num_epochs = 2.0
    metrics = train.train_and_evaluate(mosaic_config, tmp_path)
    assert metrics["num_examples"] == 101 and 0 < metrics["classes_named"] < 1
    assert "best_ema_classes_named" in metrics
    for among in ("named", "occurring"):
        found = evaluate.evaluate_workdir(mosaic_config, tmp_path, among=among)
        shared = found.keys() & metrics.keys()
        assert {key: found[key] for key in shared} == {key: metrics[key] for key in shared}
    assert "classes have examples" not in capsys.readouterr().err

    # Of one record, whose classes the others cannot be taken for.
    options = {"split": "test[:1]", "among": "occurring"}
    alone = evaluate.evaluate_workdir(mosaic_config, tmp_path, **options)
    assert alone["classes_named"] == alone["top1_accuracy"] == 1
    assert alone["among_all_classes_named"] <= 1
    assert np.isfinite(alone["loss"])


def test_single_labels_with_sigmoid(small_config, tmp_path):
    small_config.task.loss = "sigmoid"
    small_config.device_augment = {"mixup_cutmix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}}
    metrics = train.train_and_evaluate(small_config, tmp_path)
    assert metrics["loss"] < 0.4  # from 0.69, that of logits of 0
    assert "top5_accuracy" in metrics and "classes_named" not in metrics


def test_accuracy_of_mixed_batches_counts_the_largest_shares(mosaic_config):
    mosaic_config.device_augment = {"mixup_cutmix": {"mixup_alpha": 0.8, "cutmix_alpha": 0.0}}
    run = experiment.build(mosaic_config)
    batch = next(run.data.train_batches())
    mixed, _ = run.task.augmented(batch, 0, run.key)
    own = np.asarray(batch["label"])
    both = (own + own[::-1]) == 2
    largest = np.where(both.any(-1, keepdims=True), both, np.asarray(mixed["label"]))
    np.testing.assert_array_equal(mixed["label"], largest)
    np.testing.assert_allclose(mixed["target"].sum(-1), 1, rtol=1e-5)


def test_pictures_of_a_batch_name_all_classes(mosaic_config):
    run = experiment.build(mosaic_config)
    _, targets = augmented_batch(run, 0)
    np.testing.assert_allclose(np.sort(targets)[:, -4:], 0.25)
    titles = [axes.get_title() for axes in draw_batch(run, num_images=2, start=0).axes]
    for title, target in zip(titles, targets, strict=False):
        assert title.splitlines()[0] == " + ".join(str(label) for label in np.flatnonzero(target))


# --- selections -----------------------------------------------------------------------------------


def mosaics(split="test"):
    return splits.load_source(datasets.open_dataset("digits_mosaic"), split, (8, 8))


def test_classes_kept_are_those_that_an_image_has_of_them():
    whole = mosaics()
    kept = selection.of_classes(whole, (7, 3))
    expected = [
        tuple({7: 0, 3: 1}[label] for label in whole[i]["label"] if label in (7, 3))
        for i in range(len(whole))
    ]
    expected = [labels for labels in expected if labels]
    assert [kept[i]["label"] for i in range(len(kept))] == expected == kept.labels.tolist()
    assert 0 < len(kept) < len(whole)
    for index in range(5):
        assert kept.boxes(index)[:, 0].tolist() == list(expected[index])


def test_by_name_and_occurring():
    dataset = selection.by_name(datasets.open_dataset("digits_mosaic"), "9876543210")
    source = dataset.load("test", (8, 8))
    for index in range(3):
        old = mosaics()[index]["label"]
        assert source[index]["label"] == tuple(9 - label for label in old)
    assert selection.occurring(source, 10) is None
    assert selection.occurring(mosaics("test[:1]"), 10) == tuple(sorted(mosaics()[0]["label"]))


def test_few_of_each():
    few = selection.few_of_each(mosaics(), 10, 3, seed=0)
    counts = np.bincount(selection.pairs_of(few)[1], minlength=10)
    assert counts.min() >= 3 and len(few) < 30
    more = selection.few_of_each(mosaics(), 10, 5, seed=0)
    names = [{s.describe(i) for i in range(len(s))} for s in (few, more)]
    assert names[0] < names[1]


def test_labels_without_labels_at_hand():
    class Reading:
        def __init__(self, source):
            self._source = source

        def __len__(self):
            return len(self._source)

        def __getitem__(self, index):
            return self._source[index]

    for split in ("test", "test[:7]+test[9:]"):
        source = mosaics(split)
        assert selection.labels_of(Reading(source)).tolist() == source.labels.tolist()
        for found, expected in zip(
            selection.pairs_of(Reading(source)), selection.pairs_of(source), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
