"""Parts of JPEGs that are decoded without the rows below them, against the whole image."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from data import images
from data.augment.crops import random_resized_crop
from data.images import UndecodedJpeg, decode_image, open_image
from data.loading import Labelled, ReadTraining
from harness.errors import BadImage

PHOTO = np.ascontiguousarray(load_sample_image("flower.jpg")[::4, ::4])  # 107 x 160
TAG = 0x0112


def encode(image=PHOTO, orientation=None, **options):
    exif = Image.Exif()
    if orientation:
        exif[TAG] = orientation
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, "JPEG", exif=exif, **options)
    return file.getvalue()


def upright(encoded, exif_orientation=False):
    """Pillow's pixels of the whole image; the independent reference."""
    image = Image.open(io.BytesIO(encoded))
    return np.asarray(
        (ImageOps.exif_transpose(image) if exif_orientation else image).convert("RGB")
    )


def boxes(height, width):
    """Every top and bottom near a boundary of blocks and at the borders, and random boxes."""
    rng = np.random.default_rng(0)
    for bottom in range(1, height + 1):
        top = int(rng.integers(bottom))
        left, right = sorted(rng.choice(width + 1, 2, replace=False).tolist())
        yield slice(top, bottom), slice(left, right)
    for right in range(1, width + 1):
        left, top = int(rng.integers(right)), int(rng.integers(height))
        yield slice(top, height), slice(left, right)
    yield slice(0, height), slice(0, width)


def assert_same_parts(encoded, capfd, exif_orientation=False):
    """All parts have the whole image's pixels, and nobody complains."""
    opened = open_image(encoded, exif_orientation=exif_orientation)
    expected = upright(encoded, exif_orientation)
    assert isinstance(opened, UndecodedJpeg) and opened.shape == expected.shape
    for part in boxes(*expected.shape[:2]):
        np.testing.assert_array_equal(opened[part], expected[part], err_msg=str(part))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2, "4:1:1"])
def test_subsampling(subsampling, quality, capfd):
    assert_same_parts(encode(subsampling=subsampling, quality=quality), capfd)


@pytest.mark.parametrize("factor", ["411", "420", "422", "440", "444"])
def test_files_of_opencv(factor, capfd):
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{factor}")
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    assert_same_parts(cv2.imencode(".jpg", PHOTO, options)[1].tobytes(), capfd)


def test_grey(capfd):
    assert_same_parts(encode(PHOTO[..., 1]), capfd)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (16, 16), (17, 33), (40, 31)])
def test_odd_and_tiny_sizes(size, capfd):
    assert_same_parts(encode(PHOTO[: size[0], : size[1]]), capfd)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("exif_orientation", [False, True])
def test_orientation(orientation, exif_orientation, capfd):
    encoded = encode(PHOTO[:43, :57], orientation)
    assert_same_parts(encoded, capfd, exif_orientation)


def test_rows_below_are_not_decoded(monkeypatch):
    heights = []
    decode = cv2.imdecode

    def imdecode(encoded, flags):
        image = decode(encoded, flags)
        heights.append(len(image))
        return image

    monkeypatch.setattr(images.cv2, "imdecode", imdecode)
    opened = open_image(encode(orientation=3), exif_orientation=True)
    assert heights == []
    opened[0:5, 0:5], opened[100:107, 0:5]  # upside down: the last rows are stored first
    assert heights == [107, 9]


def whole_only():
    """JPEGs that are no single scan from the top to the bottom, and other formats."""
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "PNG")
    restarts = [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]
    return {
        "progressive": encode(progressive=True),
        "restart markers": cv2.imencode(".jpg", PHOTO, restarts)[1].tobytes(),
        "cmyk": encode(Image.fromarray(PHOTO).convert("CMYK")),
        "more after the end": encode() + b"more",
        "png": file.getvalue(),
    }


@pytest.mark.parametrize("kind", whole_only())
def test_what_is_decoded_whole(kind, capfd):
    encoded = whole_only()[kind]
    opened = open_image(encoded)
    assert isinstance(opened, np.ndarray)
    np.testing.assert_array_equal(opened, decode_image(encoded))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_file_is_bad_as_before(share):
    encoded = encode(quality=90)
    encoded = encoded[: int(len(encoded) * share)]
    with pytest.raises(BadImage) as whole:
        decode_image(encoded)
    with pytest.raises(BadImage) as part:
        open_image(encoded)[0:9, 0:9]
    assert str(part.value) == str(whole.value)


def test_too_many_pixels(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(BadImage, match="160 x 107"):
        open_image(encode())


def test_pixels_that_run_out(capfd):
    """The end marker in the middle of the pixels: as the whole image, whatever that gives."""
    encoded = encode(quality=90)
    cut = encoded[: len(encoded) // 2] + b"\xff\xd9"
    expected = decode_image(cut)
    opened = open_image(cut)
    for part in [np.s_[0:20, 3:9], np.s_[10:90, 0:160], np.s_[0:107, 0:160]]:
        np.testing.assert_array_equal(opened[part], expected[part])


# --- in training ----------------------------------------------------------------------------------


FORM = Labelled((32, 32, 3))


def source_of(*encoded):
    records = [{"image": image, "label": label} for label, image in enumerate(encoded)]

    class Source(list):
        def describe(self, index):
            return f"record {index}"

    return Source(records)


@pytest.mark.parametrize("rule", ["torchvision", "tensorflow"])
@pytest.mark.parametrize("exif_orientation", [False, True])
def test_a_seed_gives_the_crop_of_the_whole_image(rule, exif_orientation):
    crop = random_resized_crop(image_size=32, rule=rule, interpolation=("bilinear", "bicubic"))
    source = source_of(*(encode(orientation=o) for o in range(1, 9)))
    read = ReadTraining(source, FORM, [crop], exif_orientation)
    for seed in range(40):
        record = source[seed % 8]
        whole = decode_image(record["image"], exif_orientation=exif_orientation)
        expected = crop(whole, np.random.default_rng(seed))
        found = read.random_map(seed % 8, np.random.default_rng(seed))
        np.testing.assert_array_equal(found.row["image"], expected)
        assert found.row["label"] == seed % 8 and found.bad == ()


def test_a_replacement_gets_the_draws_of_the_record():
    """Also where a crop was drawn before the file turned out to be unreadable."""
    damaged = bytearray(encode())
    damaged[damaged.index(b"\xff\xc0") + 4] = 12  # bits of a level
    assert isinstance(open_image(bytes(damaged)), UndecodedJpeg)
    crop = random_resized_crop(image_size=32)
    good = encode(PHOTO[::-1])
    read = ReadTraining(source_of(bytes(damaged), *[good] * 30), FORM, [crop], False)
    found = read.random_map(0, np.random.default_rng(5))
    np.testing.assert_array_equal(
        found.row["image"], crop(decode_image(good), np.random.default_rng(5))
    )
    assert [entry[0] for entry in found.bad] == [0]


def test_other_first_steps_get_pixels():
    seen = []

    def step(image, rng):
        seen.append(image)
        return image

    read = ReadTraining(source_of(encode()), FORM, [step], False)
    read.random_map(0, np.random.default_rng(0))
    assert isinstance(seen[0], np.ndarray)
