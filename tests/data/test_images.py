"""Decoding of images as they are found in the wild, against Pillow."""

import io
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from data import images
from data.images import decode_image
from harness.errors import BadImage


@pytest.fixture(scope="module", params=["china.jpg", "flower.jpg"])
def photo(request):
    """A photograph of 320x214 pixels, uint8 RGB."""
    return np.ascontiguousarray(load_sample_image(request.param)[::2, ::2])


def encode(image, file_format, **kwargs):
    """Encodes an array or Pillow image with Pillow."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, file_format, **kwargs)
    return file.getvalue()


def as_pillow(encoded):
    """What Pillow makes of the bytes."""
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def assert_like_pillow(encoded, tolerance=0):
    """decode_image gives Pillow's pixels, in the promised form."""
    image = decode_image(encoded)
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    expected = as_pillow(encoded)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= tolerance
    return image


def png_chunk(kind, data):
    """One chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# --- readable -------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [50, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(photo, quality, subsampling, progressive):
    image = photo[:101, :233]  # no multiple of the blocks
    options = dict(quality=quality, subsampling=subsampling, progressive=progressive)
    decoded = assert_like_pillow(encode(image, "JPEG", **options))
    assert np.abs(decoded.astype(int) - image).mean() < 8  # and channels are where they were


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("PNG", {"interlace": True}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("PPM", {}),
    ],
)
def test_other_formats_whatever_the_name(photo, file_format, options):
    # The name plays no part: ImageNet has a PNG that is called .JPEG.
    assert_like_pillow(encode(photo, file_format, **options))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_png_modes(photo, mode):
    image = Image.fromarray(photo)
    if mode in ("LA", "RGBA"):
        alpha = Image.fromarray(np.tile(np.arange(320) % 256, (214, 1)).astype(np.uint8))
        image = image.convert(mode)
        image.putalpha(alpha)
    else:
        image = image.convert(mode)
    assert image.mode == mode
    assert_like_pillow(encode(image, "PNG"))


def test_palette_with_a_transparent_entry(photo):
    assert_like_pillow(encode(Image.fromarray(photo).quantize(64), "PNG", transparency=3))


def test_grey_jpeg_has_three_equal_channels(photo):
    image = assert_like_pillow(encode(photo[..., 1], "JPEG", quality=90))
    assert np.all(image == image[..., :1])


def test_cmyk_jpeg(photo):
    encoded = encode(Image.fromarray(photo).convert("CMYK"), "JPEG", quality=95)
    decoded = assert_like_pillow(encoded)
    assert np.abs(decoded.astype(int) - photo).mean() < 5  # not inverted


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_keep_the_high_byte(photo, channels):
    high = photo[..., :channels].astype(np.uint16)
    low = np.random.default_rng(0).integers(0, 256, high.shape, np.uint16)
    encoded = cv2.imencode(".png", (high << 8 | low)[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_image(encoded), np.broadcast_to(high, photo.shape))
    # Through Pillow as well: bytes after the end make the file none of OpenCV's.
    if channels == 1:
        np.testing.assert_array_equal(
            decode_image(encoded + b"more"), np.broadcast_to(high, photo.shape)
        )


def test_16_bit_tiff(photo):
    grey = photo[..., 0].astype(np.uint16)
    encoded = encode(Image.fromarray(grey << 8 | 77), "TIFF")
    np.testing.assert_array_equal(
        decode_image(encoded), np.broadcast_to(grey[..., None], photo.shape)
    )


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1)])
def test_tiny(file_format, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert_like_pillow(encode(image, file_format))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_20000_pixels_wide(file_format):
    image = np.random.default_rng(0).integers(0, 256, (3, 20_000, 3), np.uint8)
    assert assert_like_pillow(encode(image, file_format)).shape == (3, 20_000, 3)


def test_orientation_is_ignored(photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    encoded = encode(photo, "JPEG", exif=exif)
    assert assert_like_pillow(encoded).shape == photo.shape


def test_bytes_after_the_end_do_no_harm(photo):
    for file_format in ("JPEG", "PNG"):
        encoded = encode(photo, file_format)
        np.testing.assert_array_equal(
            decode_image(encoded + b"appended by a camera"), decode_image(encoded)
        )


def test_a_thumbnail_does_not_pass_for_the_image(photo):
    """The end marker of the thumbnail inside is not that of the image."""
    thumbnail = encode(photo[:80, :80], "JPEG")
    whole = encode(photo, "JPEG")
    application = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    encoded = whole[:2] + application + whole[2:]
    np.testing.assert_array_equal(decode_image(encoded), decode_image(whole))
    with pytest.raises(BadImage):
        decode_image(encoded[: len(application) + 5_000])


def test_first_frame_of_an_animation(photo):
    frames = [Image.fromarray(photo), Image.fromarray(255 - photo)]
    encoded = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert_like_pillow(encoded)


# --- unreadable -----------------------------------------------------------------------------------


def assert_bad(encoded, *words):
    """A BadImage of one line that holds the words; no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # as the module has it
        with pytest.raises(BadImage) as error:
            decode_image(encoded)
    assert isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated(photo, file_format, share, capfd):
    encoded = encode(photo, file_format)
    assert_bad(encoded[: int(len(encoded) * share)])
    assert capfd.readouterr().err == ""


