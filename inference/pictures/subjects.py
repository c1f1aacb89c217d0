"""The models that pictures show, with trained weights or with those of an initialisation."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from data.class_names import short_name
from data.pipeline import Data
from data.pixel_statistics import default_statistics
from harness.arguments import unknown
from harness.errors import ConfigError, input_errors, printable
from harness.files import run_path
from inference.loading import NUM_IMAGENET_CLASSES
from inference.predictor import Predictor
from tasks.supervised import normalize
from training.experiment import check_config
from workdirs.config_file import load_config, read_config
from zoo.find import weights_path
from zoo.load import Report
from zoo.registry import MODELS, create_model, default_image_size, variable_shapes

Size = int | tuple[int, int] | None
# Of a model that is named without a recipe.
_PLAIN_DATA = {"name": "synthetic", "batch_size": 1, "eval_batch_size": 1}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model to draw.

    Attributes:
        name: for titles.
        predictor: the model, its weights, and how its images are prepared.
        has_recipe: whether its data set is a recipe's; else only image files can be drawn.
    """

    name: str
    predictor: Predictor
    has_recipe: bool = True

    def normalized(self, images: np.ndarray) -> jax.Array:
        """Maps uint8 images [b, h, w, c] to what the model takes."""
        return normalize(jnp.asarray(images), self.predictor.mean, self.predictor.std)

    def class_name(self, label: int) -> str:
        """Returns the name of a class, as short as a title wants it."""
        names = self.predictor.class_names
        return printable(short_name(names[label])) if names else f"class {label}"


def from_workdir(workdir: str, size: Size, config: ConfigDict | None = None, **options) -> Subject:
    """Reads the newest checkpoint of a run; `options` are those of `Predictor.load`."""
    folder = run_path("--workdir", workdir)
    config = _with_size(config or read_config(folder), size)
    predictor = Predictor.load(folder, config, **options)
    return Subject(folder.name, predictor)


def from_recipe(config: ConfigDict, weights: str | None, size: Size, **options) -> Subject:
    """Takes the model of a recipe, with weights of any kind or, if None, random ones."""
    config = _with_size(config, size)
    if weights is not None:
        path = weights_path("--weights", weights)
        name = f"{config.model.name}, {Path(path).name}"
        return Subject(name, Predictor.load(path, config, **options))
    plain = check_config(config, needs_data=False)
    with input_errors():
        data = Data(**plain["data"], augment=plain["augment"], seed=plain["seed"])
        try:
            known = data.dataset
            num_classes, channels, names = known.num_classes, known.num_channels, known.class_names
        except (ValueError, OSError):
            num_classes, channels, names = NUM_IMAGENET_CLASSES, data.channels or 3, None
        return _random(
            lambda n: create_model(**plain["model"], num_classes=n),
            data,
            plain["model"]["name"],
            num_classes,
            channels,
            names,
        )


def from_name(name: str, size: Size) -> Subject:
    """Makes a variant of the registry with random weights, for a first look.

    Raises:
        ConfigError: there is no such variant, or it does not take images of this size.
    """
    with input_errors():
        if name not in MODELS:
            raise ValueError(f"--model={name}: {unknown(name, MODELS)}")
        data = Data(image_size=size or default_image_size(name), **_PLAIN_DATA)
        subject = _random(
            lambda n: create_model(name, num_classes=n), data, name, NUM_IMAGENET_CLASSES, 3, None
        )
    return dataclasses.replace(subject, has_recipe=False)


def from_text(text: str, weights: str | None, size: Size) -> Subject:
    """Finds what a text names: a workdir, a recipe (with or without weights), or a variant.

    Args:
        text: "runs/deit", "configs/imagenet_deit.py:s", "runs/deit/config.json" (the recipe of that
            run) or "deit_s_patch16_224".
        weights: for a recipe.
        size: of the images; None: its own.
    """
    if text.partition(":")[0].endswith(".py") or text.endswith(".json"):
        try:
            config = load_config(text)
        except ConfigError as error:
            raise ConfigError(str(error).replace("--config", "--against", 1)) from error
        return from_recipe(config, weights, size)
    if weights is not None:
        raise ConfigError("--against_weights needs --against=RECIPE.py, which names the model")
    if (run_path("--against", text) / "config.json").is_file():
        return from_workdir(text, size)
    if text in MODELS:
        return from_name(text, size)
    raise ConfigError(f"--against={text}: no workdir, no recipe (.py) and no model of that name")


def _with_size(config: ConfigDict, size: Size) -> ConfigDict:
    if size is None:
        return config
    config = ConfigDict(config.to_dict())
    with config.ignore_type():
        config.data.image_size = size
    return config


def _random(
    create: Callable[[int], Any],
    data: Data,
    name: str,
    num_classes: int,
    channels: int,
    class_names: tuple[str, ...] | None,
) -> Subject:
    model = create(num_classes)
    shape = (*data.height_and_width, channels)
    variable_shapes(model, shape)  # raises what is wrong with the image's size, in one line
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, *shape))))
    keep = ("params", "batch_stats")
    variables = {k: tree for k, tree in init(jax.random.key(0)).items() if k in keep}
    mean, std = default_statistics(data.name, channels)
    return Subject(
        f"{name}, random weights",
        Predictor(
            model=model,
            variables=variables,
            data=data,
            num_channels=channels,
            mean=tuple(data.mean or mean),
            std=tuple(data.std or std),
            class_names=class_names,
            report=Report(Path(), "random weights", (), {}, {}, "noise", (), ()),
        ),
    )
