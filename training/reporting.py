"""Console output, metrics files and plots of a run."""

import contextlib
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import tqdm
from clu import parameter_overview

from data.batches import Batches
from harness.errors import escaped, record_errors
from harness.files import Appended
from harness.pictures import save_png
from harness.steps import Steps
from tasks.protocol import Evaluation
from training.curves import draw_curves
from training.metric_logs import finish_logs, numbers, open_logs
from training.numeric_faults import in_words
from training.only_for_looking import OnlyForLooking, only_shown
from workdirs.records import json_line, write_record
from workdirs.results import keep_metrics

# Drawing the curves takes most of a second, so it is not done at every evaluation.
SECONDS_BETWEEN_CURVES = 60.0
FAULTS_SAID = 3  # of a log line's; the others are in metrics.jsonl


class Reporter:
    """Shows and records metrics. Only the first process does anything.

    metrics.jsonl is a record: if it cannot be written, the run ends. All else is only for looking
    at: if that fails, the run goes on.

    Args:
        workdir: receives metrics.jsonl, tensorboard/, curves.png, parameters.txt and the task's
            pictures.
        first_step: the run goes on from here; what an earlier attempt logged after it is dropped,
            since it will be computed again.
        steps: the plan of the run.
        batches: the training batches. The share of the time that the host waits for them is shown:
            much means that the input is the bottleneck. The device may still be busy then, with the
            steps queued before.
        config: checked, for the services.
        log_to: services that get the metrics too, see training/services.py.

    Attributes:
        active: whether this process shows and records anything.
        looking: guards what is only for looking at.

    Raises:
        RecordError: metrics.jsonl cannot be written; also `train` and `evaluation` do.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        first_step: int,
        steps: Steps,
        batches: Batches,
        config: dict[str, Any],
        log_to: Sequence[str] = (),
    ):
        self.active, self.looking = jax.process_index() == 0, OnlyForLooking(self.say)
        if not self.active:
            return
        self._workdir, self._first_step, self._steps = workdir, first_step, steps
        self._batches, self._path = batches, workdir / "metrics.jsonl"
        with record_errors(self._path):
            self.records = keep_metrics(workdir, first_step)
            self._file = Appended(self._path)
        self._bar = tqdm.tqdm(
            total=steps.total,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        self._final, self._logs = None, []
        with self.looking("logging"):
            self._logs = open_logs(
                workdir,
                services=log_to,
                config=config,
                first_step=first_step,
                records=self.records,
                say=self.say,
            )
        self._curves_clock, self._num_drawn = -math.inf, 0
        self._restart_clock(first_step)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if self.active:
            with contextlib.suppress(OSError):  # of a full disk, said before
                self._file.close()
            self._close(error)
            if kind is not KeyboardInterrupt:  # of somebody in a hurry
                self._draw_curves()

    @only_shown("logging")
    def _close(self, error: BaseException | None) -> None:
        self._bar.close()
        finish_logs(self._logs, self._final, error, self.say)

    def _restart_clock(self, step: int) -> None:
        """Restarts the timer, so that time before `step` does not count towards images/s."""
        self._clock, self._clock_step = time.perf_counter(), step
        self._clock_waited = self._batches.seconds_waited

    @only_shown("parameters.txt")
    def show_parameters(self, parameters, *, printed: bool) -> None:
        """Writes parameters.txt, a table.

        Args:
            parameters: pytree of shapes.
            printed: whether to print it, too.
        """
        table = parameter_overview.get_parameter_overview(parameters, include_stats=False)
        write_record(self._workdir / "parameters.txt", table + "\n")
        if printed:
            self.say(table)

    @only_shown("the console")
    def start(self, mesh: jax.sharding.Mesh, notes: list[str]) -> None:
        """Says what will run and where.

        Args:
            mesh: of the run.
            notes: what else there is to know.
        """
        steps = self._steps
        axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
        self.say(
            f"{mesh.size} of {jax.device_count()} devices ({mesh.devices.flat[0].device_kind}), "
            f"{jax.process_count()} process(es), mesh {axes}"
        )
        self.say(
            f"{steps.total} steps of {steps.batch_size} images, {steps.per_epoch:.1f} steps "
            f"per epoch; everything goes to {self._workdir}"
        )
        for note in notes:
            self.say(note)
        if self._first_step:
            self.say(f"resuming at step {self._first_step}")
        self.say("compiling the first step")

    @only_shown("the console")
    def finish(
        self, metrics: dict[str, float], split: str, seconds: float, notes: Sequence[str] = ()
    ) -> None:
        """Says the result, and what a person should know of it."""
        self._final = metrics
        self._bar.close()
        self.say(f"done after {seconds:.0f} s: {split} {_short(metrics)}")
        self.say(f"metrics.jsonl, curves.png and checkpoints are in {self._workdir}")
        for note in notes:
            self.say(f"note: {note}")

    @only_shown("the console")
    def progress(self, step: int) -> None:
        """Moves the progress bar."""
        if step == self._first_step + 1:
            self.say(f"first step after {time.perf_counter() - self._clock:.1f} s")
            self._restart_clock(step)  # compilation
        self._bar.update(step - self._bar.n)

    def watched(self, batches, split: str):
        """Returns the batches of an evaluation, with a bar while they last."""
        return self._with_bar(batches, split) if self.active else batches

    def _with_bar(self, batches, split: str):
        bar = None
        with self.looking("the console"):
            bar = tqdm.tqdm(
                total=len(batches),
                desc=f"evaluating {split}",
                unit="batch",
                leave=False,
                dynamic_ncols=True,
                disable=self._bar.disable,
            )
        try:
            for batch in batches:
                yield batch
                with self.looking("the console"):
                    bar.update()
        finally:
            with self.looking("the console"):
                bar.close()

    def train(
        self, step: int, metrics: dict[str, float], faults: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Reports training metrics, averaged over the steps since the last report.

        Args:
            step: number of updates made.
            metrics: the averages.
            faults: of the steps since then, as NumericFaults.look returns them.
        """
        if not self.active:
            return
        steps, elapsed = step - self._clock_step, max(time.perf_counter() - self._clock, 1e-9)
        speed, shown = {}, ""
        if steps:  # none after the first one of this process, whose time is that of compiling
            seconds = elapsed / steps
            waited = min((self._batches.seconds_waited - self._clock_waited) / elapsed, 1.0)
            speed["images_per_second"] = round(self._steps.batch_size / seconds, 1)
            speed["input_wait"] = round(waited, 4)
            left = tqdm.tqdm.format_interval((self._steps.total - step) * seconds)
            shown = "{images_per_second:,.0f} images/s, {input_wait:.0%} waiting for input"
            shown = shown.format(**speed) + (f", {left} left" if self._bar.disable else "")
        self._record("train", step, metrics, speed | ({"faults": faults} if faults else {}))
        self._restart_clock(step)
        self._show_train(step, metrics, faults, shown)

    @only_shown("the console")
    def _show_train(self, step, metrics, faults, speed: str) -> None:
        for fault in faults[:FAULTS_SAID]:
            self.say(in_words(fault, self._workdir))
        if self._bar.disable:
            end = f"  ({speed})" if speed else ""
            self.say(f"{self._where(step)}  {_short(metrics)}{end}")
        else:
            shown = {name: metrics[name] for name in ("loss", "top1_accuracy") if name in metrics}
            self._bar.set_postfix_str(
                ", ".join(filter(None, (_short(shown), speed))), refresh=False
            )

    def evaluation(self, step: int, evaluation: Evaluation, split: str) -> None:
        """Reports an evaluation, writes its pictures and redraws curves.png, once a minute."""
        if not self.active:
            return
        self._record("eval", step, evaluation.metrics, {}, evaluation.protocol)
        self.say(f"{self._where(step)}  {split}: {_short(evaluation.metrics)}")
        for name, picture in evaluation.pictures.items():
            self._picture(name, step, picture)
        is_last = step == self._steps.total
        if is_last or time.perf_counter() - self._curves_clock >= SECONDS_BETWEEN_CURVES:
            self._draw_curves()
        self._restart_clock(step)

    @only_shown("pictures")
    def _picture(self, name: str, step: int, picture) -> None:
        for log in self._logs:
            log.image(name, step, picture)
        save_png(self._workdir / f"{name}_{step:07d}.png", picture)

    @only_shown("curves.png")
    def _draw_curves(self) -> None:
        if len(self.records) > self._num_drawn:
            draw_curves(self.records, self._workdir / "curves.png", self._steps.per_epoch)
            self._curves_clock, self._num_drawn = time.perf_counter(), len(self.records)

    def flush(self) -> None:
        """Returns when metrics.jsonl has everything: a checkpoint that is saved counts on it."""
        if self.active:
            with record_errors(self._path):
                self._file.flush()

    @only_shown("the console")
    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        tqdm.tqdm.write(escaped(text), file=sys.stdout)
        sys.stdout.flush()

    def _where(self, step: int) -> str:
        total = str(self._steps.total)
        return f"step {step:{len(total)}d}/{total} (epoch {step / self._steps.per_epoch:.1f})"

    def _record(
        self, kind: str, step: int, metrics: dict, extra: dict, protocol: dict | None = None
    ) -> None:
        record = {"kind": kind, "step": step, **metrics, **extra}
        if protocol:
            record["protocol"] = protocol
        with record_errors(self._path):
            self._file.write(json_line(record))
        self.records.append(record)
        with self.looking("logging"):
            for log in self._logs:
                log.scalars(kind, step, numbers(record))


def _short(metrics: dict[str, float]) -> str:
    def number(name, value):
        form = ".2%" if "accuracy" in name else "d" if isinstance(value, int) else ".4g"
        return f"{value:{form}}"

    names = sorted(metrics, key=lambda name: name != "loss")  # jit returns dicts sorted by name
    # Not "iou/cat", which is of one class of many.
    return "  ".join(f"{name} {number(name, metrics[name])}" for name in names if "/" not in name)
