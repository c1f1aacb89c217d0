"""Evaluates a checkpoint of a run, or a weights file, on any split.

    python evaluate.py --workdir=runs/digits_nest
    python evaluate.py --workdir=runs/digits_nest --checkpoint=best --split='train[:50%]'
    python evaluate.py --config=configs/imagenet_nest.py:base --weights=nest-b_imagenet/

Prints one JSON line, and writes it next to what was evaluated. Without --config, the workdir's own
config counts. Exit codes: 0 done; 2 wrong config or input.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from harness import commandline, workdirs
from harness.errors import ConfigError, input_errors
from harness.files import write_text
from inference.flags import check_recipe_flags, define_recipe_flags
from training import experiment
from training.evaluation import evaluate
from training.trained_run import checkpoint_folder, note_differences, restore
from zoo.load import load_variables


def evaluate_workdir(
    config: ConfigDict, workdir: str | Path, *, checkpoint: str = "latest", split: str | None = None
) -> dict[str, Any]:
    """Evaluates a run's checkpoint; returns metrics, split, step and checkpoint.

    Args:
        config: the recipe.
        workdir: of the run, whose checkpoints stay as they are.
        checkpoint: "latest" or "best".
        split: e.g. "test" or "train[:50%]"; None: the config's data.eval_split.

    Raises:
        ConfigError: there is no checkpoint, or it is of another model.
    """
    workdir = Path(workdir)
    checkpoint_folder(workdir, checkpoint)  # before the data set is opened
    note_differences(workdir, config)
    run = _build(config, split)
    there, here = workdirs.find_classes(workdir), run.data.dataset.class_names
    if None not in (there, here) and there != tuple(here):
        raise ConfigError(
            f"{workdir} was trained on other classes, or in another order: {list(there)}"
        )
    step, state, folder = restore(run, workdir, checkpoint)
    return {"checkpoint": str(folder), "step": step} | _metrics(run, state)


def evaluate_weights(
    config: ConfigDict, weights: str | Path, *, split: str | None = None, ema: bool = False
) -> dict[str, Any]:
    """Evaluates a weights file or folder that zoo.load.load_variables reads.

    Args:
        config: the recipe.
        weights: file or folder.
        split: as for evaluate_workdir.
        ema: evaluate the moving average of the weights.

    Raises:
        ConfigError: the weights are missing, unreadable or of another model.
    """
    run = _build(config, split)
    if run.task.model is None:
        raise ConfigError(
            f"--weights: there are no weights files of task {config.task.name!r}; give --workdir"
        )
    with input_errors():
        loaded = load_variables(
            weights,
            run.task.model,
            image_size=run.data.image_shape,
            reinit_head="never",
            weights="ema" if ema else "raw",
        )
    print(loaded[1], file=sys.stderr)
    metrics = _metrics(run, run.init(loaded))
    # There is one set of weights, so the metrics of an average would be the same again.
    metrics = {name: value for name, value in metrics.items() if not name.startswith("ema_")}
    return {"weights": str(weights)} | metrics


def _build(config: ConfigDict, split: str | None) -> experiment.Experiment:
    """Builds the run with another evaluation split, if one is given."""
    if split is not None:
        config = config.copy_and_resolve_references()
        config.data.eval_split = split
    run = experiment.build(config, training=False)
    if jax.process_index() == 0:
        for note in run.data.dataset.notes:
            print(f"note: {note}", file=sys.stderr)
    return run


def _metrics(run: experiment.Experiment, state: Any) -> dict[str, Any]:
    evaluation = evaluate(run.eval_step, run.task, state, run.data.eval_batches(), key=run.key)
    protocol = {"protocol": evaluation.protocol} if evaluation.protocol else {}
    return {"split": run.data.eval_split} | evaluation.metrics | protocol


def define_flags() -> None:
    define_recipe_flags()
    flags.DEFINE_string("split", None, "E.g. test or 'train[:50%]'; None: the config's eval_split.")


def main(args: flags.FlagValues) -> None:
    check_recipe_flags(args)
    if args.weights is not None:
        result = evaluate_weights(args.config, args.weights, split=args.split, ema=args.ema)
        written = Path(args.weights).absolute()
        written = written.with_name(f"{written.name}.evaluation")
    else:
        workdir = Path(args.workdir).absolute()
        config = args.config
        if config is None:
            config = workdirs.read_config(workdir)
            config.mesh = {"data": -1, "fsdp": 1}  # this machine, not the one it was trained on
        result = evaluate_workdir(config, workdir, checkpoint=args.checkpoint, split=args.split)
        written = workdir / f"evaluation_{args.checkpoint}"
    if jax.process_index() == 0:
        line = json.dumps(result)
        print(line)
        split = result["split"].translate(
            {ord("["): "_", ord("]"): "", ord(":"): "-", ord("%"): "p"}
        )
        try:
            write_text(written.with_name(f"{written.name}_{split}.json"), line + "\n")
        except OSError as error:
            print(f"evaluate.py: the result is not written: {error}", file=sys.stderr)


if __name__ == "__main__":
    commandline.run(define_flags, main)
