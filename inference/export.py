"""A model as one file that runs without its code: `export` writes it, `load_exported` reads it.

The file is a zip of two members. "function" is what `jax.export` serialises: uint8 images
[b, h, w, c] -> probabilities, with weights, normalisation and softmax (sigmoid, if it was trained
so) inside. "about.json" holds what else a person or a loader has to know: size of the images, how
they are cropped, names of the classes.
"""

import dataclasses
import functools
import json
import logging
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import jax
import jax.export
import numpy as np

from data.pipeline import Data
from harness.arguments import as_height_width
from harness.errors import ConfigError, one_line
from harness.files import local_path, replacing, write_text
from harness.strict_config import unknown_name
from inference.given_images import Given, as_images, compute_rows
from inference.prediction import Prediction
from inference.predictor import Predictor
from kernels.target import compiling_for

VERSION = 1
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_FUNCTION, _ABOUT = "function", "about.json"
_DATA_KEYS = ("name", "image_size", "eval_crop_ratio", "eval_crop_interpolation")
_DATA_KEYS += ("exif_orientation",)


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported model. Call it with cropped uint8 images [b, h, w, c], or `iterate` over files.

    Attributes:
        function: uint8 [b, h, w, c] -> float32 probabilities [b, num_classes].
        data: how images are prepared; its data set need not be there.
        num_channels: of an image.
        class_names: in the order of the labels, if known.
    """

    function: jax.export.Exported
    data: Data
    num_channels: int
    class_names: tuple[str, ...] | None

    def __call__(self, images: np.ndarray | jax.Array) -> jax.Array:
        return self.function.call(images)

    @property
    def batch_size(self) -> int | None:
        """Number of images that a call takes; None: any."""
        size = self.function.in_avals[0].shape[0]
        return size if isinstance(size, int) else None

    def iterate(
        self, images: Given | Sequence[Given], *, batch_size: int = 32
    ) -> Iterator[Prediction]:
        """Yields what the model says about each image, on one device, as `Predictor.iterate`.

        Args:
            images: see `given_images.as_images`.
            batch_size: how many go through the model at once at most, unless the export fixed it.
        """
        images = as_images(images)
        rows = compute_rows(
            images,
            lambda pixels, _: {"probabilities": self(pixels)},
            data=self.data,
            num_channels=self.num_channels,
            batch_size=self.batch_size or max(1, min(batch_size, len(images))),
            images_sharding=None,
        )
        return map(functools.partial(Prediction.of_row, class_names=self.class_names), rows)


def _inference_function(predictor: Predictor):
    return lambda images: predictor.probabilities(predictor.variables, images)


def _about(predictor: Predictor) -> dict:
    data = {key: getattr(predictor.data, key) for key in _DATA_KEYS}
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


def _input_shape(predictor: Predictor, batch_size: int | None) -> jax.ShapeDtypeStruct:
    if batch_size is None:
        (batch_size,) = jax.export.symbolic_shape("b")
    return jax.ShapeDtypeStruct((batch_size, *predictor.image_shape), np.uint8)


def check_platforms(names: Sequence[str]) -> None:
    """Raises ConfigError if one is not of PLATFORMS, or there is none."""
    for name in names:
        if name not in PLATFORMS:
            raise ConfigError(unknown_name(f"platform {name!r}", name, PLATFORMS))
    if not names:
        raise ConfigError(f"no platform is named; allowed: {', '.join(PLATFORMS)}")


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
        platforms: where it is to run, of PLATFORMS.

    Raises:
        ConfigError: as check_platforms, or JAX cannot export the model.
    """
    check_platforms(platforms)
    function, images = _inference_function(predictor), _input_shape(predictor, batch_size)
    try:
        with compiling_for("any"):
            exported = jax.export.export(jax.jit(function), platforms=tuple(platforms))(images)
        serialized = exported.serialize()
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"not exported: {str(error).splitlines()[0]}") from error
    # Not compressed: weights do not shrink.
    with replacing(file) as temporary, zipfile.ZipFile(temporary, "w") as members:
        members.writestr(_FUNCTION, bytes(serialized))
        members.writestr(_ABOUT, json.dumps(_about(predictor), indent=1))


def import_jax2onnx() -> ModuleType:
    """Returns the converter; raises ConfigError, which says how to install it."""
    try:
        import jax2onnx
    except ImportError as error:
        raise ConfigError(
            f"--format=onnx needs jax2onnx ({error}): pip install -r requirements-onnx.txt && "
            "pip install --no-deps jax2onnx==0.17.1"
        ) from error
    return jax2onnx


def export_onnx(file: Path, predictor: Predictor, *, batch_size: int | None = None) -> None:
    """Writes a model as ONNX, and what about.json holds as FILE.json.

    Args:
        file, predictor, batch_size: see `export`.

    Raises:
        ConfigError: jax2onnx is not installed, or cannot translate the model.
    """
    jax2onnx = import_jax2onnx()
    for name in ("onnx_ir", "jax2onnx"):  # a warning per constant, and per example of its own
        logging.getLogger(name).setLevel(logging.ERROR)
    function, images = _inference_function(predictor), _input_shape(predictor, batch_size)
    try:
        with compiling_for("any"):
            jax2onnx.to_onnx(function, inputs=[images], return_mode="file", output_path=str(file))
    except Exception as error:  # it documents no errors of its own
        hint = "; --batch_size=1 may help" if batch_size is None else ""
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"not exported by jax2onnx: {message}{hint}") from error
    write_text(Path(f"{file}.json"), json.dumps(_about(predictor), indent=1))


def load_exported(file: str | Path) -> Exported:
    """Reads a model that `export` wrote.

    Raises:
        ConfigError: the file is missing or damaged, or a later version wrote it.
    """
    file = local_path("--exported", file)
    try:
        with zipfile.ZipFile(file) as members:  # checksums what it reads
            about = json.loads(members.read(_ABOUT))
            if about["version"] > VERSION:
                raise ValueError(f"written by a later version, {about['version']}, of this code")
            function = jax.export.deserialize(bytearray(members.read(_FUNCTION)))
        section, names = about["data"], about["classes"]
        section["image_size"] = as_height_width("size", section["image_size"])
        return Exported(
            function,
            Data(**section, batch_size=1, eval_batch_size=1),
            about["image_shape"][-1],
            None if names is None else tuple(names),
        )
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except Exception as error:  # zipfile, zlib, json and flatbuffers each have their own
        raise ConfigError(f"{file} is no exported model: {one_line(error)}") from error
