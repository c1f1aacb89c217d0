"""The GAN as a task: its options, devices, samples, resuming, and what ends a run."""

import os
import signal

import chex
import jax
import numpy as np
import pytest
from PIL import Image

import train
from configs import digits_nest_gan, imagenet64_nest_gan
from harness.errors import ConfigError, Interrupted, NonFiniteError
from harness.pictures import image_grid
from saving.checkpoints import Checkpoints
from tasks.gan.task import Gan
from training import evaluation, experiment
from training.curves import TIMINGS
from workdirs.results import read_metrics


@pytest.fixture
def gan_config():
    """Two levels on 8x8 digits, 8 steps."""
    config = digits_nest_gan.get_config()
    config.generator.update(
        name="nest_generator_tiny_s16_16",
        patch_size=1,
        dims=(16, 8),
        depths=(1, 1),
        num_heads=(2, 2),
        latent_dim=8,
    )
    config.discriminator.update(name="conv_discriminator_tiny_16", dims=(4, 8))
    config.data.update(image_size=8, batch_size=16, eval_batch_size=64, train_split="train[:32]")
    config.data.eval_split = "test[:101]"
    config.task.update(num_samples=50, r1_every_steps=3, augment=("color", "translation", "cutout"))
    config.mesh.data = 1
    config.loop.update(
        num_epochs=4.0, log_every_steps=3, evaluate_every_epochs=2.0, save_every_epochs=1.0
    )
    return config


# Samples.


def evaluate_once(gan_config, **data):
    gan_config.data.update(**data)
    run = experiment.build(gan_config)
    found = evaluation.evaluate(
        run.eval_step, run.task, run.init(), run.data.eval_batches(), key=run.key
    )
    return run, found


def test_samples_do_not_depend_on_batches_and_devices(gan_config):
    _, one = evaluate_once(gan_config)
    assert (one.metrics["num_examples"], one.metrics["num_samples"]) == (101, 50)
    gan_config.mesh.data = 4
    gan_config.data.eval_batch_size = 32  # the group of the minibatch deviation is in it
    _, other = evaluate_once(gan_config)
    assert (other.metrics["num_examples"], other.metrics["num_samples"]) == (101, 50)
    for name in ("samples", "interpolation"):
        np.testing.assert_allclose(one.pictures[name], other.pictures[name], atol=1)


@pytest.mark.parametrize(
    ("data", "fsdp", "design"),
    [
        (2, 4, "stylegan2"),
        pytest.param(2, 4, "hit_gan", marks=pytest.mark.slow),
        pytest.param(8, 1, "stylegan2", marks=pytest.mark.slow),
    ],
)
def test_devices_make_no_difference(gan_config, data, fsdp, design):
    """Of 8 devices each has half a group of the minibatch deviation."""
    gan_config.generator.update(dims=(32,), depths=(1,), num_heads=(2,))
    # Large enough for arrays that FSDP splits.
    gan_config.discriminator.update(dims=(16, 32), design=design)
    for optimizer in (gan_config.generator_optimizer, gan_config.discriminator_optimizer):
        optimizer.update(name="sgd", base_lr=1e-2)
    found, start = [], None
    for mesh in ({"data": 1, "fsdp": 1}, {"data": data, "fsdp": fsdp}):
        gan_config.mesh.update(mesh)
        run = experiment.build(gan_config)
        start = jax.device_get(run.init()) if not found else start
        state, batches = jax.device_put(start, run.shardings), run.data.train_batches()
        for _ in range(2):  # the first has the lazy penalty
            state, scalars = run.train_step(state, next(batches), run.key, run.hyperparameters)
        assert len(state.step.sharding.device_set) == mesh["data"] * mesh["fsdp"]
        split = [x for x in jax.tree.leaves(state) if not x.sharding.is_fully_replicated]
        assert bool(split) == (mesh["fsdp"] > 1)
        found.append(jax.device_get((state, scalars)))
    chex.assert_trees_all_close(*found, atol=1e-5, rtol=1e-5)


def test_interpolations_begin_and_end_with_samples(gan_config):
    _, found = evaluate_once(gan_config)
    tiles = {
        name: picture[:, :, 0] for name, picture in found.pictures.items()
    }  # 8 rows of 10 images of 8 pixels and a gap
    for row in range(8):
        top = slice(row * 9, row * 9 + 8)
        first, last = tiles["interpolation"][top, :8], tiles["interpolation"][top, -8:]
        for tile, number in ((first, row), (last, row + 8)):
            y, x = divmod(number, 10)
            expected = tiles["samples"][y * 9 : y * 9 + 8, x * 9 : x * 9 + 8]
            np.testing.assert_allclose(tile, expected, atol=1)


