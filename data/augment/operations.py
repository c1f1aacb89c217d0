"""The image operations of RandAugment, each a plain function of a uint8 image `[h, w, c]`.

c is 1 or 3. They return a new image of the same shape, or the image itself if nothing changes, and
follow Pillow to a level: ImageOps and ImageEnhance for colours, Image.transform for geometry.
`color` leaves an image with one channel unchanged, as in Pillow's mode L. OpenCV does the work: it
releases Python's lock and takes 1 to 5 us for an image of 32 x 32.
"""

import math
from typing import Literal

import cv2
import numpy as np
from PIL import Image

Fill = int | tuple[int, int, int]
Interpolation = Literal["nearest", "bilinear", "bicubic"]

LEVELS = np.arange(256)
# Added before OpenCV rounds to nearest, this rounds down, as Pillow does; a bit less than a half
# keeps whole numbers.
ROUND_DOWN = -0.499
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# --- colours --------------------------------------------------------------------------------------


def identity(image: np.ndarray) -> np.ndarray:
    """Changes nothing."""
    return image


def _map_levels(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Replaces each level by its entry in `table`, `[256]`, or `[1, 256, c]` for each channel."""
    return cv2.LUT(image, table).reshape(image.shape)


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Stretches each channel linearly to 0 .. 255 (ImageOps.autocontrast)."""
    channels = image.shape[2]
    matrix = np.zeros((channels, channels + 1))
    for channel, plane in enumerate(cv2.split(image)):
        low, high, _, _ = cv2.minMaxLoc(plane)
        scale = 255.0 / (high - low) if high > low else 1.0
        matrix[channel, channel] = scale
        matrix[channel, -1] = ROUND_DOWN - (low * scale if high > low else 0.0)
    return cv2.transform(image, matrix).reshape(image.shape)


def equalize(image: np.ndarray) -> np.ndarray:
    """Makes the levels of each channel equally frequent (ImageOps.equalize)."""
    table = np.empty((1, 256, image.shape[2]), np.uint8)
    for channel in range(image.shape[2]):
        counts = cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
        last = counts[np.flatnonzero(counts)[-1]]
        step = (image.shape[0] * image.shape[1] - int(last)) // 255
        if step == 0:
            table[0, :, channel] = LEVELS
        else:
            below = np.cumsum(counts) - counts
            table[0, :, channel] = np.minimum((below + step // 2) // step, 255)
    return _map_levels(image, table)


def invert(image: np.ndarray) -> np.ndarray:
    """Turns each level v into 255 - v (ImageOps.invert)."""
    return cv2.bitwise_not(image).reshape(image.shape)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the highest `bits` bits (0 to 8) of each level (ImageOps.posterize)."""
    return image & np.uint8(256 - (1 << (8 - bits)))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Inverts the levels from `threshold` (0 to 256) up (ImageOps.solarize)."""
    return _map_levels(image, np.where(threshold > LEVELS, LEVELS, 255 - LEVELS).astype(np.uint8))


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
    """Adds `addition` (0 to 255) to the levels below 128, up to 255."""
    table = np.where(LEVELS < 128, np.minimum(LEVELS + addition, 255), LEVELS)
    return _map_levels(image, table.astype(np.uint8))


def _blend(image: np.ndarray, factor: float, other: np.ndarray) -> np.ndarray:
    """Returns other + factor * (image - other), cut off at 0 and 255 (Image.blend)."""
    blended = cv2.addWeighted(image, factor, other, 1.0 - factor, ROUND_DOWN)
    return blended.reshape(image.shape)


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with the grey image; 0 is grey, 1 the original (ImageEnhance.Color)."""
    if image.shape[2] == 1:
        return image
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return _blend(image, factor, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with the mean grey level; 0 is plain grey (ImageEnhance.Contrast)."""
    means = cv2.mean(image)
    grey = means[0]
    if image.shape[2] == 3:
        grey = 0.299 * means[0] + 0.587 * means[1] + 0.114 * means[2]
    shift = (1.0 - factor) * int(grey + 0.5) + ROUND_DOWN
    return cv2.addWeighted(image, factor, image, 0.0, shift).reshape(image.shape)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies by `factor`; 0 is black (ImageEnhance.Brightness)."""
    return cv2.addWeighted(image, factor, image, 0.0, ROUND_DOWN).reshape(image.shape)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with a smoothed image; 0 is smooth, 2 sharp (ImageEnhance.Sharpness).

    The pixels at the edge stay as they are.
    """
    blended = _blend(image, factor, cv2.filter2D(image, -1, SMOOTH).reshape(image.shape))
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        blended[edge] = image[edge]
    return blended


# --- geometry -------------------------------------------------------------------------------------
# Each takes `interpolation` and `fill`, the level of what comes in from outside the image, or three
# levels, of which a grey image takes the first. "nearest" is OpenCV's, with coordinates counted
# from the centre of the first pixel, as in the official NesT code; "bilinear" and "bicubic" are
# Pillow's own transform, which counts from that pixel's corner, as in timm: shears differ by half
# their factor.


def _transform(
    image: np.ndarray, matrix: tuple[float, ...], interpolation: Interpolation, fill: Fill
) -> np.ndarray:
    """Takes the pixel (x, y) from (ax + by + c, dx + ey + f), matrix = (a, b, c, d, e, f)."""
    height, width, channels = image.shape
    levels = (fill,) * 3 if isinstance(fill, int) else tuple(fill)
    if interpolation == "nearest":
        moved = cv2.warpAffine(
            image,
            np.array(matrix).reshape(2, 3),
            (width, height),
            flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
            borderValue=levels,
        )
    else:
        pillow = Image.fromarray(image if channels > 1 else image[..., 0])
        moved = np.asarray(
            pillow.transform(
                (width, height),
                Image.Transform.AFFINE,
                matrix,
                resample=PILLOW[interpolation],
                fillcolor=levels if channels > 1 else levels[0],
            )
        )
    return moved.reshape(image.shape)


def shear_x(
    image: np.ndarray, factor: float, interpolation: Interpolation = "nearest", fill: Fill = 128
) -> np.ndarray:
    """Moves each row y to the left by factor * y pixels."""
    return _transform(image, (1.0, factor, 0.0, 0.0, 1.0, 0.0), interpolation, fill)


def shear_y(
    image: np.ndarray, factor: float, interpolation: Interpolation = "nearest", fill: Fill = 128
) -> np.ndarray:
    """Moves each column x up by factor * x pixels."""
    return _transform(image, (1.0, 0.0, 0.0, factor, 1.0, 0.0), interpolation, fill)


def translate_x(
    image: np.ndarray, pixels: float, interpolation: Interpolation = "nearest", fill: Fill = 128
) -> np.ndarray:
    """Moves the image to the left by `pixels`."""
    return _transform(image, (1.0, 0.0, pixels, 0.0, 1.0, 0.0), interpolation, fill)


def translate_y(
    image: np.ndarray, pixels: float, interpolation: Interpolation = "nearest", fill: Fill = 128
) -> np.ndarray:
    """Moves the image up by `pixels`."""
    return _transform(image, (1.0, 0.0, 0.0, 0.0, 1.0, pixels), interpolation, fill)


def rotate(
    image: np.ndarray, degrees: float, interpolation: Interpolation = "nearest", fill: Fill = 128
) -> np.ndarray:
    """Turns the image about its centre, against the clock."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # From the first pixel's centre (OpenCV) or its corner (Pillow).
    inset = 1 if interpolation == "nearest" else 0
    x, y = (image.shape[1] - inset) / 2, (image.shape[0] - inset) / 2
    matrix = (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
    return _transform(image, matrix, interpolation, fill)
