"""A trace of a few training steps, for TensorBoard and Perfetto."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from harness.errors import ConfigError
from training.only_for_looking import OnlyForLooking
from workdirs.plain_path import plain_path


def parse_steps(text: str | None, total: int) -> range:
    """Returns the steps that --profile_steps=FIRST:LAST names, both included; None names none.

    Args:
        text: steps are counted from 1; the first step of a process includes its compilation.
        total: last step of the run.

    Raises:
        ConfigError: another form, or steps that the run does not have.
    """
    if text is None:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    first, last = map(int, match.groups()) if match else (0, 0)
    if not 1 <= first <= last <= total:
        raise ConfigError(
            f"--profile_steps={text}: must be FIRST:LAST, such as 10:20, with "
            f"1 <= FIRST <= LAST <= {total}, the last step of the run"
        )
    return range(first, last + 1)


@contextlib.contextmanager
def profiled(
    train_step: Callable, steps: range, *, first_step: int, folder: Path
) -> Iterator[Callable]:
    """Yields a train step that does the same, and records some of its calls in the first process.

    Args:
        train_step: called once per step.
        steps: those to record.
        first_step: number of updates made before.
        folder: receives plugins/profile/TIME/: TensorBoard shows it (with the package xprof), and
            https://ui.perfetto.dev opens the file perfetto_trace.json.gz in it.
    """
    looking = OnlyForLooking(print)
    left = range(max(steps.start, first_step + 1), steps.stop)
    if len(left) < len(steps):  # a resumed run: no error, since the same command has to resume it
        what = f"{left.start}:{left[-1]} are recorded" if left else "nothing is recorded"
        print(f"note: --profile_steps: {first_step} steps are made; {what}", file=sys.stderr)
    if not left or jax.process_index() != 0:
        yield train_step
        return
    step, is_recording = first_step, False

    def recorded(state, *inputs):
        nonlocal step, is_recording
        step += 1
        if step == left.start:
            jax.block_until_ready(state)  # what came before stays out
            with looking("the profile"):
                jax.profiler.start_trace(plain_path(folder), create_perfetto_trace=True)
                is_recording = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            result = train_step(state, *inputs)
        if step == left[-1] and is_recording:
            jax.block_until_ready(result)
            is_recording = False
            with looking("the profile"):
                jax.profiler.stop_trace()
        return result

    try:
        yield recorded
    finally:
        if is_recording:  # interrupted in between
            with looking("the profile"):
                jax.profiler.stop_trace()
