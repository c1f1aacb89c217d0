"""Image classification sets that TensorFlow Datasets has prepared as ArrayRecord files.

Reading needs neither TensorFlow nor the code that prepared the set: a prepared folder describes
itself in JSON. Images stay encoded; data/images.py decodes them.

    data_dir/name/[config/]version/dataset_info.json                     splits and their shards
                                   features.json                         what a record holds
                                   label.labels.txt                      names of the classes
                                   name-split.array_record-00000-of-00001

Reference: https://www.tensorflow.org/datasets/external_tfrecord (the folder);
    https://github.com/google/array_record (the files).
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import NoSuchData
from harness.files import local_path, read_lines

_NAME = re.compile(r"(?P<set>[A-Za-z]\w*)(/(?P<config>\w[\w.\-]*))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
FORMAT = "array_record"
PREPARE = "python tools/prepare_data.py"


@dataclass(frozen=True)
class Shard:
    """One file of a split and the number of its records."""

    path: str
    num_records: int


@dataclass(frozen=True)
class Prepared:
    """A prepared data set, as its folder describes it.

    Attributes:
        name: as in a recipe, e.g. "downsampled_imagenet/64x64".
        folder: of the version.
        formats: file formats that are there, e.g. ("tfrecord", "array_record").
        image_key: feature that holds the encoded image.
        image_shape: (height, width, channels), None where it differs from image to image.
        label_key: feature that holds the label, None in a set without labels.
        mask_key: feature that holds the class of each pixel, in place of a label, or None.
        boxes_key: feature that holds the objects' boxes, such as "bbox" or "objects/bbox", None in
            a set without boxes.
        box_labels_key: feature that holds the class of each box, None: they are the image's.
        num_classes: number of labels; 1 without labels.
        multi_label: whether the feature is a sequence of labels.
        class_names: their names, where known.
        splits: name -> number of records of each shard.
        info, features: dataset_info.json and, of features.json, what says what a record holds.
    """

    name: str
    folder: Path
    formats: tuple[str, ...]
    image_key: str
    image_shape: tuple[int | None, ...]
    label_key: str | None
    mask_key: str | None
    boxes_key: str | None
    box_labels_key: str | None
    num_classes: int
    multi_label: bool
    class_names: tuple[str, ...] | None
    splits: dict[str, tuple[int, ...]]
    info: dict[str, Any]
    features: dict[str, Any]

    def shards(self, split: str, file_format: str = FORMAT) -> list[Shard]:
        """Lists the files of a split in the order of its records."""
        (entry,) = (entry for entry in self.info["splits"] if entry["name"] == split)
        template = entry.get("filepathTemplate") or _TEMPLATE
        lengths = self.splits[split]
        paths = (
            template.format(
                DATASET=self.info["name"],
                SPLIT=split,
                FILEFORMAT=file_format,
                SHARD_INDEX=f"{number:05d}",
                NUM_SHARDS=f"{len(lengths):05d}",
                SHARD_X_OF_Y=f"{number:05d}-of-{len(lengths):05d}",
            )
            for number in range(len(lengths))
        )
        return [Shard(str(self.folder / path), n) for path, n in zip(paths, lengths, strict=True)]


def resolve_data_dir(data_dir: str | os.PathLike | None) -> Path:
    """Returns the folder of prepared sets: as given, $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    key = "data_dir" if data_dir else "TFDS_DATA_DIR"
    return local_path(key, data_dir or os.environ.get(key) or "~/tensorflow_datasets")


def is_name(name: str) -> bool:
    """Returns whether `name` has the form `set[/config][:version]`."""
    return _NAME.fullmatch(name) is not None


