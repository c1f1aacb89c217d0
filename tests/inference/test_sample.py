"""Samples of a trained generator, compared in the features of a trained classifier."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import evaluate
import train
from configs import digits_nest, digits_nest_gan
from harness.errors import ConfigError
from harness.pictures import image_grid, save_png
from inference import sample as compare
from inference.sample import load_generator
from saving.checkpoints import Checkpoints
from tasks.gan.embedding import Embedding, load_embedding
from tasks.gan.feature_statistics import from_features, load_statistics, save_statistics
from tasks.gan.hashes import arrays_hash
from tasks.gan.metrics import frechet_distance, moments
from training import experiment
from workdirs.config_file import read_config, write_config
from workdirs.records import write_record
from workdirs.results import read_metrics


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An untrained classifier and, with its features, a generator of two steps; of a file's data.

    The data are the digits, but nothing that the code has with it.
    """
    folder = tmp_path_factory.mktemp("runs")
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    arrays = {"train_images": images[:80], "test_images": images[80:141]}
    labels = {"train_labels": digits.target[:80], "test_labels": digits.target[80:141]}
    np.savez(folder / "data.npz", **arrays, **labels)

    classifier = digits_nest.get_config()
    classifier.model.update(patch_size=1, dims=(8, 16), depths=(1, 1), num_heads=(2, 2))
    config = digits_nest_gan.get_config()
    config.generator.update(patch_size=1, dims=(8,), depths=(1,), num_heads=(2,), latent_dim=8)
    config.discriminator.dims = (4, 8)
    for each in (classifier, config):
        each.data.update(name=f"npz:{folder / 'data.npz'}", image_size=8)
        each.data.update(batch_size=16, eval_batch_size=64)
        each.mesh.data = 1
    _save_untrained(classifier, folder / "classifier")

    config.task.update(num_samples=90, conditional=True, r1_weight=0.0, augment=())
    config.task.features = str(folder / "classifier")
    config.loop.num_epochs = 0.4
    metrics = train.train_and_evaluate(config, folder / "gan")
    return folder, config, metrics


def _save_untrained(config, workdir):
    run = experiment.build(config)
    state = run.init()
    head = state.params["head"]  # starts at zero
    head["kernel"] = jax.random.normal(jax.random.key(0), head["kernel"].shape)
    plain = experiment.check_config(config)
    workdir.mkdir()
    write_config(workdir, plain)
    with Checkpoints(workdir=workdir, **plain["checkpoint"]) as saved:
        saved.save(0, state, {}, wait=True)


def test_features_are_what_enters_the_head(runs):
    folder, config, _ = runs
    embedding = load_embedding(config.task.features, num_channels=1, dataset="digits")
    images = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype(np.float32)
    features, probabilities = jax.jit(lambda images: embedding(images))(images)
    head = embedding.variables["params"]["head"]
    logits = np.asarray(features) @ head["kernel"] + head["bias"]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    run = experiment.build(read_config(folder / "classifier"))
    mean, std = run.data.statistics
    apply = jax.jit(lambda images: run.task.model.apply(embedding.variables, images, train=False))
    direct = apply((images - mean) / std)
    np.testing.assert_allclose(probabilities, jax.nn.softmax(direct), rtol=1e-4)
    larger, _ = jax.eval_shape(embedding, images.repeat(2, axis=1).repeat(2, axis=2))
    assert larger.shape == features.shape
    with pytest.raises(ConfigError, match="images of 1 channel.*generated ones have 3"):
        load_embedding(config.task.features, num_channels=3, dataset="digits")
    with pytest.raises(ConfigError, match="features='.*gan': a run of task 'gan'; allowed: "):
        load_embedding(str(folder / "gan"), num_channels=1, dataset="digits")