def test_batches_that_the_discriminator_does_not_take(gan_config):
    gan_config.data.eval_batch_size = 62
    with pytest.raises(ConfigError, match="config.data.eval_batch_size=62: .*deviation_group=4"):
        experiment.build(gan_config)


WRONG = [
    ("task.augment", ("rotation",), "config.task.augment=.*: unknown; .*cutout"),
    ("task.loss", "softmax", "config.task.loss='softmax'"),
    ("task.loss", "wasserstein", "loss='wasserstein': .*set config.task.r1_weight=0.0"),
    ("task.steps", "both", "config.task.steps='both'"),
    ("task.r1_every_steps", 0, "r1_every_steps=0: out of range; allowed: at least 1"),
    ("task.collapse_gap", 40.0, "config.task.collapse_gap: unknown"),
    ("task.features", "nowhere", "no trained classifier; train one: .*configs/digits_nest.py"),
    ("init_from", "weights.npz", "GAN starts from scratch"),
    ("init.weights", "ema", "config.init.weights='ema': a GAN starts from no weights"),
    ("data.mean", (0.5,), "config.data.mean=.*images of a GAN are in -1..1"),
    ("generator.num_classes", 10, "config.generator.num_classes=10: leave it out"),
    ("generator.image_size", 16, "config.generator.image_size=16: leave it out"),
    ("generator.gelu", "exct", "^config.generator.gelu='exct': unknown; did you mean 'exact'"),
    ("generator.latent_dims", 8, "^config.generator.latent_dims: unknown; .*'latent_dim'"),
    ("discriminator.name", {}, "^config.discriminator.name={}: unknown; allowed: conv"),
    ("discriminator.dims", (0,), "^config.discriminator.dims=.0,.: wrong; allowed: a tuple"),
    ("data.image_size", -1, "^config.data.image_size=-1: wrong; allowed: a positive integer"),
    ("data.image_size", 9, "^config.data.image_size=9: does not fit .*nearest: 8 or 10"),
    ("data.image_size", (8, 8), "^config.data.image_size=.8, 8.: the images of a GAN are square"),
    ("discriminator.num_classes", 10, "config.discriminator.num_classes=10: leave it out"),
    ("generator_optimizer.base_lr", -1.0, "config.generator_optimizer.base_lr=-1.0: out"),
    ("generator_optimizer.layer_decay", 0.75, "config.generator_optimizer.layer_decay=0.75: there"),
    ("generator_optimizer.freeze", ("nix",), "config.generator_optimizer.freeze='nix': matches no"),
    (
        "discriminator_optimizer.decay_exclude",
        ("nix",),
        "config.discriminator_optimizer.decay_exclude=.*matches no",
    ),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_wrong_options_are_errors(gan_config, tmp_path, key, value, message):
    section, _, name = key.rpartition(".")
    if section == "init":
        gan_config.init = {}
    with gan_config.ignore_type():
        (gan_config[section] if section else gan_config)[name] = value
    with pytest.raises(ConfigError, match=message) as error:
        train.train_and_evaluate(gan_config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("features", "given", "expected"),
    [
        ("", None, ""),
        ("inception.pth", None, "frechet_distance"),
        ("inception.pth", "precision", "precision"),
        ("inception.pth", "", ""),
    ],
)
def test_best_metric_of_its_own_choice_is_the_distance(gan_config, features, given, expected):
    gan_config.task.features, gan_config.checkpoint.best_metric = features, given
    checked = experiment.check_config(gan_config)["checkpoint"]
    assert checked["best_metric"] == expected
    assert checked["best_mode"] is None  # the smallest of distances, the largest of the others


def test_imagenet64_keeps_the_best_by_fid():
    config = imagenet64_nest_gan.get_config()
    config.task.features = "inception.pth"
    checked = experiment.check_config(config, needs_data=False)["checkpoint"]
    assert (checked["best_metric"], checked["best_mode"]) == ("frechet_distance", None)


def test_consistency_needs_augmentation(gan_config):
    gan_config.task.update(consistency=10.0, augment=())
    with pytest.raises(ConfigError, match="consistency=10.0: has nothing to compare: .*augment="):
        experiment.build(gan_config)


def test_frozen_parameters_are_counted(gan_config):
    everything = experiment.build(gan_config).notes(None)[0].split()
    gan_config.discriminator_optimizer.freeze = ("^from_pixels/",)  # 1x1 kernel and bias, 4 each
    some = experiment.build(gan_config).notes(None)[0].split()
    count, total = (int(word.replace(",", "")) for word in (some[0], some[2]))
    assert everything[0] == everything[2] == some[2]
    assert count == total - 8


def test_image_grid():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(3, 2)
    grid = image_grid(images, 2, gap_value=9)
    assert grid[:, :, 0].tolist() == [
        [0, 0, 0, 9, 1, 1, 1],
        [0, 0, 0, 9, 1, 1, 1],
        [9] * 7,
        [2, 2, 2, 9, 3, 3, 3],
        [2, 2, 2, 9, 3, 3, 3],
        [9] * 7,
        [4, 4, 4, 9, 9, 9, 9],
        [4, 4, 4, 9, 9, 9, 9],
    ]


# Whole runs.


def final_record(config, workdir):
    run = experiment.build(config)
    with Checkpoints(workdir=workdir, read_only=True, **config.checkpoint.to_dict()) as saved:
        step, state, _ = saved.restore(run.shapes)
    records = read_metrics(workdir).sound
    for record in records:
        for name in TIMINGS:
            record.pop(name, None)
    pictures = {path.name: path.read_bytes() for path in workdir.glob("*_*.png")}
    return step, state, records, pictures


def test_interrupted_equals_uninterrupted(compiled_once, gan_config, tmp_path, monkeypatch):
    """Both networks, both optimizers, the average, the noise: all arrays, numbers, pictures."""
    with monkeypatch.context() as patch:  # compiled once, or per kind of batch that is evaluated
        for name, kinds in (("train_step", 1), ("eval_step", 3)):
            patch.setattr(Gan, name, chex.assert_max_traces(getattr(Gan, name), kinds))
        chex.clear_trace_counter()
        train.train_and_evaluate(gan_config, tmp_path / "whole")
    original = Gan.check

    def check(self, scalars, step):  # killed between the evaluations, the next step has R1
        original(self, scalars, step)
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Gan, "check", check)
        with pytest.raises(Interrupted):
            train.train_and_evaluate(gan_config, tmp_path / "parts")
    train.train_and_evaluate(gan_config, tmp_path / "parts")
    whole, parts = (final_record(gan_config, tmp_path / name) for name in ("whole", "parts"))
    assert whole[0] == parts[0] == 8
    chex.assert_trees_all_equal(whole[1], parts[1])
    assert whole[2:] == parts[2:]
    assert len(whole[3]) == 4  # two evaluations
    assert {row["collapsed_steps"] for row in whole[2] if row["kind"] == "train"} == {0}
    picture = Image.open(tmp_path / "whole" / "samples_0000008.png")
    assert min(picture.size) >= 300


