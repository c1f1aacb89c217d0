"""How long an interrupted run takes from its command to its first step, and what takes the time."""

import dataclasses
import json
import os
import runpy
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import ConfigError, Interrupted

ROOT = Path(__file__).resolve().parents[1]
_STARTED, _MARKS = "RESTART_STARTED", "RESTART_MARKS"  # in the environment of the measured process
# What has been done when a mark is set, in their order.
PHASES = {
    "imports": "Python, imports",
    "built": "config, data, model",
    "restored": "workdir, checkpoint",
    "batch": "reports, first batch",
    "step": "first step: traced, read from the cache, run",
}


def run(arguments: Sequence[str], *, rounds: int, say: Callable[[str], None]) -> list[dict]:
    """Starts a run, interrupts it after its first step, and measures how it starts again.

    Args:
        arguments: of train.py, without --workdir.
        rounds: restarts; the median counts.
        say: prints a line.

    Returns:
        A record ready for JSON: seconds of each phase and in all, and of the processor, which tell
        of a machine that has other things to do.
    """
    with tempfile.TemporaryDirectory() as folder:
        _start(arguments, Path(folder))  # also fills the cache of compiled programs
        starts = [_start(arguments, Path(folder)) for _ in range(rounds)]
    split = {phase: statistics.median(start[phase] for start in starts) for phase in PHASES}
    totals = [sum(start[phase] for phase in PHASES) for start in starts]
    processor = statistics.median(start["processor"] for start in starts)
    for phase, seconds in split.items():
        say(f"  {seconds:6.2f} s  {PHASES[phase]}")
    say(f"  {statistics.median(totals):6.2f} s  in all ({min(totals):.2f} to {max(totals):.2f})")
    say(f"  {processor:6.2f} s  of the processor")
    total = statistics.median(totals)
    return [{"seconds": total, "processor": processor, "rounds": totals, "split": split}]


def _start(arguments: Sequence[str], folder: Path) -> dict[str, float]:
    """Runs to the end of a first step; returns the seconds of each phase."""
    marks = folder / "marks.json"
    environment = {**os.environ, _STARTED: repr(time.time()), _MARKS: str(marks)}
    command = [sys.executable, "-m", "benchmarks.restart", *arguments]
    done = subprocess.run(
        [*command, f"--workdir={folder / 'run'}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode != Interrupted.exit_code:
        raise ConfigError(
            f"restart: {(done.stderr.strip() or 'nothing left to do').splitlines()[-1]}"
        )
    times = json.loads(marks.read_text())
    started = times.pop("started")
    spent = {"processor": times.pop("processor") - started}
    for phase in PHASES:
        spent[phase], started = times[phase] - started, times[phase]
    return spent


def main() -> None:
    """Is train.py that notes when each phase is over, and is interrupted after its first step."""
    marks = {"started": float(os.environ[_STARTED])}
    train = runpy.run_path(str(ROOT / "train.py"), run_name="train")
    from harness import commandline
    from saving.checkpoints import Checkpoints
    from training import experiment

    def mark(phase):
        marks[phase] = time.time()

    def marked(function, phase):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            mark(phase)
            return result

        return call

    def first_step(step):
        import jax

        def call(*args):
            if "step" in marks:
                return step(*args)
            mark("batch")
            result = jax.block_until_ready(step(*args))
            mark("step")
            marks["processor"] = marks["started"] + time.process_time()
            Path(os.environ[_MARKS]).write_text(json.dumps(marks))
            signal.raise_signal(signal.SIGTERM)
            return result

        return call

    def build(*args, **kwargs):
        run = built(*args, **kwargs)
        return dataclasses.replace(run, train_step=first_step(run.train_step))

    mark("imports")
    built, experiment.build = experiment.build, marked(build, "built")
    Checkpoints.restore = marked(Checkpoints.restore, "restored")
    sys.argv[0] = "train.py"
    commandline.run(train["define_flags"], train["main"])


if __name__ == "__main__":
    main()