def find_folder(name: str, data_dir: str | os.PathLike | None) -> Path | None:
    """Finds the folder of the newest prepared version of a set; None if there is none."""
    match = _NAME.fullmatch(name)
    base = resolve_data_dir(data_dir) / match["set"] / (match["config"] or "")
    if not base.is_dir():
        return None
    versions = [
        path
        for path in base.iterdir()
        if _VERSION.fullmatch(path.name)
        and match["version"] in (None, path.name)
        and (path / "dataset_info.json").is_file()
    ]
    return max(
        versions, key=lambda path: [int(part) for part in path.name.split(".")], default=None
    )


def open_prepared(name: str, data_dir: str | os.PathLike | None) -> Prepared:
    """Reads the description of a prepared set, and nothing else.

    Args:
        name: `set[/config][:version]`; without a version, the newest one there.
        data_dir: as `resolve_data_dir` takes it.

    Raises:
        ValueError: not prepared as ArrayRecord (the message says which command to run), or not a
            set of labelled images.
    """
    prepared = describe_folder(name, data_dir)
    if FORMAT not in prepared.formats:
        raise ValueError(
            f"data set {name!r} is prepared as {prepared.formats[0]} only, which cannot be read in "
            f"random order; run: {_command(name, data_dir)}"
        )
    missing = [s.path for split in prepared.splits for s in prepared.shards(split)]
    missing = [path for path in missing if not os.path.exists(path)]
    if missing:
        raise ValueError(
            f"data set {name!r} lacks {len(missing)} of its files, such as {missing[0]}; remove "
            f"its folder and run: {_command(name, data_dir)}"
        )
    return prepared


