"""A run between two steps: what it logs, evaluates and saves, and how it stops.

train.py has the loop; `training.beginning.begun` makes one of these from a config and a workdir.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from data.batches import Batches
from harness.errors import BadAnnotation, BadImage, Interrupted, RecordError, before_ending
from parallel import peers
from parallel.watchdog import Watchdog
from process.shared_memory import WorkerDied
from saving.checkpoints import Checkpoints
from tasks.metrics import check_finite
from training.evaluation import evaluate
from training.experiment import Experiment
from training.numeric_faults import NumericFaults, read_rows
from training.reporting import Reporter
from training.stops import Stops, check_bad_images
from workdirs.config_file import read_record
from workdirs.results import write_done


@dataclasses.dataclass
class Running:
    """A run at work.

    Attributes:
        built: what it consists of.
        first_step: number of updates made before; the loop goes on from there.
        state: the task's state after the last update; the loop replaces it.
        window: scalars of the steps since the last log line.
        faults: what has been seen of numbers that are not finite, and of spikes.
        batches: of the training split, at the place of `first_step`.
        saved: its checkpoints.
        report: what it shows and logs.
        stops: whether it has to stop, agreed on by all processes.
        dog: hears of each thing that is done.
        train_step: that of `built`, perhaps with a profile of some steps.
        check_there: raises WorkdirGone once the workdir is gone.
    """

    built: Experiment
    first_step: int
    state: Any
    window: list[Any]
    faults: NumericFaults
    batches: Batches
    saved: Checkpoints
    report: Reporter
    stops: Stops
    dog: Watchdog
    train_step: Callable
    check_there: Callable[[], None]
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)  # of the last evaluation

    @property
    def steps(self):
        """How long the run is, and how often it does what."""
        return self.built.steps

    def next_batch(self, step: int) -> Any:
        """Returns the next batch; what ends the run there comes after a save."""
        with self._saved_first(step):
            return next(self.batches)

    def update(self, batch: Any) -> None:
        """Makes an update; the device may still be at work on it."""
        built = self.built
        self.state, scalars = self.train_step(self.state, batch, built.key, built.hyperparameters)
        self.window.append(scalars)

    def progress(self, step: int) -> None:
        """Says that a step is made."""
        self.report.progress(step)
        self.dog.progress(f"step {step}")

    def owes_log(self) -> bool:
        """Returns whether a line is due for the steps before the one that the run starts with."""
        is_due = self.steps.logs_at(self.first_step) or len(self.window) >= self.steps.log
        return bool(self.window) and is_due

    def log(self, step: int) -> None:
        """Reports the steps since the last log line.

        Raises:
            NonFiniteError: they have what is not finite, or the task sees no way on.
            RecordError: metrics.jsonl cannot be written; the state is saved.
        """
        averages, found, faults = self.faults.look(read_rows(self.window), step)
        self.built.task.check(averages, step)
        self.check_there()
        with self._saved_first(step):
            self.report.train(step, averages, found)
        self.window, self.faults = [], faults

    def save(self, step: int) -> None:
        """Begins to save for resuming."""
        is_last = step == self.steps.total
        self.saved.save(step, self.state, self._loop_record(step), is_last=is_last)
        self.dog.progress(f"the save of step {step}")

    def evaluate(self, step: int) -> None:
        """Evaluates the state, reports it, and saves it if it is the best so far.

        Raises:
            Interrupted: it has to stop in between; the state is saved.
            NonFiniteError: a metric is not finite.
        """
        built, split = self.built, self.built.data.eval_split
        record = self._loop_record(step)
        watched = self.report.watched(built.data.eval_batches(), split)

        def stop_requested():  # asked before each batch
            self.dog.progress(f"a batch of the evaluation at step {step}")
            return self.stops.requested()

        with self._saved_first(step):
            evaluation = evaluate(
                built.eval_step, built.task, self.state, watched, key=built.key, stop=stop_requested
            )
        if evaluation is None:
            self.stop(step)
        check_finite(evaluation.metrics, step)
        self.saved.save_best(step, self.state, record, evaluation.metrics)
        with self._saved_first(step):
            self.report.evaluation(step, evaluation, split)
        self.metrics = evaluation.metrics

    def stop(self, step: int) -> None:
        """Saves, and ends the run.

        Raises:
            Interrupted: always, but for too many bad images.
            TooManyBadImages: of all processes.
        """
        done = self._save_now(step)
        check_bad_images(self.built.data.bad)
        raise Interrupted(f"{done}; the same command resumes")

    def finish(self, workdir, seconds: Callable[[], float]) -> dict[str, float]:
        """Marks the run as finished; returns its metrics, and the best with its epoch."""
        self.saved.wait()
        self.dog.progress("the last save")
        metrics = self.metrics | self.saved.best(self.steps.per_epoch)
        self.check_there()
        write_done(workdir, metrics)
        notes = read_record(workdir).get("notes", ())
        self.report.finish(metrics, self.built.data.eval_split, seconds=seconds(), notes=notes)
        return metrics

    def _loop_record(self, step: int) -> dict[str, Any]:
        """Returns what a checkpoint holds besides the state."""
        self.check_there()
        self.report.flush()
        rows = read_rows(self.window)
        self.faults.check(rows, step)
        return {
            "data": self.batches.get_state(),
            "window": rows,
            "faults": self.faults.record(),
        }

    def _save_now(self, step: int) -> str:
        return self.saved.save(step, self.state, self._loop_record(step), wait=True)

    def _saved_first(self, step: int):
        is_one = peers.current() is None  # with several, no other is at a save now
        ends = (BadAnnotation, BadImage, RecordError, WorkerDied) if is_one else ()
        return before_ending(ends, lambda: self._save_now(step))
