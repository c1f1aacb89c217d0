"""What is found in images: on the image as stored, drawn, and in COCO's form."""

import contextlib
import io
import json
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.annotations.annotated import objects_of
from data.annotations.average_precision import Detections
from data.annotations.drawing import color_of, draw_boxes, draw_segments
from data.annotations.pipeline import BoxData, SegmentData
from inference.annotating.annotator import Annotator, Found
from inference.annotating.coco_form import Ids, coco_form, run_lengths
from reports.annotated import mean_iou, panoptic_quality

NAMES = tuple("0123456789")
SMALL = {"name": "digits_scenes", "image_size": 64, "batch_size": 4, "eval_batch_size": 4}


class FindsBright:
    """Finds one object: the bright pixels, in shares of the image without its padding."""

    def predict(self, variables, batch):
        bright = (batch["image"][..., 0] > 127) & batch["image_mask"]  # [b, h, w]
        boxes = []
        for other in (2, 1):
            along = bright.any(axis=other)
            length = batch["image_mask"].any(axis=other).sum(axis=1)
            first = jnp.argmax(along, axis=1) / length
            last = (along.shape[1] - jnp.argmax(along[:, ::-1], axis=1)) / length
            boxes.append((first, last))
        (top, bottom), (left, right) = boxes
        sides = jnp.stack([left, top, right, bottom], axis=-1)
        size = jnp.tile(batch["size"][:, ::-1].astype(jnp.float32), 2)
        count = len(sides)
        return {
            "boxes": (sides * size)[:, None],
            "scores": jnp.full((count, 1), 0.75),
            "labels": jnp.full((count, 1), 3),
        }


class SegmentsBright:
    """Says 4 of bright pixels and 0 of others."""

    def predict(self, variables, batch):
        return jnp.where(batch["image"][..., 0] > 127, 4, 0)


def write_images(folder):
    """A wide image that is made smaller, a small one that is padded, and one that is broken."""
    for name, size, box in (
        ("wide.png", (100, 200), (40, 20, 120, 60)),
        ("small.png", (30, 20), (2, 5, 12, 25)),
    ):
        image = np.zeros((*size, 3), np.uint8)
        image[box[1] : box[3], box[0] : box[2]] = 255
        cv2.imwrite(str(folder / name), image)
    (folder / "broken.png").write_bytes(b"nothing")
    return [folder / name for name in ("wide.png", "broken.png", "small.png")]


def test_boxes_lie_on_the_image_as_it_is_stored(tmp_path):
    data = BoxData(**SMALL, max_objects=4)
    annotator = Annotator(FindsBright(), {}, data, NAMES)
    wide, broken, small = annotator.iterate(write_images(tmp_path), batch_size=2)
    np.testing.assert_allclose(wide.detections.boxes, [(40, 20, 120, 60)], atol=200 / 64)
    np.testing.assert_allclose(small.detections.boxes, [(2, 5, 12, 25)], atol=1e-4)
    assert wide.image.shape == (100, 200, 3) and small.path.name == "small.png"
    assert broken.image is None and "not an image" in broken.problem
    assert wide.in_words(NAMES, 0.5) == "3 0.75" and wide.in_words(NAMES, 0.8) == "nothing"
    (found,) = annotator.iterate(small.image)  # an array instead of a file
    np.testing.assert_array_equal(found.detections.boxes, small.detections.boxes)
    assert list(annotator.iterate([])) == []


def test_segments_have_the_size_of_the_image(tmp_path):
    annotator = Annotator(SegmentsBright(), {}, SegmentData(**SMALL), NAMES)
    wide, _, small = annotator.iterate(write_images(tmp_path))
    assert wide.segments.shape == (100, 200) and set(np.unique(wide.segments)) == {0, 4}
    expected = np.zeros((30, 20), int)
    expected[5:25, 2:12] = 4
    np.testing.assert_array_equal(small.segments, expected)
    assert abs((wide.segments == 4).sum() - 80 * 40) < 400
    assert small.in_words(NAMES, 0.5) == "0 66.7%, 4 33.3%"


def test_pictures():
    image = np.full((40, 60, 3), 30, np.uint8)
    found = Detections(
        np.array([(10.0, 20.0, 30.0, 36.0), (0.0, 0.0, 5.0, 5.0)]),
        np.array([0.9, 0.2]),
        np.array([2, 5]),
    )
    picture = draw_boxes(image, found, NAMES, 0.5)
    factor = picture.shape[0] // 40
    assert picture.shape == (40 * factor, 60 * factor, 3) and picture.shape[1] >= 384
    assert (picture[36 * factor, 20 * factor] == color_of(2)).all()  # the lower edge
    assert (picture[30 * factor, 20 * factor] == 30).all()  # inside
    assert not (picture == color_of(5)).all(axis=-1).any()  # not certain enough
    segments = np.full((40, 60), 255)
    segments[:, :20] = 4
    picture = draw_segments(image, segments, NAMES)
    assert (picture[:, 25 * factor :] == 30).mean() > 0.99
    mixed = (30 + np.array(color_of(4))) / 2
    np.testing.assert_allclose(picture[factor, factor], mixed, atol=1)
    names = ("Background", *NAMES[1:])
    segments[:] = 0
    assert (draw_segments(image, segments, names) == 30).all()
    outside = Detections(np.array([(-30.0, -9.0, 900.0, 700.0)]), np.ones(1), np.array([1]))
    assert Found(None, image, outside).drawn(NAMES, 0.0).shape == picture.shape


