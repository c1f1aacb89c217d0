"""Checkpoints: the last few and the best one, written in the background by Orbax.

    workdir/checkpoints/latest/<step>/   what a run resumes from
    workdir/checkpoints/best/<step>/     the best evaluation so far

Each holds the task's state and a small JSON record of the loop (position in the data, scalars not
logged yet). A step's folder appears under its name only once it is complete.
"""

import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from training.errors import ConfigError, NonFiniteError, input_errors
from training.weights import check_tree


@jax.jit
def _all_finite(state) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()


def can_resume(workdir: Path) -> bool:
    """True if a run has saved something in the workdir to go on from."""
    latest = Path(workdir) / "checkpoints" / "latest"
    return any(path.name.isdigit() for path in latest.glob("*"))


class Checkpoints:
    """Saves and restores the state of a run.

    Args:
        workdir: of the run.
        keep_last: how many of the newest checkpoints stay.
        best_metric: name of the evaluation metric that chooses the best checkpoint; "" or None:
            keep no best one.
        best_mode: "max" or "min".
        read_only: never write or delete (evaluation of a run that may still be going on).
    """

    def __init__(
        self,
        *,
        workdir: Path,
        keep_last: int = 2,
        best_metric: str | None = "top1_accuracy",
        best_mode: Literal["max", "min"] = "max",
        read_only: bool = False,
    ):
        self.best_metric, self.best_sign = best_metric, 1 if best_mode == "max" else -1
        self._read_only = read_only
        self._folder = Path(workdir).absolute() / "checkpoints"
        self._newest = None  # step saved or restored last
        self._latest = self._manager("latest", keep_last, read_only)
        self._best = self._manager("best", 1, read_only)

    def _manager(self, name: str, keep: int, read_only: bool) -> ocp.CheckpointManager:
        folder = self._folder / name
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

    def save(self, step: int, state: Any, loop: dict[str, Any], *, wait: bool = False) -> None:
        """Saves for resuming, unless this step is saved already.

        Args:
            step: number of updates made.
            state: the task's state.
            loop: JSON record.
            wait: return only when it is on disk.

        Raises:
            NonFiniteError: the state has a NaN or an infinity; nothing is written.
        """
        if step != self._newest:
            self._write(self._latest, step, state, loop)
            self._newest = step
        if wait:
            self.wait()

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
        self._write(self._best, step, state, loop | {"best_value": value})

    def _best_value(self, before: int) -> float | None:
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

    def _write(self, manager: ocp.CheckpointManager, step: int, state: Any, loop: dict) -> None:
        if not bool(_all_finite(state)):
            raise NonFiniteError(f"step {step}: the state has non-finite values; it is not saved")
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
