"""Records of a set that TensorFlow Datasets has prepared, read without TensorFlow.

Reference: https://github.com/google/array_record
"""

import contextlib
import functools
import resource
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from array_record.python import array_record_data_source
from google.protobuf.message import DecodeError

from data.sources.arrays import NoLabel, Record, check_index
from data.sources.tfds_prepared import Prepared
from harness.errors import BadImage, one_line


@functools.cache
def _example_class():
    # Importing tensorflow_datasets takes half a second, which only its sets should cost. This part
    # does not import TensorFlow.
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example


def _allow_open_files(count: int) -> None:
    """Raises this process's limit of open files by `count`, as far as that is allowed.

    A file that has been read stays open, and ImageNet has as many as the usual limit, 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = soft + count
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        # macOS has a lower limit than it says; then opening says which file was too many.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class ArrayRecordSource:
    """Records of one split of a prepared set, read from disk one by one."""

    def __init__(self, prepared: Prepared, split: str):
        # The numbers of records are known; without the brackets each file would be opened to count.
        shards = [s for s in prepared.shards(split) if s.num_records]
        _allow_open_files(len(shards))
        self._records = array_record_data_source.ArrayRecordDataSource(
            [f"{shard.path}[0:{shard.num_records}]" for shard in shards]
        )
        self._name = f"{prepared.name} {split}"
        self._about = prepared

    def __len__(self) -> int:
        return len(self._records)

    @property
    def boxes(self) -> Callable[[int], np.ndarray]:
        """`boxes(index)`, see arrays.py; only there if the set has boxes."""
        about = self._about
        if about.boxes_key is None or (about.multi_label and about.box_labels_key is None):
            raise AttributeError("the set has no boxes, or does not say of which class each is")
        return self._boxes

    def _boxes(self, index: int) -> np.ndarray:
        features = self.features(index)
        boxes = np.reshape(features[self._about.boxes_key].float_list.value, (-1, 4))
        if self._about.box_labels_key is not None:
            labels = features[self._about.box_labels_key].int64_list.value
        else:
            labels = self._label(index, features)
        column = np.broadcast_to(np.reshape(labels, (-1, 1)), (len(boxes), 1))
        return np.concatenate([column, boxes], axis=1).astype(np.float32)

    def features(self, index: int) -> Mapping[str, Any]:
        """Returns the features of a record."""
        check_index(index, len(self))
        try:
            return _example_class().FromString(self._records[index]).features.feature
        except (RuntimeError, DecodeError) as error:  # a damaged file
            raise BadImage(f"the record cannot be read: {one_line(error)}") from None

    def _label(self, index: int, features: Mapping[str, Any]) -> int | tuple[int, ...]:
        """Returns the label of a record; several in a multi-label set."""
        about, labels = self._about, (0,)
        if about.label_key is not None:
            labels = tuple(dict.fromkeys(features[about.label_key].int64_list.value))
        for label in labels:
            if not 0 <= label < about.num_classes:  # -1: ImageNet's test split has no labels
                what = f"has the label {label}; it must lie in 0 to {about.num_classes - 1}"
                raise NoLabel(f"{self.describe(index)} {what}")
        if about.multi_label:
            return labels
        (label,) = labels
        return label

    def __getitem__(self, index: int) -> Record:
        features = self.features(index)
        label = self._label(index, features)
        (encoded,) = features[self._about.image_key].bytes_list.value
        return {"image": encoded, "label": label}

    def describe(self, index: int) -> str:
        return f"record {index} of {self._name}"
