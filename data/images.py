"""Encoded images to pixels, for files as they are found in the wild; and which formats are images.

OpenCV decodes JPEG and PNG files whose structure is intact, and releases Python's lock meanwhile.
Everything else, including files with their end missing, is left to Pillow, which reads more formats
and raises on damage that OpenCV fills with grey.
"""

import contextlib
import functools
import io
import warnings

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from data.jpeg_header import END, JpegHeader, whole_jpeg
from harness.errors import BadImage, one_line

# Pillow's own threshold against decompression bombs: 256 MB as RGB.
MAX_PIXELS = 89_478_485

# Larger ones are refused here, with a BadImage; Pillow's warning would only repeat it.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
# Rows below a part that its own pixels depend on: colours are interpolated from those of the next
# two rows where they are stored at half the height.
_JPEG_MARGIN = 2


_USUAL = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# What Pillow opens that is no photograph, or that other programs would have to decode.
_NO_PHOTOGRAPHS = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
# Formats that Pillow reads under another one's name.
_READ_AS = {"MPO": "JPEG"}
# Orientation tag -> what brings the image upright.
_UPRIGHT = {
    2: functools.partial(cv2.flip, flipCode=1),
    3: functools.partial(cv2.rotate, rotateCode=cv2.ROTATE_180),
    4: functools.partial(cv2.flip, flipCode=0),
    5: cv2.transpose,
    6: functools.partial(cv2.rotate, rotateCode=cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180),
    8: functools.partial(cv2.rotate, rotateCode=cv2.ROTATE_90_COUNTERCLOCKWISE),
}
_SIDEWAYS = {5, 6, 7, 8}  # stored rows become columns
_FROM_BELOW = {3, 4, 6, 7}  # the first stored row becomes the last row or column
# Where a PNG may keep its orientation. Without any of these Pillow need not decode it once more.
_PNG_NOTES = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")


@functools.cache
def formats() -> tuple[str, ...]:
    """Returns Pillow's names of the formats that `decode_image` reads, the usual ones first."""
    Image.init()
    known = [*_USUAL, *sorted(set(Image.ID) - set(_USUAL))]
    return tuple(name for name in known if name in Image.OPEN and name not in _NO_PHOTOGRAPHS)


@functools.cache
def endings() -> frozenset[str]:
    """Returns the endings of files in these formats, in lower case: ".jpg", ".avif" and others."""
    # A .pfm holds floating-point numbers, whose range is not known.
    return frozenset(
        ending
        for ending, name in Image.registered_extensions().items()
        if _READ_AS.get(name, name) in formats() and ending != ".pfm"
    )


def decode_image(encoded: bytes, *, exif_orientation: bool = False) -> np.ndarray:
    """Decodes an image file.

    The contents, not the name of the file, decide the format. Grey, palette and CMYK images become
    RGB, 16-bit samples keep their high byte, alpha is dropped, and of an animation the first frame
    is taken.

    Args:
        encoded: contents of a file in one of the `formats`.
        exif_orientation: whether to turn or mirror the image as its orientation tag says, as
            Pillow's `ImageOps.exif_transpose` does. Without, the tag is ignored, as TensorFlow and
            Pillow ignore it (except in TIFF files, where Pillow always heeds it).

    Returns:
        uint8 `[h, w, 3]`, contiguous, RGB.

    Raises:
        BadImage: empty, truncated or damaged, not an image, or more than `MAX_PIXELS` pixels.
    """
    return upright(*decode_as_stored(encoded, with_orientation=exif_orientation))


