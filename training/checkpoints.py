"""Checkpoints: the last few and the best one, written in the background by Orbax.

    workdir/checkpoints/latest/<step>/   what a run resumes from
    workdir/checkpoints/best/<step>/     the best evaluation so far

Each holds the task's state and a small JSON record of the loop (position in the data, scalars not
logged yet). A step's folder appears under its name only once it is complete.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from harness.errors import ConfigError, NonFiniteError, input_errors
from harness.files import local_path
from workdirs.plain_path import plain_path
from zoo.load import check_tree

# Endings of the names of metrics that are better lower.
LOWER_IS_BETTER = ("loss", "distance")


@jax.jit
def _all_finite(state) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()


def can_resume(workdir: Path) -> bool:
    """True if a run has saved something in the workdir to go on from."""
    latest = local_path("workdir", workdir) / "checkpoints" / "latest"
    return any(path.name.isdigit() for path in latest.glob("*"))


class Checkpoints:
    """Saves and restores the state of a run.

    Args:
        workdir: of the run.
        keep_last: how many of the newest checkpoints stay.
        best_metric: name of the evaluation metric that chooses the best checkpoint; "": keep no
            best one; None: the task's own choice, the Frechet distance of a GAN with features,
            otherwise as "".
        best_mode: "max" or "min"; None: "min" for losses and distances, "max" for the others.
        is_good: of the Task: the states that it refuses are not saved. None: all are good.
        read_only: never write or delete (evaluation of a run that may still be going on).
    """

    def __init__(
        self,
        *,
        workdir: Path,
        keep_last: int = 2,
        best_metric: str | None = "top1_accuracy",
        best_mode: Literal["max", "min"] | None = "max",
        is_good: Callable[[Any], jax.Array] | None = None,
        read_only: bool = False,
    ):
        if best_mode is None:
            best_mode = "min" if (best_metric or "").endswith(LOWER_IS_BETTER) else "max"
        self.best_metric, self.best_sign = best_metric, 1 if best_mode == "max" else -1
        self._is_good = jax.jit(is_good) if is_good else lambda state: True
        self._read_only = read_only
        self._folder = local_path("workdir", workdir) / "checkpoints"
        self._newest = None  # step saved or restored last
        self._latest = self._manager("latest", keep_last, read_only)
        self._best = self._manager("best", 1, read_only)

    def _manager(self, name: str, keep: int, read_only: bool) -> ocp.CheckpointManager:
        folder = plain_path(self._folder / name)
        return ocp.CheckpointManager(
            folder,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "loop": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.LatestN(keep),
                cleanup_tmp_directories=not read_only,  # left behind by a killed save
                create=not read_only,
            ),
        )

    def save(
        self,
        step: int,
        state: Any,
        loop: dict[str, Any],
        *,
        is_last: bool = False,
        wait: bool = False,
    ) -> str:
        """Saves for resuming, unless this step is saved already or its state is not good.

        Without it the run resumes further back, and comes to the same state again.

        Args:
            step: number of updates made.
            state: the task's state.
            loop: JSON record.
            is_last: it is the run's result, which no other state can stand in for: saved, good or
                not.
            wait: return only when it is on disk.

        Returns:
            What was done, to show.

        Raises:
            NonFiniteError: the state has a NaN or an infinity; nothing is written.
        """
        done = f"saved step {step}"
        if step != self._newest:
            if self._may_hold(step, state) or is_last:
                self._write(self._latest, step, state, loop)
                self._newest = step
            else:
                newest = "nothing" if self._newest is None else f"step {self._newest}"
                done = f"step {step} is not good enough to save, saved is {newest}"
                logging.warning(done)
        if wait:
            self.wait()
        return done

    def save_best(self, step: int, state: Any, loop: dict[str, Any], metrics: dict) -> None:
        """Saves as the best checkpoint if its metric beats the one on disk."""
        if not self.best_metric:
            return
        value = metrics[self.best_metric]
        # A best checkpoint of this step or a later one is of a run that went further before it was
        # killed, and will be made again.
        best = self._best_value(before=step)
        if best is not None and self.best_sign * value <= self.best_sign * best:
            return  # of equals, the earlier one stays
        if not self._may_hold(step, state):
            return
        self._write(self._best, step, state, loop | {"best_value": value})

    def best(self, steps_per_epoch: float) -> dict[str, float]:
        """Returns the best metric so far and its epoch, {} where no best checkpoint is kept."""
        value = self._best_value(before=math.inf) if self.best_metric else None
        if value is None:
            return {}
        epoch = self._best.latest_step() / steps_per_epoch
        return {f"best_{self.best_metric}": value, "best_epoch": round(epoch, 2)}

    def _best_value(self, before: float) -> float | None:
        """Returns the metric of the best checkpoint, None if there is no readable one."""
        self._best.wait_until_finished()
        step = self._best.latest_step()
        if step is None or step >= before:
            return None
        try:
            args = ocp.args.Composite(loop=ocp.args.JsonRestore())
            return self._best.restore(step, args=args)["loop"]["best_value"]
        except (OSError, KeyError, ValueError) as error:
            logging.warning("best checkpoint %d is unreadable (%s), replaced", step, error)
            return None

    def _may_hold(self, step: int, state: Any) -> bool:
        """Returns whether the task calls the state good; raises NonFiniteError if it has a NaN."""
        if not bool(_all_finite(state)):
            raise NonFiniteError(f"step {step}: the state has non-finite values; it is not saved")
        return bool(self._is_good(state))

    def _write(self, manager: ocp.CheckpointManager, step: int, state: Any, loop: dict) -> None:
        for later in [other for other in manager.all_steps() if other >= step]:
            manager.delete(later)  # of a run that went further, see save_best
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), loop=ocp.args.JsonSave(loop))
        manager.save(step, args=args, force=True)

    def restore(self, shapes: Any, which: str = "latest") -> tuple[int, Any, dict] | None:
        """Returns (step, state, loop record), or None when there is no checkpoint.

        Args:
            shapes: the state's shapes with the shardings to restore to, which may differ from
                those it was saved with.
            which: "latest" or "best".

        Raises:
            ConfigError: the checkpoint is of another model (lists the differences), or there are
                some and none is readable.
        """
        manager = {"latest": self._latest, "best": self._best}[which]
        for step in sorted(manager.all_steps(), reverse=True):
            name = f"checkpoint {self._folder / which / str(step)}"
            try:
                saved = manager.item_metadata(step)["state"]
                with input_errors():
                    check_tree(shapes, saved.tree, name)
                args = ocp.args.Composite(
                    state=ocp.args.StandardRestore(shapes), loop=ocp.args.JsonRestore()
                )
                restored = manager.restore(step, args=args)
            except (OSError, KeyError, ValueError, AttributeError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                if self._read_only or jax.process_count() > 1:
                    # Several processes might restore different steps: a person decides.
                    raise ConfigError(f"{name} is unreadable: {reason}") from error
                # A disk that filled up or a copy cut short: better an older one than none.
                aside = self._folder / "unreadable" / f"{which}_{step}_{time.time():.0f}"
                aside.parent.mkdir(exist_ok=True)
                (self._folder / which / str(step)).rename(aside)
                logging.warning("%s is unreadable (%s); moved to %s", name, reason, aside)
                continue
            if which == "latest":
                self._newest = step
            manager.reload()
            return step, restored["state"], restored["loop"]
        if manager.all_steps():
            raise ConfigError(f"no checkpoint in {self._folder / which} is readable")
        return None

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._latest.wait_until_finished()
        self._best.wait_until_finished()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Waits and releases the background threads."""
        self._latest.close()
        self._best.close()
