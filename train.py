"""Trains a model from a recipe.

    python train.py --config=configs/digits_nest.py --workdir=runs/digits_nest

Any value of the recipe can be set: --config.optimizer.base_lr=1e-3. The same line again resumes an
interrupted run, and does nothing for a finished one. Exit codes: 0 done; 2 wrong config or input;
3 stopped on a non-finite loss or gradient, or a collapse; 70 it hung; 74 a checkpoint or a record
cannot be read or written now; 75 interrupted after saving, run again; 130 or 143 stopped at once,
by a second signal.
"""

import process.first  # noqa: F401

# isort: split

import time
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from harness import commandline
from harness.errors import ConfigError
from harness.files import run_path
from parallel import joining
from parallel.watchdog import HUNG_SECONDS
from preview.dry_run import dry_run
from preview.recipe_flag import define_config_flag
from preview.sources import FORMATS, as_text, sources_of
from process.streams import go_on_without_output
from training.beginning import begun, check_start, read_finished
from workdirs.config_file import load_config

# Steps that may be queued on the device. Two keep it busy; more would only hold batches in memory.
RUN_AHEAD = 2


def train_and_evaluate(
    config: ConfigDict | str,
    workdir: str | Path,
    *,
    profile_steps: str | None = None,
    log_to: Sequence[str] = (),
    restart: bool = False,
    extend: bool = False,
    watchdog_seconds: float = HUNG_SECONDS,
    print_parameters: bool = False,
) -> dict[str, float]:
    """Trains until the last step of the config, from wherever the workdir has got to.

    Args:
        config: from a recipe's get_config(), or the recipe's name.
        workdir: folder of the run, made if absent.
        profile_steps: "FIRST:LAST": writes a trace of these steps to workdir/profile.
        log_to: services that get the metrics too: "wandb", "mlflow".
        restart: start over; what is in the workdir is moved aside.
        extend: the run in the workdir may have been shorter, finished or not; it goes on to the
            config's num_epochs.
        watchdog_seconds: without a part of the start, a step, a batch of an evaluation or a save,
            after which the process says where it hangs and ends, with exit code 70; 0: never.
        print_parameters: print the table of parameters.txt, too.

    Returns:
        The metrics of the last step's evaluation, and the best value of
        config.checkpoint.best_metric with its epoch.

    Raises:
        ConfigError: something in the config, the data or the workdir is wrong; nothing is written.
        BadImage: more images cannot be read than the config allows; the state is saved.
        NonFiniteError: the loss, a gradient or the state is not finite, or the task sees no way on;
            the last good checkpoint stays.
        StorageError: a checkpoint cannot be read or written; those before stay. Or metrics.jsonl or
            another record cannot be written (RecordError); the state is saved.
        Interrupted: one of the STOPPING signals; the state is saved.
    """
    started = time.perf_counter()
    config, workdir = load_config(config), run_path("workdir", workdir)
    options = {"profile_steps": profile_steps, "log_to": log_to, "restart": restart}
    start = check_start(config, workdir, **options, extend=extend)
    if not restart and (metrics := read_finished(start, workdir)) is not None:
        return metrics

    options |= {"watchdog_seconds": watchdog_seconds, "print_parameters": print_parameters}
    with begun(start, workdir, **options) as run:
        first = run.first_step
        if run.owes_log():  # stopped before it could, or another interval now
            run.log(first)
        if run.steps.evaluates_at(first):
            run.evaluate(first)

        for step in range(first + 1, run.steps.total + 1):
            if run.stops.requested():
                run.stop(step - 1)
            batch = run.next_batch(step - 1)
            run.update(batch)
            jax.block_until_ready(run.window[:-RUN_AHEAD][-1:])
            run.progress(step)

            if run.steps.logs_at(step):
                run.log(step)
            if run.steps.saves_at(step):
                run.save(step)
            if run.steps.evaluates_at(step):
                run.evaluate(step)

        return run.finish(workdir, seconds=lambda: time.perf_counter() - started)


def define_flags() -> None:
    define_config_flag()
    flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, curves.")
    commandline.define_switch(
        "print_config", FORMATS, "Only print the config, and where each value is from; =json: JSON."
    )
    commandline.define_switch(
        "dry_run",
        ("batch", "compile"),
        "Only say what would run, and decode the first batch; =compile: also compile the step. "
        "Needs no --workdir.",
    )
    flags.DEFINE_bool(
        "print_parameters", False, "Print the table of the parameters, too: WORKDIR/parameters.txt."
    )
    flags.DEFINE_string(
        "profile_steps", None, "FIRST:LAST, such as 10:20: trace these steps to WORKDIR/profile."
    )
    flags.DEFINE_list(
        "log_to", [], "Services that get the metrics too: wandb, mlflow, or both with a comma."
    )
    flags.DEFINE_bool(
        "restart",
        False,
        "Start over; what is in WORKDIR moves to a folder in it. Not for a line that runs again.",
    )
    flags.DEFINE_bool(
        "extend",
        False,
        "Continue a shorter run, finished or not, to this config.loop.num_epochs.",
    )
    flags.DEFINE_float(
        "watchdog_seconds",
        HUNG_SECONDS,
        "End with the stacks of all threads and exit code 70 if nothing has moved for so long; 0: "
        "never.",
        lower_bound=0.0,
    )
    joining.define_flags()


def main(args: flags.FlagValues) -> None:
    if args.config is None or not (args.workdir or args.print_config or args.dry_run):
        raise ConfigError("both --config=FILE.py and --workdir=FOLDER are needed; see --help")
    if args.print_config:
        overrides = [key for key, _ in args["config"].overrides]
        if jax.process_index() == 0:
            print(as_text(*sources_of(args.config, overrides), args.print_config))
        return
    if args.dry_run:
        dry_run(args["config"].recipe, args.config, compiled=args.dry_run == "compile")
        return
    go_on_without_output()
    train_and_evaluate(
        args.config,
        args.workdir,
        profile_steps=args.profile_steps,
        log_to=args.log_to,
        restart=args.restart,
        extend=args.extend,
        watchdog_seconds=args.watchdog_seconds,
        print_parameters=args.print_parameters,
    )


if __name__ == "__main__":
    commandline.run(define_flags, main, within=joining.joined)
