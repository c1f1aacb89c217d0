"""What an evaluation of a GAN compares, and the protocol of its numbers."""

import jax
import numpy as np
import pytest

from configs import digits_nest_gan
from data import datasets, splits
from harness.errors import ConfigError
from nest.gan.generator import NestGenerator, generator_shapes, with_stored_sizes
from tasks.gan import feature_statistics
from tasks.gan.feature_statistics import real_statistics
from tasks.gan.hashes import fingerprint, images_hash
from training import experiment
from training.evaluation import evaluate


def test_fingerprints_are_of_pixels_and_places():
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3)).astype(np.uint8)
    names = np.asarray(fingerprint(images))
    assert names.shape == (6, 2) and names.dtype == np.uint32
    for part in (images[:3], images[3:]):  # in any batches
        assert set(map(tuple, np.asarray(fingerprint(part)))) < set(map(tuple, names))
    changed = images.copy()
    changed[2, 4, 3, 2] ^= 1  # the last bit of the last pixel
    swapped = images.swapaxes(1, 2).reshape(images.shape)  # the same values elsewhere
    hashes = [
        images_hash(np.asarray(fingerprint(i))) for i in (images, changed, swapped, images[::-1])
    ]
    assert len(set(hashes)) == 4 and {len(name) for name in hashes} == {12}
    assert (np.asarray(fingerprint(changed)) != names).any(axis=1).tolist() == [
        i == 2 for i in range(6)
    ]


@pytest.fixture
def config():
    """Without features, too small to learn anything."""
    config = digits_nest_gan.get_config()
    config.generator.update(patch_size=1, dims=(8,), depths=(1,), num_heads=(2,), latent_dim=4)
    config.discriminator.dims = (4, 8)
    config.data.update(image_size=8, batch_size=16, eval_batch_size=64)
    config.data.update(train_split="train[:80]", eval_split="test[:61]")
    config.mesh.data = 1
    return config


def test_without_features_few_samples_are_made(config):
    config.task.num_samples = 50_000
    run = experiment.build(config)
    batches = list(run.task.eval_batches(run.data.eval_batches()))
    counts = [int(batch["mask"].sum()) for batch in batches if "draw" not in batch]
    assert counts == [61, 64, 16]  # the split, then 80 samples
    assert sum("draw" in batch for batch in batches) == 1


def test_padding_does_not_change_the_logits_of_real_images(config):
    """The last group of four, of which three are padding, has real images in their place."""
    run = experiment.build(config)
    state = run.init()
    (batch,) = run.data.eval_batches()
    found = run.eval_step(state, batch, run.key)[1]["real"]["logit"]
    source = splits.load_source(datasets.open_dataset("digits"), "test[:61]", (8, 8))
    images = np.stack([source[i]["image"] for i in (*range(61), 0, 1, 2)])
    params, judge = {"params": state.discriminator}, jax.jit(run.task.networks.discriminator.apply)
    logits = judge(params, images / np.float32(127.5) - 1.0)
    np.testing.assert_allclose(found[:61], logits[:61], rtol=1e-4)
    images[61:] = 0
    black = judge(params, images / np.float32(127.5) - 1.0)
    assert abs(black[60] / logits[60] - 1.0) > 1e-3  # what it would be next to padding


class Brightness:
    """Stands in for a classifier: the features are means of rows of pixels."""

    width = 8

    def __init__(self):
        self.protocol = {"features_hash": "0123", "resize": "none"}

    def __call__(self, images):
        features = images.mean(axis=(2, 3))
        return features, features / features.sum(axis=1, keepdims=True)


@pytest.fixture
def with_features(config, monkeypatch):
    monkeypatch.setattr("tasks.gan.build.load_embedding", lambda *_, **__: Brightness())
    config.task.update(features="classifier", num_samples=90, neighbors=4)
    return config


def evaluated(config):
    run = experiment.build(config)
    batches = run.data.eval_batches()
    return evaluate(run.eval_step, run.task, run.init(), batches, key=run.key)


def test_the_protocol_is_complete_and_the_same_on_any_devices(with_features):
    found = evaluated(with_features).protocol
    expected = {
        "features_hash": "0123",
        "resize": "none",
        "data.name": "digits",
        "data.eval_split": "test[:61]",
        "data.eval_images": 61,
        "data.classes": None,
        "data.image_size": [8, 8],
        "data.eval_crop_ratio": 1.0,
        "data.eval_crop_interpolation": "bilinear",
        "image_shape": [8, 8, 1],
        "num_real": 61,
        "num_generated": 90,
        "neighbors": 4,
        "kernel_subsets": 1,
        "kernel_subset_sizes": [61, 90],
        "weights": "moving average",
    }
    assert found == expected | {"statistics_hash": found["statistics_hash"]}
    # The same from the images in NumPy, in any batches.
    source = splits.load_source(datasets.open_dataset("digits"), "test[:61]", (8, 8))
    names = np.asarray(fingerprint(np.stack([source[i]["image"] for i in range(61)])))
    assert found["statistics_hash"] == feature_statistics.statistics_hash(expected, names)
    with_features.mesh.data = 8
    with_features.data.eval_batch_size = 32
    assert evaluated(with_features).protocol == found


def test_splits_that_are_too_small(with_features):
    with_features.data.eval_split = "test[:4]"
    with pytest.raises(ConfigError, match=r"eval_split='test\[:4\]': 4 images; .* at least 5"):
        experiment.build(with_features)
    with_features.task.features = ""  # nothing is compared then
    run = experiment.build(with_features)
    with pytest.raises(ConfigError, match=r"train_split='train\[:80\]': 80 .* at least 81"):
        real_statistics(run.data, Brightness(), neighbors=80)


def test_the_floor_is_of_so_many_images(with_features, monkeypatch):
    monkeypatch.setattr(feature_statistics, "MAX_FLOOR_IMAGES", 20)
    run = experiment.build(with_features)
    found = real_statistics(run.data, Brightness(), neighbors=4)
    assert found.protocol["floor.num_images"] == 20
    assert (found.protocol["floor.split"], found.protocol["floor.neighbors"]) == ("train[:80]", 4)
    source = splits.load_source(datasets.open_dataset("digits"), "train[:80]", (8, 8))
    images = np.stack([source[i]["image"] for i in range(0, 80, 4)])  # spread over the split
    features, _ = Brightness()(images / 255.0)
    distance = feature_statistics.frechet_distance(
        found.moments, feature_statistics.moments(features)
    )
    assert found.to_judge_by["floor_frechet_distance"] == pytest.approx(distance, rel=1e-3)


def test_paths_are_made_absolute(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config.task.update(features="classifier", statistics="~/test.npz")
    task = experiment.check_config(config)["task"]
    assert task["features"] == str(tmp_path / "classifier")
    assert task["statistics"].startswith("/") and "~" not in task["statistics"]
    config.task.features = ""
    assert experiment.check_config(config)["task"]["features"] == ""


@pytest.mark.parametrize(("num_channels", "num_classes"), [(1, None), (3, 7)])
def test_sizes_of_stored_weights(num_channels, num_classes):
    options = dict(dims=(8,), depths=(1,), num_heads=(2,), patch_size=2)
    model = NestGenerator(8, num_channels=num_channels, num_classes=num_classes, **options)
    params = generator_shapes(model)
    found = with_stored_sizes(NestGenerator(8, num_channels=2, **options), params)
    assert (found.num_channels, found.num_classes) == (num_channels, num_classes)
    assert generator_shapes(found) == params
    del params["to_pixels"]
    with pytest.raises(ValueError, match="are not a generator's: no to_pixels"):
        with_stored_sizes(model, params)
