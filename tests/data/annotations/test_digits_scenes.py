"""Scenes of digits, and the batches that detection and segmentation get of them."""

import itertools

import jax
import numpy as np
import pytest

from data.annotations.digits_scenes import Scenes, SceneSource
from data.annotations.pipeline import BoxData, SegmentData
from data.sources import arrays
from parallel.sharding import batch_sharding, create_mesh

SMALL = {"name": "digits_scenes", "image_size": (48, 64), "batch_size": 8, "eval_batch_size": 64}
SMALL |= {"scene_pixels": (8, 20)}


def boxes_of(**options):
    return BoxData(**{**SMALL, "max_objects": 6, **options}).open()


def take(batches, count):
    result = list(itertools.islice(batches, count))
    batches.close()
    return result


def assert_same(left, right):
    for a, b in zip(left, right, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_boxes_and_segments_are_the_digits():
    source = SceneSource("train", (48, 64), Scenes(scene_pixels=(8, 20), scene_overlap=0.0))
    counts = set()
    for index in range(200):
        record = source[index]
        image, annotations = record["image"][..., 0], record["label"]
        objects, segments = annotations.objects, annotations.segments
        assert annotations.image_id == index
        counts.add(len(objects))
        ink = np.zeros_like(segments)
        for number, (left, top, right, bottom) in enumerate(objects.boxes.astype(int)):
            assert 0 <= left < right <= 64 and 0 <= top < bottom <= 48
            inside = segments[top:bottom, left:right]
            is_digit = inside == objects.labels[number] + 1
            # The box is the tightest around the pixels, which its area counts.
            assert is_digit[[0, -1]].any(axis=1).all() and is_digit[:, [0, -1]].any(axis=0).all()
            assert objects.areas[number] == is_digit.sum()
            assert (image[top:bottom, left:right][is_digit] >= 64).all()
            assert bottom - top <= 20
            ink[top:bottom, left:right] = 1
        assert (segments[ink == 0] == 0).all() and (image[ink == 0] == 0).all()
    assert counts == {1, 2, 3, 4, 5, 6}


def test_test_scenes_have_test_digits_alone(monkeypatch):
    """Also no digit of train[80%:] is in train[:80%]."""
    used = []
    original = arrays.ArraySource.__getitem__
    monkeypatch.setattr(
        arrays.ArraySource,
        "__getitem__",
        lambda self, index: used.append((self._name, index)) or original(self, index),
    )

    def digits(split, indices):
        used.clear()
        source = SceneSource(split, (48, 64), Scenes(scene_pixels=(8, 20)))
        for index in indices:
            _ = source[index]
        return set(used)

    assert {name for name, _ in digits("test", range(0, 500, 10))} == {"digits test"}
    tuned, held_out = digits("train", range(0, 4000, 20)), digits("train", range(4000, 5000, 5))
    assert {name for name, _ in tuned} == {"digits train"} and not tuned & held_out


def test_batches_of_detection():
    data = boxes_of(augment={"flip": {}})
    batch = take(data.train_batches(), 1)[0]
    shapes = {name: (array.shape, str(array.dtype)) for name, array in batch.items()}
    assert shapes == {
        "image": ((8, 48, 64, 1), "uint8"),
        "image_mask": ((8, 48, 64), "bool"),
        "boxes": ((8, 6, 4), "float32"),
        "labels": ((8, 6), "int32"),
        "area": ((8, 6), "float32"),
        "is_crowd": ((8, 6), "bool"),
        "image_id": ((8,), "int32"),
        "size": ((8, 2), "int32"),
        "mask": ((8,), "float32"),
    }
    assert batch["image_mask"].all() and (batch["size"] == (48, 64)).all()
    real = batch["labels"] >= 0
    assert real.any() and not real.all() and (batch["boxes"][~real] == 0).all()
    # Ink inside the boxes, and none outside.
    for image, boxes, is_real in zip(batch["image"], batch["boxes"], real, strict=True):
        rest = image[..., 0].copy()
        for x, y, w, h in boxes[is_real] * (64, 48, 64, 48):
            rest[round(y - h / 2) : round(y + h / 2), round(x - w / 2) : round(x + w / 2)] = 0
        assert image.max() > 200 and rest.max() == 0
    with pytest.raises(ValueError, match=r"config.data.max_objects=1: image \d+ has \d objects"):
        take(boxes_of(max_objects=1).train_batches(), 4)


def test_batches_of_segmentation():
    data = SegmentData(**SMALL, augment={"flip": {}}).open()
    batch = take(data.train_batches(), 1)[0]
    assert batch["segments"].shape == (8, 48, 64) and batch["segments"].dtype == np.int32
    assert data.num_classes == 11 and data.dataset.class_names[:2] == ("background", "0")
    assert batch["segments"].max() <= 10
    assert (batch["image"][..., 0][batch["segments"] > 0] >= 64).all()  # flipped together
    shown = take(iter(data.eval_batches()), 8)
    assert sum(one["mask"].sum() for one in shown) == 500
    assert (shown[-1]["segments"][shown[-1]["mask"] == 0] == 255).all()


def test_evaluation_resizes_and_pads():
    data = SegmentData(**SMALL | {"eval_short_side": 40, "image_size": 48}).open()
    batch = next(iter(data.eval_batches()))
    assert batch["image"].shape[1:3] == (48, 48) and batch["image_mask"][0].sum() == 40 * 40
    assert (batch["segments"][0][~batch["image_mask"][0]] == 255).all()
    assert take(data.train_batches(), 1)[0]["image_mask"].sum() == 8 * 40 * 40


def test_any_position_workers_and_processes_give_the_same():
    whole = take(boxes_of(augment={"flip": {}}).train_batches(), 5)
    assert_same(take(boxes_of(augment={"flip": {}}).train_batches(3), 2), whole[3:])
    assert_same(take(boxes_of(augment={"flip": {}}, num_threads=0).train_batches(), 5), whole)
    halves = [
        take(boxes_of(augment={"flip": {}}, process_index=i, process_count=2).train_batches(), 5)
        for i in range(2)
    ]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*halves, strict=True)]
    assert_same(joined, whole)
    assert not np.array_equal(whole[0]["image"], take(boxes_of(seed=1).train_batches(), 1)[0])