def decode_as_stored(
    encoded: bytes, *, with_orientation: bool = True
) -> tuple[np.ndarray, int | None]:
    """Decodes an image file as `decode_image` does, but leaves its orientation to the caller.

    Args:
        encoded: contents of a file in one of the `formats`.
        with_orientation: whether to look for the tag.

    Returns:
        The image as it is stored, and its orientation tag, 1 to 8, or None.

    Raises:
        BadImage: as `decode_image`.
    """
    if not encoded:
        raise BadImage("the file is empty (0 bytes)")
    if _is_for_opencv(encoded):
        try:
            image = cv2.imdecode(np.frombuffer(encoded, np.uint8), _RGB)
        except cv2.error:
            image = None
        if image is not None:
            is_plain = encoded.startswith(_PNG_START) and not any(n in encoded for n in _PNG_NOTES)
            if is_plain or not with_orientation:
                return image, None
            return image, _read_orientation(encoded)
    return _decode_with_pillow(encoded, with_orientation)


class UndecodedJpeg:
    """A JPEG whose size is known; slicing it decodes no more rows than the part needs.

    `image[top:bottom, left:right]` has the very pixels of the whole image's part. A decoder has to
    go through all rows above a part, but not through those below.

    Attributes:
        shape: (height, width, 3) of the upright image.
    """

    def __init__(self, encoded: bytes, header: JpegHeader, orientation: int | None):
        self._encoded = encoded
        self._header = header
        self._orientation = orientation
        height, width = header.height, header.width
        sideways = orientation in _SIDEWAYS
        self.shape = (width, height, 3) if sideways else (height, width, 3)

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        """Returns rows and columns, given as two slices with start and stop; raises BadImage."""
        rows, columns = part
        along = columns if self._orientation in _SIDEWAYS else rows  # the stored rows
        height = self._header.height
        from_below = self._orientation in _FROM_BELOW
        stored = self._decode_top(height - along.start if from_below else along.stop)
        image = upright(stored, self._orientation)
        if from_below:  # the rows that are missing were the first
            missing = height - len(stored)
            along = slice(along.start - missing, along.stop - missing)
        return image[rows, along] if self._orientation in _SIDEWAYS else image[along, columns]

    def _decode_top(self, rows: int) -> np.ndarray:
        """Returns the stored image's first rows, at least this many."""
        rows += _JPEG_MARGIN
        if rows < self._header.height:
            # With a smaller height in its header the image ends earlier. Without an end marker the
            # decoder does not complain about what is left over.
            shortened = np.frombuffer(self._encoded, np.uint8)[: -len(END)].copy()
            place = self._header.frame + 5
            shortened[place : place + 2] = rows >> 8, rows & 255
            with contextlib.suppress(cv2.error):
                image = cv2.imdecode(shortened, _RGB)
                if image is not None:
                    return image
        return decode_as_stored(self._encoded, with_orientation=False)[0]


def open_image(encoded: bytes, *, exif_orientation: bool = False) -> np.ndarray | UndecodedJpeg:
    """Decodes an image file as `decode_image`, or puts it off where parts can be decoded."""
    header = whole_jpeg(encoded)
    if header is None or not header.in_order:
        return decode_image(encoded, exif_orientation=exif_orientation)
    _check_size(header.width, header.height)
    return UndecodedJpeg(encoded, header, _read_orientation(encoded) if exif_orientation else None)


def as_channels(image: np.ndarray | UndecodedJpeg, channels: int | None):
    """Returns an image [h, w, 1 or 3] with so many channels: grey is the luma of Rec. 601."""
    if channels is None or image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    height, width, _ = image.shape
    whole = image[0:height, 0:width]  # decodes what is not yet
    return cv2.cvtColor(np.ascontiguousarray(whole), cv2.COLOR_RGB2GRAY)[..., None]


def with_orientation(jpeg: bytes, orientation: int | None) -> bytes:
    """Returns a JPEG that has no EXIF with an orientation tag; unchanged for None or 1, upright."""
    if orientation not in _UPRIGHT:
        return jpeg
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    segment = exif.tobytes()  # goes first, as the standard has it
    length = (2 + len(segment)).to_bytes(2, "big")
    return jpeg[:2] + b"\xff\xe1" + length + segment + jpeg[2:]


