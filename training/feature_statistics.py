"""Features of real images, kept in a file so that they pass through the network only once.

A file of ours is an .npz with

    mu, sigma   mean and covariance, under the names that pytorch-fid reads and writes
    features    float32 [n, f]: precision, recall and the kernel distance need them all
    record      JSON: `protocol`, how they were taken, and `to_judge_by`, see FeatureStatistics

Files with `mu` and `sigma` alone, as people pass them on for the FID, are read as well.
"""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data import pipeline
from training.errors import ConfigError
from training.features import Embedding
from training.generative_metrics import (
    Moments,
    frechet_distance,
    kernel_distance,
    moments,
    precision_recall,
)
from training.stored import one_line

# What decides whether two sets of features are in the same space.
_SPACE = ("features_hash", "resize")

# Fields of the section `data` that decide which images are compared, and how they look.
_IMAGES = (
    "name",
    "eval_split",
    "train_split",
    "classes",
    "examples_per_class",
    "examples_seed",
    "eval_crop_ratio",
    "eval_crop_interpolation",
)

CONFIDENT = 0.9


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """Features of a set of real images.

    Attributes:
        moments: their mean and covariance; the count is 0 where nobody knows it.
        features: float32 [n, f]; None if the file has the moments alone.
        protocol: the space, and whose they are; empty if the file does not tell.
        to_judge_by: metrics of other real images in comparison with these.
    """

    moments: Moments
    features: np.ndarray | None
    protocol: dict[str, Any]
    to_judge_by: dict[str, float] = dataclasses.field(default_factory=dict)


def from_features(features: np.ndarray, protocol: dict[str, Any]) -> FeatureStatistics:
    """Takes the moments of features [n, f]."""
    features = np.asarray(features, np.float32)
    return FeatureStatistics(moments(features), features, protocol)


def compare(real: FeatureStatistics, generated: np.ndarray, neighbors: int) -> dict[str, float]:
    """Returns the metrics of features [n, f] of samples; those that need all real ones if there.

    Args:
        real: of the real images.
        generated: of the samples.
        neighbors: of precision and recall.
    """
    metrics = {"frechet_distance": frechet_distance(real.moments, moments(generated))}
    if real.features is None:
        return metrics
    precision, recall = precision_recall(real.features, generated, neighbors=neighbors)
    distance = kernel_distance(real.features, generated)
    return metrics | {"kernel_distance": distance, "precision": precision, "recall": recall}


def real_statistics(data: pipeline.Data, embedding: Embedding, neighbors: int) -> FeatureStatistics:
    """Passes the evaluation and the training split through a network.

    Args:
        data: of a run, open.
        embedding: the network.
        neighbors: of precision and recall.

    Returns:
        Statistics of the evaluation split. To judge by: `floor_frechet_distance`, `floor_precision`
        and `floor_recall`, which the training split has, and `real_confident_share`.
    """
    embed = jax.jit(lambda images: embedding(images.astype(jnp.float32) / 255.0))

    def embedded(split):
        parts = []
        for batch in data.eval_batches(split):
            mask = np.asarray(batch["mask"]) > 0
            parts.append([rows[mask] for rows in jax.device_get(embed(batch["image"]))])
        return [np.concatenate(rows) for rows in zip(*parts, strict=True)]

    (real, probabilities), (train, _) = embedded(data.eval_split), embedded(data.train_split)
    precision, recall = precision_recall(real, train, neighbors=neighbors)
    statistics = from_features(real, embedding.protocol | real_images(data, neighbors))
    to_judge_by = {
        "floor_frechet_distance": frechet_distance(statistics.moments, moments(train)),
        "floor_precision": precision,
        "floor_recall": recall,
        "real_confident_share": float((probabilities.max(axis=-1) > CONFIDENT).mean()),
    }
    return dataclasses.replace(statistics, to_judge_by=to_judge_by)


def real_images(data: pipeline.Data, neighbors: int) -> dict[str, Any]:
    """Describes the images behind `real_statistics`, as its protocol does."""
    described = {f"data.{key}": getattr(data, key) for key in _IMAGES}
    described |= {"image_shape": data.image_shape, "task.neighbors": neighbors}
    return json.loads(json.dumps(described))  # as in a file: no tuples


def save_statistics(path: str | Path, statistics: FeatureStatistics) -> None:
    """Writes statistics that have features, at once or not at all: 4 n f + 8 f^2 bytes or so.

    Raises:
        ConfigError: the file cannot be written.
    """
    path = Path(path).expanduser()
    temporary = path.with_name(f"{path.name}.tmp")
    record = {"protocol": statistics.protocol, "to_judge_by": statistics.to_judge_by}
    try:
        with temporary.open("wb") as file:
            np.savez(
                file,
                mu=statistics.moments.mean,
                sigma=statistics.moments.covariance,
                features=statistics.features,
                record=np.array(json.dumps(record)),
            )
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"statistics {path}: {one_line(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_statistics(path: str | Path, protocol: dict[str, Any], width: int) -> FeatureStatistics:
    """Reads a file that `save_statistics` wrote, or one with `mu` and `sigma` alone.

    Args:
        path: of the file.
        protocol: of the feature space that it has to be of: its hash and resizing must be the same.
            A file with the moments alone tells neither.
        width: number of features there.

    Raises:
        ConfigError: the file is missing, damaged, or of other features.
    """
    path = Path(path).expanduser()
    try:
        if not zipfile.is_zipfile(path):  # also of what is not there
            raise ValueError("no such file, or not an archive of NumPy")
        with np.load(path, allow_pickle=False) as archive:
            stored = {name: archive[name] for name in archive.files}
        if missing := [name for name in ("mu", "sigma") if name not in stored]:
            raise ValueError(f"the file lacks {' and '.join(missing)}")
        record = json.loads(str(stored["record"])) if "record" in stored else None
        found, to_judge_by = (record["protocol"], record["to_judge_by"]) if record else ({}, {})
        for key in _SPACE if record else ():
            if (other := found.get(key)) != protocol[key]:
                raise ValueError(f"of other features: {key} {other!r}, not {protocol[key]!r}")
        arrays = {name: stored[name] for name in ("mu", "sigma", *["features"] * bool(record))}
    except Exception as error:  # zipfile, zlib, NumPy and json each have their own
        raise ConfigError(f"statistics {path}: {one_line(error)}") from error
    count = len(arrays["features"]) if record else 0
    shapes = {"mu": (width,), "sigma": (width, width), "features": (count, width)}
    for name, array in arrays.items():
        if array.shape != shapes[name]:
            raise ConfigError(
                f"statistics {path}: {name} has shape {array.shape}, expected {shapes[name]}"
            )
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ConfigError(f"statistics {path}: {name} holds values that are not finite numbers")
    loaded = Moments(arrays["mu"], arrays["sigma"], count)
    return FeatureStatistics(loaded, arrays["features"] if record else None, found, to_judge_by)