def test_each_test_image_once_on_several_devices():
    sharding = batch_sharding(create_mesh(data=-1))
    rows = jax.device_get(list(boxes_of(sharding=sharding, eval_batch_size=60).eval_batches()))
    ids = np.concatenate([batch["image_id"][batch["mask"] > 0] for batch in rows])
    assert sorted(ids) == list(range(500)) and len(jax.devices()) == 8


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scene_digits": (0, 3)}, r"config.data.scene_digits=\(0, 3\): no range; allowed"),
        ({"scene_pixels": (20, 12)}, r"config.data.scene_pixels=\(20, 12\): no range"),
        ({"scene_pixels": (12, 60)}, r"config.data.scene_pixels=.*higher than a scene of 48 x 64"),
        ({"scene_overlap": 1.5}, r"config.data.scene_overlap=1.5"),
        ({"classes": (1, 2)}, r"config.data.classes=\(1, 2\): only for images with classes"),
        ({"among": "occurring"}, r"config.data.among='occurring': only for images with classes"),
        ({"exif_orientation": True}, r"config.data.exif_orientation=True: only for images with"),
        ({"max_objects": 0}, r"config.data.max_objects=0"),
        ({"name": "digits"}, r"data set 'digits' is not prepared.*did you mean 'digits_scenes'"),
    ],
)
def test_wrong_values(options, message):
    with pytest.raises(ValueError, match=message):
        boxes_of(**options)


@pytest.mark.slow
def test_a_dry_run_names_what_is_in_the_batch(capsys):
    from configs import digits_detr, digits_segment
    from preview.dry_run import dry_run

    for recipe in (digits_detr, digits_segment):
        dry_run("recipe", recipe.get_config("debug"), compiled=False)
        assert "\nlabels         " in capsys.readouterr().out
