"""Features of real images, kept in a file so that they pass through the network only once.

The file is an .npz with

    mu, sigma   mean and covariance, under the names that pytorch-fid reads and writes
    features    float32 [n, f]: precision, recall and the kernel distance need them all
    record      JSON: `protocol` (of which images, and how computed) and `to_judge_by`, see
                FeatureStatistics

Files with `mu` and `sigma` alone, as published for the FID, are read as well.
"""

import dataclasses
import functools
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data import pipeline, selection, splits
from harness.arguments import problem
from harness.errors import ConfigError, one_line
from harness.files import local_path, replacing
from tasks.gan.embedding import Embedding
from tasks.gan.hashes import fingerprint, images_hash, short_hash
from tasks.gan.metrics import Moments, frechet_distance, kernel_distance, moments, precision_recall

# Two sets of features are in the same space if these entries of their protocols agree.
_SPACE = ("features_hash", "resize")

# Fields of the section `data` that decide which images are compared, and how they look.
_IMAGES = ("name", "eval_split", "classes", "eval_crop_ratio", "eval_crop_interpolation")

# Training images that a split is compared with, at most: the usual number for the FID. Features of
# ImageNet's 1.28 million in Inception-v3 would be 10 GB.
MAX_FLOOR_IMAGES = 50_000

CONFIDENT = 0.9  # probability above which a classifier counts as confident


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """Features of a set of real images.

    Attributes:
        moments: their mean and covariance; the count is 0 where it is unknown.
        features: float32 [n, f]; None if the file has the moments alone.
        protocol: the feature space and the images; empty if the file does not say.
        to_judge_by: metrics of other real images compared with these.
    """

    moments: Moments
    features: np.ndarray | None
    protocol: dict[str, Any]
    to_judge_by: dict[str, float] = dataclasses.field(default_factory=dict)


def from_features(features: np.ndarray, protocol: dict[str, Any]) -> FeatureStatistics:
    """Returns the statistics of features [n, f]."""
    features = np.asarray(features, np.float32)
    return FeatureStatistics(moments(features), features, protocol)


def compare(real: FeatureStatistics, generated: np.ndarray, neighbors: int) -> dict[str, float]:
    """Returns the metrics of features [n, f] of samples; without `real.features`, the first alone.

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
    """Passes the evaluation split, and MAX_FLOOR_IMAGES of the training split, through a network.

    Args:
        data: of a run, open.
        embedding: the network.
        neighbors: of precision and recall.

    Returns:
        Statistics of the evaluation split. To judge by: the training split's
        `floor_frechet_distance`, `floor_precision` and `floor_recall`, and `real_confident_share`.

    Raises:
        ConfigError: the training split has too few images.
    """
    embed = jax.jit(
        lambda images: (*embedding(images.astype(jnp.float32) / 255.0), fingerprint(images))
    )

    def embedded(batches):
        parts = []
        for batch in batches:
            mask = np.asarray(batch["mask"]) > 0
            parts.append([rows[mask] for rows in jax.device_get(embed(batch["image"]))])
        return [np.concatenate(rows) for rows in zip(*parts, strict=True)]

    # Not the first images: a folder's are sorted by class.
    whole = splits.load_source(data.dataset, data.train_split, data.height_and_width)
    source = selection.evenly_spaced(whole, MAX_FLOOR_IMAGES)
    check_count("config.data.train_split", data.train_split, len(source), neighbors)
    report_bad = functools.partial(data.bad.add, data.train_split)
    real, probabilities, fingerprints = embedded(data.eval_batches())
    train, *_ = embedded(data.batches_of(source, report_bad, data.form))
    precision, recall = precision_recall(real, train, neighbors=neighbors)
    protocol = embedding.protocol | real_images(data) | floor_images(data, neighbors)
    protocol["floor.num_images"] = len(train)
    protocol["statistics_hash"] = statistics_hash(protocol, fingerprints)
    statistics = from_features(real, protocol)
    to_judge_by = {
        "floor_frechet_distance": frechet_distance(statistics.moments, moments(train)),
        "floor_precision": precision,
        "floor_recall": recall,
        "real_confident_share": float((probabilities.max(axis=-1) > CONFIDENT).mean()),
    }
    return dataclasses.replace(statistics, to_judge_by=to_judge_by)


def check_count(key: str, value: str, count: int, neighbors: int) -> None:
    """Raises ConfigError if a set of images, named by a key of the config, is too small."""
    if count <= neighbors:
        what = (
            f"{count} images; precision and recall with config.task.neighbors={neighbors} need at "
            f"least {neighbors + 1}"
        )
        raise ConfigError(problem(key, value, what))


def real_images(data: pipeline.Data) -> dict[str, Any]:
    """Describes the images of the evaluation split, by the config's keys and their number.

    The number tells a folder that has grown since, whose name is the same.
    """
    described = {f"data.{key}": getattr(data, key) for key in _IMAGES}
    described["data.eval_images"] = len(data.eval_source)
    described["data.image_size"] = data.height_and_width
    return json.loads(json.dumps(described))  # as in a file: no tuples


def floor_images(data: pipeline.Data, neighbors: int) -> dict[str, Any]:
    """Describes what `to_judge_by` depends on, apart from the evaluation split."""
    return {"floor.split": data.train_split, "floor.neighbors": neighbors}


def statistics_hash(protocol: dict[str, Any], fingerprints: np.ndarray) -> str:
    """Returns the hash of the feature space and the images that features were computed from.

    The features themselves differ in their last bits between devices and batch sizes.

    Args:
        protocol: of the feature space.
        fingerprints: of the images, see `fingerprint`.
    """
    parts = [protocol[key] for key in _SPACE] + [images_hash(fingerprints)]
    return short_hash([json.dumps(parts).encode()])


def save_statistics(path: str | Path, statistics: FeatureStatistics) -> None:
    """Writes statistics that have features, atomically: about 4 n f + 8 f^2 bytes.

    Raises:
        ConfigError: the file cannot be written.
    """
    path = local_path("statistics", path)
    record = {"protocol": statistics.protocol, "to_judge_by": statistics.to_judge_by}
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                mu=statistics.moments.mean,
                sigma=statistics.moments.covariance,
                features=statistics.features,
                record=np.array(json.dumps(record)),
            )
    except OSError as error:
        raise ConfigError(f"statistics {path}: {one_line(error)}") from error


def load_statistics(path: str | Path, protocol: dict[str, Any], width: int) -> FeatureStatistics:
    """Reads a file that `save_statistics` wrote, or one with `mu` and `sigma` alone.

    Args:
        path: of the file.
        protocol: of the feature space, whose hash and resizing the file's must equal. A file with
            the moments alone has neither.
        width: number of features there.

    Raises:
        ConfigError: the file is missing, damaged, or of other features.
    """
    path = local_path("statistics", path)
    try:
        if not zipfile.is_zipfile(path):  # also False if there is no file
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
    except Exception as error:  # zipfile, zlib, NumPy and json each raise their own
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
