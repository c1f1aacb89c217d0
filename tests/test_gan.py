"""The GAN as a task: losses and penalties by hand, resuming, devices, samples, what ends a run."""

import json
import os
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import train
from configs import digits_nest_gan
from training import evaluation, experiment
from training.checkpoints import Checkpoints
from training.diff_augment import OPERATIONS, diff_augment
from training.errors import ConfigError, Interrupted, NonFiniteError
from training.gan import Gan
from training.gan_losses import (
    LOSSES,
    is_collapsed,
    r1_penalty,
    wasserstein_penalty,
)
from training.image_grid import image_grid
from training.optimizers import parameter_paths


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


class DenseGenerator(nn.Module):
    """A stand-in that compiles fast."""

    num_classes: int | None

    @nn.compact
    def __call__(self, noise, labels=None, train=False):
        if self.num_classes:
            noise = jnp.concatenate([noise, jax.nn.one_hot(labels, self.num_classes)], axis=-1)
        return jnp.tanh(nn.Dense(8 * 8, name="pixels")(noise)).reshape(-1, 8, 8, 1)


class DenseDiscriminator(nn.Module):
    """Likewise."""

    num_classes: int | None

    @nn.compact
    def __call__(self, images, labels=None, train=False):
        x = jnp.tanh(nn.Dense(5, name="hidden")(images.reshape(len(images), -1)))
        if self.num_classes:
            x += nn.Embed(self.num_classes, 5, name="classes")(labels)
        return nn.Dense(1, name="head")(x)[:, 0]


def some_steps(count, **options):
    """Returns the task, the batch and the states of `count` steps, with the scalars of each."""
    num_classes = 10 if "conditional" in options else None
    schedule = optax.constant_schedule(1e-2)
    task = Gan(
        generator=DenseGenerator(num_classes),
        discriminator=DenseDiscriminator(num_classes),
        latent_shape=(4,),
        generator_optimizer=optax.adam(schedule, b1=0.0),
        discriminator_optimizer=optax.adam(schedule, b1=0.0),
        generator_schedule=schedule,
        discriminator_schedule=schedule,
        image_shape=(8, 8, 1),
        num_classes=10,
        dataset="digits",
        **options,
    )
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (16, 8, 8, 1)), jnp.uint8),
        "label": jnp.arange(16) % 10,
    }
    step = jax.jit(task.train_step)
    states, scalars = [jax.jit(task.init)(jax.random.key(0))], []
    for _ in range(count):
        state, metrics = step(states[-1], batch, jax.random.key(1))
        states.append(state)
        scalars.append(jax.device_get(metrics))
    return task, batch, states, scalars


# Losses and penalties.


def test_losses_are_their_definitions():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(2, 9))

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    expected = {
        "logistic": (
            -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(generated)).mean(),
            -np.log(sigmoid(generated)).mean(),
        ),
        "hinge": (
            np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + generated).mean(),
            -generated.mean(),
        ),
        "wasserstein": (generated.mean() - real.mean(), -generated.mean()),
    }
    assert set(LOSSES) == set(expected)
    for name, (discriminator, generator) in expected.items():
        assert LOSSES[name].discriminator(real, generated) == pytest.approx(discriminator, 1e-5)
        assert LOSSES[name].generator(generated) == pytest.approx(generator, 1e-5)


