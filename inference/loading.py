"""Reading a trained classifier: its recipe, its weights, the names of its classes.

The recipe's data set need not be there: the numbers of classes and channels are those of the
weights.
"""

import dataclasses
import functools
import os
from typing import Any

from ml_collections import ConfigDict

from data import datasets
from data.class_names import imagenet_names, readable
from data.pipeline import Data
from data.pixel_statistics import default_statistics
from harness.arguments import problem
from harness.class_lists import assumed_order, check_order, two_orders
from harness.errors import ConfigError, input_errors
from tasks.by_images import open_keys
from training.experiment import check_config
from training.trained_run import as_begun
from workdirs.class_file import read_classes
from workdirs.config_file import load_config, read_config
from zoo.find import weights_path
from zoo.load import Report, load_with_own_head, trained_image_size
from zoo.registry import create_model, default_image_size

NUM_IMAGENET_CLASSES = 1000


def load_fields(
    weights: str | os.PathLike,
    config: ConfigDict | str | os.PathLike | None,
    *,
    checkpoint: str,
    ema: bool,
    classes_file: str | os.PathLike | None,
) -> dict[str, Any]:
    """Returns the fields of a `Predictor`; arguments and errors are those of `Predictor.load`."""
    path = weights_path("weights", weights)
    if config is None:
        if isinstance(path, str) or (path.exists() and not (path / "config.json").exists()):
            raise ConfigError(f"{path} is no workdir: name its recipe too, config=RECIPE")
        config = read_config(path)
    config = load_config(config)
    if not isinstance(path, str):
        config = as_begun(config, path)
    plain = check_config(config, needs_data=False)
    if (name := plain["task"]["name"]) != "classification":
        what = "no classes to predict"
        raise ConfigError(problem("config.task.name", name, what, "classification"))
    with input_errors():
        plain, sized = sized_by_weights(config, plain, path, checkpoint)
        data = Data(**plain["data"], augment=plain["augment"], seed=plain["seed"])
        dataset = _dataset(data)
        channels = dataset.num_channels if dataset else data.channels or 3
        model, variables, report = load_with_own_head(
            path,
            functools.partial(create_model, **plain["model"]),
            num_classes=dataset.num_classes if dataset else NUM_IMAGENET_CLASSES,
            image_size=(*data.height_and_width, channels),
            # Missing arrays may have been grey, as MNIST's are.
            own_channels=dataset is None and data.channels is None,
            checkpoint=checkpoint,
            weights="ema" if ema else "raw",
        )
        channels = report.image_shape[-1]
        statistics = default_statistics(data.name, channels)
        if dataset:
            statistics = dataset.mean, dataset.std
        names, notes = _class_names(classes_file, report, data.name, dataset, model.num_classes)
    return {
        "model": model,
        "variables": variables,
        "data": data,
        "num_channels": channels,
        "mean": tuple(data.mean or statistics[0]),
        "std": tuple(data.std or statistics[1]),
        "class_names": names,
        "report": dataclasses.replace(report, notes=(*report.notes, *sized, *notes)),
        "loss": plain["task"]["loss"],
    }


def sized_by_weights(
    config: ConfigDict,
    plain: dict[str, Any],
    weights: str | os.PathLike,
    checkpoint: str = "latest",
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Gives a config that leaves the image size open that of the weights.

    The images that trained weights are shown later decide nothing.

    Args:
        config: the recipe.
        plain: the same, checked.
        weights: as `Predictor.load` takes them.
        checkpoint: "latest" or "best", of a workdir.

    Returns:
        The checked config with the size that the weights were made for, or else the model's own,
        and a note that says so.

    Raises:
        FileNotFoundError, ValueError: the weights are missing or unreadable.
    """
    if "data.image_size" not in open_keys(config.to_dict()):
        return plain, ()
    section = plain["model"]
    model = create_model(**section, num_classes=1)
    size, whose = trained_image_size(weights, model, checkpoint), "that of the weights"
    if size is None:
        size, whose = (default_image_size(section["name"]),) * 2, "the model's own"
    note = f"config.data.image_size={size}: {whose}"
    return plain | {"data": plain["data"] | {"image_size": size}}, (note,)


def _dataset(data: Data) -> datasets.Dataset | None:
    """Returns the recipe's data set if it is there and readable."""
    try:
        return data.dataset
    except (ValueError, OSError):
        return None


def _class_names(
    file: str | os.PathLike | None,
    report: Report,
    name: str,
    dataset: datasets.Dataset | None,
    num_classes: int,
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Returns the first list of names whose length is num_classes; see `Predictor.load`.

    Also returns notes: what a person should know about them.
    """
    if file is not None:
        names = read_classes(file)
        if len(names) != num_classes:
            raise ValueError(f"{file} names {len(names)} classes, the weights have {num_classes}")
        check_order(file, names, report.class_names)
        return readable(names), ()
    of_data = dataset and dataset.class_names
    lists = [report.class_names, of_data]
    if "imagenet2012" in name or (name.startswith("folder:") and "imagenet" in name.lower()):
        lists.append(imagenet_names().values())  # other ImageNets have other orders
    names = next((names for names in lists if names and len(names) == num_classes), None)
    if names is None:
        return None, ()
    # Only folders named by numbers have two orders in use.
    is_doubtful = report.class_names is None and names is of_data and two_orders(names)
    return readable(names), (assumed_order(names),) if is_doubtful else ()
