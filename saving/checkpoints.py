"""Checkpoints: the last few and the best one, written in the background by Orbax.

    workdir/checkpoints/latest/<step>/   what a run resumes from
    workdir/checkpoints/best/<step>/     the best evaluation so far

Each holds the task's state, a small JSON record of the loop (position in the data, scalars not
logged yet) and checksums of both. A step's folder appears under its name only once it is complete.
How one is written is in series.py, how one is read in restoring.py.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
from absl import logging

from harness.errors import ConfigError, NonFiniteError, StorageError, printable
from harness.files import run_path
from saving.restoring import NO_CHECKSUMS, from_first, read_best_value, read_step
from saving.series import Series
from workdirs import records, step_files
from workdirs.checksums import inspect
from workdirs.progress import begin, read_saved, write_saved
from workdirs.step_files import DamagedCheckpoint

# Endings of the names of metrics that are better lower.
LOWER_IS_BETTER = ("loss", "distance")


def can_resume(workdir: Path) -> bool:
    """True if a run has saved something in the workdir to go on from."""
    return bool(step_files.steps_in(run_path("workdir", workdir) / "checkpoints" / "latest"))


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
        measured_with: what evaluations depend on; a best checkpoint of other ones is none.
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
        measured_with: dict[str, Any] | None = None,
        read_only: bool = False,
    ):
        if best_mode is None:
            best_mode = "min" if (best_metric or "").endswith(LOWER_IS_BETTER) else "max"
        self.best_metric, self.best_sign = best_metric, 1 if best_mode == "max" else -1
        self._is_good = jax.jit(is_good) if is_good else lambda state: True
        self._measured_with, self._read_only = measured_with or {}, read_only
        self._workdir = run_path("workdir", workdir)
        self._folder = self._workdir / "checkpoints"
        self._newest = None  # step saved or restored last
        self._best_known: tuple[int, float] | None = None  # step and metric of the best checkpoint
        self._best_was_read = False
        if not read_only:
            from_first(self._begin)
            self._latest = Series(self._folder / "latest", keep_last, self._note_saved)
            self._best = Series(self._folder / "best", 1, lambda step: None)

    def _begin(self) -> None:
        self._workdir.mkdir(parents=True, exist_ok=True)
        begin(self._workdir)

    def _note_saved(self, step: int) -> None:
        write_saved(self._workdir, step)

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
            StorageError: this save or the one before cannot be written; those before stay.
        """
        done = f"saved step {step}"
        if step != self._newest:
            sums = self._sums_of_finite(step, state)
            if is_last or bool(self._is_good(state)):
                self._latest.write(step, state, loop, sums)
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
        best = self._read_best()
        if best and best[0] < step and self.best_sign * value <= self.best_sign * best[1]:
            return  # of equals, the earlier one stays
        sums = self._sums_of_finite(step, state)
        if not bool(self._is_good(state)):
            return
        best = {"metric": self.best_metric, "value": value}
        loop = loop | {"best_value": value, "measured_with": self._measured_with}
        self._best.write(step, state, loop, sums, best)
        self._best_known = step, value

    def best(self, steps_per_epoch: float) -> dict[str, float]:
        """Returns the best metric so far and its epoch, {} where no best checkpoint is kept."""
        best = self._read_best() if self.best_metric else None
        if best is None:
            return {}
        step, value = best
        return {
            f"best_{self.best_metric}": value,
            "best_epoch": round(step / steps_per_epoch, 2),
        }

    def _read_best(self) -> tuple[int, float] | None:
        """Returns step and metric of the best checkpoint, None without one; from disk only once."""
        if not self._best_was_read:
            found = from_first(self._best_on_disk)
            self._best_known, self._best_was_read = found and tuple(found), True
        return self._best_known

    def _best_on_disk(self) -> tuple[int, float] | None:
        """Finds the best checkpoint; a damaged one is set aside, and said so."""
        for step in reversed(step_files.steps_in(self._folder / "best")):
            folder = self._folder / "best" / str(step)
            try:
                value, before = read_best_value(folder)
                if all(before.get(k, now) == now for k, now in self._measured_with.items()):
                    return step, value
                self._say(f"{folder} was the best of other evaluations; the next one replaces it")
                return None
            except DamagedCheckpoint as damage:
                then = "; the next evaluation's takes its place as the best, though it may be worse"
                self._set_aside("best", step, str(damage), then)
        return None

    def _sums_of_finite(self, step: int, state: Any) -> dict[str, str]:
        """Returns the checksums of a state; raises NonFiniteError if it has a NaN."""
        sums, finite = inspect(state)
        if not finite:
            raise NonFiniteError(f"step {step}: the state has non-finite values; it is not saved")
        return sums

    def restore(self, shapes: Any, which: str = "latest") -> tuple[int, Any, dict] | None:
        """Returns (step, state, loop record), or None when there is no checkpoint.

        A checkpoint that is damaged in any way is set aside, and the one before it is
        restored; a reader only says that it is. With several processes, process 0 decides.

        Args:
            shapes: the state's shapes with the shardings to restore to, which may differ from
                those it was saved with.
            which: "latest" or "best".

        Raises:
            ConfigError: the checkpoint is of another model (lists the differences), or there are
                some and none is readable.
            StorageError: one cannot be read, and nothing says that it is damaged.
        """
        folder = self._folder / which
        steps = from_first(step_files.steps_in, folder)
        lost = False
        for step in reversed(steps):
            try:
                state, loop, has_checksums = read_step(folder / str(step), shapes)
            except DamagedCheckpoint as damage:
                if self._read_only:
                    if not from_first((folder / str(step)).exists):
                        return self.restore(shapes, which)  # the run goes on and has deleted it
                    raise ConfigError(
                        f"checkpoint {folder / str(step)} is damaged: {damage}"
                    ) from damage
                from_first(self._set_aside, which, step, str(damage))
                lost = True
                continue
            if not has_checksums:
                self._say(f"checkpoint {folder / str(step)} {NO_CHECKSUMS}")
            if which == "latest" and not self._read_only:
                self._newest = step
                from_first(self._complete, folder / str(step), has_checksums, lost)
                if self.best_metric:  # what is wrong with it is found before training
                    self._read_best()
            return step, state, loop
        if steps:
            raise ConfigError(
                f"no checkpoint in {folder} is readable; they are in "
                f"{self._folder / 'unreadable'} now; train.py --restart starts over"
            )
        return None

    def _complete(self, step: Path, has_checksums: bool, lost: bool) -> None:
        """Does what a killed run left undone, and says if a newer checkpoint has gone."""
        if has_checksums and not step_files.is_sealed(step):
            step_files.seal(step)
        try:
            newest = read_saved(self._workdir)
        except FileNotFoundError:
            newest = None
        except records.DamagedFile as damage:  # it is written again
            self._say(str(damage))
            newest = None
        if not lost and newest is not None and newest > int(step.name):
            self._say(f"step {newest} was saved too, and is gone; going on from {step.name}")
        if newest != int(step.name):
            write_saved(self._workdir, int(step.name))

    def _set_aside(self, which: str, step: int, reason: str, then: str = "") -> None:
        """Moves a damaged checkpoint to where nothing reads it, but a person may look."""
        aside = self._folder / "unreadable" / f"{which}_{step}_{time.time_ns() // 1_000_000}"
        source = self._folder / which / str(step)
        try:
            aside.parent.mkdir(exist_ok=True)
            source.rename(aside)
        except OSError as error:
            raise StorageError(
                f"checkpoint {source} is damaged ({reason}) and cannot be moved away: {error}"
            ) from error
        self._say(f"checkpoint {source} is damaged ({reason}); moved to {aside}{then}")

    def _say(self, text: str) -> None:
        if jax.process_index() == 0:
            print(printable(f"note: {text}"), file=sys.stderr)

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
            StorageError: something cannot be written.
        """
        if not self._read_only:
            self._latest.wait()
            self._best.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Waits and releases the background threads."""
        if not self._read_only:
            try:
                self._latest.close()
            finally:
                self._best.close()