def test_truncated_progressive_jpeg(photo):
    encoded = encode(photo, "JPEG", progressive=True)
    assert_bad(encoded[: len(encoded) * 3 // 4], "truncated")


@pytest.mark.parametrize("length", [1, 2, 3, 8, 11, 20, 24, 40, 100])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_cut_off_in_the_header(photo, file_format, length):
    assert_bad(encode(photo, file_format)[:length])


@pytest.mark.parametrize("end", [b"\xff\xd9", b"IEND\xaeB`\x82"])
@pytest.mark.parametrize("start", [b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_nothing_between_start_and_end(start, end):
    assert_bad(start + end)


def test_damaged_png(photo):
    encoded = bytearray(encode(photo, "PNG"))
    encoded[len(encoded) // 2] ^= 255
    assert_bad(bytes(encoded))


def test_not_an_image():
    assert_bad(b"", "empty")
    assert_bad(b"<html>404</html>" * 100, "not an image")
    assert_bad(bytes(5000), "not an image")
    assert_bad(np.random.default_rng(0).bytes(5000), "not an image")


def test_floating_point_pixels(photo):
    assert_bad(encode(Image.fromarray(photo[..., 0].astype(np.float32)), "TIFF"), "floating-point")


def test_decompression_bombs(monkeypatch):
    # A PNG of 50,000 x 50,000 pixels in a few bytes, and the same size claimed by a JPEG.
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    assert_bad(png, "50000 x 50000", f"{images.MAX_PIXELS:,}")
    jpeg = bytearray(encode(np.zeros((8, 8, 3), np.uint8), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 50_000, 50_000)
    assert_bad(bytes(jpeg), "50000 x 50000")
    # Those that Pillow opens: over its own limit, and over ours alone.
    gif = bytearray(encode(np.zeros((8, 8, 3), np.uint8), "GIF"))
    gif[6:10] = struct.pack("<HH", 50_000, 50_000)
    assert_bad(bytes(gif), f"{images.MAX_PIXELS:,}")
    gif[6:10] = struct.pack("<HH", 10_000, 10_000)
    assert_bad(bytes(gif), "10000 x 10000")
    # The limit itself is allowed.
    monkeypatch.setattr(images, "MAX_PIXELS", 80)
    ten_by_eight = encode(np.zeros((8, 10, 3), np.uint8), "PNG")
    assert decode_image(ten_by_eight).shape == (8, 10, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 79)
    assert_bad(ten_by_eight, "10 x 8", "79")


def test_a_chunk_that_claims_gigabytes_is_not_for_opencv(monkeypatch):
    encoded = bytearray(encode(np.zeros((6, 5, 3), np.uint8), "PNG"))
    encoded[33] = 0xFF  # the length of the chunk after the header
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("allocates 4 GB"))
    np.testing.assert_array_equal(decode_image(bytes(encoded)), 0)  # Pillow reads what is there


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_every_single_damaged_byte_gives_pixels_or_a_bad_image(monkeypatch):
    """No other error, whichever byte of a small file is turned over (every third is tried)."""
    monkeypatch.setattr(images, "MAX_PIXELS", 2**16)  # the time is for damage, not for size
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    for file_format in ("JPEG", "PNG", "GIF", "BMP"):
        encoded = encode(image, file_format)
        for place in range(0, len(encoded), 3):
            damaged = bytearray(encoded)
            damaged[place] ^= 0xFF
            try:
                decoded = decode_image(bytes(damaged))
            except BadImage:
                continue
            assert decoded.dtype == np.uint8 and decoded.ndim == 3 and decoded.shape[2] == 3
