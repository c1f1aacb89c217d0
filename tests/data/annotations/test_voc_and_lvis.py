"""Prepared sets whose records have several lists of labels, read without TensorFlow.

Each is described as TensorFlow Datasets describes voc/2007 and lvis, with made-up records.
"""

import json

import cv2
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from data import datasets
from data.annotations.average_precision import objects_of_row
from data.annotations.pipeline import BoxData

PACKAGE = "tensorflow_datasets.core.features"
BOX = {
    "pythonClassName": f"{PACKAGE}.bounding_boxes.BBoxFeature",
    "boundingBox": {"bboxFormat": "REL_YXYX", "shape": {"dimensions": ["4"]}},
}
IMAGE = {"image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}}}
TWENTY, FOUR = ({"classLabel": {"numClasses": count}} for count in ("20", "4"))
SCALAR = {"tensor": {"dtype": "int64", "shape": {}}}


def sequence(feature):
    return {"sequence": {"feature": feature, "length": "-1"}}


def objects(**features):
    return sequence({"featuresDict": {"features": {"bbox": BOX, **features}}})


FEATURES = {
    "voc": {
        "image": IMAGE,
        "labels": sequence(TWENTY),
        "labels_no_difficult": sequence(TWENTY),
        "objects": objects(label=TWENTY, pose=FOUR, is_difficult=SCALAR),
    },
    "lvis": {
        "image": IMAGE,
        "neg_category_ids": sequence(TWENTY),
        "not_exhaustive_category_ids": sequence(TWENTY),
        "objects": objects(label=TWENTY, area=SCALAR, id=SCALAR),
    },
    "kitti": {"image": IMAGE, "objects": objects(type=TWENTY, occluded=FOUR)},
}
NUMBERS = {
    "objects/label": [19, 3],
    "objects/type": [19, 3],
    "objects/pose": [1, 0],
    "labels": [3, 19],
    "labels_no_difficult": [3],
    "neg_category_ids": [7],
}


def write_set(data_dir, name):
    """Writes a prepared set with one record; returns what BoxData needs to read it."""
    from tensorflow_datasets.proto import tf_example_pb2

    folder = data_dir / name / "1.0.0"
    folder.mkdir(parents=True)
    example = tf_example_pb2.Example()
    feature = example.features.feature
    image = cv2.imencode(".png", np.zeros((40, 60, 3), np.uint8))[1].tobytes()
    feature["image"].bytes_list.value.append(image)
    boxes = [0.1, 0.1, 0.6, 0.6, 0.0, 0.5, 1.0, 1.0]
    feature["objects/bbox"].float_list.value.extend(boxes)
    for key, values in NUMBERS.items():
        feature[key].int64_list.value.extend(values)
    writer = ArrayRecordWriter(
        str(folder / f"{name}-train.array_record-00000-of-00001"), "group_size:1"
    )
    writer.write(example.SerializeToString())
    writer.close()
    splits = [{"name": "train", "shardLengths": ["1"], "numBytes": "1"}]
    info = {"name": name, "version": "1.0.0", "fileFormat": "array_record", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    features = {"featuresDict": {"features": FEATURES[name]}}
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "objects-label.labels.txt").write_text("\n".join(map(str, range(20))) + "\n")
    options = {"batch_size": 1, "eval_batch_size": 1, "image_size": 64, "max_objects": 2}
    options |= {"train_split": "train", "eval_split": "train"}
    return {"name": name, "data_dir": str(data_dir), **options}


@pytest.mark.parametrize("name", ["voc", "lvis"])
def test_boxes_do_not_need_one_label_of_the_image(tmp_path, name):
    data = BoxData(**write_set(tmp_path, name)).open()
    assert data.num_classes == 20 and data.dataset.class_names[19] == "19"
    (batch,) = data.eval_batches()
    found = objects_of_row({key: array[0] for key, array in batch.items()})
    assert found.labels.tolist() == [19, 3]
    np.testing.assert_allclose(found.boxes, [(6, 4, 36, 24), (30, 0, 60, 40)], atol=1e-4)
    np.testing.assert_allclose(found.areas, [600, 1200], rtol=1e-5)


def test_classes_of_images_in_voc_are_the_usual_list(tmp_path):
    options = write_set(tmp_path, "voc")
    dataset = datasets.open_dataset("voc", options["data_dir"])
    assert dataset.multi_label and dataset.num_classes == 20
    source = dataset.load("train", (64, 64))
    assert source[0]["label"] == (3, 19)
    assert source.boxes(0)[:, 0].tolist() == [19, 3]


def test_boxes_with_several_classes_none_of_them_the_usual(tmp_path):
    with pytest.raises(ValueError, match="data set 'kitti' has no boxes with a class each"):
        BoxData(**write_set(tmp_path, "kitti")).open()
