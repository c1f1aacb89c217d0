"""Evaluates a checkpoint of a run, or a weights file, on any split.

    python evaluate.py --workdir=runs/digits_nest
    python evaluate.py --workdir=runs/digits_nest --checkpoint=best --split='train[:50%]'
    python evaluate.py --config=configs/imagenet_nest.py:base --weights=nest-b_imagenet/

Prints one JSON line, and writes it beside what was evaluated. Without --config, the config that
the workdir was trained with. Exit codes: 0 done; 2 wrong config or input.
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
from training import experiment
from training.checkpoints import Checkpoints
from training.evaluation import evaluate
from zoo.load import load_variables


def evaluate_workdir(
    config: ConfigDict, workdir: str | Path, *, checkpoint: str = "latest", split: str | None = None
) -> dict[str, Any]:
    """Evaluates a run's checkpoint; returns metrics, split, step and checkpoint.

    Args:
        config: the recipe.
        workdir: of the run; nothing in its checkpoints is changed.
        checkpoint: "latest" or "best".
        split: e.g. "test" or "train[:50%]"; None: the config's data.eval_split.

    Raises:
        ConfigError: no checkpoint, or one of another model.
    """
    folder = Path(workdir).absolute() / "checkpoints" / checkpoint
    if not folder.is_dir():
        raise ConfigError(f"{folder} does not exist: no run has saved a checkpoint there")
    run = _build(config, split)
    there, here = workdirs.find_classes(Path(workdir)), run.data.dataset.class_names
    if None not in (there, here) and there != tuple(here):
        raise ConfigError(
            f"{workdir} was trained on other classes, or in another order: {list(there)}"
        )
    trained, now = (
        experiment.check_config(c, needs_data=False)
        for c in (workdirs.read_config(Path(workdir)), config)
    )
    for difference in workdirs.config_differences(trained, now):
        print(f"note: not as trained: {difference}", file=sys.stderr)
    sections = config.checkpoint.to_dict()
    with Checkpoints(workdir=Path(workdir), read_only=True, **sections) as saved:
        restored = saved.restore(run.shapes, checkpoint)
    if restored is None:
        raise ConfigError(f"{folder} holds no finished checkpoint")
    step, state, _ = restored
    return {"checkpoint": str(folder / str(step)), "step": step} | _metrics(run, state)


def evaluate_weights(
    config: ConfigDict, weights: str | Path, *, split: str | None = None, ema: bool = False
) -> dict[str, Any]:
    """Evaluates a weights file or folder that zoo.load.load_variables reads.

    Args:
        config: the recipe.
        weights: file or folder.
        split: as for evaluate_workdir.
        ema: take the moving average that the file has beside the weights.

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
    # There is one set of weights: an average of them would be the same again.
    metrics = {name: value for name, value in metrics.items() if not name.startswith("ema_")}
    return {"weights": str(weights)} | metrics


def _build(config: ConfigDict, split: str | None) -> experiment.Experiment:
    """Builds the run with another evaluation split, if one is given."""
    if split is not None:
        config = config.copy_and_resolve_references()
        config.data.eval_split = split
    return experiment.build(config, training=False)


def _metrics(run: experiment.Experiment, state: Any) -> dict[str, Any]:
    evaluation = evaluate(run.eval_step, run.task, state, run.data.eval_batches(), key=run.key)
    protocol = {"protocol": evaluation.protocol} if evaluation.protocol else {}
    return {"split": run.data.eval_split} | evaluation.metrics | protocol


def define_flags() -> None:
    commandline.define_config_flag()
    flags.DEFINE_string("workdir", None, "Folder of a run whose checkpoint to evaluate.")
    flags.DEFINE_enum("checkpoint", "latest", ["latest", "best"], "Which of the run's.")
    flags.DEFINE_string("weights", None, "Weights to evaluate instead of a run's checkpoint.")
    flags.DEFINE_bool("ema", False, "Of --weights, the moving average beside them.")
    flags.DEFINE_string("split", None, "E.g. test or 'train[:50%]'; None: the config's eval_split.")


def main(args: flags.FlagValues) -> None:
    if (args.workdir is None) == (args.weights is None):
        raise ConfigError("give one of --workdir=FOLDER and --weights=PATH; see --help")
    if args.weights is not None:
        if args.config is None:
            raise ConfigError("--weights needs --config=FILE.py: it names model and data")
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