def test_numbers_stand_beside_their_protocol(runs):
    folder, config, metrics = runs
    task = experiment.build(config).task
    assert set(metrics) == {*task.metric_names(), "num_examples", "num_samples"}
    assert (metrics["num_examples"], metrics["num_samples"]) == (61, 90)
    record = read_metrics(folder / "gan").sound[-1]
    protocol = record["protocol"]
    assert (protocol["num_real"], protocol["num_generated"]) == (61, 90)
    assert protocol["features_workdir"] == config.task.features
    assert protocol["data.eval_split"] == "test"
    assert "8x8" in protocol["resize"] and len(protocol["statistics_hash"]) == 12
    # evaluate.py builds through the same functions.
    again = evaluate.evaluate_workdir(config, folder / "gan")
    assert {name: again[name] for name in metrics} == metrics
    assert again["protocol"] == protocol
    with pytest.raises(ConfigError, match="no weights files of task 'gan'"):
        evaluate.evaluate_weights(config, folder / "gan")


def test_samples_need_the_workdir_alone(runs, tmp_path):
    """Neither the data set nor the classifier is there; both are needed to compare."""
    folder, *_ = runs
    away = folder / "away"
    away.mkdir()
    for name in ("data.npz", "classifier"):
        (folder / name).rename(away / name)
    try:
        generator = load_generator(folder / "gan")
        with pytest.raises(ConfigError, match="--compare needs the data set and.*data.npz"):
            compare.load_run(folder / "gan")
        (away / "data.npz").rename(folder / "data.npz")
        with pytest.raises(ConfigError, match="--compare needs .*holds no trained classifier"):
            compare.load_run(folder / "gan")
    finally:
        for path in away.iterdir():
            path.rename(folder / path.name)
    images, labels = generator.draw(num=80)
    assert images.shape == (80, 8, 8, 1) and images.dtype == np.uint8
    assert labels.tolist() == [i % 10 for i in range(80)]
    # They are those of the run's own picture.
    save_png(tmp_path / "grid.png", image_grid(images, 10))
    ours, theirs = (Image.open(f) for f in (tmp_path / "grid.png", *folder.glob("gan/samples_*")))
    np.testing.assert_allclose(np.asarray(ours, int), np.asarray(theirs, int), atol=1)
    fewer, _ = generator.draw(num=23)
    np.testing.assert_allclose(fewer.astype(int), images[:23], atol=1)
    other, _ = generator.draw(num=23, seed=1)
    assert (images[:23] != other).any()
    threes, labels = generator.draw(num=4, label=3)
    assert labels.tolist() == [3] * 4
    np.testing.assert_allclose(threes[3].astype(int), images[3], atol=1)
    assert (threes[0] != images[0]).any()
    with pytest.raises(ConfigError, match="--class=10: there are 0 to 9"):
        generator.draw(num=4, label=10)


def test_runs_that_have_no_samples(runs, tmp_path):
    folder, *_ = runs
    with pytest.raises(ConfigError, match="is a run of task 'classification', not of 'gan'"):
        load_generator(folder / "classifier")
    with pytest.raises(ConfigError, match="checkpoints/best: no finished checkpoint"):
        load_generator(folder / "gan", checkpoint="best")
    # A config of another generator: wrong shapes, not wrong images.
    shutil.copytree(folder / "gan", tmp_path / "gan")
    text = (tmp_path / "gan" / "config.json").read_text()
    write_record(
        tmp_path / "gan" / "config.json", text.replace('"latent_dim": 8', '"latent_dim": 9')
    )
    with pytest.raises(ConfigError, match="does not fit the model; .*class_embedding"):
        load_generator(tmp_path / "gan")


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
    assert arrays_hash(again.moments.mean) != arrays_hash(again.moments.covariance)
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
    return compare.real_statistics(
        run.data, run.task.evaluator.embedding, run.task.options.neighbors
    )


