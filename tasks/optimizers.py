"""Optimizers and learning-rate schedules, composed from optax."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
import optax
from flax import linen as nn

from harness.arguments import check_range, problem
from tasks.layer_decay import layer_multipliers
from tasks.parameter_masks import SECTION, decay_mask, slow_multipliers, trainable_mask
from tasks.schedules import Kind, Schedule, create_schedule

# Arguments of create_optimizer that the code gives, not the config.
PROVIDED = ("model", "batch_size", "steps_per_epoch", "total_steps", "section")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """A gradient transformation whose hyperparameters a compiled step gets as values.

    Attributes:
        transformation: makes it from hyperparameters; the form of its state does not depend on
            them.
        schedule: of its learning rate.
        hyperparameters: name -> float32 scalar; "schedule": those of the schedule.
        notes: what a person should know.
    """

    transformation: Callable[[dict[str, Any]], optax.GradientTransformation]
    schedule: Schedule
    hyperparameters: dict[str, Any]
    notes: tuple[str, ...] = ()

    def init(self, params: Any) -> Any:
        """Returns the state of step 0."""
        return self.transformation(self.hyperparameters).init(params)

    def update(self, grads: Any, state: Any, params: Any, hyperparameters: Any = None):
        """Returns the updates and the next state.

        Args:
            grads, state, params: as those of optax.
            hyperparameters: values of a compiled step; None: its own.
        """
        given = self.hyperparameters if hyperparameters is None else hyperparameters
        return self.transformation(given).update(grads, state, params)

    def learning_rate(self, count: jax.Array | int, hyperparameters: Any = None) -> jax.Array:
        """Returns the learning rate after `count` updates; see `update`."""
        given = self.hyperparameters if hyperparameters is None else hyperparameters
        return self.schedule(count, given["schedule"])


def create_optimizer(
    *,
    name: Literal["adamw", "sgd"] = "adamw",
    base_lr: float,
    reference_batch: int | None = None,
    schedule: Kind = "cosine",
    warmup_epochs: float = 0.0,
    warmup_lr: float = 0.0,
    decay_from: Literal["warmup", "start"] = "warmup",
    cooldown_epochs: float = 0.0,
    final_lr: float = 0.0,
    step_epochs: tuple[float, ...] = (),
    step_factor: float = 0.1,
    poly_power: float = 0.9,
    weight_decay: float = 0.0,
    decay_exclude: tuple[str, ...] = (),
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    momentum: float = 0.9,
    nesterov: bool = False,
    grad_clip_norm: float | None = None,
    layer_decay: float | None = None,
    slow: tuple[str, ...] = (),
    slow_factor: float = 0.1,
    freeze: tuple[str, ...] = (),
    model: nn.Module | None = None,
    batch_size: int,
    steps_per_epoch: float,
    total_steps: int,
    section: str = SECTION,
) -> Optimizer:
    """Creates the optimizer of a recipe; the config's section `optimizer` are its arguments.

    Compiled programs get the rates, the epochs, step_factor, weight_decay, eps and momentum as
    values: others of them need no new program. The rest are constants: 1 - b2 of a float32 would be
    off by one in a hundred thousand, and XLA rounds otherwise where it does not know that
    grad_clip_norm is 1.

    Args:
        name: "adamw" or "sgd". Arguments of the other one have no effect.
        base_lr: learning rate after warm-up at `reference_batch`.
        reference_batch: the rate is scaled by batch_size / reference_batch; 0 or None: not scaled.
        schedule: "cosine", "linear" or "poly" to final_lr, "constant", or "steps" down at
            step_epochs.
        warmup_epochs: epochs of linear warm-up, the first of the run. Where warm-up and cool-down
            do not fit into the run, each has a tenth of it at most, which a note says.
        warmup_lr: rate that it starts from, scaled like base_lr.
        decay_from: "warmup": "cosine", "linear" and "poly" start after the warm-up; "start": they
            count from the start, and the warm-up replaces their first epochs, as in timm.
        cooldown_epochs: the last epochs of the run, in which the rate stays at final_lr; "constant"
            and "steps" have no other rate for them.
        final_lr: rate at the end, scaled like base_lr.
        step_epochs, step_factor: of "steps": after each of these epochs, counted from the start of
            the run, the rate is multiplied by the factor.
        poly_power: of "poly": the share of the decay that is left, to this power, is the share of
            the rate that is left.
        weight_decay: "adamw": decoupled, multiplied by the learning rate. "sgd": an L2 term in the
            loss, weight_decay / 2 * |params|^2: it enters the gradient before momentum.
        decay_exclude: regular expressions of parameter paths without weight decay.
        b1, b2, eps: of "adamw".
        momentum: of "sgd", whose velocity is v <- momentum * v + gradient; 0: none.
        nesterov: of "sgd": steps along momentum * v + gradient instead of v.
        grad_clip_norm: largest global gradient norm, an L2 term included; None: no clipping.
        layer_decay: a layer's rate is this times the rate of the layer above; the head has the full
            rate; see tasks/layer_decay.py. 0 or None: one rate for all.
        slow, slow_factor: regular expressions of the paths of parameters whose rate is the factor
            times that of the others, such as a pretrained backbone's.
        freeze: regular expressions of the paths of parameters that are not trained: no update, no
            weight decay, no state, no share in the gradient's norm. Their layers still run as in
            training: dropout and drop path act, batch statistics move.
        model: whose parameters are trained; layer_decay reads its layers.
        batch_size: global batch.
        steps_per_epoch, total_steps: in updates.
        section: of the config, for messages.

    Raises:
        ValueError: impossible values.

    Reference: Loshchilov and Hutter, "Decoupled weight decay regularization", arXiv 1711.05101;
    "sgd" follows train.py of the official NesT repository, for its convolutional networks.
    """
    check_range(f"{section}.base_lr", base_lr, above=0)
    for key, value in {"b1": b1, "b2": b2, "momentum": momentum}.items():
        check_range(f"{section}.{key}", value, 0, below=1)
    for key, value in {
        "final_lr": final_lr,
        "warmup_epochs": warmup_epochs,
        "warmup_lr": warmup_lr,
        "cooldown_epochs": cooldown_epochs,
        "step_factor": step_factor,
        "slow_factor": slow_factor,
        "weight_decay": weight_decay,
        "eps": eps,
        "reference_batch": reference_batch or 0,
        "grad_clip_norm": grad_clip_norm or 0.0,
    }.items():
        check_range(f"{section}.{key}", value, 0)
    check_range(f"{section}.poly_power", poly_power, above=0)
    if layer_decay:
        check_range(f"{section}.layer_decay", layer_decay, most=1, above=0)
    if nesterov and not momentum:
        raise ValueError(problem(f"{section}.nesterov", True, f"needs {section}.momentum above 0"))
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    cooldown_steps = round(cooldown_epochs * steps_per_epoch)
    notes = []
    if warmup_steps + cooldown_steps >= total_steps:
        tenth = total_steps // 10
        for key, steps in (("warmup_epochs", warmup_steps), ("cooldown_epochs", cooldown_steps)):
            if steps > tenth:
                where = "first" if key == "warmup_epochs" else "last"
                how = f"shortened from {steps} steps to the {where} {tenth}, a tenth"
                how = f"{how} of a run of {total_steps}, in which they do not fit"
                left_out = f"left out: {steps} steps do not fit into a run of {total_steps}"
                notes.append(f"{section}.{key} is {how if tenth else left_out}")
        warmup_steps, cooldown_steps = min(warmup_steps, tenth), min(cooldown_steps, tenth)
    drops = tuple(round(epoch * steps_per_epoch) for epoch in step_epochs)
    bounds = (warmup_steps, *drops, total_steps)
    if schedule == "steps" and (not drops or sorted(set(bounds)) != list(bounds)):
        what = "not after the warm-up, one after the other, before the end"
        allowed = f"epochs between {warmup_epochs:g} and {total_steps / steps_per_epoch:g}, rising"
        raise ValueError(problem(f"{section}.step_epochs", step_epochs, what, allowed))
    scale = batch_size / reference_batch if reference_batch else 1.0
    learning_rate = create_schedule(
        kind=schedule,
        peak=base_lr * scale,
        final=final_lr * scale,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        start=warmup_lr * scale,
        decay_from=decay_from,
        cooldown_steps=cooldown_steps,
        drops=drops,
        drop_factor=step_factor,
        power=poly_power,
    )

    values = {"weight_decay": weight_decay}
    values |= {"adamw": {"eps": eps}, "sgd": {"momentum": momentum}}[name]

    rates = []  # of each parameter, as shares of the learning rate
    if layer_decay:
        rates.append(lambda params: layer_multipliers(model, params, layer_decay))
    if slow:
        rates.append(lambda params: slow_multipliers(params, slow, slow_factor, section))

    def transformation(given: dict[str, Any]) -> optax.GradientTransformation:
        def mask(params):
            return decay_mask(params, decay_exclude, section)

        def rate(count):
            return learning_rate(count, given["schedule"])

        clip = [optax.clip_by_global_norm(grad_clip_norm)] if grad_clip_norm else []
        decay = {"weight_decay": given["weight_decay"], "mask": mask}
        if name == "adamw":
            steps = [*clip, optax.adamw(rate, b1=b1, b2=b2, eps=given["eps"], **decay)]
        else:
            l2, sgd = optax.add_decayed_weights(**decay), optax.sgd
            steps = [l2, *clip, sgd(rate, momentum=given["momentum"], nesterov=nesterov)]
        optimizer = optax.chain(*steps)
        for multipliers in rates:
            optimizer = optax.chain(optimizer, _scale_each(multipliers))
        if freeze:  # not optax.masked, which lets the gradients of the others through as updates
            optimizer = optax.partition(
                {"trained": optimizer, "frozen": optax.set_to_zero()},
                lambda params: jax.tree.map(
                    lambda trained: "trained" if trained else "frozen",
                    trainable_mask(params, freeze, section),
                ),
            )
        return optimizer

    hyperparameters = {key: np.float32(value) for key, value in values.items()}
    hyperparameters["schedule"] = learning_rate.numbers
    return Optimizer(transformation, learning_rate, hyperparameters, tuple(notes))


def _scale_each(multipliers: Callable[[Any], Any]) -> optax.GradientTransformation:
    def init(params):
        multipliers(params)  # what is wrong with them is found before training
        return optax.EmptyState()

    def update(updates, state, params=None):
        return optax.tree.mul(updates, multipliers(updates)), state

    return optax.GradientTransformation(init, update)
