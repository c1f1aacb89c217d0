"""Samples of a trained generator, compared in the features of a trained classifier."""

import dataclasses
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
from training.feature_statistics import from_features, load_statistics, save_statistics
from training.features import Embedding, digest, load_embedding
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


SPACE = {"features_hash": "0123", "resize": "bicubic"}


def some_statistics():
    features = np.random.default_rng(0).normal(size=(20, 3))
    found = from_features(features, SPACE | {"data.eval_split": "test"})
    return dataclasses.replace(found, to_judge_by={"floor_recall": 0.5})


def test_statistics_are_reused_in_the_same_space_only(tmp_path):
    path, saved = tmp_path / "test.npz", some_statistics()
    save_statistics(path, saved)
    again = load_statistics(path, SPACE | {"features_workdir": "moved"}, 3)
    np.testing.assert_array_equal(again.features, saved.features)
    assert (again.moments.count, again.to_judge_by) == (20, {"floor_recall": 0.5})
    assert frechet_distance(again.moments, moments(saved.features)) == pytest.approx(0, abs=1e-9)
    assert digest(again.moments.mean) != digest(again.moments.covariance)
    assert [file.name for file in tmp_path.iterdir()] == ["test.npz"]
    with pytest.raises(ConfigError, match="of other features: resize 'bicubic', not 'bilinear'"):
        load_statistics(path, SPACE | {"resize": "bilinear"}, 3)
    with pytest.raises(ConfigError, match="of other features: features_hash '0123', not '4567'"):
        load_statistics(path, SPACE | {"features_hash": "4567"}, 3)


def test_statistics_that_others_took(tmp_path):
    """Files of pytorch-fid have mu and sigma alone, as np.savez_compressed writes them."""
    expected, path = some_statistics().moments, tmp_path / "fid.npz"
    np.savez_compressed(path, mu=expected.mean, sigma=expected.covariance)
    found = load_statistics(path, SPACE, 3)
    assert (found.features, found.protocol, found.moments.count) == (None, {}, 0)
    np.testing.assert_array_equal(found.moments.covariance, expected.covariance)
    with pytest.raises(ConfigError, match=r"mu has shape \(3,\), expected \(2048,\)"):
        load_statistics(path, SPACE, 2048)
    for arrays, message in (
        ({"mu": expected.mean}, "lacks sigma"),
        ({"mu": expected.mean * np.nan, "sigma": expected.covariance}, "mu holds values that are"),
        ({"mu": np.array([{}] * 3), "sigma": expected.covariance}, "allow_pickle=False"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ConfigError, match=message) as error:
            load_statistics(path, SPACE, 3)
        assert "\n" not in str(error.value)
    save_statistics(path, some_statistics())
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ConfigError, match=r"fid.npz: no such file, or not an archive"):
        load_statistics(path, SPACE, 3)


def measured(run):
    return sample.real_statistics(run.data, run.task.embedding, run.task.neighbors)


def test_real_images_pass_once(runs, tmp_path, monkeypatch):
    """The same numbers with the file as without it, and none of the split's features are taken."""
    folder, _, metrics = runs
    expected = sample.compare(*sample.load_run(folder / "gan"))
    path = tmp_path / "digits.npz"
    found = sample.compare(*sample.load_run_with_statistics(folder / "gan", path))
    assert set(found) == set(expected) > set(metrics)
    for name in set(found) - {"protocol"}:
        assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-4), name
    protocol = found["protocol"]
    assert (protocol["num_real"], protocol["num_generated"]) == (61, 90)
    assert protocol["statistics"]["data.eval_split"] == "test[:61]"

    monkeypatch.setattr(sample, "real_statistics", lambda *args: pytest.fail("again"))
    traced, original = [], Embedding.__call__
    monkeypatch.setattr(Embedding, "__call__", lambda *args: traced.append(1) or original(*args))
    assert sample.compare(*sample.load_run_with_statistics(folder / "gan", path)) == found
    assert len(traced) == 1  # for a batch of samples; none of the split


def test_statistics_of_other_images(runs, tmp_path, monkeypatch):
    folder, config, _ = runs
    path = tmp_path / "digits.npz"
    config = config.copy_and_resolve_references()
    config.task.statistics = str(path)
    run, _ = sample.load_run(folder / "gan")
    save_statistics(path, measured(run))
    config.data.eval_split = "test[:50]"
    task = experiment.build(config).task  # training may compare with another split
    assert task.statistics.protocol["data.eval_split"] == "test[:61]"
    read = sample.workdirs.read_config
    monkeypatch.setattr(
        sample.workdirs, "read_config", lambda f: config if f.name == "gan" else read(f)
    )
    with pytest.raises(ConfigError, match=r"with data.eval_split 'test\[:61\]', not with 'test"):
        sample.load_run_with_statistics(folder / "gan", path)
    with pytest.raises(ConfigError, match=r"nowhere/a.npz: there is no such folder"):
        sample.load_run_with_statistics(folder / "gan", tmp_path / "nowhere" / "a.npz")


def test_moments_alone_give_the_frechet_distance_alone(runs, tmp_path):
    folder, _, metrics = runs
    run, _ = sample.load_run(folder / "gan")
    real = measured(run).moments
    path = tmp_path / "fid.npz"
    np.savez(path, mu=real.mean, sigma=real.covariance)
    run, state = sample.load_run_with_statistics(folder / "gan", path)
    found = sample.compare(run, state)
    assert found["frechet_distance"] == pytest.approx(metrics["frechet_distance"], rel=1e-3)
    assert not {"kernel_distance", "precision", "recall", "floor_recall"} & set(found)
    assert set(run.task.metric_names()) <= set(found)
    assert found["protocol"]["statistics"] == "unknown: the file has mu and sigma alone"
    assert found["protocol"]["num_real"] == "unknown"
    with pytest.raises(ConfigError, match=r"config.task.statistics needs config.task.features"):
        sample.load_run(folder / "gan", features="", statistics=str(path))
