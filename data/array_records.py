"""Writes data sets as ArrayRecord files, in the folders that TensorFlow Datasets uses.

TensorFlow is not needed. An interrupted conversion never looks finished: files get their names, and
a folder its description, last.
"""

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from data.copy_sources import write_source
from data.datasets import Dataset
from data.images import decode_as_stored, with_orientation
from data.sources.arrays import NoLabel, Source
from data.sources.tfds_prepared import FORMAT, Prepared, Shard
from harness.errors import BadImage
from harness.files import replacing, write_text

JPEG_QUALITY = 95
SHARD_BYTES = 2**28
# One record per group: random access reads no more than it wants.
_OPTIONS = "group_size:1"
_AT_ONCE = 256  # records in flight between the threads and the file


def convert_tfrecords(prepared: Prepared) -> None:
    """Adds ArrayRecord files to the TFRecord files of a prepared set.

    The records are copied as they are. TensorFlow Datasets then reads the folder in either format.

    Args:
        prepared: a set in the format "tfrecord".

    Raises:
        ValueError: a file is damaged, or does not hold the number of records it should.
    """
    for split, lengths in prepared.splits.items():
        sources = prepared.shards(split, "tfrecord")
        targets = prepared.shards(split, FORMAT)
        with tqdm(total=sum(lengths), unit=" records", desc=split) as bar:
            for source, target in zip(sources, targets, strict=True):
                if not os.path.exists(target.path):  # an interrupted conversion goes on
                    _convert_file(source, target.path, bar)
                else:
                    bar.update(source.num_records)
    formats = list(dict.fromkeys((*prepared.formats[1:], FORMAT)))
    info = {**prepared.info, "alternativeFileFormats": formats}
    write_text(prepared.folder / "dataset_info.json", json.dumps(info, indent=2))


def _convert_file(source: Shard, target: str, bar: tqdm) -> None:
    with replacing(Path(target)) as unfinished:
        writer = ArrayRecordWriter(str(unfinished), _OPTIONS)
        count = 0
        try:
            for record in _read_tfrecords(source.path):
                writer.write(record)
                count += 1
                bar.update()
        finally:
            writer.close()
        if count != source.num_records:
            raise ValueError(f"{source.path} holds {count} records, not {source.num_records}")


def _read_tfrecords(path: str) -> Iterator[bytes]:
    """Yields the records of a file.

    Each is: length (8 bytes), checksum of the length (4), data, checksum of the data (4).
    Reference: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """
    with open(path, "rb") as file:
        while head := file.read(12):
            if len(head) == 12:
                (length,) = struct.unpack("<Q", head[:8])
                # A damaged length may be huge: never ask for more than the file can hold.
                data = file.read(length) if length < os.path.getsize(path) else b""
                if len(data) == length and len(file.read(4)) == 4:
                    yield data
                    continue
            raise ValueError(f"{path} is damaged at byte {file.tell()}: a record is cut off")


