"""Reading what TensorFlow Datasets has prepared, without TensorFlow.

The folders are written here as TensorFlow Datasets 4.9.10 writes them;
tests/data/test_prepare_data.py reads those that it has written itself.
"""

import io
import json
import pickle
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from data import datasets, splits
from data.sources import tfds_prepared, tfds_records
from data.sources.arrays import ArraySource, NoLabel
from harness.errors import BadImage

ROOT = Path(__file__).parents[3]
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 4, 6, 3), np.uint8)
FEATURES = {
    "id": {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}},
    "image": {
        "image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}},
        "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
    },
    "label": {
        "classLabel": {"numClasses": "3"},
        "pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
    },
}
KEYS = ("image", "label")


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_shard(path, numbers, labels):
    """Writes the records of the given numbers into one file."""
    from tensorflow_datasets.proto import tf_example_pb2

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for number in numbers:
        example = tf_example_pb2.Example()
        feature = example.features.feature
        feature["id"].bytes_list.value.append(f"train_{number:05d}".encode())
        feature["image"].bytes_list.value.append(png(PIXELS[number]))
        if labels is not None:
            feature["label"].int64_list.value.extend(np.ravel(labels[number]).astype(int))
        writer.write(example.SerializeToString())
    writer.close()


def write_set(
    data_dir,
    folder="birds/1.2.0",
    *,
    splits=None,
    features=None,
    keys=KEYS,
    labels=tuple(range(3)) * 10,
    **info,
):
    """Writes a prepared set; `splits` gives the lengths of the shards."""
    splits = splits or {"train": [7, 13], "test": [10]}
    features = FEATURES if features is None else features
    folder = data_dir / folder
    folder.mkdir(parents=True)
    number = 0
    for split, lengths in splits.items():
        for shard, length in enumerate(lengths):
            path = f"birds-{split}.array_record-{shard:05d}-of-{len(lengths):05d}"
            write_shard(folder / path, range(number, number + length), labels)
            number += length
    description = {
        "fileFormat": "array_record",
        "name": "birds",
        "splits": [
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": "1000",
                "shardLengths": [str(n) for n in lengths],
            }
            for split, lengths in splits.items()
        ],
        "supervisedKeys": {"tuple": {"items": [{"featureKey": key} for key in keys]}},
        "version": Path(folder).name,
        **info,
    }
    (folder / "dataset_info.json").write_text(json.dumps(description))
    package = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    described = {"featuresDict": {"features": features}, "pythonClassName": package}
    (folder / "features.json").write_text(json.dumps(described))
    (folder / "label.labels.txt").write_text("ant\nbee\ncat\n")
    return folder


def load(data_dir, split, name="birds"):
    return splits.load_source(datasets.open_dataset(name, str(data_dir)), split, (4, 6))


def test_records_and_description(tmp_path):
    write_set(tmp_path)
    dataset = datasets.open_dataset("birds", str(tmp_path))
    assert (dataset.num_classes, dataset.class_names) == (3, ("ant", "bee", "cat"))
    assert dataset.splits == ("train", "test") and dataset.note == ""
    assert dataset.mean == (0.485, 0.456, 0.406) and dataset.std == (0.229, 0.224, 0.225)
    for split, first, count in (("train", 0, 20), ("test", 20, 10), ("train[50%:]+test", 10, 20)):
        source = load(tmp_path, split)
        assert len(source) == count
        for i in range(count):
            record = source[i]
            assert type(record["image"]) is bytes and type(record["label"]) is int
            assert record["label"] == (first + i) % 3
            image = np.asarray(Image.open(io.BytesIO(record["image"])))
            np.testing.assert_array_equal(image, PIXELS[first + i])
    assert load(tmp_path, "train").describe(13) == "record 13 of birds train"
    for index in (20, -1):
        with pytest.raises(IndexError):
            load(tmp_path, "train")[index]


def test_small_images_of_one_size_are_held_in_memory(tmp_path):
    shape = {"shape": {"dimensions": ["4", "6", "3"]}, "dtype": "uint8"}
    features = {**FEATURES, "image": {**FEATURES["image"], "image": shape}}
    write_set(tmp_path, features=features)
    dataset = datasets.open_dataset("birds", str(tmp_path))
    source = splits.load_source(dataset, "test", (4, 6))
    for i in range(10):
        np.testing.assert_array_equal(source[i]["image"], PIXELS[20 + i])
        assert source[i]["label"] == (20 + i) % 3
    assert source.describe(3) == "record 3 of birds test"
    # Two slices share the pixels.
    parts = [splits.load_source(dataset, s, (4, 6)) for s in ("train[:50%]", "train[:5]")]
    assert np.shares_memory(parts[0][0]["image"], parts[1][0]["image"])