def test_compare(runs, tmp_path, monkeypatch):
    """The same numbers with the file as without it, and none of the split's features are taken."""
    folder, _, metrics = runs
    run, state = compare.load_run(folder / "gan")
    expected = compare.compare(run, state)
    assert {name: expected[name] for name in metrics} == metrics
    assert expected["floor_frechet_distance"] < expected["untrained_frechet_distance"]
    assert 0 <= expected["floor_recall"] <= 1

    path = tmp_path / "digits.npz"
    found = compare.compare(*compare.load_run_with_statistics(folder / "gan", path))
    assert set(found) == set(expected) > set(metrics)
    for name in set(found) - {"protocol", "split"}:
        assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-4), name
    assert found["protocol"] == expected["protocol"] | {"statistics": str(path)}
    assert (found["protocol"]["num_real"], found["protocol"]["floor.num_images"]) == (61, 80)

    monkeypatch.setattr(compare, "real_statistics", lambda *args: pytest.fail("again"))
    traced, original = [], Embedding.__call__
    monkeypatch.setattr(Embedding, "__call__", lambda *args: traced.append(1) or original(*args))
    assert compare.compare(*compare.load_run_with_statistics(folder / "gan", path)) == found
    assert len(traced) == 1  # for a batch of samples; none of the split


def test_statistics_of_other_images(runs, tmp_path, monkeypatch, capsys):
    folder, config, _ = runs
    path = tmp_path / "digits.npz"
    config = config.copy_and_resolve_references()
    config.task.statistics = str(path)
    run, _ = compare.load_run(folder / "gan")
    save_statistics(path, measured(run))
    experiment.build(config)
    assert "note" not in capsys.readouterr().err
    # Training may compare with another split, and evaluate.py goes through another: it is told.
    found = evaluate.evaluate_workdir(config, folder / "gan", split="test[:50]")
    different = "data.eval_split 'test', not 'test[:50]', data.eval_images 61, not 50"
    assert f"stands in for the split: {different}\n" in capsys.readouterr().err
    assert (found["split"], found["num_examples"]) == ("test[:50]", 50)
    assert (found["protocol"]["data.eval_split"], found["protocol"]["num_real"]) == ("test", 61)
    config.data.eval_split = "test[:50]"
    read = read_config
    monkeypatch.setattr(
        "inference.sample.read_config", lambda f: config if f.name == "gan" else read(f)
    )
    with pytest.raises(ConfigError, match=r"with data.eval_split 'test', not with 'test\[:50\]'"):
        compare.load_run_with_statistics(folder / "gan", path)


def test_statistics_of_a_folder_that_has_grown(runs, tmp_path):
    """Its name is the same, so only the number tells."""
    folder, _, _ = runs
    path, (run, _) = tmp_path / "digits.npz", compare.load_run(folder / "gan")
    now = measured(run)
    before = dataclasses.replace(now, protocol=now.protocol | {"data.eval_images": 60})
    save_statistics(path, before)
    with pytest.raises(ConfigError, match=r"were taken with data.eval_images 60, not with \d+"):
        compare.load_run_with_statistics(folder / "gan", path)


def test_moments_alone_give_the_frechet_distance_alone(runs, tmp_path, capsys):
    folder, _, metrics = runs
    run, _ = compare.load_run(folder / "gan")
    real = measured(run).moments
    path = tmp_path / "fid.npz"
    np.savez(path, mu=real.mean, sigma=real.covariance)
    run, state = compare.load_run_with_statistics(folder / "gan", path)
    assert "the file does not say of which images" in capsys.readouterr().err
    found = compare.compare(run, state)
    assert found["frechet_distance"] == pytest.approx(metrics["frechet_distance"], rel=1e-3)
    assert not {"kernel_distance", "precision", "recall", "floor_recall"} & set(found)
    assert set(run.task.metric_names()) <= set(found)
    protocol = found["protocol"]
    assert protocol["real_images"] == "unknown: the file has mu and sigma alone"
    assert protocol["statistics_hash"] == arrays_hash(real.mean, real.covariance)
    assert (protocol["num_real"], protocol["statistics"]) == ("unknown", str(path))
    with pytest.raises(ConfigError, match="config.task.statistics='.*: needs config.task.features"):
        compare.load_run(folder / "gan", features="", statistics=str(path))
    with pytest.raises(ConfigError, match="--compare needs --features: a classifier's workdir"):
        compare.load_run(folder / "gan", features="")