def write_resized(
    dataset: Dataset,
    name: str,
    version: str,
    data_dir: Path,
    size: int,
    described: dict[str, Any],
) -> Path:
    """Writes a copy of a data set with smaller images, as a new set.

    Images whose short side is longer than `size` are shrunk to it and stored as JPEG, with their
    EXIF orientation; others, and unreadable ones, are copied unchanged, so that record numbers stay
    the same.

    Args:
        dataset: a set whose images are encoded.
        name: of the copy.
        version: of the copy, e.g. "1.0.0".
        data_dir: folder of the prepared sets.
        size: short side in pixels.
        described: what the copy is made from, see data/copy_sources.py.

    Returns:
        The folder of the copy.

    Raises:
        ValueError: the images are not encoded.
    """
    sources = {}
    for split in dataset.splits:
        try:
            source = dataset.load(split, (size, size))
            is_encoded = isinstance(source[0]["image"], bytes)
        except NoLabel as error:
            print(f"the split {split!r} is left out: {error}")
            continue
        if not is_encoded:
            raise ValueError(
                f"the images of {dataset.name!r} are held in memory as they are; a smaller copy is "
                "for sets of image files"
            )
        sources[split] = source
    for note in dataset.notes:
        print(f"note: {note}")
    target = data_dir / name / version
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix="incomplete.", dir=target.parent))
    try:
        splits = [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [
                    str(n) for n in _write_split(source, unfinished, name, split, size)
                ],
                "numBytes": str(
                    sum(path.stat().st_size for path in unfinished.glob(f"{name}-{split}.*"))
                ),
            }
            for split, source in sources.items()
        ]
        _describe(dataset, name, version, size, splits, unfinished)
        write_source(unfinished, described)
        unfinished.chmod(0o755)  # mkdtemp's folders are for the owner alone
        os.replace(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _write_split(source: Source, folder: Path, name: str, split: str, size: int) -> list[int]:
    """Writes a split's files; returns the number of records of each."""
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    bad = []

    def encode(index: int) -> bytes:
        try:
            record = source[index]
        except BadImage as error:
            raise ValueError(f"{source.describe(index)}: {error}") from None
        try:
            image = shrink(record["image"], size)
        except BadImage as error:
            image = record["image"]
            bad.append(f"{source.describe(index)}: {error}")
        features = {
            "image": tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[image])),
            "label": tf_feature_pb2.Feature(
                int64_list=tf_feature_pb2.Int64List(value=np.asarray(record["label"], int).ravel())
            ),
        }
        example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features))
        return example.SerializeToString(deterministic=True)

    lengths, num_bytes, writer = [], 0, None
    try:
        with (
            ThreadPoolExecutor(os.cpu_count()) as threads,
            tqdm(total=len(source), unit=" images", desc=split) as bar,
        ):
            for start in range(0, len(source), _AT_ONCE):
                stop = min(start + _AT_ONCE, len(source))
                for encoded in threads.map(encode, range(start, stop)):
                    if writer is None or num_bytes > SHARD_BYTES:
                        if writer is not None:
                            writer.close()
                        writer = ArrayRecordWriter(str(folder / f"{len(lengths)}.part"), _OPTIONS)
                        lengths.append(0)
                        num_bytes = 0
                    writer.write(encoded)
                    lengths[-1] += 1
                    num_bytes += len(encoded)
                    bar.update()
    finally:
        if writer is not None:
            writer.close()
    if bad:
        few = f"{bad[0]}{'; ...' if len(bad) > 1 else ''}"
        count = f"{len(bad)} of {len(source)} images"
        print(f"note: {split}: {count} cannot be read and are copied as they are: {few}")
    for number in range(len(lengths)):  # the names hold their number, known only now
        place = f"{number:05d}-of-{len(lengths):05d}"
        (folder / f"{number}.part").rename(folder / f"{name}-{split}.{FORMAT}-{place}")
    return lengths


def shrink(encoded: bytes, size: int) -> bytes:
    """Returns a JPEG whose short side is `size`, or the file itself if smaller.

    The pixels stay as they are stored: the copy has the same orientation tag.

    Raises:
        BadImage: the image cannot be read.
    """
    image, orientation = decode_as_stored(encoded)
    height, width = image.shape[:2]
    if min(height, width) <= size:
        return encoded
    scale = size / min(height, width)
    wanted = (max(size, round(width * scale)), max(size, round(height * scale)))
    # The mean over the area that each new pixel covers: no aliasing.
    small = cv2.resize(image, wanted, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    return with_orientation(jpeg.tobytes(), orientation)


def _describe(
    dataset: Dataset, name: str, version: str, size: int, splits: list[dict], folder: Path
) -> None:
    """Writes the JSON files and class names by which a folder explains itself."""
    package = "tensorflow_datasets.core.features"
    label = {
        "pythonClassName": f"{package}.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(dataset.num_classes)},
    }
    if dataset.multi_label:
        label = {
            "pythonClassName": f"{package}.sequence_feature.Sequence",
            "sequence": {"feature": label, "length": "-1"},
        }
    features = {
        "pythonClassName": f"{package}.features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                "image": {
                    "pythonClassName": f"{package}.image_feature.Image",
                    "image": {
                        "dtype": "uint8",
                        "shape": {"dimensions": ["-1", "-1", "3"]},
                    },
                },
                "label": label,
            }
        },
    }
    info = {
        "name": name,
        "version": version,
        "description": f"{dataset.name}, images shrunk to a short side of {size} pixels",
        "fileFormat": FORMAT,
        "splits": splits,
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
    }
    if dataset.class_names:
        write_text(folder / "label.labels.txt", "".join(f"{n}\n" for n in dataset.class_names))
    (folder / "features.json").write_text(json.dumps(features, indent=2))
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