def is_image(path: str | bytes) -> bool:
    """Returns whether a file starts like an image, in one of the `formats` that can be told so."""
    tellable = [name for name in formats() if Image.OPEN[name][1]]  # those with a first mark
    with contextlib.suppress(Exception), Image.open(path, formats=tellable):
        return True
    return False


def upright(image: np.ndarray, orientation: int | None) -> np.ndarray:
    """Returns an image as its orientation tag, 1 to 8 or None, says that it is seen."""
    return _UPRIGHT[orientation](image) if orientation in _UPRIGHT else image


def turned(boxes: np.ndarray, orientation: int | None) -> np.ndarray:
    """Maps boxes as `upright` maps their image.

    Args:
        boxes: [m, 4], (top, left, bottom, right) in fractions of the image as it is stored.
        orientation: its tag.
    """
    if orientation in _SIDEWAYS:
        boxes = boxes[:, [1, 0, 3, 2]]
    if orientation in (3, 4, 7, 8):
        boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
    if orientation in (2, 3, 6, 7):
        boxes = np.stack([boxes[:, 0], 1 - boxes[:, 3], boxes[:, 2], 1 - boxes[:, 1]], axis=1)
    return boxes


def _read_orientation(encoded: bytes) -> int | None:
    with contextlib.suppress(Exception), Image.open(io.BytesIO(encoded)) as opened:
        return _orientation(opened)
    return None


def _orientation(image: Image.Image) -> int | None:
    """Returns the orientation tag of an image that Pillow has opened or loaded; None without."""
    with contextlib.suppress(Exception):  # damaged EXIF in an image that is whole
        tag = image.getexif().get(ExifTags.Base.Orientation)
        return tag if tag in range(1, 9) else None
    return None


def _is_for_opencv(encoded: bytes) -> bool:
    """Returns whether this is a whole JPEG or PNG, which OpenCV reads exactly as Pillow does."""
    if encoded.startswith(_PNG_START):
        if not encoded.endswith(_PNG_END) or not _png_chunks_fit(encoded):
            return False
        size = int.from_bytes(encoded[16:20], "big"), int.from_bytes(encoded[20:24], "big")
    elif header := whole_jpeg(encoded):
        size = header.width, header.height
    else:
        return False
    _check_size(*size)
    return True


def _png_chunks_fit(encoded: bytes) -> bool:
    """Returns whether no chunk is longer than the file: OpenCV would allocate what it claims."""
    place = len(_PNG_START)
    while place < len(encoded):
        place += 12 + int.from_bytes(encoded[place : place + 4], "big")
    return place == len(encoded)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage(f"it has {width} x {height} pixels, more than the {MAX_PIXELS:,} allowed")


def _decode_with_pillow(encoded: bytes, with_orientation: bool) -> tuple[np.ndarray, int | None]:
    try:
        with Image.open(io.BytesIO(encoded), formats=formats()) as image:
            _check_size(*image.size)
            if image.mode == "F":
                raise BadImage("its pixels are floating-point numbers, whose range is not known")
            image.load()  # a TIFF is turned here already, and its tag removed
            orientation = _orientation(image) if with_orientation else None
            if image.mode.startswith("I"):  # I;16 and its byte orders, or 16 bits held in 32
                high_byte = np.clip(np.asarray(image, np.int64) >> 8, 0, 255).astype(np.uint8)
                return np.repeat(high_byte[:, :, None], 3, axis=2), orientation
            return np.array(image.convert("RGB")), orientation
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("it is not an image of a known format") from None
    except Image.DecompressionBombError:
        raise BadImage(f"it has more pixels than the {MAX_PIXELS:,} allowed") from None
    # Damage surfaces as almost anything: OSError, SyntaxError, struct.error, EOFError, IndexError.
    except Exception as error:
        raise BadImage(f"it cannot be decoded: {one_line(error)}") from error
