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
from harness.errors import escaped
from harness.pictures import save_png
from harness.steps import Steps
from tasks.protocol import Evaluation
from training.curves import draw_curves
from training.metric_logs import finish_logs, numbers, open_logs
from workdirs.records import json_line
from workdirs.results import keep_metrics

# Drawing the curves takes most of a second, so it is not done at every evaluation.
SECONDS_BETWEEN_CURVES = 60.0


class Reporter:
    """Shows and records metrics. Only the first process does anything.

    Args:
        workdir: receives metrics.jsonl, tensorboard/, curves.png and the task's pictures.
        first_step: the run goes on from here; what an earlier attempt logged after it is dropped,
            since it will be computed again.
        steps: the plan of the run.
        batches: the training batches. The share of the time that the host waits for them is shown:
            much means that the input is the bottleneck. The device may still be busy then, with the
            steps queued before.
        config: checked, for the services.
        log_to: services that get the metrics too, see training/services.py.
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
        self._active = jax.process_index() == 0
        if not self._active:
            return
        self._workdir, self._first_step, self._steps = workdir, first_step, steps
        self._batches = batches
        self.records = keep_metrics(workdir, first_step)
        self._file = (workdir / "metrics.jsonl").open("a", encoding="utf-8")
        self._bar = tqdm.tqdm(
            total=steps.total,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        self._final: dict[str, float] | None = None
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
        if self._active:
            self._bar.close()
            self._file.close()
            finish_logs(self._logs, self._final, error, self.say)
            if kind is not KeyboardInterrupt:  # of somebody in a hurry
                with contextlib.suppress(OSError):  # a full disk must not hide what ended the run
                    self._draw_curves()

    def _restart_clock(self, step: int) -> None:
        """Restarts the timer, so that time before `step` does not count towards images/s."""
        self._clock, self._clock_step = time.perf_counter(), step
        self._clock_waited = self._batches.seconds_waited

    def start(self, parameters, mesh: jax.sharding.Mesh, notes: list[str]) -> None:
        """Says what will run and where.

        Args:
            parameters: pytree of shapes, shown as a table by a run that starts from nothing.
            mesh: of the run.
            notes: what else there is to know.
        """
        if not self._active:
            return
        steps = self._steps
        if self._first_step == 0:
            self.say(parameter_overview.get_parameter_overview(parameters, include_stats=False))
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

    def finish(self, metrics: dict[str, float], split: str, seconds: float) -> None:
        """Says the result."""
        if self._active:
            self._final = metrics
            self._bar.close()
            self.say(f"done after {seconds:.0f} s: {split} {_short(metrics)}")
            self.say(f"metrics.jsonl, curves.png and checkpoints are in {self._workdir}")

    def progress(self, step: int) -> None:
        """Moves the progress bar."""
        if self._active:
            self._bar.update(step - self._bar.n)
            if step == self._first_step + 1:
                self._restart_clock(step)  # compilation

    def watched(self, batches, split: str):
        """Returns the batches of an evaluation, with a bar while they last."""
        if not self._active:
            return batches
        return tqdm.tqdm(
            batches,
            desc=f"evaluating {split}",
            unit="batch",
            leave=False,
            dynamic_ncols=True,
            disable=self._bar.disable,
        )

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """Reports training metrics, averaged over the steps since the last report."""
        if not self._active:
            return
        elapsed = max(time.perf_counter() - self._clock, 1e-9)
        seconds = elapsed / max(step - self._clock_step, 1)
        waited = min((self._batches.seconds_waited - self._clock_waited) / elapsed, 1.0)
        speed = {
            "images_per_second": round(self._steps.batch_size / seconds, 1),
            "input_wait": round(waited, 4),
        }
        self._restart_clock(step)
        self._record("train", step, metrics, speed)
        if self._bar.disable:
            left = tqdm.tqdm.format_interval((self._steps.total - step) * seconds)
            numbers = (
                f"{speed['images_per_second']:,.0f} images/s, {waited:.0%} waiting for input, "
                f"{left} left"
            )
            self.say(f"{self._where(step)}  {_short(metrics)}  ({numbers})")
        else:
            shown = {name: metrics[name] for name in ("loss", "top1_accuracy") if name in metrics}
            self._bar.set_postfix_str(
                f"{_short(shown)}, {speed['images_per_second']:,.0f} images/s, "
                f"{waited:.0%} waiting for input",
                refresh=False,
            )

    def evaluation(self, step: int, evaluation: Evaluation, split: str) -> None:
        """Reports an evaluation, writes its pictures and redraws curves.png, once a minute."""
        if not self._active:
            return
        self._record("eval", step, evaluation.metrics, {}, evaluation.protocol)
        self.say(f"{self._where(step)}  {split}: {_short(evaluation.metrics)}")
        for name, picture in evaluation.pictures.items():
            save_png(self._workdir / f"{name}_{step:07d}.png", picture)
            for log in self._logs:
                log.image(name, step, picture)
        is_last = step == self._steps.total
        if is_last or time.perf_counter() - self._curves_clock >= SECONDS_BETWEEN_CURVES:
            self._draw_curves()
        self._restart_clock(step)

    def _draw_curves(self) -> None:
        if len(self.records) > self._num_drawn:
            draw_curves(self.records, self._workdir / "curves.png", self._steps.per_epoch)
            self._curves_clock, self._num_drawn = time.perf_counter(), len(self.records)

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._active:
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
        self.records.append(record)
        self._file.write(json_line(record))
        self._file.flush()
        for log in self._logs:
            log.scalars(kind, step, numbers(record))


def _short(metrics: dict[str, float]) -> str:
    def number(name, value):
        if "accuracy" in name:
            return f"{value:.2%}"
        return f"{value:d}" if isinstance(value, int) else f"{value:.4g}"

    names = sorted(metrics, key=lambda name: name != "loss")  # jit returns dicts sorted by name
    return "  ".join(f"{name} {number(name, metrics[name])}" for name in names)
