"""Evaluates a checkpoint of a run, or a weights file, on any split.

    python evaluate.py --workdir=runs/digits_nest
    python evaluate.py --workdir=runs/digits_nest --checkpoint=best --split='train[:50%]'
    python evaluate.py --config=configs/imagenet_nest.py:base --weights=nest-b_imagenet/
    python evaluate.py --workdir=runs/digits_mosaic_nest --localization=all --per_class
    python evaluate.py --workdir=runs/digits_nest --config.data.name=npz:photos.npz

Prints one JSON line, and writes it next to what was evaluated; with --per_class also the numbers of
each class (JSON) and the answer to each image (CSV). Without --config, the workdir's own config
counts, with --config.section.key=value changed. Exit codes: 0 done; 2 wrong config or input.
"""

import process.first  # noqa: F401

# isort: split

import functools
import json
import sys
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from data.pipeline import Among, Data
from harness import commandline
from harness.arguments import problem
from harness.class_lists import assumed_order, two_orders
from harness.errors import ConfigError, input_errors
from harness.files import run_path
from inference.answers import AnswerSheet, evaluation_path
from inference.explanation_flags import (
    NO_EXPLANATIONS,
    Explanations,
    define_explanation_flags,
    read_explanations,
)
from inference.flags import check_recipe_flags, define_recipe_flags
from inference.loading import sized_by_weights
from inference.trained_classifier import classes_in_file, classes_of_weights
from parallel import joining
from training import experiment
from training.evaluation import evaluate
from training.stops import check_bad_images
from training.trained_run import as_begun, checkpoint_folder, note_differences, restore
from workdirs.class_file import find_classes
from workdirs.config_file import load_config, stored_config
from workdirs.records import write_record
from zoo.load import load_with_own_head
from zoo.registry import create_model
from zoo.released.locate import cache_folder, is_released


def evaluate_workdir(
    config: ConfigDict | str,
    workdir: str | Path,
    *,
    checkpoint: str = "latest",
    split: str | None = None,
    classes_file: str | Path | None = None,
    among: Among = "named",
    explanations: Explanations = NO_EXPLANATIONS,
    per_class: bool = False,
) -> dict[str, Any]:
    """Evaluates a run's checkpoint; returns metrics, split, step and checkpoint.

    The data set's classes are matched with the trained ones by name, in any order; it may have only
    a part of them. Those of boxes and masks have to be the trained ones, in their order.

    Args:
        config: the recipe, as a config or by its name.
        workdir: of the run, whose checkpoints stay as they are.
        checkpoint: "latest" or "best".
        split: e.g. "test" or "train[:50%]"; None: the config's data.eval_split.
        classes_file: file with one class name per line, in the order of the trained labels; None:
            the workdir's classes.txt.
        among: which classes an answer can be, see pipeline.Data.
        explanations: what else is measured.
        per_class: also return "per_class", an answers.PerClass.

    Raises:
        ConfigError: there is no checkpoint, it is of another model, or the data has other classes.
    """
    config, workdir = load_config(config), run_path("workdir", workdir)
    checkpoint_folder(workdir, checkpoint)  # before the data set is opened
    config = as_begun(config, workdir)
    names = find_classes(workdir)
    if classes_file is not None:
        names = classes_in_file(classes_file, names)
    run = _build(_with_split(config, split), names, among)
    if names is None and two_orders(run.data.dataset.class_names or ()):
        print(f"note: {assumed_order(run.data.dataset.class_names)}", file=sys.stderr)
    step, state, folder = restore(run, workdir, checkpoint)
    return {"checkpoint": str(folder), "step": step} | _metrics(run, state, explanations, per_class)


def evaluate_weights(
    config: ConfigDict | str,
    weights: str | Path,
    *,
    split: str | None = None,
    ema: bool = False,
    classes_file: str | Path | None = None,
    among: Among = "named",
    explanations: Explanations = NO_EXPLANATIONS,
    per_class: bool = False,
) -> dict[str, Any]:
    """Evaluates a weights file or folder that zoo.load.load_variables reads.

    Classes are matched by name as in evaluate_workdir, where the weights name them.

    Args:
        config: the recipe, as a config or by its name.
        weights: file or folder.
        split: as for evaluate_workdir.
        ema: evaluate the moving average of the weights.
        classes_file: file with one class name per line, in the order of the weights' labels; None:
            the names stored with the weights, or those of ImageNet.
        among: which classes an answer can be, see pipeline.Data.
        explanations: what else is measured.
        per_class: also return "per_class", an answers.PerClass.

    Raises:
        ConfigError: the weights are missing, unreadable or of another model, or the data has other
            classes.
    """
    config = _with_split(load_config(config), split)
    plain = experiment.check_config(config)
    if plain["task"]["name"] != "classification":
        raise ConfigError(
            f"--weights: there are no weights files of task {config.task.name!r}; give --workdir"
        )
    with input_errors():
        plain, notes = sized_by_weights(config, plain, weights)
        data = Data(**plain["data"], augment=plain["augment"]).open(training=False)
        model, *loaded = load_with_own_head(
            weights,
            functools.partial(create_model, **plain["model"]),
            num_classes=data.num_classes,
            image_size=data.image_shape,
            weights="ema" if ema else "raw",
        )
        print(loaded[1], *(f"note: {note}" for note in notes), sep="\n", file=sys.stderr)
        names = classes_of_weights(classes_file, loaded[1], model.num_classes, data.dataset)
    run = _build(config, names, among, plain=plain)
    if run.data.num_classes != model.num_classes:
        what = (
            f"it has {run.data.num_classes} classes, the weights {model.num_classes}, and they are "
            "not matched by name, because one side does not name them (--classes=FILE names those "
            "of the weights)"
        )
        raise ConfigError(problem("config.data.name", data.name, what))
    metrics = _metrics(run, run.init(loaded), explanations, per_class)
    # There is one set of weights, so the metrics of an average would be the same again.
    metrics = {name: value for name, value in metrics.items() if not name.startswith("ema_")}
    return {"weights": str(weights)} | metrics


