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

import contextlib
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from data.digest import data_digest, digest_differences
from harness import commandline
from harness.errors import (
    BadImage,
    ConfigError,
    Interrupted,
    RecordError,
    before_ending,
    printable,
)
from harness.files import must_be_local, run_path, write_text
from parallel import joining, peers
from parallel.watchdog import HUNG_SECONDS, Watchdog, stacks_path
from process.shared_memory import WorkerDied
from process.streams import go_on_without_output
from saving.checkpoints import Checkpoints, can_resume
from saving.restoring import from_first
from tasks.metrics import check_finite
from training import experiment
from training.evaluation import evaluate
from training.interrupts import Interrupts
from training.metric_logs import check_services
from training.numeric_faults import NumericFaults, read_rows
from training.profiling import parse_steps, profiled
from training.reporting import Reporter
from training.same_everywhere import compare
from training.stops import Stops, check_bad_images
from training.trained_run import check_same_config
from workdirs.claims import claimed
from workdirs.class_file import own_classes
from workdirs.progress import check_not_lost, check_places
from workdirs.restart import check_not_half_moved, set_aside_run
from workdirs.results import BadImagesFile, bad_images_path, read_done, write_done

# Steps that may be queued on the device. Two keep it busy; more would only hold batches in memory.
RUN_AHEAD = 2


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | Path,
    *,
    profile_steps: str | None = None,
    log_to: Sequence[str] = (),
    restart: bool = False,
    watchdog_seconds: float = HUNG_SECONDS,
) -> dict[str, float]:
    """Trains until the last step of the config, from wherever the workdir has got to.

    Args:
        config: from a recipe's get_config().
        workdir: folder of the run, made if absent.
        profile_steps: "FIRST:LAST": writes a trace of these steps to workdir/profile.
        log_to: services that get the metrics too: "wandb", "mlflow".
        restart: begin anew; what is in the workdir is moved aside.
        watchdog_seconds: without a part of the start, a step, a batch of an evaluation or a save,
            after which the process says where it hangs and ends, with exit code 70; 0: never.

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
    workdir = run_path("workdir", workdir)

    # Everything that can be wrong is found before anything is written.
    plain = experiment.check_config(config)
    if not restart:
        check_not_half_moved(workdir)
        check_places(workdir)
        check_same_config(workdir, config)
    check_services(log_to, workdir)
    if profile_steps is not None:
        must_be_local("--workdir", workdir, "where --profile_steps cannot write its traces")
    if not restart:
        if (metrics := read_done(workdir)) is not None:
            text = f"{workdir} is finished: {metrics}. Another --workdir starts a new run."
            print(printable(text))
            if not can_resume(workdir):
                print(printable(f"note: {workdir} has no checkpoint any more"), file=sys.stderr)
            return metrics
        check_not_lost(workdir)

    dog = Watchdog(watchdog_seconds, functools.partial(write_text, stacks_path(workdir)))
    with contextlib.ExitStack() as stack:
        stack.enter_context(dog)  # ends last: opening and closing may hang as well
        interrupts = stack.enter_context(Interrupts())
        run = experiment.build(config, class_names=None if restart else own_classes(workdir))
        dog.progress("opening the data")
        stops = Stops(interrupts.requested, run.data.bad)
        profile = parse_steps(profile_steps, run.steps.total)
        resumes = can_resume(workdir) and not restart
        compare("workdirs", {"--workdir": str(workdir), "can resume": resumes})
        weights = None if resumes else run.read_weights()  # config.init_from
        classes, num_examples = run.data.dataset.class_names, run.data.num_train_examples
        if restart and (aside := from_first(set_aside_run, workdir)):
            print(printable(f"begins anew; what was there is now in {aside}"))
        records = {"digest": data_digest(run.data), "differences": digest_differences}
        check_there = stack.enter_context(claimed(workdir, plain, classes, num_examples, **records))
        run.data.bad.keep_in(BadImagesFile(bad_images_path(workdir)))
        saved = stack.enter_context(
            Checkpoints(workdir=workdir, is_good=run.task.is_good, **plain["checkpoint"])
        )
        batches = stack.enter_context(contextlib.closing(run.data.train_batches()))
        faults = NumericFaults(**plain["faults"], records_of=run.records_of, workdir=workdir)

        # The newest checkpoint or a fresh state; each array goes straight to its own devices.
        restored = saved.restore(run.shapes)
        if restored is None:
            first_step, state, window = 0, run.init(weights), []
        else:
            first_step, state, loop = restored
            batches.set_state(loop["data"])
            window = loop["window"]  # scalars of the steps since the last log line
            faults = faults.resumed(loop.get("faults", {}))
        dog.progress("restoring the state")
        compare("place to resume from", {"step to resume from": first_step})

        report = stack.enter_context(
            Reporter(
                workdir,
                first_step=first_step,
                steps=run.steps,
                batches=batches,
                config=plain,
                log_to=log_to,
            )
        )
        report.start(run.task.parameters(run.shapes), run.mesh, run.notes(weights))
        train_step = stack.enter_context(
            profiled(run.train_step, profile, first_step=first_step, folder=workdir / "profile")
        )
        split = run.data.eval_split
        dog.progress("getting ready for the first step")

        def loop_record(step):  # of what is saved next
            check_there()
            report.flush()
            rows = read_rows(window)
            faults.check(rows, step)
            return {"data": batches.get_state(), "window": rows, "faults": faults.record()}

        def save_now(step):
            return saved.save(step, state, loop_record(step), wait=True)

        def stop(step):
            done = save_now(step)
            check_bad_images(run.data.bad)
            raise Interrupted(f"{done}; the same command resumes")

        def saved_first(step):
            is_one = peers.current() is None  # with several, no other is at a save now
            ends = (BadImage, RecordError, WorkerDied) if is_one else ()
            return before_ending(ends, lambda: save_now(step))

        def log_now(step):
            nonlocal window, faults
            averages, found, faults_now = faults.look(read_rows(window), step)
            run.task.check(averages, step)
            check_there()
            with saved_first(step):
                report.train(step, averages, found)
            window, faults = [], faults_now

        def evaluate_now(step):
            record = loop_record(step)
            watched = report.watched(run.data.eval_batches(), split)

            def stop_requested():  # asked before each batch
                dog.progress(f"a batch of the evaluation at step {step}")
                return stops.requested()

            evaluation = evaluate(
                run.eval_step, run.task, state, watched, key=run.key, stop=stop_requested
            )
            if evaluation is None:
                stop(step)
            check_finite(evaluation.metrics, step)
            saved.save_best(step, state, record, evaluation.metrics)
            with saved_first(step):
                report.evaluation(step, evaluation, split)
            return evaluation.metrics

        def next_batch(step):
            with saved_first(step):
                return next(batches)

        if window and run.steps.logs_at(first_step):  # stopped before it could
            log_now(first_step)
        if run.steps.evaluates_at(first_step):
            metrics = evaluate_now(first_step)
        for step in range(first_step + 1, run.steps.total + 1):
            if stops.requested():
                stop(step - 1)
            state, scalars = train_step(state, next_batch(step - 1), run.key)
            window.append(scalars)
            jax.block_until_ready(window[:-RUN_AHEAD][-1:])
            report.progress(step)
            dog.progress(f"step {step}")

            if run.steps.logs_at(step):
                log_now(step)
            if run.steps.saves_at(step):
                saved.save(step, state, loop_record(step), is_last=step == run.steps.total)
                dog.progress(f"the save of step {step}")
            if run.steps.evaluates_at(step):
                metrics = evaluate_now(step)

        saved.wait()
        dog.progress("the last save")
        metrics |= saved.best(run.steps.per_epoch)
        check_there()
        write_done(workdir, metrics)
        report.finish(metrics, split, seconds=time.perf_counter() - started)
    return metrics


def define_flags() -> None:
    joining.define_flags()
    commandline.define_config_flag()
    flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, curves.")
    flags.DEFINE_string(
        "profile_steps", None, "FIRST:LAST, such as 10:20: trace these steps to WORKDIR/profile."
    )
    flags.DEFINE_list(
        "log_to", [], "Services that get the metrics too: wandb, mlflow, or both with a comma."
    )
    flags.DEFINE_bool(
        "restart",
        False,
        "Begin anew; what is in WORKDIR moves to a folder in it. Not for a line that runs again.",
    )
    flags.DEFINE_float(
        "watchdog_seconds",
        HUNG_SECONDS,
        "End with the stacks of all threads and exit code 70 if nothing has moved for so long; 0: "
        "never.",
        lower_bound=0.0,
    )


def main(args: flags.FlagValues) -> None:
    if args.config is None or not args.workdir:
        raise ConfigError("both --config=FILE.py and --workdir=FOLDER are needed; see --help")
    go_on_without_output()
    train_and_evaluate(
        args.config,
        args.workdir,
        profile_steps=args.profile_steps,
        log_to=args.log_to,
        restart=args.restart,
        watchdog_seconds=args.watchdog_seconds,
    )


if __name__ == "__main__":
    commandline.run(define_flags, main, within=joining.joined)
