"""Boxes go through orientation, resize and crop as the pixels of their image do."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from data.augment.crops import center_crop
from data.boxed_images import crop_boxes, read_boxed_images
from data.images import turned
from data.pipeline import Data
from data.sources.arrays import ArraySource, Concatenated, Subset

SIZES = ((40, 60), (61, 40), (33, 33), (500, 20), (20, 900))
CROPS = ((32, 0.875, "bilinear"), (32, 1.0, "pil_bicubic"), ((24, 40), 0.8, "pil_bilinear"))


def painted(height, width, box, level=255):
    """A black image with a bright box, whose sides are pixels."""
    image = np.zeros((height, width, 3), np.uint8)
    top, left, bottom, right = box
    image[top:bottom, left:right] = level
    return image


def bright_box(image):
    """Sides of what is brighter than half."""
    rows, columns = (np.flatnonzero((image[..., 0] >= 128).any(axis)) for axis in (1, 0))
    return [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1] if len(rows) else None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("crop_size", "ratio", "interpolation"), CROPS)
def test_a_painted_box_is_where_its_box_is(size, crop_size, ratio, interpolation):
    """To half a pixel of the crop, for boxes inside, over the edge and outside of the crop."""
    crop = center_crop(image_size=crop_size, ratio=ratio, interpolation=interpolation)
    height, width = size
    window = crop.window(height, width)
    scale = crop(painted(height, width, (0, 0, 0, 0))).shape[:2] / np.subtract(
        np.multiply(window[2:], size), np.multiply(window[:2], size)
    )
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(60):
        top, bottom = np.sort(rng.choice(height + 1, 2, replace=False))
        left, right = np.sort(rng.choice(width + 1, 2, replace=False))
        if (bottom - top) * scale[0] < 4 or (right - left) * scale[1] < 4:
            continue  # too narrow to become bright
        image = crop(painted(height, width, (top, left, bottom, right)))
        box = [[3, top / height, left / width, bottom / height, right / width]]
        found = crop_boxes(np.array(box, np.float32), window)
        bright = bright_box(image)
        if not len(found):
            assert bright is None
            continue
        assert found[0, 0] == 3 and found.dtype == np.float32
        sides = found[0, 1:] * (image.shape[:2] * 2)
        if bright is None:  # only its edge is in the crop
            assert min(sides[2] - sides[0], sides[3] - sides[1]) < 0.6
            continue
        seen += 1
        np.testing.assert_allclose(sides, bright, atol=0.55)
    assert seen > 3


def test_boxes_are_cut_off_at_the_crop_and_those_outside_dropped():
    boxes = np.array([[0, 0, 0, 1, 1], [1, 0, 0, 0.25, 1], [2, 0.3, 0.1, 0.5, 0.5]], np.float32)
    found = crop_boxes(boxes, (0.25, 0.0, 0.75, 0.5))
    np.testing.assert_allclose(found, [[0, 0, 0, 1, 1], [2, 0.1, 0.2, 0.5, 1]], atol=1e-6)
    assert crop_boxes(boxes[:0], (0, 0, 1, 1)).shape == (0, 5)


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_boxes_turn_as_pillow_turns_the_image(orientation):
    box = (4, 10, 20, 40)
    image = Image.fromarray(painted(30, 50, box))
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
    stored = np.array([box], np.float32) / (30, 50, 30, 50)
    found = turned(stored, orientation) * (upright.shape[:2] * 2)
    np.testing.assert_allclose(found[0], bright_box(upright), atol=1e-4)


class Boxed(ArraySource):
    """Images of which each has its number's share of the height, and one that is broken."""

    def boxes(self, index):
        return np.array([[self.labels[index], 0, 0, (index + 1) / 4, 1]], np.float32)


def test_images_with_their_boxes_in_order():
    images = np.zeros((4, 8, 8, 1), np.uint8)
    source = Boxed(images, [5, 6, 7, 8])
    parts = Concatenated([Subset(source, range(2, 4)), Subset(source, np.array([0]))])
    data = Data(name="digits", image_size=(8, 8), batch_size=1, eval_batch_size=1)
    found = list(read_boxed_images(data, parts))
    assert [one.labels for one in found] == [(7,), (8,), (5,)]
    np.testing.assert_array_equal([one.boxes[0, 3] for one in found], [0.75, 1, 0.25])
    assert not hasattr(Concatenated([source, ArraySource(images, [0] * 4)]), "boxes")
    (plain,) = read_boxed_images(data, ArraySource(images[:1], [3]))
    assert plain.boxes.shape == (0, 5) and plain.labels == (3,)


def test_orientation_and_unreadable_images():
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row becomes the last column
    file = io.BytesIO()
    Image.fromarray(painted(16, 32, (0, 0, 8, 32))).save(file, "PNG", exif=exif)

    class Files(list):
        def boxes(self, index):
            return np.array([[0, 0, 0, 0.5, 1]], np.float32)

    source = Files({"image": encoded, "label": 0} for encoded in (file.getvalue(), b"broken"))
    base = {"name": "synthetic", "image_size": 16, "batch_size": 1, "eval_batch_size": 1}
    for turns, expected in ((False, [0, 0, 0.5, 1]), (True, [0, 0.5, 1, 1])):
        image, broken = read_boxed_images(Data(**base, exif_orientation=turns), source)
        assert broken is None
        np.testing.assert_allclose(image.boxes[0, 1:], expected)
        np.testing.assert_array_equal(np.array(bright_box(image.image)) / 16, expected)