def _with_split(config: ConfigDict, split: str | None) -> ConfigDict:
    """Returns the config with another evaluation split, if one is given."""
    if split is not None:
        config = config.copy_and_resolve_references()
        with config.data.ignore_type():
            config.data.eval_split = split
    return config


def _build(
    config: ConfigDict, class_names: tuple[str, ...] | None, among: Among, **options: Any
) -> experiment.Experiment:
    """Builds the run with its classes in the order of the trained ones, where both have names."""
    options |= {"class_names": class_names, "among": among}
    run = experiment.build(config, training=False, **options)
    if jax.process_index() == 0:
        for note in run.data.dataset.notes:
            print(f"note: {note}", file=sys.stderr)
    return run


def _metrics(
    run: experiment.Experiment, state: Any, explanations: Explanations, per_class: bool
) -> dict[str, Any]:
    explanations.check(run)
    sheet = AnswerSheet(run, state, ema=explanations.ema) if per_class else None
    seen = set()

    def watched(batches):
        for batch in batches:
            yield batch
            if jax.process_count() == 1 and "label" in batch:
                labels = np.asarray(batch["label"])[np.asarray(batch["mask"]) > 0]
                if labels.ndim == 2:  # of 0 and 1, several an image
                    labels = np.nonzero(labels)[1]
                seen.update(labels.tolist())

    batches = watched(run.data.eval_batches())
    batches = sheet.watched(batches) if sheet else batches
    evaluation = evaluate(run.eval_step, run.task, state, batches, key=run.key)
    check_bad_images(run.data.bad)
    is_classified = "top1_accuracy" in evaluation.metrics
    if is_classified and seen and len(seen) < run.data.num_classes and run.data.answers is None:
        print(
            f"note: only {len(seen)} of {run.data.num_classes} classes have examples in this "
            "split; answers are compared among all, and with --among=occurring among these",
            file=sys.stderr,
        )
    protocol = {"protocol": evaluation.protocol} if evaluation.protocol else {}
    metrics = {"split": run.data.eval_split} | evaluation.metrics | protocol
    try:
        metrics |= explanations.score(run, state)
    except ConfigError as error:  # what was evaluated is not lost
        if explanations.localization != "auto" or explanations.faithfulness != "none":
            print(json.dumps(metrics))
            raise
        print(f"note: localisation is not measured: {error}", file=sys.stderr)
    return metrics | ({"per_class": sheet.results()} if sheet else {})


def define_flags() -> None:
    define_recipe_flags()
    flags.DEFINE_string("split", None, "E.g. test or 'train[:50%]'; None: the config's eval_split.")
    flags.DEFINE_bool(
        "per_class", False, "Also write the numbers of each class, and each prediction as CSV."
    )
    flags.DEFINE_string("classes", None, "File with one class name per line, as trained.")
    flags.DEFINE_enum(
        "among",
        "named",
        get_args(Among),
        "Classes that an answer can be: all that the data names, or those with examples in the "
        "split, as for ImageNet-A and -R of TensorFlow Datasets, which name all 1,000.",
    )
    define_explanation_flags()
    joining.define_flags()


def main(args: flags.FlagValues) -> None:
    check_recipe_flags(args)
    options = {
        "split": args.split,
        "classes_file": args.classes,
        "among": args.among,
        "explanations": read_explanations(args),
        "per_class": args.per_class,
    }
    if args.weights is not None:
        written = run_path("--weights", args.weights)
        if is_released(args.weights):
            written = cache_folder() / args.weights  # where it is downloaded to
        result = evaluate_weights(args.config, args.weights, ema=args.ema, **options)
        written = written.with_name(f"{written.name}.evaluation")
    else:
        workdir = run_path("--workdir", args.workdir)
        if (config := args.config) is not None:
            note_differences(workdir, config)
        else:
            # This machine, not the one it was trained on.
            config = stored_config(workdir, mesh={"data": -1, "fsdp": 1})
        result = evaluate_workdir(
            config,
            workdir,
            checkpoint=args.checkpoint,
            **options,
        )
        written = workdir / f"evaluation_{args.checkpoint}"
    per_class = result.pop("per_class", None)
    line = json.dumps(result)
    if jax.process_index() == 0:
        print(line)
        written = evaluation_path(written, result["split"])
        try:
            write_record(written, line + "\n")
            files = [written, *(per_class.write(written, result) if per_class else ())]
            if "faithfulness" in result:
                # Importing matplotlib takes a while, which only its pictures should cost.
                from inference.pictures.faithfulness import save_faithfulness

                files.append(written.with_name(f"{written.stem}_faithfulness.png"))
                save_faithfulness(result["faithfulness"], files[-1])
            for path in files:
                print(f"written: {path}", file=sys.stderr)
        except OSError as error:
            print(f"evaluate.py: the result is not written: {error}", file=sys.stderr)


if __name__ == "__main__":
    commandline.run(define_flags, main, within=joining.joined)