def test_an_image_of_another_size_is_named(tmp_path):
    shape = {"shape": {"dimensions": ["4", "5", "3"]}, "dtype": "uint8"}
    features = {**FEATURES, "image": {**FEATURES["image"], "image": shape}}
    write_set(tmp_path, features=features)
    with pytest.raises(ValueError, match=r"record 0 of birds test .*\(4, 6, 3\).*\(4, 5, 3\)"):
        load(tmp_path, "test")


def test_the_newest_version_unless_one_is_named(tmp_path):
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        write_set(tmp_path, f"birds/{version}")
    (tmp_path / "birds/incomplete.AB12CD_2.0.0").mkdir()
    (tmp_path / "birds/3.0.0").mkdir()  # without a description
    assert tfds_prepared.open_prepared("birds", tmp_path).folder.name == "1.10.0"
    assert tfds_prepared.open_prepared("birds:1.2.0", tmp_path).folder.name == "1.2.0"
    assert len(load(tmp_path, "train", "birds:1.9.0")) == 20
    with pytest.raises(ValueError, match="'birds:1.3.0' is not prepared"):
        datasets.check_name("birds:1.3.0", str(tmp_path))


def test_configurations(tmp_path):
    write_set(tmp_path, "birds/64x64/2.0.0")
    write_set(tmp_path, "birds/8x8/2.0.0")
    assert len(load(tmp_path, "train", "birds/8x8")) == 20
    assert len(load(tmp_path, "train", "birds/64x64:2.0.0")) == 20
    with pytest.raises(ValueError, match="prepared: birds/64x64, birds/8x8"):
        datasets.open_dataset("birds", str(tmp_path))


def test_a_set_without_labels(tmp_path):
    features = {"image": FEATURES["image"]}
    write_set(tmp_path, features=features, keys=(), labels=None, supervisedKeys={})
    dataset = datasets.open_dataset("birds", str(tmp_path))
    assert (dataset.num_classes, dataset.class_names) == (1, None)
    assert "no labels" in dataset.note
    assert load(tmp_path, "train")[3]["label"] == 0


