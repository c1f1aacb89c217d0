"""Generative adversarial training: one Task, for every generator and discriminator here."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from harness.errors import NonFiniteError
from harness.trees import select
from tasks.gan.diff_augment import OPERATIONS
from tasks.gan.evaluation import GanEvaluation
from tasks.gan.gradients import GanGradients
from tasks.gan.losses import count_collapsed
from tasks.gan.networks import GanNetworks
from tasks.metrics import check_finite
from tasks.moving_average import average_rate


@flax.struct.dataclass
class GanState:
    """State of a GAN's run.

    Attributes:
        step: number of updates made of each network, int32.
        generator, discriminator: parameters, float32.
        generator_opt, discriminator_opt: of the optimizers.
        ema: exponential moving average of the generator, None when off.
        collapsed_steps: by how much steps with a collapsed discriminator outnumber the others of
            late, int32.
    """

    step: jax.Array
    generator: Any
    discriminator: Any
    generator_opt: Any
    discriminator_opt: Any
    ema: Any
    collapsed_steps: jax.Array


class Gan(GanEvaluation):
    """A step updates the discriminator, then the generator; section `task` are keyword arguments.

    Images are float32 in -1..1.

    The run ends when the discriminator has been collapsed (`is_collapsed`) for `collapse_steps`
    steps, each other step counting against one of them (`count_collapsed`).

    Args:
        generator, discriminator, latent_shape: see GanNetworks.
        generator_optimizer, discriminator_optimizer: from create_optimizer.
        generator_schedule, discriminator_schedule: likewise, to log.
        image_shape: (h, w, c) of an image.
        num_classes: of the data set.
        dataset: its name.
        batch_sharding: how a batch lies over the devices.
        trainable: `trainable({"generator": params, "discriminator": params})` gives trees of bools,
            False for parameters that stay as they are, their average with them; None: all are
            trained.
        loss: "logistic" (non-saturating), "hinge" or "wasserstein" (with gradient penalty).
        steps: "alternating": the generator learns from the updated discriminator, with noise of its
            own; "joint": both gradients are of the same state and the same generated images.
        r1_weight: of the R1 penalty on real images; 0: none, as "wasserstein" wants, whose penalty
            is another.
        r1_every_steps: the penalty enters each so many steps only, as much heavier (lazy
            regularisation: Karras et al., arXiv 1912.04958, appendix B).
        gradient_penalty: weight of the penalty of "wasserstein", in every step; no other loss has
            it. With classes, an image between a real and a generated one has the real one's.
        augment: differentiable augmentation of what the discriminator sees, names of
            tasks/gan/diff_augment.py.
        consistency: weight of the squared change of the logits under `augment`, of real and of
            generated images; the losses themselves then see plain images (balanced consistency,
            Zhao et al., arXiv 2002.04724). 0: off.
        conditional: generator and discriminator get the class.
        ema_decay: decay of the moving average of the generator per step; 0 or None: no average.
        ema_warmup: decay min(ema_decay, (1 + step) / (10 + step)).
        collapse_steps: see above.
        features: workdir of a classifier, or file of Inception-v3's weights, in whose features
            samples are compared with the split; "": they are only drawn.
        statistics: file of features of real images, or of their mean and covariance, to compare
            with in place of the split's, see load_statistics; "": the split's.
        num_samples: generated in an evaluation.
        neighbors: of precision and recall.
    """

    model = None  # files of weights are of classifiers

    def __init__(
        self,
        *,
        generator: nn.Module,
        discriminator: nn.Module,
        latent_shape: tuple[int, ...],
        generator_optimizer: optax.GradientTransformation,
        discriminator_optimizer: optax.GradientTransformation,
        generator_schedule: optax.Schedule,
        discriminator_schedule: optax.Schedule,
        image_shape: tuple[int, int, int],
        num_classes: int,
        dataset: str,
        batch_sharding: NamedSharding | None = None,
        trainable: Callable | None = None,
        loss: Literal["logistic", "hinge", "wasserstein"] = "logistic",
        steps: Literal["alternating", "joint"] = "alternating",
        r1_weight: float = 10.0,
        r1_every_steps: int = 16,
        gradient_penalty: float = 10.0,
        augment: tuple[str, ...] = ("color", "translation", "cutout"),
        consistency: float = 0.0,
        conditional: bool = False,
        ema_decay: float | None = 0.999,
        ema_warmup: bool = True,
        collapse_steps: int = 500,
        features: str = "",
        statistics: str = "",
        num_samples: int = 1000,
        neighbors: int = 3,
    ):
        for name in augment:
            if name not in OPERATIONS:
                allowed = ", ".join(OPERATIONS)
                raise ValueError(f"config.task.augment={augment!r}: {name!r} is none of {allowed}")
        for key, value, least in (
            ("r1_weight", r1_weight, 0.0),
            ("gradient_penalty", gradient_penalty, 0.0),
            ("consistency", consistency, 0.0),
            ("r1_every_steps", r1_every_steps, 1),
            ("collapse_steps", collapse_steps, 1),
            ("neighbors", neighbors, 1),
            ("num_samples", num_samples, neighbors + 1),
        ):
            if not least <= value < float("inf"):
                raise ValueError(f"config.task.{key}={value} must be finite and at least {least}")
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise ValueError(f"config.task.ema_decay={ema_decay} is not in [0, 1)")
        if consistency and not augment:
            raise ValueError(
                f"config.task.consistency={consistency} has nothing to compare: "
                "config.task.augment=()"
            )
        if loss == "wasserstein" and r1_weight and gradient_penalty:
            raise ValueError(
                "config.task.loss='wasserstein' has a penalty of its own: set "
                "config.task.r1_weight=0.0, or config.task.gradient_penalty=0.0 to have R1 instead"
            )
        self.networks = GanNetworks(
            generator, discriminator, latent_shape, num_classes if conditional else None, augment
        )
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.generator_schedule = generator_schedule
        self.discriminator_schedule = discriminator_schedule
        self.image_shape, self.num_classes, self.dataset = image_shape, num_classes, dataset
        self.batch_sharding, self._trainable = batch_sharding, trainable
        self.gradients = GanGradients(
            self.networks, loss, r1_weight, r1_every_steps, gradient_penalty, consistency
        )
        self.steps, self.conditional = steps, conditional
        self.ema_decay, self.ema_warmup = ema_decay, ema_warmup
        self.collapse_steps = collapse_steps
        self.num_samples, self.neighbors = num_samples, neighbors
        self.load_features(features, statistics)

    def init(self, key: jax.Array) -> GanState:
        generator_key, discriminator_key = jax.random.split(key)
        noise = jnp.zeros((1, *self.networks.latent_shape))
        labels = jnp.zeros((1,), jnp.int32) if self.conditional else None
        images = jnp.zeros((1, *self.image_shape))
        generator = self.networks.generator.init(generator_key, noise, labels)["params"]
        discriminator = self.networks.discriminator.init(discriminator_key, images, labels)[
            "params"
        ]
        return GanState(
            step=jnp.zeros((), jnp.int32),
            generator=generator,
            discriminator=discriminator,
            generator_opt=self.generator_optimizer.init(generator),
            discriminator_opt=self.discriminator_optimizer.init(discriminator),
            ema=jax.tree.map(jnp.copy, generator) if self.ema_decay else None,
            collapsed_steps=jnp.zeros((), jnp.int32),
        )

    def train_step(self, state: GanState, batch, key: jax.Array):
        discriminator_key, generator_key = jax.random.split(jax.random.fold_in(key, state.step))
        keys = jax.random.split(discriminator_key, 6)  # see GanGradients.discriminator
        real = batch["image"].astype(jnp.float32) / 127.5 - 1.0
        labels = batch["label"] if self.conditional else None
        trained = self.trainable(state)

        grads, metrics = self.gradients.discriminator(
            state.discriminator, state.generator, keys, real, labels, state.step
        )
        grads = select(trained["discriminator"], grads, optax.tree.zeros_like(grads))
        metrics["discriminator_grad_norm"] = optax.tree.norm(grads)
        updates, discriminator_opt = self.discriminator_optimizer.update(
            grads, state.discriminator_opt, state.discriminator
        )
        discriminator = optax.apply_updates(state.discriminator, updates)

        if self.steps == "alternating":
            judge, generator_keys = discriminator, jax.random.split(generator_key)
        else:
            judge, generator_keys = state.discriminator, (keys[0], keys[2])
        value, grads = self.gradients.generator(state.generator, judge, generator_keys, len(real))
        grads = select(trained["generator"], grads, optax.tree.zeros_like(grads))
        metrics |= {"generator_loss": value, "generator_grad_norm": optax.tree.norm(grads)}
        updates, generator_opt = self.generator_optimizer.update(
            grads, state.generator_opt, state.generator
        )
        generator = optax.apply_updates(state.generator, updates)

        ema = None
        if self.ema_decay:
            rate = average_rate(state.step, self.ema_decay, warmup=self.ema_warmup)
            ema = optax.incremental_update(generator, state.ema, rate)
            ema = select(trained["generator"], ema, state.ema)
        collapsed_steps = count_collapsed(state.collapsed_steps, metrics.pop("is_collapsed"))
        metrics |= {
            "generator_learning_rate": self.generator_schedule(state.step),
            "discriminator_learning_rate": self.discriminator_schedule(state.step),
            "collapsed_steps": collapsed_steps,
        }
        state = GanState(
            step=state.step + 1,
            generator=generator,
            discriminator=discriminator,
            generator_opt=generator_opt,
            discriminator_opt=discriminator_opt,
            ema=ema,
            collapsed_steps=collapsed_steps,
        )
        return state, metrics

    def check(self, scalars: dict[str, float], step: int) -> None:
        check_finite(scalars, step)
        if scalars["collapsed_steps"] >= self.collapse_steps:
            raise NonFiniteError(
                f"step {step}: the discriminator has collapsed, for {scalars['collapsed_steps']} "
                f"steps (config.task.collapse_steps={self.collapse_steps}): its loss is "
                f"{scalars['discriminator_loss']:.3g}, logits of real images "
                f"{scalars['logit_real']:.3g}, of generated {scalars['logit_generated']:.3g}; "
                "stopped"
            )

    def is_good(self, state: GanState) -> jax.Array:
        return state.collapsed_steps == 0

    def parameters(self, state: GanState):
        return {"generator": state.generator, "discriminator": state.discriminator}

    def trainable(self, state: GanState):
        params = self.parameters(state)
        if self._trainable is None:
            return jax.tree.map(lambda _: True, params)
        return self._trainable(params)
