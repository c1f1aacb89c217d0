"""Samples of a trained generator, compared in the features of a trained classifier."""

import json

import jax
import numpy as np
import pytest

import evaluate
import train
from configs import digits_nest, digits_nest_gan
from tools import sample
from training import experiment
from training.errors import ConfigError
from training.features import digest, load_embedding, load_statistics, save_statistics
from training.generative_metrics import frechet_distance, moments


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A classifier and, with its features, a generator; both of a few steps."""
    folder = tmp_path_factory.mktemp("runs")
    classifier = digits_nest.get_config()
    classifier.model.update(patch_size=1, dims=(8, 16), depths=(1, 1), num_heads=(2, 2))
    classifier.data.update(image_size=8, batch_size=32, train_split="train[:64]")
    classifier.data.update(eval_split="test[:64]", eval_batch_size=64)
    classifier.mesh.data = 1
    classifier.optimizer.warmup_epochs = 0.0
    classifier.loop.num_epochs = 1.0
    train.train_and_evaluate(classifier, folder / "classifier")

    config = digits_nest_gan.get_config()
    config.generator.update(
        patch_size=1, dims=(16, 8), depths=(1, 1), num_heads=(2, 2), latent_dim=8
    )
    config.discriminator.dims = (4, 8)
    config.data.update(image_size=8, batch_size=16, eval_batch_size=64)
    config.data.update(train_split="train[:80]", eval_split="test[:61]")
    config.task.update(num_samples=90, conditional=True, r1_weight=0.0, augment=())
    config.task.features = str(folder / "classifier")
    config.mesh.data = 1
    config.loop.num_epochs = 0.4
    return folder, config, train.train_and_evaluate(config, folder / "gan")


def test_features_are_what_enters_the_head(runs):
    folder, config, _ = runs
    embedding = load_embedding(config.task.features, num_channels=1, dataset="digits")
    images = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype(np.float32)
    features, probabilities = embedding(images)
    head = embedding.variables["params"]["head"]
    logits = np.asarray(features) @ head["kernel"] + head["bias"]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    run = experiment.build(digits_config(folder))
    mean, std = run.data.statistics
    direct = run.task.model.apply(embedding.variables, (images - mean) / std, train=False)
    np.testing.assert_allclose(probabilities, jax.nn.softmax(direct), rtol=1e-4)
    larger, _ = embedding(images.repeat(2, axis=1).repeat(2, axis=2))
    assert larger.shape == features.shape
    with pytest.raises(ConfigError, match="images of 1 channel.*generated ones have 3"):
        load_embedding(config.task.features, num_channels=3, dataset="digits")
    with pytest.raises(ConfigError, match="is a run of 'gan'; features come from"):
        load_embedding(str(folder / "gan"), num_channels=1, dataset="digits")


def digits_config(folder):
    return sample.workdirs.read_config(folder / "classifier")


def test_numbers_stand_beside_their_protocol(runs):
    folder, config, metrics = runs
    task = experiment.build(config).task
    assert set(metrics) == {*task.metric_names(), "num_examples", "num_samples"}
    assert (metrics["num_examples"], metrics["num_samples"]) == (61, 90)
    record = [json.loads(line) for line in (folder / "gan" / "metrics.jsonl").open()][-1]
    protocol = record["protocol"]
    assert (protocol["num_real"], protocol["num_generated"]) == (61, 90)
    assert protocol["features_workdir"] == config.task.features
    assert "8x8" in protocol["resize"] and len(protocol["statistics_hash"]) == 12
    # evaluate.py builds through the same functions.
    again = evaluate.evaluate_workdir(config, folder / "gan")
    assert {name: again[name] for name in metrics} == metrics
    assert again["protocol"] == protocol
    with pytest.raises(ConfigError, match="no weights files of task 'gan'"):
        evaluate.evaluate_weights(config, folder / "gan")


def test_distances_to_judge_by(runs):
    folder, _, metrics = runs
    run, state = sample.load_run(folder / "gan")
    found = sample.compare(run, state)
    assert {name: found[name] for name in metrics} == metrics
    assert found["floor_frechet_distance"] < found["untrained_frechet_distance"]
    assert 0 <= found["floor_recall"] <= 1
    # The distance of the real splits, by way of the features alone.
    images = {
        split: np.concatenate([b["image"][b["mask"] > 0] for b in run.data.eval_batches(split)])
        for split in ("train[:80]", "test[:61]")
    }
    features = [run.task.embedding(np.float32(x) / 255)[0] for x in images.values()]
    expected = frechet_distance(*map(moments, features))
    assert found["floor_frechet_distance"] == pytest.approx(expected, rel=1e-2)


def test_samples(runs, tmp_path):
    folder, *_ = runs
    run, state = sample.load_run(folder / "gan")
    images, labels = sample.draw(run, state, num=23)
    assert images.shape == (23, 8, 8, 1) and images.dtype == np.uint8
    assert labels.tolist() == [i % 10 for i in range(23)]
    again, _ = sample.draw(run, state, num=23)
    assert (images == again).all()
    other, _ = sample.draw(run, state, num=23, seed=1)
    assert (images != other).any()
    threes, labels = sample.draw(run, state, num=4, label=3)
    assert labels.tolist() == [3] * 4
    assert (threes[3] == images[3]).all() and (threes[0] != images[0]).any()
    with pytest.raises(ConfigError, match="--class=10: there are 0 to 9"):
        sample.draw(run, state, num=4, label=10)
    with pytest.raises(ConfigError, match="is a run of task 'classification', not of 'gan'"):
        sample.load_run(folder / "classifier")


def test_statistics_are_reused_with_the_same_protocol_only(tmp_path):
    rng = np.random.default_rng(0)
    found = moments(rng.normal(size=(20, 3)))
    path = tmp_path / "test.npz"
    save_statistics(path, found, {"resize": "bicubic", "count": 20})
    again = load_statistics(path, {"count": 20, "resize": "bicubic"})
    assert frechet_distance(found, again) == pytest.approx(0, abs=1e-9)
    assert digest(found.mean) == digest(again.mean) != digest(again.covariance)
    with pytest.raises(ConfigError, match="were taken with .*bicubic.*, not with .*nearest"):
        load_statistics(path, {"resize": "nearest", "count": 20})
