"""coco/2017 and scene_parse150, prepared from made-up archives in the official formats.

All need TensorFlow (marker `tensorflow`): its sets are prepared here, then read without it.
"""

import dataclasses
import io
import json
import tarfile
import zipfile

import cv2
import numpy as np
import pytest

from configs import ade20k_tnt, coco_tnt_detr
from data import datasets, prepare
from data.annotations.average_precision import objects_of_row
from data.annotations.pipeline import BoxData, SegmentData
from tests.data.annotations.recipes import train_some_steps

pytestmark = pytest.mark.tensorflow
SMALL = {"batch_size": 2, "eval_batch_size": 3, "image_size": 64}


def encoded(ending, height=40, width=60, pixels=None):
    pixels = np.full((height, width, 3), 90, np.uint8) if pixels is None else pixels
    return cv2.imencode(ending, pixels)[1].tobytes()


def zipped(files):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return archive.getvalue()


def tarred(files):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return archive.getvalue()


def offer(monkeypatch, folder, name, archives):
    """Puts archives where a person would, under the checksums that they have."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    builder = tfds.builder_cls(name)
    known = dict(builder.url_infos)
    folder.mkdir()
    for url in known:
        if (content := archives.get(url.split("/")[-1])) is not None:
            path = folder / url.split("/")[-1]
            path.write_bytes(content)
            ours = checksums.compute_url_info(path)
            known[url] = dataclasses.replace(known[url], size=ours.size, checksum=ours.checksum)
    monkeypatch.setattr(builder, "url_infos", known)


NAMES = [f"class {number}" for number in range(80)]


def instances(split, boxes):
    """A file of COCO's, whose 80 categories have ids up to 90."""
    ids = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    images = sorted({image for image, *_ in boxes} | {99})
    return json.dumps(
        {
            "images": [
                {"id": i, "file_name": f"{i:012d}.jpg", "height": 40, "width": 60} for i in images
            ],
            "categories": [{"id": i, "name": n} for i, n in zip(ids, NAMES, strict=True)],
            "annotations": [
                {
                    "id": number,
                    "image_id": image,
                    "category_id": ids[label],
                    "bbox": box,
                    "area": area,
                    "iscrowd": crowd,
                }
                for number, (image, label, box, area, crowd) in enumerate(boxes)
            ],
        }
    )


BOXES = {
    "train2017": [(1, 0, [6, 4, 30, 20], 500, 0), (2, 79, [0, 0, 60, 40], 2000, 1)],
    "val2017": [(7, 79, [6, 4, 30, 20], 500, 0), (7, 5, [0, 10, 12.5, 30], 300, 1)],
}


def test_coco(tmp_path, monkeypatch, capsys):
    archives, annotations = {}, {}
    for split, boxes in BOXES.items():
        names = {f"{split}/{i:012d}.jpg" for i in {image for image, *_ in boxes} | {99}}
        archives[f"{split}.zip"] = zipped({name: encoded(".jpg") for name in names})
        annotations[f"annotations/instances_{split}.json"] = instances(split, boxes)
    archives["annotations_trainval2017.zip"] = zipped(annotations)
    archives["test2017.zip"] = zipped({"test2017/000000000099.jpg": encoded(".jpg")})
    info = {"annotations/image_info_test2017.json": instances("test2017", [])}
    archives["image_info_test2017.zip"] = zipped(info)
    offer(monkeypatch, tmp_path / "manual", "coco", archives)
    data_dir = str(tmp_path / "data")
    prepare.prepare("coco/2017", data_dir, str(tmp_path / "manual"))
    printed = capsys.readouterr().out
    assert all(count in printed for count in ("train 3", "validation 2", "test 1"))

    options = SMALL | {"data_dir": data_dir, "eval_split": "validation", "max_objects": 2}
    data = BoxData(name="coco/2017", **options).open()
    assert data.num_classes == 80 and data.dataset.class_names == tuple(NAMES)
    (batch,) = data.eval_batches()
    assert batch["mask"].tolist() == [1, 1, 0] and sorted(batch["image_id"][:2]) == [7, 99]
    place = batch["image_id"].tolist().index(7)
    assert (batch["labels"][1 - place] == -1).all()
    objects = objects_of_row({key: array[place] for key, array in batch.items()})
    assert objects.labels.tolist() == [79, 5] and objects.is_crowd.tolist() == [False, True]
    assert objects.areas.tolist() == [500, 300]
    expected = [(6, 4, 36, 24), (0, 10, 12.5, 40)]
    np.testing.assert_allclose(objects.boxes, expected, atol=1e-4)
    assert next(data.train_batches())["image"].shape == (2, 64, 64, 3)
    metrics = train_some_steps(
        coco_tnt_detr, tmp_path / "run", data_dir=data_dir, max_objects=10, eval_short_side=48
    )
    assert 0 <= metrics["ap"] <= 1 and metrics["ap_of/class 0"] == -1
    with pytest.raises(ValueError, match="has no masks that are known here"):
        _ = SegmentData(name="coco/2017", **SMALL, data_dir=data_dir).open()


def test_scene_parse(tmp_path, monkeypatch):
    mask = np.zeros((40, 60, 3), np.uint8)  # blue, green (the instance), red (the class)
    mask[:20, :, 2], mask[:20, :, 1] = 100, 7
    mask[20:30, :, 2] = 1
    images, masks = {}, {}
    for folder, split, count in (("training", "train", 3), ("validation", "val", 2)):
        for number in range(count):
            name = f"{folder}/ADE_{split}_{number:08d}"
            images[f"images/{name}.jpg"] = encoded(".jpg")
            masks[f"annotations_instance/{name}.png"] = encoded(".png", pixels=mask)
    archives = {"images.tar": tarred(images), "annotations_instance.tar": tarred(masks)}
    offer(monkeypatch, tmp_path / "manual", "scene_parse150", archives)
    data_dir = str(tmp_path / "data")
    prepare.prepare("scene_parse150", data_dir, str(tmp_path / "manual"))

    data = SegmentData(name="scene_parse150", data_dir=data_dir, **SMALL).open()
    assert data.num_classes == 100 and "ADEChallengeData2016" in data.dataset.notes[0]
    (batch,) = data.eval_batches()
    assert batch["mask"].tolist() == [1, 1, 0]
    segments = batch["segments"][0]
    assert (segments[:20, :60] == 99).all() and (segments[20:30, :60] == 0).all()
    assert (segments[30:] == 255).all() and (segments[:, 60:] == 255).all()
    assert data.num_train_examples == 3 and next(data.train_batches())["segments"].max() == 255
    metrics = train_some_steps(
        ade20k_tnt, tmp_path / "run", data_dir=data_dir, name="scene_parse150", eval_split="test"
    )
    assert 0 <= metrics["mean_iou"] <= 1
    for kind in (datasets.CLASSES.open, BoxData.catalogue.open):
        with pytest.raises(ValueError, match="has masks, not classes|no boxes with a class"):
            kind("scene_parse150", data_dir)