def test_cocos_form_is_read_by_pycocotools(tmp_path):
    rng = np.random.default_rng(0)
    image = np.zeros((30, 50, 3), np.uint8)
    segments = rng.integers(0, 3, (30, 50))
    segments[:3] = 255
    boxes = Detections(np.array([(1.0, 2.0, 11.5, 22.0)]), np.array([0.5]), np.array([9]))
    found = [Found(tmp_path / "a.png", image, boxes), Found(None, image, segments=segments)]
    file = tmp_path / "a.json"
    file.write_text(json.dumps(coco_form(found, NAMES)))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(file)
    assert [coco.imgs[i]["file_name"] for i in (1, 2)] == [str(tmp_path / "a.png"), "2"]
    (box,) = coco.loadAnns(coco.getAnnIds(imgIds=1))
    assert box["bbox"] == [1, 2, 10.5, 20] and box["area"] == 210 and box["score"] == 0.5
    assert coco.cats[box["category_id"]]["name"] == "9"
    rows = coco.loadAnns(coco.getAnnIds(imgIds=2))
    assert [row["category_id"] for row in rows] == [1, 2, 3]
    for label, row in enumerate(rows):
        np.testing.assert_array_equal(coco.annToMask(row), segments == label)
        assert row["area"] == (segments == label).sum()
    assert run_lengths(np.ones((2, 2), bool)) == {"size": [2, 2], "counts": [0, 4]}
    assert run_lengths(np.zeros((2, 2), bool)) == {"size": [2, 2], "counts": [4]}


def test_ids_of_a_data_set(tmp_path):
    """Its own numbers, so that pycocotools compares what was found with what is there."""
    truth = {
        "images": [{"id": 7, "file_name": "x/a.png"}, {"id": 3, "file_name": "b.png"}],
        "categories": [{"id": 90, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 10, 20]}
            | {"area": 200, "iscrowd": 0}
        ],
    }
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(truth))
    names, a = ("dog", "cat"), Path("elsewhere/a.png")
    boxes = Detections(np.array([(1.0, 2.0, 11.0, 22.0)]), np.array([0.5]), np.array([1]))
    content = coco_form(
        [Found(a, np.zeros((30, 50, 3), np.uint8), boxes)], names, Ids.read(file, names, [a])
    )
    assert content["categories"] == [{"id": 4, "name": "dog"}, {"id": 90, "name": "cat"}]
    assert content["images"][0]["id"] == 7
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(file)
        evaluation = COCOeval(coco, coco.loadRes(content["annotations"]), "bbox")
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
    assert evaluation.stats[0] == pytest.approx(1)
    with pytest.raises(ValueError, match="has no category 'cow' \\(1 are missing"):
        Ids.read(file, ("dog", "cow"), [a])
    with pytest.raises(ValueError, match=r"has no image 'c.png' \(2 are"):
        Ids.read(file, names, [Path("c.png"), a, Path("d.png")])
    with pytest.raises(ValueError, match="images of one name, 'a.png', would get one id"):
        Ids.read(file, names, [a, Path("other/a.png")])
    truth["images"].append({"id": 8, "file_name": "y/a.png"})
    file.write_text(json.dumps(truth))
    with pytest.raises(ValueError, match="two images are called 'a.png'"):
        Ids.read(file, names, [a])


def test_how_well_an_image_is_found():
    truth = objects_of([(0, 0, 10, 10), (20, 0, 30, 10)], [1, 2], [100, 100], [False, False])

    def found(*rows):
        boxes, labels, scores = zip(*rows, strict=True) if rows else ((), (), ())
        return Detections(np.reshape(boxes, (-1, 4)), np.array(scores), np.array(labels))

    first, second = ((0, 0, 10, 10), 1, 0.9), ((20, 0, 30, 10), 2, 0.8)
    assert panoptic_quality(truth, found(first, second)) == 1
    assert panoptic_quality(truth, found(first)) == pytest.approx(2 / 3)
    assert panoptic_quality(truth, found(first, second, first)) == pytest.approx(4 / 5)
    assert panoptic_quality(truth, found(((0, 0, 10, 10), 2, 0.9))) == 0  # another class
    assert panoptic_quality(truth, found(first, ((20, 0, 30, 8), 2, 0.8))) == pytest.approx(0.9)
    assert panoptic_quality(truth, found(((0, 0, 10, 10), 1, 0.4))) == 0  # not certain enough
    assert panoptic_quality(objects_of(), found()) == 1
    assert panoptic_quality(objects_of(), found(first)) == 0
    crowd = objects_of([(0, 0, 50, 50)], [1], [2500], [True])
    assert panoptic_quality(crowd, found(first, second)) == 1
    segments = np.array([[0, 0, 1, 255]])
    assert mean_iou(segments, segments) == 1
    assert mean_iou(segments, np.array([[0, 1, 1, 7]])) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert mean_iou(np.full((2, 2), 255), np.zeros((2, 2), int)) == 1