@pytest.mark.parametrize("cause", ["collapse", "nan"])
def test_what_ends_a_run(gan_config, tmp_path, cause):
    gan_config.loop.update(
        num_epochs=60.0, evaluate_every_epochs=60.0, save_every_epochs=1.0, log_every_steps=3
    )
    gan_config.task.update(loss="hinge", r1_weight=0.0, augment=(), collapse_steps=7)
    if cause == "nan":
        gan_config.discriminator_optimizer.base_lr = 1e30
        message = "step [123]: .*(generator|discriminator)_.*=(nan|inf).*its batch has the records"
    else:  # the generator stands still, and the discriminator learns 32 images
        gan_config.generator_optimizer.base_lr = 1e-12
        gan_config.discriminator_optimizer.base_lr = 1e-2
        message = "the discriminator has collapsed, for [789] steps .*logits of real"
    with pytest.raises(NonFiniteError, match=message) as caught:
        train.train_and_evaluate(gan_config, tmp_path)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "DONE").exists()
    if cause == "collapse":  # what stays is from before
        kept = [int(path.name) for path in (tmp_path / "checkpoints" / "latest").glob("[0-9]*")]
        step, state, records, _ = final_record(gan_config, tmp_path)
        assert step == max(kept) > min(kept) > 0
        assert step < records[-1]["step"]
        assert state.collapsed_steps == 0


def test_other_rates_lengths_and_seeds_compile_nothing(gan_config, tmp_path, compiles):
    train.train_and_evaluate(gan_config, tmp_path / "first")
    gan_config.seed = 5
    gan_config.loop.num_epochs = 3.0
    gan_config.task.ema_decay = 0.9
    gan_config.generator_optimizer.update(base_lr=5e-4, warmup_epochs=1.0)
    gan_config.discriminator_optimizer.update(base_lr=3e-4, weight_decay=1e-3)
    del compiles[:]
    train.train_and_evaluate(gan_config, tmp_path / "second")
    assert "compile_requests_use_cache" in compiles and "cache_misses" not in compiles