@pytest.mark.parametrize(
    ("supervised", "num_classes"),
    [
        ({"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "kind"}]}}, 2),
        ({"input": "image", "output": "kind"}, 2),
        ({}, 3),
    ],
)
def test_supervised_keys(tmp_path, supervised, num_classes):
    features = {**FEATURES, "kind": {**FEATURES["label"], "classLabel": {"numClasses": "2"}}}
    write_set(tmp_path, features=features, supervisedKeys=supervised)
    assert datasets.open_dataset("birds", str(tmp_path)).num_classes == num_classes


SEQUENCE = {
    "pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
    "sequence": {"feature": FEATURES["label"], "length": "-1"},
}


@pytest.mark.parametrize(
    ("label", "keys", "is_multi"),
    [
        ({"label": SEQUENCE}, ("image", "label"), True),
        ({"label": SEQUENCE}, (), True),
        ({"label": SEQUENCE, "kind": FEATURES["label"]}, ("image", "label"), True),
        ({"label": FEATURES["label"], "real_label": SEQUENCE}, (), False),
    ],
)
def test_a_sequence_of_labels(tmp_path, label, keys, is_multi):
    """Several labels an image, unless it also has one and nothing says which is meant."""
    lists = [[2, 0, 2], [1], []] if is_multi else [[2], [1], [0]]
    write_set(tmp_path, features=FEATURES | label, keys=keys, labels=lists * 10)
    dataset = datasets.open_dataset("birds", str(tmp_path))
    assert dataset.multi_label == is_multi
    assert (dataset.num_classes, dataset.class_names) == (3, ("ant", "bee", "cat"))
    source = load(tmp_path, "train")
    expected = [(2, 0), (1,), ()] if is_multi else [2, 1, 0]
    assert [source[i]["label"] for i in range(3)] == expected
    assert source[3]["label"] == expected[0]


def test_sequences_of_what_are_no_labels_are_refused(tmp_path):
    features = {**FEATURES, "objects": {"sequence": {}}}
    write_set(tmp_path, features=features, keys=("image", "objects"))
    with pytest.raises(ValueError, match="images with their classes"):
        datasets.check_name("birds", str(tmp_path))


def test_a_set_of_one_size_is_held_in_memory_unless_its_images_are_turned(tmp_path):
    image = {"image": {"dtype": "uint8", "shape": {"dimensions": ["4", "6", "3"]}}}
    write_set(tmp_path, features=FEATURES | {"image": FEATURES["image"] | image})
    held = load(tmp_path, "test")
    assert isinstance(held, ArraySource)
    turned = datasets.open_dataset("birds", str(tmp_path), exif_orientation=True)
    assert isinstance(turned.load("test", (4, 6))[0]["image"], bytes)


def test_records_without_a_label_are_refused(tmp_path):
    write_set(tmp_path, labels=(-1,) * 30)
    with pytest.raises(NoLabel, match="record 2 of birds test .* -1.*0 to 2"):
        load(tmp_path, "test")[2]


def test_damaged_files_are_bad_images(tmp_path):
    """One record cannot be read; the others can."""
    folder = write_set(tmp_path, splits={"train": [20], "test": [10]})
    path = folder / "birds-train.array_record-00000-of-00001"
    content = bytearray(path.read_bytes())
    source = load(tmp_path, "train")
    good = [source[i]["label"] for i in range(20)]
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)
    source = load(tmp_path, "train")
    found = []
    for i in range(20):
        try:
            found.append(source[i]["label"] == good[i])
        except BadImage as error:
            assert "cannot be read" in str(error) and "\n" not in str(error)
            found.append(None)
    assert found.count(None) >= 1 and False not in found


@pytest.mark.parametrize(
    "features",
    [
        {"text": {"text": {}}, "label": FEATURES["label"]},
        {"image": FEATURES["image"], "objects": {"sequence": {}}},
        {"left": FEATURES["image"], "right": FEATURES["image"], "label": FEATURES["label"]},
        {"image": FEATURES["image"], "one": FEATURES["label"], "two": FEATURES["label"]},
    ],
)
def test_not_a_set_of_images_with_classes(tmp_path, features):
    write_set(tmp_path, features=features, keys=("x", "y"))
    with pytest.raises(ValueError, match=f"with their classes.*{', '.join(features)}"):
        datasets.check_name("birds", str(tmp_path))


def test_prepared_as_tfrecord_only(tmp_path):
    write_set(tmp_path, fileFormat="tfrecord")
    with pytest.raises(ValueError) as error:
        datasets.check_name("birds", str(tmp_path))
    command = f"run: python tools/prepare_data.py birds --data_dir={tmp_path}"
    assert "tfrecord only" in str(error.value) and str(error.value).endswith(command)
    assert "\n" not in str(error.value)


def test_array_record_beside_tfrecord(tmp_path):
    write_set(tmp_path, fileFormat="tfrecord", alternativeFileFormats=["array_record"])
    assert len(load(tmp_path, "train")) == 20


def test_missing_files_and_damaged_descriptions(tmp_path):
    folder = write_set(tmp_path)
    shard = folder / "birds-train.array_record-00001-of-00002"
    shard.rename(folder / "elsewhere")
    with pytest.raises(ValueError, match=f"lacks 1 of its files, such as {shard}"):
        datasets.check_name("birds", str(tmp_path))
    (folder / "elsewhere").rename(shard)
    for name, text in (("features.json", "{"), ("features.json", "{}"), ("features.json", None)):
        content = (folder / name).read_text()
        (folder / name).unlink() if text is None else (folder / name).write_text(text)
        with pytest.raises(ValueError, match="does not describe a data set") as error:
            datasets.check_name("birds", str(tmp_path))
        assert "\n" not in str(error.value)
        (folder / name).write_text(content)


def test_threads_and_worker_processes_read_the_same(tmp_path):
    write_set(tmp_path)
    source = load(tmp_path, "train+test")
    expected = [source[i] for i in range(30)]
    pickled = pickle.dumps(source)
    assert len(pickled) < 5000
    again = pickle.loads(pickled)
    with ThreadPoolExecutor(16) as threads:
        indices = RNG.permutation(np.tile(np.arange(30), 40))
        for index, record in zip(indices, threads.map(again.__getitem__, indices), strict=True):
            assert record == expected[index]


def test_more_files_than_may_be_open(tmp_path):
    """ImageNet has 1,024 files, and 1,024 is the usual limit."""
    count = 80
    write_set(tmp_path, splits={"train": [1] * 30})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shards = [tfds_prepared.Shard(f"{i}", 1) for i in range(count)]
    prepared = tfds_prepared.open_prepared("birds", tmp_path)
    object.__setattr__(prepared, "shards", lambda split: shards)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 500), hard))
        tfds_records.ArrayRecordSource(prepared, "train")
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(soft, 500) + count
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_reading_imports_no_tensorflow(tmp_path):
    write_set(tmp_path)
    code = f"""
import sys
sys.modules["tensorflow"] = None  # an import of it fails
from data import datasets, splits
source = splits.load_source(datasets.open_dataset("birds", {str(tmp_path)!r}), "train", (4, 6))
assert source[3]["label"] == 0 and len(source[3]["image"]) > 50
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


BOX = {"pythonClassName": "tensorflow_datasets.core.features.bounding_boxes.BBoxFeature"}
BOX["boundingBox"] = {"bboxFormat": "REL_YXYX", "shape": {"dimensions": ["4"]}}
OLD_BOX = {"pythonClassName": BOX["pythonClassName"], "tensor": {}}


def listed(**inner):
    return {"sequence": {"feature": {"featuresDict": {"features": inner}}, "length": "-1"}}


def write_boxes(data_dir, features, records, **changes):
    """Writes a set whose records hold lists of numbers besides image and label."""
    from tensorflow_datasets.proto import tf_example_pb2

    folder = write_set(data_dir, splits={"train": [len(records)]}, features=FEATURES | features)
    path = folder / "birds-train.array_record-00000-of-00001"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for number, record in enumerate(records):
        example = tf_example_pb2.Example()
        feature = example.features.feature
        feature["image"].bytes_list.value.append(png(PIXELS[number]))
        feature["label"].int64_list.value.append(number)
        for key, values in record.items():
            kind = "int64_list" if key.endswith("label") else "float_list"
            getattr(feature[key], kind).value.extend(values)
        writer.write(example.SerializeToString())
    writer.close()
    return load(data_dir, "train")


@pytest.mark.parametrize("feature", [BOX, OLD_BOX])
def test_one_box_an_image(tmp_path, feature):
    """As caltech_birds2011 and cars196 have them; the class is the image's."""
    records = [{"bbox": [0.25, 0.5, 0.75, 1.0]}, {"bbox": [0, 0, 1, 1]}]
    source = write_boxes(tmp_path, {"bbox": feature}, records)
    assert source.boxes(0).tolist() == [[0, 0.25, 0.5, 0.75, 1]]
    assert source.boxes(1).tolist() == [[1, 0, 0, 1, 1]] and source.boxes(1).dtype == np.float32
    assert splits.load_source(
        datasets.open_dataset("birds", str(tmp_path)), "train[1:]", (4, 6)
    ).boxes(0).tolist() == [[1, 0, 0, 1, 1]]


