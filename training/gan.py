"""Generative adversarial training: one Task, for every generator and discriminator here."""

from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from training.diff_augment import OPERATIONS, diff_augment
from training.errors import NonFiniteError
from training.gan_evaluation import GanEvaluation
from training.gan_losses import LOSSES, is_collapsed, r1_penalty, wasserstein_penalty
from training.gan_networks import GanNetworks
from training.metrics import check_finite


@flax.struct.dataclass
class GanState:
    """State of a GAN's run.

    Attributes:
        step: number of updates made of each network, int32.
        generator, discriminator: parameters, float32.
        generator_opt, discriminator_opt: of the optimizers.
        ema: exponential moving average of the generator, None when off.
        collapsed_steps: for how many steps in a row the discriminator has been collapsed, int32.
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

    Both see fresh noise. Images are float32 in -1..1.

    The run ends when the discriminator has been collapsed, see `is_collapsed`, for
    `collapse_steps` steps in a row.

    Args:
        generator, discriminator, latent_shape: see GanNetworks.
        generator_optimizer, discriminator_optimizer: from create_optimizer.
        generator_schedule, discriminator_schedule: likewise, to log.
        image_shape: (h, w, c) of an image.
        num_classes: of the data set.
        dataset: its name.
        batch_sharding: how a batch lies over the devices.
        loss: "logistic" (non-saturating), "hinge" or "wasserstein" (with gradient penalty).
        r1_weight: of the R1 penalty on real images; 0: none.
        r1_every_steps: the penalty enters each so many steps only, as much heavier (lazy
            regularisation: Karras et al., arXiv 1912.04958, appendix B).
        gradient_penalty: weight of the penalty of "wasserstein", in every step.
        augment: differentiable augmentation of what the discriminator sees, names of
            training/diff_augment.py.
        consistency: weight of the squared change of the logits under `augment`, of real and of
            generated images; the losses themselves then see plain images (balanced consistency,
            Zhao et al., arXiv 2002.04724). 0: off.
        conditional: generator and discriminator get the class.
        ema_decay: decay of the moving average of the generator per step; 0 or None: no average.
        ema_warmup: decay min(ema_decay, (1 + step) / (10 + step)).
        collapse_gap: mean logits of real and generated images further apart than this, see
            `is_collapsed`; 0 or None: any distance will do.
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
        loss: Literal["logistic", "hinge", "wasserstein"] = "logistic",
        r1_weight: float = 10.0,
        r1_every_steps: int = 16,
        gradient_penalty: float = 10.0,
        augment: tuple[str, ...] = ("translation", "cutout"),
        consistency: float = 0.0,
        conditional: bool = False,
        ema_decay: float | None = 0.999,
        ema_warmup: bool = True,
        collapse_gap: float | None = 40.0,
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
            ("collapse_gap", collapse_gap or 0.0, 0.0),
            ("r1_every_steps", r1_every_steps, 1),
            ("collapse_steps", collapse_steps, 1),
            ("neighbors", neighbors, 1),
            ("num_samples", num_samples, neighbors + 1),
        ):
            if not least <= value < float("inf"):
                raise ValueError(f"config.task.{key}={value} must be finite and at least {least}")
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise ValueError(f"config.task.ema_decay={ema_decay} is not in [0, 1)")
        self.networks = GanNetworks(
            generator, discriminator, latent_shape, num_classes if conditional else None, augment
        )
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.generator_schedule = generator_schedule
        self.discriminator_schedule = discriminator_schedule
        self.image_shape, self.num_classes, self.dataset = image_shape, num_classes, dataset
        self.batch_sharding = batch_sharding
        self.loss, self.has_wasserstein_penalty = LOSSES[loss], loss == "wasserstein"
        self.r1_weight, self.r1_every_steps = r1_weight, r1_every_steps
        self.gradient_penalty = gradient_penalty
        self.augment, self.consistency = augment, consistency
        self.conditional = conditional
        self.ema_decay, self.ema_warmup = ema_decay, ema_warmup
        self.collapse_gap, self.collapse_steps = collapse_gap, collapse_steps
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
        key = jax.random.fold_in(key, state.step)
        discriminator_key, generator_key = jax.random.split(key)

        grads, metrics = self._discriminator_gradients(state, batch, discriminator_key)
        metrics["discriminator_grad_norm"] = optax.tree.norm(grads)
        updates, discriminator_opt = self.discriminator_optimizer.update(
            grads, state.discriminator_opt, state.discriminator
        )
        discriminator = optax.apply_updates(state.discriminator, updates)

        def generator_loss(params):
            noise_key, judge_key = jax.random.split(generator_key)
            images, labels = self.networks.generate(params, noise_key, len(batch["image"]))
            judge = self.networks.judge(discriminator, judge_key, plain=bool(self.consistency))
            return self.loss.generator(judge(images, labels))

        value, grads = jax.value_and_grad(generator_loss)(state.generator)
        updates, generator_opt = self.generator_optimizer.update(
            grads, state.generator_opt, state.generator
        )
        generator = optax.apply_updates(state.generator, updates)
        ema = None
        if self.ema_decay:
            rate = 1.0 - self.ema_decay
            rate = jnp.maximum(rate, 9.0 / (10.0 + state.step)) if self.ema_warmup else rate
            ema = optax.incremental_update(generator, state.ema, rate)
        collapsed_steps = (state.collapsed_steps + 1) * metrics.pop("is_collapsed")
        metrics |= {
            "generator_loss": value,
            "generator_grad_norm": optax.tree.norm(grads),
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
                f"step {step}: the discriminator has been collapsed for more than "
                f"{self.collapse_steps} steps (config.task.collapse_steps): logits of real images "
                f"{scalars['logit_real']:.3g}, of generated {scalars['logit_generated']:.3g}; "
                "stopped"
            )

    def parameters(self, state: GanState):
        return {"generator": state.generator, "discriminator": state.discriminator}

    def trainable(self, state: GanState):
        return jax.tree.map(lambda _: True, self.parameters(state))

    def with_variables(self, state: GanState, variables) -> GanState:
        params = variables["params"]
        ema = jax.tree.map(jnp.copy, params) if self.ema_decay else None
        return state.replace(generator=params, ema=ema)

    def _discriminator_gradients(self, state: GanState, batch, key: jax.Array):
        keys = jax.random.split(key, 6)
        real = batch["image"].astype(jnp.float32) / 127.5 - 1.0
        real_labels = batch["label"] if self.conditional else None
        generated, labels = self.networks.generate(state.generator, keys[0], len(real))
        plain = bool(self.consistency)

        def loss(params):
            judge_real = self.networks.judge(params, keys[1], plain=plain)
            judge_generated = self.networks.judge(params, keys[2], plain=plain)
            real_logits = judge_real(real, real_labels)
            generated_logits = judge_generated(generated, labels)
            total = self.loss.discriminator(real_logits, generated_logits)
            metrics = {
                "discriminator_loss": total,
                "logit_real": real_logits.mean(),
                "logit_generated": generated_logits.mean(),
                "is_collapsed": is_collapsed(real_logits, generated_logits, self.collapse_gap),
            }
            if self.consistency:
                changes = [
                    self.networks.judge(params, own, plain=False)(images, classes) - logits
                    for own, images, classes, logits in (
                        (keys[3], real, real_labels, real_logits),
                        (keys[4], generated, labels, generated_logits),
                    )
                ]
                metrics["consistency_loss"] = sum((change**2).mean() for change in changes)
                total += self.consistency * metrics["consistency_loss"]
            if self.has_wasserstein_penalty:
                metrics["gradient_penalty"] = wasserstein_penalty(
                    keys[5], lambda x: judge_generated(x, real_labels), real, generated
                )
                total += self.gradient_penalty * metrics["gradient_penalty"]
            return total, metrics

        def r1(params):
            judge = self.networks.judge(params, keys[1], plain=True)
            images = real if plain else diff_augment(keys[5], real, self.augment)
            return r1_penalty(lambda x: judge(x, real_labels), images)

        grads, metrics = jax.grad(loss, has_aux=True)(state.discriminator)
        if self.r1_weight:
            weight = self.r1_weight * self.r1_every_steps

            def add(grads):
                value, more = jax.value_and_grad(r1)(state.discriminator)
                return jax.tree.map(lambda a, b: a + weight * b, grads, more), weight * value

            is_due = state.step % self.r1_every_steps == 0
            # On the other steps 0: the mean over a window is what the penalty adds to the loss.
            grads, metrics["r1_loss"] = jax.lax.cond(
                is_due, add, lambda grads: (grads, jnp.zeros(())), grads
            )
        return grads, metrics
