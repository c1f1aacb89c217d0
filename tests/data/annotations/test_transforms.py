"""Boxes and masks follow every augmentation: each object is a filled box of its own colour."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from data.annotations import transforms
from data.annotations.annotated import IGNORE, Annotated, Annotations, objects_of
from data.annotations.pipeline import Boxes, Segments

BOXES = [(10, 8, 40, 30), (60, 20, 110, 70), (90, 72, 118, 78)]


def scene(height=80, width=120, crowd=(False, False, False)):
    image = np.zeros((height, width, 3), np.uint8)
    segments = np.zeros((height, width), np.uint8)
    for label, (left, top, right, bottom) in enumerate(BOXES):
        image[top:bottom, left:right, label] = 255
        segments[top:bottom, left:right] = label + 1
    areas = [(r - left) * (b - t) for left, t, r, b in BOXES]
    return Annotated(image, objects_of(BOXES, [0, 1, 2], areas, crowd), (height, width), segments)


def check_follows(item):
    """Whether box, mask and colour of each object lie in one place, up to rounding."""
    assert item.segments.shape == item.size
    for box, label in zip(item.objects.boxes, item.objects.labels, strict=True):
        rows, columns = np.nonzero(item.segments == label + 1)
        seen = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        np.testing.assert_allclose(box, seen, atol=2.01)  # two resizings
        is_inside = item.image[..., label] > 127
        assert (is_inside != (item.segments == label + 1)).mean() < 0.04
    for label in set(range(3)) - set(item.objects.labels.tolist()):
        places = np.argwhere(item.segments == label + 1)  # at most an edge, by rounding
        assert len(places) == 0 or min(np.ptp(places, axis=0)) <= 1


AUGMENTS = {
    "flip": {"flip": {"probability": 1.0}},
    "smaller": {"random_resize": {"short_sides": (40, 50)}},
    "larger": {"random_resize": {"short_sides": (160,), "longest_side": 200}},
    "crop": {
        "random_sized_crop": {"probability": 1.0, "short_sides": (70,), "crop_sides": (30, 60)}
    },
    "detr": {
        "flip": {},
        "random_sized_crop": {"short_sides": (60, 80), "crop_sides": (40, 70)},
        "random_resize": {"short_sides": (64, 96), "longest_side": 140},
    },
    "scale": {"random_scale_crop": {"short_side": 80, "scale": (0.3, 2.0)}},
    "off": {"flip": None},
}


@pytest.mark.parametrize("name", AUGMENTS)
def test_boxes_and_masks_follow(name):
    limits = (90, 150)
    steps = transforms.create_transforms(
        AUGMENTS[name], limits, lambda item: transforms.resized(item, (48, 72))
    )
    sizes = set()
    for seed in range(30):
        item, rng = scene(), np.random.default_rng(seed)
        for step in steps:
            item = step(item, rng)
        check_follows(item)
        sizes.add(item.size)
        assert item.stored_size == (80, 120)
        assert all(side <= most for side, most in zip(item.size, limits, strict=True))
        # Areas stay those of the image as it is stored.
        assert set(item.objects.areas) <= {660, 2500, 168}
    if name in ("flip", "off", "crop"):
        assert (48, 72) in sizes  # as in evaluation
    if name == "smaller":
        assert sizes == {(40, 60), (50, 75)}
    if name == "larger":
        assert sizes == {(90, 135)}  # the batch holds no more
    if name == "flip":
        np.testing.assert_allclose(item.objects.boxes[0], np.array([80, 8, 110, 30]) * 0.6)


@pytest.mark.parametrize("size", [(80, 120), (37, 56), (160, 240), (123, 185)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_part_is_that_of_the_whole_image_resized(size, channels):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (80, 120, channels), np.uint8)
    segments = rng.integers(0, 9, (80, 120), np.uint8)
    item = Annotated(image, objects_of(BOXES, [0, 1, 2], [1] * 3, [False] * 3), (80, 120), segments)
    whole = transforms.resized(item, size)
    for top, left, height, width in ((0, 0, *size), (11, 23, 20, 30), (size[0] - 9, 0, 9, 40)):
        part = transforms.cropped(item, size, top, left, height, width)
        where = np.s_[top : top + height, left : left + width]
        assert part.image.shape == (height, width, channels) and part.image.dtype == np.uint8
        difference = part.image.astype(int) - whole.image[where]
        assert np.abs(difference).max() <= 1
        assert (
            part.segments == whole.segments[where]
        ).mean() > 0.94  # of halves OpenCV rounds some
        moved = whole.with_boxes(whole.objects.boxes - np.float32([left, top, left, top]))
        moved = dataclasses.replace(moved, image=whole.image[where])
        expected = transforms.within(moved).objects
        np.testing.assert_array_equal(part.objects.boxes, expected.boxes)
        assert part.objects.labels.tolist() == expected.labels.tolist()


@pytest.mark.parametrize("name", ["random_sized_crop", "random_scale_crop"])
def test_no_more_than_the_part_is_made_of_a_long_image(name):
    """A banner, whose short side becomes 1024: all of it would have 1024 x 1,024,000 pixels."""
    banner = np.zeros((10, 10_000, 3), np.uint8)
    banner[:, 5_000:], segments = 255, np.zeros((10, 10_000), np.uint8)
    segments[:, 5_000:] = 1
    item = Annotated(
        banner, objects_of([(0, 0, 10_000, 10)], [0], [1], [0]), (10, 10_000), segments
    )
    options = {"short_sides": (1024,), "crop_sides": (300, 300)}
    if name == "random_scale_crop":
        options = {"short_side": 1024, "scale": (1.0, 1.0), "image_size": (300, 300)}
    else:
        options["probability"] = 1.0
    crop, seen = transforms.TRANSFORMS[name](**options), set()
    for seed in range(8):
        tracemalloc.start()
        part = crop(item, np.random.default_rng(seed))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert part.size == (300, 300) and most < 2**22
        assert part.objects.boxes.tolist() == [[0, 0, 300, 300]]
        assert (part.image[..., 0] == 255 * part.segments).all()
        seen |= set(np.unique(part.segments).tolist())
    assert seen == {0, 1}


def test_color_jitter_leaves_places_alone():
    jitter = transforms.color_jitter(strength=0.5, probability=1.0)
    item = transforms.flip(probability=1.0)(scene(), np.random.default_rng(0))
    changed = jitter(item, np.random.default_rng(0))
    assert not np.array_equal(changed.image, item.image)
    assert changed.objects is item.objects and changed.segments is item.segments


def test_what_cannot_be_learned_is_left_out():
    item = scene(crowd=(False, True, False))
    boxes = np.array([(-5, -5, 6, 6), (0, 0, 9, 9), (200, 10, 300, 20)], np.float32)
    found = transforms.without_crowds(item.with_boxes(boxes), np.random.default_rng(0))
    np.testing.assert_array_equal(found.objects.boxes, [(0, 0, 6, 6)])
    assert found.objects.labels.tolist() == [0]
    empty = Annotated(item.image, objects_of(), item.size)
    for create in (transforms.flip, transforms.random_sized_crop):
        out = create(probability=1.0)(empty, np.random.default_rng(0))
        assert len(out.objects) == 0 and out.segments is None


@pytest.mark.parametrize(
    "size, limits, short, longest, expected",
    [
        ((480, 640), (1333, 1333), 800, 1333, (800, 1067)),
        ((400, 1000), (1333, 1333), 800, 1333, (533, 1333)),
        ((1000, 400), (1333, 1333), 800, 1333, (1333, 533)),
        ((480, 640), (600, 600), 800, None, (450, 600)),
        ((30, 40), (64, 64), None, None, (30, 40)),
        ((1, 4000), (64, 64), None, None, (1, 64)),
    ],
)
def test_how_large_images_become(size, limits, short, longest, expected):
    assert transforms.fitting(size, limits, short, longest) == expected


def test_smaller_images_are_padded():
    item = scene()
    row = Segments((100, 130, 3)).finish(item, Annotations())
    assert row["image_mask"].sum() == 80 * 120 and row["image_mask"][:80, :120].all()
    np.testing.assert_array_equal(row["segments"][:80, :120], item.segments)
    assert (row["segments"][~row["image_mask"]] == IGNORE).all()
    assert (row["image"][~row["image_mask"]] == 0).all()


@pytest.mark.parametrize(
    "augment, message",
    [
        ({"flip": {"probability": 2.0}}, "config.augment.flip.probability=2.0"),
        ({"random_resize": {"short_sides": ()}}, r"config.augment.random_resize.short_sides=\(\)"),
        (
            {"random_sized_crop": {"crop_sides": (0, 5)}},
            r"config.augment.random_sized_crop.crop_sides=\(0, 5\)",
        ),
        (
            {"random_sized_crop": {"crop_sides": (600, 384)}},
            r"config.augment.random_sized_crop.crop_sides=\(600, 384\): the least is above",
        ),
        *(
            (
                {"random_resize": {"short_sides": (8,), "longest_side": side}},
                f"config.augment.random_resize.longest_side={side}: out of range; .* at least 1",
            )
            for side in (0, -1)
        ),
        (
            {"random_scale_crop": {"short_side": 8, "scale": (2.0, 1.0)}},
            r"config.augment.random_scale_crop.scale=\(2.0, 1.0\): no range of factors",
        ),
    ],
)
def test_wrong_values(augment, message):
    with pytest.raises(ValueError, match=message):
        transforms.create_transforms(augment, (64, 64), lambda item: item)


def test_boxes_are_shares_of_the_image_without_its_padding():
    item = scene()
    row = Boxes((100, 130, 3), 5).finish(item, Annotations(image_id=7))
    np.testing.assert_allclose(row["boxes"][0], [25 / 120, 19 / 80, 30 / 120, 22 / 80], rtol=1e-6)
    assert row["labels"].tolist() == [0, 1, 2, -1, -1]
    assert row["image_id"] == 7 and row["size"].tolist() == [80, 120]
    assert row["image_mask"].sum() == 80 * 120
