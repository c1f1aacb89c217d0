"""The official NesT's input pipeline, run from a checkout of its code, to compare with."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.errors import ConfigError

SOURCE = "https://github.com/google-research/nested-transformer"
RECIPE = "configs/imagenet_nest_tiny.py"
NUM_CLASSES = 1000


def _addons(tf: Any) -> dict[str, types.ModuleType]:
    """Returns stand-ins for tensorflow_addons, which is no longer maintained.

    It has three functions over one operation, which is part of TensorFlow.
    """

    def transform(images, transforms):
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=images[None],
            transforms=tf.reshape(tf.cast(transforms, tf.float32), [1, 8]),
            output_shape=tf.shape(images)[:2],
            interpolation="NEAREST",
            fill_mode="CONSTANT",
            fill_value=0.0,
        )
        return moved[0]

    def translate(images, translations):
        x, y = (tf.cast(shift, tf.float32) for shift in translations)
        return transform(images, [1.0, 0.0, -x, 0.0, 1.0, -y, 0.0, 0.0])

    def rotate(images, angles):
        height, width = (tf.cast(side - 1, tf.float32) for side in images.shape[:2])
        cos, sin = tf.cos(angles), tf.sin(angles)
        x = (width - cos * width + sin * height) / 2
        y = (height - sin * width - cos * height) / 2
        return transform(images, [cos, -sin, x, sin, cos, y, 0.0, 0.0])

    addons = types.ModuleType("tensorflow_addons")
    addons.image = types.ModuleType("tensorflow_addons.image")
    for function in (transform, translate, rotate):
        setattr(addons.image, function.__name__, function)
    return {"tensorflow_addons": addons, "tensorflow_addons.image": addons.image}


def _load(folder: Path, tf: Any) -> tuple[types.ModuleType, Any]:
    """Returns the checkout's libml.preprocess and its recipe for NesT-T."""
    if importlib.util.find_spec("tensorflow_addons") is None:
        sys.modules.update(_addons(tf))
    sys.path.append(str(folder))
    try:
        preprocess = importlib.import_module("libml.preprocess")
    except ImportError as error:
        raise ConfigError(f"--official={folder}: {error}") from error
    finally:
        sys.path.remove(str(folder))
    # By its path: the checkout's `configs` is not the package of that name here.
    spec = importlib.util.spec_from_file_location("official_recipe", folder / RECIPE)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return preprocess, recipe.get_config()


def official_batches(folder: Path, paths: list[Path]) -> Callable[[], Iterator[dict]]:
    """Returns a function that starts the official ImageNet training pipeline on these JPEGs.

    Order and parallelism are those of its libml/input_pipeline.py (create_datasets) and of
    clu.deterministic_data, which it calls; the files are read one by one in place of TFRecords.

    Args:
        folder: checkout of the official code.
        paths: JPEG files; their labels are made up.

    Returns:
        A function that starts it; its batches are those of one device in the recipe, 64.

    Raises:
        ConfigError: TensorFlow is not installed, or `folder` is no checkout.
    """
    if not (folder / "libml" / "preprocess.py").is_file():
        raise ConfigError(
            f"--official={folder}: no libml/preprocess.py; clone {SOURCE} and name its folder"
        )
    try:
        import tensorflow as tf
    except ImportError:
        raise ConfigError(
            "--against=official needs TensorFlow: pip install -r requirements-prepare.txt"
        ) from None
    tf.config.set_visible_devices([], "GPU")
    preprocess, config = _load(folder, tf)
    shape = [1, 1, 3]
    augment = preprocess.get_augment_preprocess(
        config.augment,
        colorjitter_params=config.colorjitter,
        randerasing_params=config.randerasing,
        mean=tf.constant(preprocess.IMAGENET_DEFAULT_MEAN, shape=shape),
        std=tf.constant(preprocess.IMAGENET_DEFAULT_STD, shape=shape),
    )
    mix = preprocess.create_mix_augment(num_classes=NUM_CLASSES, **config.mix.to_dict())

    def with_key(step: Callable, seed: int) -> Callable:
        def call(index, features):
            key = tf.random.experimental.stateless_fold_in(tf.constant([0, seed], tf.int64), index)
            made = step(features | {"rng": key})
            return {name: made[name] for name in ("image", "label")}

        return call

    def read(index, path):
        return index, {"image": tf.io.read_file(path), "label": tf.cast(index % 2, tf.int32)}

    data = tf.data.Dataset.from_tensor_slices([str(path) for path in paths])
    data = data.shuffle(config.shuffle_buffer_size).repeat().enumerate()
    data = data.map(read, tf.data.AUTOTUNE).map(with_key(augment, 0), tf.data.AUTOTUNE)
    data = data.batch(config.per_device_batch_size, drop_remainder=True).enumerate()
    data = data.map(with_key(mix, 1), tf.data.AUTOTUNE).prefetch(4)
    return data.as_numpy_iterator
