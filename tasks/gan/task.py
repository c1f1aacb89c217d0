"""Generative adversarial training: one Task, for every generator and discriminator here."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax

from harness.errors import NonFiniteError
from harness.trees import select
from tasks.ema import ParameterEma
from tasks.gan.evaluation import GanEvaluator
from tasks.gan.gradients import GanGradients
from tasks.gan.losses import count_collapsed
from tasks.gan.networks import GanNetworks
from tasks.gan.options import GanOptions
from tasks.optimizers import Optimizer
from tasks.parameter_masks import trainable_mask
from tasks.protocol import Evaluation, Task
from tasks.schedules import Schedule
from tasks.skipping import skip_update


@flax.struct.dataclass
class GanState:
    """State of a GAN's run.

    Attributes:
        step: number of updates made of each network, int32.
        generator, discriminator: parameters, float32.
        generator_opt, discriminator_opt: of the optimizers.
        ema: exponential moving average of the generator, None when off.
        collapsed_steps: running count: +1 for a step with a collapsed discriminator, -1 otherwise,
            never below 0; int32.
    """

    step: jax.Array
    generator: Any
    discriminator: Any
    generator_opt: Any
    discriminator_opt: Any
    ema: Any
    collapsed_steps: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Gan(Task):
    """A step updates the discriminator, then the generator. Images are float32 in -1..1.

    Attributes:
        options: section `task` of the config.
        networks: generator and discriminator.
        optimizers: network -> from create_optimizer.
        evaluator: of the same networks.
        freeze: network -> see create_optimizer; frozen parameters keep their bits, in the average
            as well.
    """

    options: GanOptions
    networks: GanNetworks
    optimizers: dict[str, Optimizer]
    evaluator: GanEvaluator
    freeze: dict[str, tuple[str, ...]]

    @property
    def ema(self) -> ParameterEma:
        return ParameterEma(self.options.ema_decay, self.options.ema_warmup)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {
            "optimizers": {name: o.hyperparameters for name, o in self.optimizers.items()},
            "ema": self.ema.hyperparameters,
        }

    @property
    def schedules(self) -> dict[str, Schedule]:
        return {f"config.{name}_optimizer": o.schedule for name, o in self.optimizers.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(note for optimizer in self.optimizers.values() for note in optimizer.notes)

    def init(self, key: jax.Array) -> GanState:
        generator, discriminator = self.networks.init(key)
        return GanState(
            step=jnp.zeros((), jnp.int32),
            generator=generator,
            discriminator=discriminator,
            generator_opt=self.optimizers["generator"].init(generator),
            discriminator_opt=self.optimizers["discriminator"].init(discriminator),
            ema=self.ema.init(generator),
            collapsed_steps=jnp.zeros((), jnp.int32),
        )

    def train_step(self, state: GanState, batch, key: jax.Array, hyperparameters):
        discriminator_key, generator_key = jax.random.split(jax.random.fold_in(key, state.step))
        keys = jax.random.split(discriminator_key, 6)  # see GanGradients.discriminator
        chex.assert_shape(batch["image"], (None, *self.networks.image_shape))
        real = batch["image"].astype(jnp.float32) / 127.5 - 1.0
        labels = batch["label"] if self.options.conditional else None
        trained, gradients = self.trainable(state), GanGradients(self.networks, self.options)

        def descend(name, params, opt_state, grads):
            optimizer, given = self.optimizers[name], hyperparameters["optimizers"][name]
            grads = select(trained[name], grads, optax.tree.zeros_like(grads))
            updates, opt_state = optimizer.update(grads, opt_state, params, given)
            metrics[f"{name}_grad_norm"] = optax.tree.norm(grads)
            metrics[f"{name}_learning_rate"] = optimizer.learning_rate(state.step, given)
            return optax.apply_updates(params, updates), opt_state

        grads, metrics = gradients.discriminator(
            state.discriminator, state.generator, keys, real, labels, state.step
        )
        discriminator, discriminator_opt = descend(
            "discriminator", state.discriminator, state.discriminator_opt, grads
        )
        if self.options.steps == "alternating":
            judge, generator_keys = discriminator, jax.random.split(generator_key)
        else:
            judge, generator_keys = state.discriminator, (keys[0], keys[2])
        metrics["generator_loss"], grads = gradients.generator(
            state.generator, judge, generator_keys, len(real)
        )
        generator, generator_opt = descend("generator", state.generator, state.generator_opt, grads)
        metrics["collapsed_steps"] = count_collapsed(
            state.collapsed_steps, metrics.pop("is_collapsed")
        )
        state = GanState(
            step=state.step + 1,
            generator=generator,
            discriminator=discriminator,
            generator_opt=generator_opt,
            discriminator_opt=discriminator_opt,
            ema=self.ema.update(
                state.ema, generator, state.step, trained["generator"], hyperparameters["ema"]
            ),
            collapsed_steps=metrics["collapsed_steps"],
        )
        return state, metrics

    def skip(self, state: GanState) -> GanState:
        return skip_update(state)

    def check(self, scalars: dict[str, float], step: int) -> None:
        super().check(scalars, step)
        if scalars.get("collapsed_steps", 0) >= self.options.collapse_steps:
            raise NonFiniteError(
                f"step {step}: the discriminator has collapsed, for {scalars['collapsed_steps']} "
                f"steps (config.task.collapse_steps={self.options.collapse_steps}): its loss is "
                f"{scalars['discriminator_loss']:.3g}, logits of real images "
                f"{scalars['logit_real']:.3g}, of generated {scalars['logit_generated']:.3g}; "
                "stopped"
            )

    def is_good(self, state: GanState) -> jax.Array:
        return state.collapsed_steps == 0

    def eval_batches(self, batches: Iterable) -> Iterable:
        return self.evaluator.batches(batches)

    def eval_step(self, state: GanState, batch, key: jax.Array):
        generator = state.ema if self.ema.decay else state.generator
        return {}, self.evaluator.rows(generator, state.discriminator, batch, key)

    def summarize(self, sums: Any, rows: list[Any]) -> Evaluation:
        return self.evaluator.summarize(rows)

    def metric_names(self) -> tuple[str, ...]:
        return self.evaluator.metric_names()

    def parameters(self, state: GanState):
        return {"generator": state.generator, "discriminator": state.discriminator}

    def trainable(self, state: GanState):
        return {
            name: trainable_mask(params, self.freeze[name], f"config.{name}_optimizer")
            for name, params in self.parameters(state).items()
        }