def test_a_list_of_boxes_an_image(tmp_path):
    """As stanford_dogs has them, and with labels of their own as detection sets have."""
    records = [{"objects/bbox": []}, {"objects/bbox": [0, 0, 0.5, 0.5, 0.5, 0.5, 1, 1]}]
    source = write_boxes(tmp_path / "a", {"objects": listed(bbox=BOX)}, records)
    assert source.boxes(0).shape == (0, 5)
    assert source.boxes(1).tolist() == [[1, 0, 0, 0.5, 0.5], [1, 0.5, 0.5, 1, 1]]
    records = [row | {"objects/label": [0, 2][: len(row["objects/bbox"])]} for row in records]
    own = listed(bbox=BOX, label=FEATURES["label"])
    source = write_boxes(tmp_path / "b", {"objects": own}, records)
    assert source.boxes(0).shape == (0, 5)
    assert source.boxes(1).tolist() == [[0, 0, 0, 0.5, 0.5], [2, 0.5, 0.5, 1, 1]]
    # Labels of other classes say nothing about the images'.
    others = listed(bbox=BOX, label={"classLabel": {"numClasses": "7"}})
    source = write_boxes(tmp_path / "c", {"objects": others}, records)
    assert source.boxes(1)[:, 0].tolist() == [1, 1]


def test_boxes_in_pixels_are_none(tmp_path):
    pixels = BOX | {"boundingBox": {"bboxFormat": "XYXY"}}
    assert not hasattr(write_boxes(tmp_path, {"bbox": pixels}, [{"bbox": [0, 0, 4, 4]}]), "boxes")
