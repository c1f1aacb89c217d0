"""A step of the GAN by hand: losses, penalties, both gradients, the average, what a collapse is."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harness.errors import NonFiniteError
from tasks.gan.diff_augment import diff_augment
from tasks.gan.evaluation import GanEvaluator
from tasks.gan.losses import LOSSES, count_collapsed, is_collapsed, r1_penalty, wasserstein_penalty
from tasks.gan.networks import GanNetworks
from tasks.gan.options import GanOptions
from tasks.gan.task import Gan
from tasks.metrics import mean_scalars
from tasks.optimizers import Optimizer, create_optimizer
from tasks.parameter_masks import parameter_paths
from tasks.schedules import create_schedule

RATE = 0.05
BATCH = 16


class DenseGenerator(nn.Module):
    """A stand-in that compiles fast."""

    num_classes: int | None

    @nn.compact
    def __call__(self, noise, labels=None, train=False):
        if self.num_classes:
            noise = jnp.concatenate([noise, jax.nn.one_hot(labels, self.num_classes)], axis=-1)
        return jnp.tanh(nn.Dense(8 * 8 * 3, name="pixels")(noise)).reshape(-1, 8, 8, 3)


class DenseDiscriminator(nn.Module):
    """A stand-in that compiles fast."""

    num_classes: int | None

    @nn.compact
    def __call__(self, images, labels=None, train=False):
        x = jnp.tanh(nn.Dense(5, name="hidden")(images.reshape(len(images), -1)))
        if self.num_classes:
            x += nn.Embed(self.num_classes, 5, name="classes")(labels)
        return nn.Dense(1, name="head")(x)[:, 0]


def sgd(**options):
    given = {"batch_size": BATCH, "steps_per_epoch": 1.0, "total_steps": 9, "momentum": 0.0}
    return create_optimizer(name="sgd", schedule="constant", base_lr=RATE, **given, **options)


def create_task(optimizers=None, freeze=None, **options):
    num_classes = 10 if options.get("conditional") else None
    generator, discriminator = optimizers or (sgd(), sgd())
    networks = GanNetworks(
        generator=DenseGenerator(num_classes),
        discriminator=DenseDiscriminator(num_classes),
        latent_shape=(4,),
        image_shape=(8, 8, 3),
        num_classes=num_classes,
    )
    options = GanOptions(**options)
    return Gan(
        options=options,
        networks=networks,
        optimizers={
            "generator": generator,
            "discriminator": discriminator,
        },
        evaluator=GanEvaluator(options, networks, real_images={}),
        freeze=freeze or {"generator": (), "discriminator": ()},
    )


def a_batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 8, 8, 3))
    return {"image": images.astype(np.uint8), "label": np.arange(BATCH, dtype=np.int32) % 10}


def run_steps(task, count):
    """Returns the states before and after each of `count` steps, and the scalars of each."""
    step = jax.jit(task.train_step)
    states, scalars = [jax.jit(task.init)(jax.random.key(0))], []
    for _ in range(count):
        state, metrics = step(states[-1], a_batch(), jax.random.key(1), task.hyperparameters)
        states.append(state)
        scalars.append(jax.device_get(metrics))
    return states, scalars


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


# Steps.


def by_hand(task, step, generator, discriminator, options):
    """Both networks after a step of gradient descent, from the formulas of the papers.

    Keys: the run's, folded with the step, is split in two, for the discriminator and for the
    generator. The first is split in six: generated images, judge of the real, judge of the
    generated ones, the two again for consistency, penalty. The second in two: images and judge.
    A key of images splits in three: noise, classes, dropout. One of a judge in two: augmentation
    and dropout.
    """
    loss = options["loss"]
    augment = options["augment"]
    consistency = options.get("consistency", 0.0)
    conditional = options.get("conditional", False)
    step_key = jax.random.fold_in(jax.random.key(1), step)
    discriminator_key, generator_key = jax.random.split(step_key)
    keys = jax.random.split(discriminator_key, 6)
    real = np.asarray(a_batch()["image"], np.float32) / 127.5 - 1.0
    real_labels = a_batch()["label"] if conditional else None

    def generate(params, key):
        noise_key, label_key, _ = jax.random.split(key, 3)
        labels = jax.random.randint(label_key, (BATCH,), 0, 10) if conditional else None
        noise = jax.random.normal(noise_key, (BATCH, 4))
        return task.networks.generator.apply({"params": params}, noise, labels), labels

    def augmented(images, key):
        return diff_augment(jax.random.split(key)[0], images, augment)

    def seen(images, key):  # balanced consistency: the losses are of plain images
        return images if consistency else augmented(images, key)

    def judge(params, images, labels):
        return task.networks.discriminator.apply({"params": params}, images, labels)

    def slopes(logit, images):  # |d logit / d image|, one image at a time
        gradients = jax.vmap(jax.grad(logit))(images, jnp.arange(BATCH))
        return jnp.linalg.norm(gradients.reshape(BATCH, -1), axis=1)

    fake, fake_labels = generate(generator, keys[0])

    def discriminator_loss(params):
        on_real = judge(params, seen(real, keys[1]), real_labels)
        on_fake = judge(params, seen(fake, keys[2]), fake_labels)
        if loss == "logistic":
            total = -jnp.log(jax.nn.sigmoid(on_real)).mean()
            total -= jnp.log(1 - jax.nn.sigmoid(on_fake)).mean()
        elif loss == "hinge":
            total = jnp.maximum(0, 1 - on_real).mean() + jnp.maximum(0, 1 + on_fake).mean()
        else:
            total = on_fake.mean() - on_real.mean()
        if consistency:
            change = judge(params, augmented(real, keys[3]), real_labels) - on_real
            other = judge(params, augmented(fake, keys[4]), fake_labels) - on_fake
            total += consistency * ((change**2).mean() + (other**2).mean())
        if loss == "wasserstein":
            share = jax.random.uniform(keys[5], (BATCH, 1, 1, 1))
            between = share * real + (1 - share) * fake

            def logit(image, i):
                images = seen(between.at[i].set(image), keys[2])
                return judge(params, images, real_labels)[i]

            penalty = ((slopes(logit, between) - 1) ** 2).mean()
            total += options["gradient_penalty"] * penalty
        if options["r1_weight"] and step % options["r1_every_steps"] == 0:
            images = real if consistency else diff_augment(keys[5], real, augment)

            def logit(image, i):
                return judge(params, images.at[i].set(image), real_labels)[i]

            images = jnp.asarray(images)
            weight = options["r1_weight"] * options["r1_every_steps"]
            total += weight / 2 * (slopes(logit, images) ** 2).mean()
        return total

    def descend(params, gradients):
        return jax.tree.map(lambda p, g: p - RATE * g, params, gradients)

    updated = descend(discriminator, jax.grad(discriminator_loss)(discriminator))
    image_key, judge_key = jax.random.split(generator_key)
    against = updated
    if options.get("steps") == "joint":  # as above, the very same images
        image_key, judge_key, against = keys[0], keys[2], discriminator

    def generator_loss(params):
        images, labels = generate(params, image_key)
        logits = judge(against, seen(images, judge_key), labels)
        return -jnp.log(jax.nn.sigmoid(logits)).mean() if loss == "logistic" else -logits.mean()

    return descend(generator, jax.grad(generator_loss)(generator)), updated


ALL = ("color", "translation", "cutout")
LAZY = {"r1_weight": 1.5, "r1_every_steps": 2}  # three times the penalty, each other step
OPTIONS = {
    "logistic": {"loss": "logistic", "augment": ALL} | LAZY,
    "joint": {"loss": "logistic", "augment": ("color",), "steps": "joint"} | LAZY,
    "consistent": {"loss": "hinge", "augment": ALL, "consistency": 3.0, "conditional": True} | LAZY,
    "conditional": {"loss": "hinge", "augment": ("cutout",), "conditional": True} | LAZY,
    "wasserstein": {"loss": "wasserstein", "augment": ("color", "cutout"), "conditional": True}
    | {"r1_weight": 0.0, "gradient_penalty": 2.0},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("conditional", "joint") else name
        for name in OPTIONS
    ],
)
def test_a_step_is_what_the_papers_say(name):
    """The first step has the lazy penalty, the second has not."""
    task = create_task(**OPTIONS[name])
    states, _ = run_steps(task, 2)
    for step in range(2):
        before, after = states[step], states[step + 1]
        calculate = jax.jit(functools.partial(by_hand, task, step, options=OPTIONS[name]))
        expected = calculate(before.generator, before.discriminator)
        for network, new in zip(("generator", "discriminator"), expected, strict=True):
            old = getattr(before, network)
            found = jax.tree.map(lambda a, b: (a - b) / RATE, getattr(after, network), old)
            wanted = jax.tree.map(lambda a, b: (a - b) / RATE, new, old)
            size = max(float(abs(x).max()) for x in jax.tree.leaves(wanted))
            assert size > 1e-3
            chex.assert_trees_all_close(found, wanted, rtol=1e-7, atol=2e-4 * size)


def test_lazy_r1_and_the_moving_average():
    """With warm-up the decays are 1/10, 2/11, 3/12, then the given one."""
    task = create_task(r1_weight=2.0, r1_every_steps=3, augment=(), ema_decay=0.2, ema_warmup=True)
    states, scalars = run_steps(task, 4)
    assert [row["r1_loss"] > 0 for row in scalars] == [True, False, False, True]

    def logits(images):
        return task.networks.discriminator.apply({"params": states[0].discriminator}, images)

    real = a_batch()["image"] / np.float32(127.5) - 1.0
    gradients = jax.grad(lambda x: logits(x).sum())(real)
    expected = 3 * 2.0 / 2 * (gradients**2).sum() / BATCH
    assert scalars[0]["r1_loss"] == pytest.approx(float(expected), rel=1e-4)

    average = np.asarray(states[0].generator["pixels"]["kernel"], np.float64)
    for decay, state in zip((1 / 10, 2 / 11, 0.2, 0.2), states[1:], strict=True):
        new = np.asarray(state.generator["pixels"]["kernel"], np.float64)
        average = decay * average + (1 - decay) * new
        np.testing.assert_allclose(state.ema["pixels"]["kernel"], average, atol=1e-6)
    assert create_task(ema_decay=None).init(jax.random.key(0)).ema is None


def test_frozen_parameters_stay_and_are_in_no_norm():
    patterns = {"generator": ("kernel$",), "discriminator": ("^hidden/",)}
    task = create_task(
        tuple(sgd(freeze=freeze) for freeze in patterns.values()),
        patterns,
    )
    states, scalars = run_steps(task, 1)
    old, new = (task.parameters(state) for state in states)
    first, last = parameter_paths(old), parameter_paths(new)
    moved = {name for name in first if not np.array_equal(first[name], last[name])}
    assert moved == {
        "generator/pixels/bias",
        *(f"discriminator/head/{n}" for n in ("bias", "kernel")),
    }
    np.testing.assert_array_equal(*(state.ema["pixels"]["kernel"] for state in states))
    for name in patterns:
        step = optax.tree.norm(jax.tree.map(jnp.subtract, new[name], old[name]))
        assert scalars[0][f"{name}_grad_norm"] == pytest.approx(float(step) / RATE, rel=1e-3)


# What a collapse is.


def collapsed(loss, real, generated):
    return bool(is_collapsed(LOSSES[loss], jnp.float32(real), jnp.float32(generated)))


def test_collapse_is_a_loss_of_nothing_or_no_difference():
    assert collapsed("logistic", [11.0, 12.0], [-11.0, -13.0])  # nothing left to learn
    assert not collapsed("logistic", [11.0, 12.0], [-11.0, 1.0])  # wrong about one
    assert not collapsed("logistic", [6.0, 8.0], [-6.0, -8.0])
    assert collapsed("hinge", [1.5, 1.0], [-1.0, -3.0])  # its own gradient is 0
    assert not collapsed("hinge", [1.5, 0.9], [-1.0, -3.0])
    for loss in LOSSES:
        assert collapsed(loss, [0.5, 0.5], [0.5, 0.5])
        assert collapsed(loss, [20.0, 20.0], [20.000002, 20.0])  # but for rounding
        assert not collapsed(loss, [0.01, 0.02], [0.0, -0.01])
    assert not collapsed("wasserstein", [40.0, 50.0], [-40.0, -50.0])
    assert not collapsed("wasserstein", [1000.0, 1001.0], [999.0, 1000.0])  # zero means nothing


def windows(task, count):
    """Yields what `check` gets after each 100 steps, and the state."""

    @jax.jit
    def hundred(state):
        return jax.lax.scan(
            lambda s, _: task.train_step(s, batch, jax.random.key(1), task.hyperparameters),
            state,
            length=100,
        )

    state, batch = task.init(jax.random.key(0)), a_batch()
    for number in range(count):
        state, rows = hundred(state)
        rows = [{name: column[i] for name, column in rows.items()} for i in range(100)]
        yield 100 * (number + 1), mean_scalars(rows), state


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_a_frozen_generator_ends_the_run(loss):
    """With the settings of collapse as they are, and nothing that holds the discriminator back."""
    schedule = create_schedule(kind="constant", peak=RATE, final=0.0, warmup_steps=0, total_steps=9)
    optimizers = tuple(
        Optimizer(lambda _, made=made: made, schedule, {"schedule": schedule.numbers})
        for made in (optax.set_to_zero(), optax.adam(3e-2, b1=0.0, b2=0.99))
    )
    task = create_task(optimizers, loss=loss, r1_weight=0.0, augment=())
    with pytest.raises(NonFiniteError, match="the discriminator has collapsed, for [5-6]..? steps"):
        for step, scalars, state in windows(task, 15):
            task.check(scalars, step)
            last = state, scalars
    assert not task.is_good(last[0])
    assert last[1]["collapsed_steps"] == last[0].collapsed_steps  # not its mean


def test_logits_of_training_that_works():
    """Those of digits_nest_gan (loss 1.31 to 1.38, means up to 0.4), and much surer ones."""
    rng = np.random.default_rng(0)
    for mean, deviation, losses in (
        (0.2, 0.5, LOSSES),
        (1.0, 1.0, LOSSES),
        (6.0, 2.0, ("logistic", "wasserstein")),
    ):
        for _ in range(50):
            real, generated = rng.normal(mean, deviation, 64), rng.normal(-mean, deviation, 64)
            assert not any(collapsed(loss, real, generated) for loss in losses)


def test_single_steps_make_no_collapse_and_hide_none():
    def count(steps):
        total = jnp.int32(0)
        for step in steps:
            total = count_collapsed(total, jnp.bool_(step))
        return int(total)

    assert count([True] * 30) == 30
    assert count(([True] * 9 + [False]) * 10) == 80
    assert count([True, False, False] * 20) == 0
