"""Learning-rate schedules whose numbers a compiled step gets as values, not as constants.

So another rate or length of a run needs no new program. What can be computed before is computed
here, as XLA folds constants: a rate has the bits that it would have as a constant of the program.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Kind = Literal["cosine", "linear", "poly", "constant", "steps"]
_DECAYS = ("cosine", "linear", "poly")  # from the peak to the final rate
Numbers = dict[str, Any]  # name -> float32 or int32 scalar, or a tuple of them


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A learning rate over the updates of a run.

    Attributes:
        kind: of its decay; decides the program.
        numbers: what the program computes it from.
    """

    kind: Kind
    numbers: Numbers

    @property
    def ends(self) -> bool:
        """Whether it depends on the length of the run."""
        return self.kind in _DECAYS

    def __call__(self, count: jax.Array | int, numbers: Numbers | None = None) -> jax.Array:
        """Returns the learning rate.

        Args:
            count: number of updates made so far.
            numbers: values of a compiled program; None: its own.
        """
        given = self.numbers if numbers is None else numbers
        step = count + 1
        to_go = 1 - jnp.clip(step, 0, given["warmup_steps"]) * given["share_of_warmup"]
        rising = given["start_minus_peak"] * to_go + given["peak"]
        return jnp.where(step < given["warmup_steps"], rising, self._decayed(step, given))

    def _decayed(self, step: jax.Array, given: Numbers) -> jax.Array:
        if self.kind == "constant":
            return given["peak"]
        if self.kind == "steps":
            rate = given["peak"]
            for drop in given["drops"]:
                rate = jnp.where(step <= drop, rate, given["drop_factor"] * rate)
            return rate
        steps = jnp.clip(step - given["decay_after"], 0, given["decay_steps"])
        if self.kind == "linear":
            to_go = 1 - steps * given["share_of_decay"]
            return given["peak_minus_final"] * to_go + given["final"]
        if self.kind == "poly":
            to_go = jnp.maximum(1 - steps * given["share_of_decay"], 0)  # rounding
            return given["peak_minus_final"] * to_go ** given["power"] + given["final"]
        cosine = 0.5 * (1 + jnp.cos(steps * given["radians_a_step"]))
        return given["peak"] * (given["falling_share"] * cosine + given["final_share"])


def create_schedule(
    *,
    kind: Kind,
    peak: float,
    final: float,
    warmup_steps: int,
    total_steps: int,
    start: float = 0.0,
    decay_from: Literal["warmup", "start"] = "warmup",
    cooldown_steps: int = 0,
    drops: tuple[int, ...] = (),
    drop_factor: float = 1.0,
    power: float = 1.0,
) -> Schedule:
    """Linear warm-up from `start` to `peak`, then `kind` from there to `final`, then `final`.

    The first update (count 0) uses the value of step 1, as the official NesT code does: warm-up
    never wastes a step on rate 0, and the last update of a cosine to 0 does nothing.

    Args:
        kind: "cosine", "linear", "poly", "constant", or "steps": constant between the drops.
        peak, final, start: learning rates; "constant" and "steps" ignore `final`.
        warmup_steps, total_steps, cooldown_steps: in updates; warm-up and cool-down together are
            shorter than the run.
        decay_from: where "cosine", "linear" and "poly" count from: the end of the warm-up, or the
            start of the run, so that the warm-up stands in for their first part.
        drops, drop_factor: of "steps": the numbers of the updates after each of which the rate is
            multiplied by the factor.
        power: of "poly": the rate is (share of the decay that is left)^power above `final`.

    Reference: official libml/utils.py, get_learning_rate; decay_from="start" and the cool-down:
    timm 0.3, scheduler/cosine_lr.py (without warmup_prefix) and scheduler_factory.py; "poly": Chen
    et al., DeepLab, arXiv 1606.00915, section 4.1.
    """
    skipped = warmup_steps if decay_from == "start" else 0  # of the decay, by the warm-up
    decay_after = warmup_steps - skipped
    of_kind = {
        "cosine": {"falling_share": 1 - final / peak, "final_share": final / peak},
        "linear": {"peak_minus_final": peak - final, "final": final},
        "poly": {"peak_minus_final": peak - final, "final": final, "power": power},
        "constant": {},
        "steps": {"drop_factor": drop_factor},
    }[kind]
    rates = {"peak": peak, "start_minus_peak": start - peak} | of_kind
    numbers = {name: np.float32(rate) for name, rate in rates.items()}
    numbers["warmup_steps"] = np.int32(warmup_steps)
    numbers["share_of_warmup"] = _reciprocal(max(warmup_steps, 1))
    if kind in _DECAYS:
        decay_steps = total_steps - cooldown_steps - decay_after
        numbers["decay_after"] = np.int32(decay_after)
        numbers["decay_steps"] = np.int32(decay_steps)
        numbers["share_of_decay"] = _reciprocal(decay_steps)
    if kind == "cosine":
        numbers["radians_a_step"] = np.float32(np.pi) * numbers["share_of_decay"]
    if kind == "steps":
        numbers["drops"] = tuple(np.int32(drop) for drop in drops)
    return Schedule(kind, numbers)


def _reciprocal(count: int) -> np.float32:
    return np.float32(1) / np.float32(count)