def describe_folder(name: str, data_dir: str | os.PathLike | None) -> Prepared:
    """As `open_prepared`, for a set in any file format."""
    folder = find_folder(name, data_dir)
    if folder is None:
        raise NoSuchData(
            f"data set {name!r} is not prepared under {resolve_data_dir(data_dir)}"
            f"{_configs_hint(name, data_dir)}; run: {_command(name, data_dir)}"
        )
    try:
        info = json.loads((folder / "dataset_info.json").read_text())
        features = json.loads((folder / "features.json").read_text())
        features = features["featuresDict"]["features"]
        splits = {
            entry["name"]: tuple(int(length) for length in entry.get("shardLengths", ()))
            for entry in info["splits"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} does not describe a data set: {error!r}") from None
    image_key, label_key, mask_key = _keys(name, info, features)
    boxes_key, box_labels_key = _box_keys(features, label_key)
    class_names, num_classes = None, 1
    if label_key is not None:
        num_classes = int(_class_label(features[label_key])["numClasses"])
        names_file = folder / f"{label_key}.labels.txt"
        if names_file.is_file():
            class_names = tuple(read_lines(names_file))[:num_classes]
    shape = features[image_key]["image"].get("shape", {}).get("dimensions", ("-1",) * 3)
    return Prepared(
        name=name,
        folder=folder,
        formats=(info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", ())),
        image_key=image_key,
        image_shape=tuple(int(side) if int(side) > 0 else None for side in shape),
        label_key=label_key,
        mask_key=mask_key,
        boxes_key=boxes_key,
        box_labels_key=box_labels_key,
        num_classes=num_classes,
        multi_label=label_key is not None and "classLabel" not in features[label_key],
        class_names=class_names,
        splits={split: lengths for split, lengths in splits.items() if sum(lengths)},
        info=info,
        features=features,
    )


def _keys(name: str, info: dict, features: dict) -> tuple[str, str | None, str | None]:
    """Returns the names of the features that hold the image, and the label or the mask.

    Where boxes have classes, several lists of labels of the image, as lvis has, count as none.
    """
    stated = info.get("supervisedKeys", {})
    supervised = [item.get("featureKey") for item in stated.get("tuple", {}).get("items", ())]
    supervised = supervised or [stated[key] for key in ("input", "output") if key in stated]
    images = [key for key, feature in features.items() if "image" in feature]
    labels = [key for key, feature in features.items() if _class_label(feature)]
    if not supervised[1:]:  # rather one label an image than several
        labels = [key for key in labels if "classLabel" in features[key]] or labels
    image_key = _choose(images, supervised[:1], "image")
    label_key = _choose(labels, supervised[1:2], "label")
    if not supervised[1:] and label_key is None and "labels" in labels:
        label_key = "labels"  # rather than labels_no_difficult, as voc has
    if image_key is not None and supervised[1:] and supervised[1] in images:
        return image_key, None, supervised[1]
    unclear = label_key is None and (labels or supervised[1:])
    if image_key is None or (
        unclear and not class_of_boxes(features, _box_keys(features, None)[0])
    ):
        raise ValueError(
            f"data set {name!r} is not one of images with their classes; its records hold: "
            f"{', '.join(features)}"
        )
    return image_key, label_key, None


def _box_keys(features: dict, label_key: str | None) -> tuple[str | None, str | None]:
    """Returns the names of the features that hold boxes, and their classes if they have any.

    A record holds one box or a list; in a list each may have a label of the images' classes.
    """

    def has_boxes(feature: dict) -> bool:  # (top, left, bottom, right) in fractions
        usual = feature.get("boundingBox", {}).get("bboxFormat", "REL_YXYX") == "REL_YXYX"
        return feature.get("pythonClassName", "").endswith(".BBoxFeature") and usual

    candidates = [key for key, feature in features.items() if has_boxes(feature)]
    for key, inner in _lists(features).items():
        candidates += [f"{key}/{name}" for name in inner if has_boxes(inner[name])]
    usual = [key for key in ("bbox", "objects/bbox") if key in candidates]
    chosen = usual[0] if usual else _choose(candidates, [], "bbox")
    found = class_of_boxes(features, chosen)
    if label_key and found and found[1] == int(_class_label(features[label_key])["numClasses"]):
        return chosen, found[0]
    return chosen, None


def class_of_boxes(features: dict, boxes_key: str | None) -> tuple[str, int] | None:
    """Returns which feature has the class of each box, such as "objects/label", and their number.

    It is called "label", or is the only one of its kind: voc has a label and a pose.

    Args:
        features: name -> what features.json says of it.
        boxes_key: of Prepared.
    """
    group, _, _ = (boxes_key or "").partition("/")
    inner = _lists(features).get(group, {})
    name = _choose([key for key in inner if "classLabel" in inner[key]], [], "label")
    return name and (f"{group}/{name}", int(inner[name]["classLabel"]["numClasses"]))


def _lists(features: dict) -> dict[str, dict]:
    """Returns name of each list of objects -> the features of an object."""
    inner = {key: each.get("sequence", {}).get("feature", {}) for key, each in features.items()}
    found = {key: each.get("featuresDict", {}).get("features", {}) for key, each in inner.items()}
    return {key: each for key, each in found.items() if each}


def _class_label(feature: dict) -> dict | None:
    """Returns what a feature says about its classes, also as a sequence of them."""
    return (feature.get("sequence", {}).get("feature") or feature).get("classLabel")


def _choose(candidates: list[str], stated: list[str], usual: str) -> str | None:
    """Returns the feature that the set states, else the one with the usual name or the only one."""
    if stated:
        return stated[0] if stated[0] in candidates else None
    if usual in candidates:
        return usual
    return candidates[0] if len(candidates) == 1 else None


def _command(name: str, data_dir: str | os.PathLike | None) -> str:
    where = f" --data_dir={data_dir}" if data_dir else ""
    return f"{PREPARE} {name}{where}"


def _configs_hint(name: str, data_dir: str | os.PathLike | None) -> str:
    """Lists the prepared configurations, when the name leaves the configuration out."""
    base = resolve_data_dir(data_dir) / name
    if "/" in name or ":" in name or not base.is_dir():
        return ""
    there = sorted(
        path.name for path in base.iterdir() if find_folder(f"{name}/{path.name}", data_dir)
    )
    return f" (prepared: {', '.join(f'{name}/{config}' for config in there)})" if there else ""
