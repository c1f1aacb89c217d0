"""A model as one file that runs without its code: `export` makes it, `load_exported` reads it.

The file is a zip of two members. "function" is what `jax.export` serialises: uint8 images
[b, h, w, c] -> probabilities, with weights, normalisation and softmax inside. "about.json" tells
what a person or a loader has to know beside: size of the images, how they are cropped, names of
the classes.
"""

import dataclasses
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.export
import numpy as np

from data.pipeline import Data
from harness.arguments import as_height_width
from harness.errors import ConfigError, one_line
from harness.trees import listed
from inference.predict import Prediction, Predictor, predict_files

VERSION = 1
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_FUNCTION, _ABOUT = "function", "about.json"
_TOLD_OF_DATA = ("name", "image_size", "eval_crop_ratio", "eval_crop_interpolation")


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported model. Call it with uint8 images [b, h, w, c], cropped; or `predict` files.

    Attributes:
        function: uint8 [b, h, w, c] -> float32 probabilities [b, num_classes].
        data: how images are prepared; its data set need not be there.
        num_channels: of an image.
        class_names: in the order of the labels, None where they are not known.
    """

    function: jax.export.Exported
    data: Data
    num_channels: int
    class_names: tuple[str, ...] | None

    def __call__(self, images: np.ndarray | jax.Array) -> jax.Array:
        return self.function.call(images)

    @property
    def batch_size(self) -> int | None:
        """How many images a call takes; None: any number."""
        size = self.function.in_avals[0].shape[0]
        return size if isinstance(size, int) else None

    def predict(self, paths: Sequence[Path], batch_size: int) -> Iterator[Prediction]:
        """Predicts image files, in their order, on one device.

        Args:
            paths: of the files. Those that are missing, empty or broken have a `problem`.
            batch_size: at most so many go through the model at once. An export with a batch of its
                own keeps to that.
        """
        return predict_files(
            paths,
            self,
            data=self.data,
            num_channels=self.num_channels,
            batch_size=self.batch_size or max(1, min(batch_size, len(paths))),
            images_sharding=None,
        )


def inference_function(predictor: Predictor):
    """Returns the function to export: uint8 images [b, h, w, c] -> probabilities [b, n]."""
    return lambda images: predictor.probabilities(predictor.variables, images)


def about(predictor: Predictor) -> dict:
    """Returns what about.json holds of a model."""
    data = {key: getattr(predictor.data, key) for key in _TOLD_OF_DATA}
    names = predictor.class_names
    return {
        "version": VERSION,
        "weights": str(predictor.report.kind),
        "image_shape": predictor.image_shape,
        "mean": predictor.mean,
        "std": predictor.std,
        "classes": None if names is None else list(names),
        "data": data,
    }


def input_shape(predictor: Predictor, batch_size: int | None) -> jax.ShapeDtypeStruct:
    """Returns the shape of the images, with a free batch where `batch_size` is None."""
    if batch_size is None:
        (batch_size,) = jax.export.symbolic_shape("b")
    return jax.ShapeDtypeStruct((batch_size, *predictor.image_shape), np.uint8)


def export(
    file: Path,
    predictor: Predictor,
    *,
    batch_size: int | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> None:
    """Writes a model as one file.

    Args:
        file: to write.
        predictor: the model, its weights, and how its images are prepared.
        batch_size: None leaves it free.
        platforms: where it shall run, of PLATFORMS.

    Raises:
        ConfigError: there is no such platform, or JAX cannot export the model.
    """
    if unknown := set(platforms) - set(PLATFORMS):
        raise ConfigError(f"no platforms: {listed(sorted(unknown))}; there are {listed(PLATFORMS)}")
    function, images = inference_function(predictor), input_shape(predictor, batch_size)
    try:
        exported = jax.export.export(jax.jit(function), platforms=tuple(platforms))(images)
        serialized = exported.serialize()
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"not exported: {str(error).splitlines()[0]}") from error
    with zipfile.ZipFile(file, "w") as members:  # weights do not compress
        members.writestr(_FUNCTION, bytes(serialized))
        members.writestr(_ABOUT, json.dumps(about(predictor), indent=1))


def load_exported(file: str | Path) -> Exported:
    """Reads a model that `export` wrote.

    Raises:
        ConfigError: there is no such file, or it is damaged, or a later version wrote it.
    """
    try:
        with zipfile.ZipFile(file) as members:  # it checks what it reads by sums
            told = json.loads(members.read(_ABOUT))
            if told["version"] > VERSION:
                raise ValueError(f"written by a later version, {told['version']}, of this code")
            function = jax.export.deserialize(bytearray(members.read(_FUNCTION)))
        section = told["data"] | {"image_size": as_height_width("size", told["data"]["image_size"])}
        names = told["classes"]
        return Exported(
            function,
            Data(**section, batch_size=1, eval_batch_size=1),
            told["image_shape"][-1],
            None if names is None else tuple(names),
        )
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except Exception as error:  # zipfile, zlib, json and flatbuffers each have their own
        raise ConfigError(f"{file} is no exported model: {one_line(error)}") from error