def test_penalties_of_a_linear_discriminator():
    """Its gradient is its weights, everywhere: R1 is |w|^2 / 2, Wasserstein's (|w| - 1)^2."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, 4, 2)).astype(np.float32)
    real, generated = rng.normal(size=(2, 5, 4, 4, 2)).astype(np.float32)

    def logits(images):
        return (images * weights).sum(axis=(1, 2, 3)) + 3.0

    square = (weights.astype(np.float64) ** 2).sum()
    assert r1_penalty(logits, real) == pytest.approx(square / 2, rel=1e-5)
    penalty = wasserstein_penalty(jax.random.key(0), logits, real, generated)
    assert penalty == pytest.approx((square**0.5 - 1) ** 2, rel=1e-5)


def test_r1_is_taken_at_the_real_images():
    images = np.random.default_rng(0).normal(size=(6, 3, 3, 1)).astype(np.float32)
    # logit = sum x^2 / 2 has the gradient x.
    value = r1_penalty(lambda x: (x**2).sum(axis=(1, 2, 3)) / 2, images)
    assert value == pytest.approx((images**2).sum() / 6 / 2, rel=1e-5)


def test_lazy_r1_and_the_moving_average():
    """The penalty enters each third step, three times as heavy."""
    task, batch, states, scalars = some_steps(
        5, r1_weight=2.0, r1_every_steps=3, augment=(), ema_decay=0.9, ema_warmup=False
    )
    assert [row["r1_loss"] > 0 for row in scalars] == [True, False, False, True, False]
    real = batch["image"] / 127.5 - 1.0

    def logits(images):
        return task.networks.discriminator.apply({"params": states[0].discriminator}, images)

    gradients = jax.grad(lambda x: logits(x).sum())(real)
    expected = 3 * 2.0 / 2 * (gradients**2).sum() / len(real)
    assert scalars[0]["r1_loss"] == pytest.approx(float(expected), rel=1e-4)

    for before, after, new in zip(
        *(jax.tree.leaves(x) for x in (states[1].ema, states[2].ema, states[2].generator)),
        strict=True,
    ):
        np.testing.assert_allclose(after, 0.9 * before + 0.1 * new, atol=1e-6)


def test_collapse():
    def told(real, generated, gap=40.0):
        return int(is_collapsed(jnp.asarray(real), jnp.asarray(generated), gap))

    assert told([30.0, 20.0], [-30.0, -20.0]) == 1
    assert told([30.0, -0.1], [-30.0, -90.0]) == 0  # wrong about one
    assert told([3.0, 2.0], [-3.0, -2.0]) == 0  # right, and near enough to learn from
    assert told([30.0, 20.0], [-30.0, -20.0], gap=None) == 0
    assert told([0.5, 0.5], [0.5, 0.5]) == told([0.5, 0.5], [0.5, 0.5], gap=None) == 1


# Differentiable augmentation.


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_keeps_shapes_and_lets_gradients_through(name, channels):
    images = jax.random.uniform(jax.random.key(0), (7, 8, 12, channels), minval=-1.0)
    augmented = diff_augment(jax.random.key(1), images, (name,))
    assert augmented.shape == images.shape
    assert not np.allclose(augmented, images)
    gradients = jax.grad(lambda x: (diff_augment(jax.random.key(1), x, (name,)) ** 2).sum())(images)
    assert np.isfinite(gradients).all()
    assert (np.abs(gradients).sum(axis=(1, 2, 3)) > 0).all()


def test_translation_is_a_shift_of_its_own_for_each_image():
    image = np.arange(1.0, 17 * 16 + 1).reshape(16, 17, 1)
    moved = np.asarray(OPERATIONS["translation"](jax.random.key(0), jnp.asarray([image] * 60)))
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    crops = {padded[i : i + 16, j : j + 17].tobytes(): (i, j) for i in range(5) for j in range(5)}
    found = {crops[each.astype(np.float64).tobytes()] for each in moved}
    assert len(found) > 15  # of 25


def test_cutout_is_a_square_of_half_the_side_around_any_place():
    holes = 1 - np.asarray(OPERATIONS["cutout"](jax.random.key(0), jnp.ones((300, 16, 16, 1))))
    rows, columns = holes.max(axis=2)[..., 0], holes.max(axis=1)[..., 0]
    assert (holes[..., 0] == rows[:, :, None] * columns[:, None, :]).all()
    sizes = rows.sum(axis=1)
    assert set(sizes) == {4.0, 5.0, 6.0, 7.0, 8.0}  # half of it may hang over
    assert (holes.mean(axis=0) > 0.03).all()  # at a corner (4 or 5 / 16)^2 on average


def test_color_of_grey_and_saturation():
    grey = jnp.broadcast_to(jax.random.uniform(jax.random.key(0), (50, 4, 4, 1)), (50, 4, 4, 3))
    out = np.asarray(OPERATIONS["color"](jax.random.key(1), grey))
    np.testing.assert_allclose(out, out[..., :1].repeat(3, axis=-1), atol=1e-5)  # stays grey
    shift = out.mean(axis=(1, 2, 3)) - np.asarray(grey).mean(axis=(1, 2, 3))
    assert -0.5 <= shift.min() < -0.4 < 0.4 < shift.max() <= 0.5
    contrast = out.std(axis=(1, 2, 3)) / np.asarray(grey).std(axis=(1, 2, 3))
    assert 0.5 <= contrast.min() < 0.6 < 1.4 < contrast.max() <= 1.5


# Steps.


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "hinge", "conditional": True, "consistency": 10.0},
        {"loss": "wasserstein", "r1_weight": 0.0, "ema_decay": None},
    ],
    ids=["hinge-conditional-consistent", "wasserstein-no-average"],
)
def test_steps_of_all_kinds(options):
    _, _, states, scalars = some_steps(3, **options)
    for row in scalars:
        assert all(np.isfinite(value) for value in row.values())
    for part in ("generator", "discriminator"):
        before, after = (parameter_paths(getattr(states[i], part)) for i in (0, -1))
        for name, new in after.items():
            # The last bias moves all logits alike: these two losses have no slope along it.
            assert np.abs(new - before[name]).max() > 0 or name == "head/bias", name


def test_the_generator_learns_from_the_updated_discriminator():
    """By hand, of plain images: its gradient is that of -log D(G(z)) with the new weights."""
    task, _, states, scalars = some_steps(1, augment=(), r1_weight=0.0)
    _, generator_key = jax.random.split(jax.random.fold_in(jax.random.key(1), 0))
    noise_key, _ = jax.random.split(generator_key)

    def loss(params):
        images, _ = task.networks.generate(params, noise_key, 16)
        logits = task.networks.discriminator.apply({"params": states[1].discriminator}, images)
        return -jnp.log(jax.nn.sigmoid(logits)).mean()

    value, gradients = jax.value_and_grad(loss)(states[0].generator)
    assert scalars[0]["generator_loss"] == pytest.approx(float(value), rel=1e-4)
    norm = float(optax.tree.norm(gradients))
    assert scalars[0]["generator_grad_norm"] == pytest.approx(norm, rel=1e-3)


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


def test_wrong_options_are_errors(gan_config):
    for key, value, message in (
        ("augment", ("rotation",), "augment=.*'rotation' is none of color, translation, cutout"),
        ("loss", "softmax", "config.task.loss='softmax'"),
        ("r1_every_steps", 0, "r1_every_steps=0 must be finite and at least 1"),
        ("features", "nowhere", "no trained classifier; train one: .*configs/digits_nest.py"),
    ):
        config = gan_config.copy_and_resolve_references()
        config.task[key] = value
        with pytest.raises((ConfigError, ValueError), match=message):
            experiment.build(config)
    gan_config.init_from = "weights.npz"
    with pytest.raises(ConfigError, match="GAN starts from scratch"):
        experiment.build(gan_config)


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
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    for record in records:
        for name in ("images_per_second", "input_wait"):
            record.pop(name, None)
    pictures = {path.name: path.read_bytes() for path in workdir.glob("*_*.png")}
    return step, state, records, pictures


def test_interrupted_equals_uninterrupted(gan_config, tmp_path, monkeypatch):
    """Both networks, both optimizers, the average, the noise: all arrays, numbers, pictures."""
    train.train_and_evaluate(gan_config, tmp_path / "whole")
    original = Gan.check
    for step in (3, 6):  # after it the run is killed; saved at 2, 4, 6, 8

        def check(self, scalars, now, step=step):
            original(self, scalars, now)
            if now == step:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(Gan, "check", check)
            with pytest.raises(Interrupted):
                train.train_and_evaluate(gan_config, tmp_path / "parts")
    train.train_and_evaluate(gan_config, tmp_path / "parts")
    whole, parts = (final_record(gan_config, tmp_path / name) for name in ("whole", "parts"))
    assert whole[0] == parts[0] == 8
    leaves, other = jax.tree.leaves(whole[1]), jax.tree.leaves(parts[1])
    for x, y in zip(leaves, other, strict=True):
        np.testing.assert_array_equal(x, y)
    assert whole[2:] == parts[2:]
    assert len(whole[3]) == 4  # two evaluations
    picture = Image.open(tmp_path / "whole" / "samples_0000008.png")
    assert min(picture.size) >= 300


@pytest.mark.parametrize("cause", ["collapse", "nan"])
def test_what_ends_a_run(gan_config, tmp_path, cause):
    gan_config.loop.update(num_epochs=40.0, save_every_epochs=1.0, log_every_steps=3)
    if cause == "nan":
        gan_config.discriminator_optimizer.base_lr = 1e30
        message = "step [23]: the state has non-finite values|_loss=(nan|inf).*step 3"
    else:  # the generator stands still, and the discriminator learns 32 images
        gan_config.generator_optimizer.base_lr = 1e-12
        gan_config.generator.dtype = gan_config.discriminator.dtype = "bfloat16"
        gan_config.discriminator_optimizer.base_lr = 1e-2
        gan_config.task.update(r1_weight=0.0, augment=(), collapse_gap=1.0, collapse_steps=4)
        message = "the discriminator has been collapsed for more than 4 steps .*logits of real"
    with pytest.raises(NonFiniteError, match=message) as caught:
        train.train_and_evaluate(gan_config, tmp_path)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "DONE").exists()
    if cause == "collapse":
        assert final_record(gan_config, tmp_path)[0] > 0  # a checkpoint stays
