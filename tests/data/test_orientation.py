"""EXIF orientation: every value, format and place where images are decoded, against Pillow."""

import dataclasses
import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from data import array_records, images, prepare
from data.images import decode_image
from data.pipeline import Data

PHOTO = np.ascontiguousarray(load_sample_image("china.jpg")[::5, ::5])
TAG = 0x0112
FORMATS = {
    "JPEG": dict(quality=95, subsampling=0),
    "PNG": {},
    "WEBP": dict(lossless=True),
    "AVIF": {},
    "TIFF": {},
    "MPO": dict(quality=95),
}


def encode(orientation, file_format="JPEG", mode="RGB", **options):
    exif = Image.Exif()
    exif[TAG] = orientation
    file = io.BytesIO()
    options = FORMATS.get(file_format, {}) | options
    Image.fromarray(PHOTO).convert(mode).save(file, file_format, exif=exif, **options)
    return file.getvalue()


def upright(encoded):
    """What Pillow makes of it; the independent reference."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB"))


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_as_pillow(orientation, file_format):
    Image.init()
    if file_format not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {file_format}")
    encoded = encode(orientation, file_format)
    image = decode_image(encoded, exif_orientation=True)
    expected = upright(encoded)
    assert image.shape == expected.shape and image.flags.c_contiguous and image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)
    stored = decode_image(encoded)  # the default
    np.testing.assert_array_equal(
        stored, np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    )
    if file_format not in ("TIFF", "AVIF"):  # of these Pillow itself turns the pixels
        assert stored.shape == PHOTO.shape
        assert (orientation == 1) == np.array_equal(image, stored)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_other_modes(orientation, mode):
    encoded = encode(orientation, mode=mode)
    np.testing.assert_array_equal(decode_image(encoded, exif_orientation=True), upright(encoded))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bits_and_cut_files_go_through_pillow(orientation):
    exif = Image.Exif()
    exif[TAG] = orientation
    file = io.BytesIO()
    deep = Image.fromarray(PHOTO[..., 0].astype(np.uint16) << 8)
    deep.save(file, "PNG", exif=exif)
    encoded = file.getvalue() + b"more"
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))) >> 8
    found = decode_image(encoded, exif_orientation=True)
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=2))


def test_a_tag_that_is_in_xmp_alone():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "JPEG", xmp=xmp)
    found = decode_image(file.getvalue(), exif_orientation=True)
    np.testing.assert_array_equal(found, upright(file.getvalue()))
    assert found.shape[:2] == PHOTO.shape[1::-1]


@pytest.mark.parametrize("tag", [0, 9, 300])
def test_a_tag_without_meaning_is_ignored(tag):
    encoded = encode(tag)
    np.testing.assert_array_equal(decode_image(encoded, exif_orientation=True), upright(encoded))


def test_damaged_exif_is_ignored():
    encoded = encode(6).replace(b"Exif\0\0MM", b"Exif\0\0??").replace(b"Exif\0\0II", b"Exif\0\0??")
    assert decode_image(encoded, exif_orientation=True).shape == PHOTO.shape


def test_a_png_without_notes_is_decoded_once(monkeypatch):
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "PNG")
    monkeypatch.setattr(images.Image, "open", None)
    np.testing.assert_array_equal(decode_image(file.getvalue(), exif_orientation=True), PHOTO)


# --- in use ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """One photograph per orientation, tagged so that all are the same picture when upright."""
    for split in ("train", "val"):
        for orientation in range(1, 9):
            stored = Image.fromarray(PHOTO)
            inverse = {6: 8, 8: 6}.get(orientation, orientation)
            exif = Image.Exif()
            exif[TAG] = inverse
            file = io.BytesIO()
            stored.save(file, "PNG", exif=exif)
            stored = ImageOps.exif_transpose(Image.open(file))
            exif[TAG] = orientation
            path = tmp_path / "set" / split / "ab"[orientation % 2] / f"{orientation}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            stored.save(path, exif=exif)
    return tmp_path / "set"


def batches(data):
    training = data.train_batches()
    try:
        train = next(training)["image"]
    finally:
        training.close()
    return train, next(iter(data.eval_batches()))["image"]


def test_training_and_evaluation(folder):
    common = dict(name=f"folder:{folder}", image_size=(16, 24), batch_size=8, eval_batch_size=8)
    data = Data(**common, exif_orientation=True)
    for batch in batches(data):
        assert len(batch) == 8 and (batch == batch[:1]).all()
    for batch in batches(dataclasses.replace(data, exif_orientation=False)):
        assert len(np.unique(batch, axis=0)) == 8


def test_a_smaller_copy_keeps_the_tag(folder, tmp_path):
    prepare.resize(f"folder:{folder}", 32, str(tmp_path / "prepared"))
    data = Data(
        name="set_32",
        data_dir=str(tmp_path / "prepared"),
        eval_split="validation",
        image_size=(16, 24),
        batch_size=8,
        eval_batch_size=8,
        exif_orientation=True,
    )
    for batch in batches(data):
        assert len(batch) == 8
        assert np.abs(batch.astype(int) - batch[:1]).mean() < 3  # JPEG's blocks lie differently
    source = data.eval_source
    sizes = {decode_image(source[i]["image"]).shape[:2] for i in range(8)}
    assert len(sizes) == 2  # stored as they were, standing and lying


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_the_tag_of_a_shrunk_jpeg(orientation):
    encoded = encode(orientation) if orientation else cv2.imencode(".png", PHOTO)[1].tobytes()
    small = array_records.shrink(encoded, 32)
    exif = Image.open(io.BytesIO(small)).getexif()
    assert dict(exif) == ({} if orientation in (None, 1) else {TAG: orientation})
    np.testing.assert_array_equal(decode_image(small, exif_orientation=True), upright(small))
    if orientation:
        untagged = array_records.shrink(encode(1), 32)
        np.testing.assert_array_equal(decode_image(small), decode_image(untagged))
