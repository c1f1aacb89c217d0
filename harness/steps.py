"""How long a run is, and how often it does what."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from harness.arguments import problem
from harness.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Steps:
    """How long a run is and how often it does what, in steps (updates)."""

    batch_size: int
    per_epoch: float
    total: int
    log: int
    evaluate: int
    save: int

    def logs_at(self, step: int) -> bool:
        """Returns whether training metrics are logged once `step` updates are made.

        After the first one they are in any case: a person sees that the run works.
        """
        return step == 1 or self._is_due(self.log, step)

    def evaluates_at(self, step: int) -> bool:
        """Returns whether the state after `step` updates is evaluated.

        One at most a tenth of an interval before the last step is left out: epochs are rarely a
        whole number of steps, and the last two evaluations would fall on nearly the same state.
        """
        is_near_the_end = 0 < self.total - step <= max(1, self.evaluate / 10)
        return self._is_due(self.evaluate, step) and not is_near_the_end

    def saves_at(self, step: int) -> bool:
        """Returns whether the state after `step` updates is saved."""
        return self._is_due(self.save, step)

    def _is_due(self, interval: int, step: int) -> bool:
        return step > 0 and (step % interval == 0 or step == self.total)


def steps_of(config: Mapping[str, Any], num_examples: int | None) -> Steps | None:
    """Returns the plan of a run from what its config.json says, None where that does not tell."""
    try:
        return plan_steps(
            **config["loop"], num_examples=num_examples, batch_size=config["data"]["batch_size"]
        )
    except (ConfigError, KeyError, TypeError, ZeroDivisionError):
        return None


def plan_steps(
    *,
    num_epochs: float | None,
    log_every_steps: int = 100,
    evaluate_every_epochs: float = 1.0,
    save_every_epochs: float = 1.0,
    num_examples: int,
    batch_size: int,
) -> Steps:
    """Converts epochs to steps; the config's section `loop` are the first four arguments.

    Args:
        num_epochs: passes over the training split; a fraction is fine. None: by the number of
            images (tasks/by_images.py), which is filled in before this is called.
        log_every_steps: steps between two lines of training metrics; the first step has one, too.
        evaluate_every_epochs: epochs between evaluations; the last step is always evaluated, and
            no other step close to it, see `Steps.evaluates_at`.
        save_every_epochs: epochs between checkpoints; the last step is always saved.
        num_examples: in the training split.
        batch_size: global batch.
    """
    for name, value in {
        "num_epochs": num_epochs,
        "log_every_steps": log_every_steps,
        "evaluate_every_epochs": evaluate_every_epochs,
        "save_every_epochs": save_every_epochs,
    }.items():
        if value is None or not 0 < value < math.inf:
            raise ConfigError(
                problem(f"config.loop.{name}", value, "out of range", "above 0, finite")
            )
    per_epoch = num_examples / batch_size
    return Steps(
        batch_size=batch_size,
        per_epoch=per_epoch,
        total=max(1, round(num_epochs * per_epoch)),
        log=log_every_steps,
        evaluate=max(1, round(evaluate_every_epochs * per_epoch)),
        save=max(1, round(save_every_epochs * per_epoch)),
    )
