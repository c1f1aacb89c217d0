"""Trains a model from a recipe.

    python train.py --config=configs/digits_nest.py --workdir=runs/digits_nest

Any value of the recipe can be set: --config.optimizer.base_lr=1e-3. The same line again resumes an
interrupted run, and does nothing for a finished one. Exit codes: 0 done; 2 wrong config or input;
3 stopped on a non-finite loss or a collapse; 75 interrupted after saving, run again.
"""

import contextlib
import time
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from harness import commandline, workdirs
from harness.errors import BadImage, ConfigError, Interrupted
from tasks.metrics import check_finite, mean_scalars, to_numbers
from training import experiment
from training.checkpoints import Checkpoints, can_resume
from training.evaluation import evaluate
from training.interrupts import Interrupts
from training.reporting import Reporter
from training.trained_run import check_same_config

# Steps that may be queued on the device. Two keep it busy; more would only hold batches in memory.
RUN_AHEAD = 2


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Trains until the last step of the config, from wherever the workdir has got to.

    Args:
        config: from a recipe's get_config().
        workdir: folder of the run, made if absent.

    Returns:
        The metrics of the last step's evaluation.

    Raises:
        ConfigError: something in the config, the data or the workdir is wrong; nothing is written.
        BadImage: more images cannot be read than the config allows; the state is saved.
        NonFiniteError: the loss or the state is not finite, or the task sees no way on; the last
            good checkpoint stays.
        Interrupted: SIGTERM or SIGINT; the state is saved.
    """
    started = time.perf_counter()
    workdir = Path(workdir).absolute()

    # Everything that can be wrong is found before anything is written.
    plain = experiment.check_config(config)
    check_same_config(workdir, config)
    if (metrics := workdirs.read_done(workdir)) is not None:
        print(f"{workdir} is finished: {metrics}. Another --workdir starts a new run.")
        return metrics

    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        run = experiment.build(config)
        weights = None if can_resume(workdir) else run.read_weights()  # config.init_from
        stack.enter_context(workdirs.claimed(workdir, plain, run.data.dataset.class_names))
        run.data.bad.keep_in(workdirs.bad_images_path(workdir))
        saved = stack.enter_context(
            Checkpoints(workdir=workdir, is_good=run.task.is_good, **plain["checkpoint"])
        )
        batches = stack.enter_context(contextlib.closing(run.data.train_batches()))

        # The newest checkpoint or a fresh state; each array goes straight to its own devices.
        restored = saved.restore(run.shapes)
        if restored is None:
            step, state, window = 0, run.init(weights), []
        else:
            step, state, loop = restored
            batches.set_state(loop["data"])
            window = loop["window"]

        def loop_record():
            return {"data": batches.get_state(), "window": to_numbers(window)}

        with Reporter(workdir, first_step=step, steps=run.steps, batches=batches) as report:
            report.start(run.task.parameters(run.shapes), run.mesh, run.notes(weights))

            # The loop. `window` holds the scalars of the steps since the last log line.
            while True:
                if run.steps.due(run.steps.evaluate, step):
                    split = plain["data"]["eval_split"]
                    evaluation = evaluate(
                        run.eval_step,
                        run.task,
                        state,
                        report.watched(run.data.eval_batches(), split),
                        key=run.key,
                        stop=interrupts.requested,
                    )
                    if evaluation is not None:
                        metrics = evaluation.metrics
                        check_finite(metrics, step)
                        saved.save_best(step, state, loop_record(), metrics)
                        report.evaluation(step, evaluation, split)
                        if step == run.steps.total:
                            break

                if interrupts.requested():
                    done = saved.save(step, state, loop_record(), wait=True)
                    raise Interrupted(f"{done}; the same command resumes")

                try:
                    batch = next(batches)
                except BadImage:
                    if jax.process_count() == 1:  # with several, no other is at a save now
                        saved.save(step, state, loop_record(), wait=True)
                    raise
                state, scalars = run.train_step(state, batch, run.key)
                step += 1
                window.append(scalars)
                jax.block_until_ready(window[:-RUN_AHEAD][-1:])
                report.progress(step)

                if run.steps.due(run.steps.log, step):
                    averages = mean_scalars(window)
                    window = []
                    run.task.check(averages, step)
                    report.train(step, averages)

                if run.steps.due(run.steps.save, step):
                    is_last = step == run.steps.total
                    saved.save(step, state, loop_record(), is_last=is_last)

            saved.wait()
            workdirs.write_done(workdir, metrics)
            report.finish(metrics, split, seconds=time.perf_counter() - started)
    return metrics


def define_flags() -> None:
    commandline.define_config_flag()
    flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, curves.")


def main(args: flags.FlagValues) -> None:
    if args.config is None or not args.workdir:
        raise ConfigError("both --config=FILE.py and --workdir=FOLDER are needed; see --help")
    train_and_evaluate(args.config, args.workdir)


if __name__ == "__main__":
    commandline.run(define_flags, main)
