"""Boxes and masks drawn on an image."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.annotations.annotated import IGNORE
from data.annotations.average_precision import Detections

_LEAST_SIDE = 384  # smaller images are enlarged by a whole factor, so that words can be read
_OPACITY = 0.5


def color_of(label: int) -> tuple[int, int, int]:
    """Returns the colour of a class: neighbours in number are far apart in hue."""
    hue = (label * 0.618034) % 1.0
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, 1.0))


def draw_boxes(
    image: np.ndarray, found: Detections, class_names: Sequence[str], min_score: float
) -> np.ndarray:
    """Draws boxes, with the name of their class, and the score of those that are not certain.

    Args:
        image: uint8 [h, w, 3].
        found: on it.
        class_names: in the order of the labels.
        min_score: what is less certain is left out.

    Returns:
        uint8 [h, w, 3], larger by a whole factor if the image is small.
    """
    canvas, factor = _enlarged(image)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(14)
    keep = found.scores >= min_score
    # The most certain on top.
    rows = zip(found.boxes[keep], found.labels[keep], found.scores[keep], strict=True)
    for box, label, score in reversed(list(rows)):
        color = color_of(int(label))
        left, top, right, bottom = (float(side) * factor for side in box)
        pen.rectangle((min(left, right), min(top, bottom), right, bottom), outline=color, width=2)
        text = class_names[int(label)] + (f" {score:.2f}" if score < 1 else "")
        _write(pen, (left, top), text, color, font)
    return np.asarray(canvas)


def draw_segments(
    image: np.ndarray, segments: np.ndarray, class_names: Sequence[str]
) -> np.ndarray:
    """Colours the pixels by class; each name stands once, in the middle of its pixels.

    Args:
        image: uint8 [h, w, 3].
        segments: int [h, w]; IGNORE and a class called "background" stay as they are.
        class_names: in the order of the labels.

    Returns:
        uint8 [h, w, 3], larger by a whole factor if the image is small.
    """
    colors = np.array([color_of(label) for label in range(len(class_names))], np.float32)
    plain = [label for label, name in enumerate(class_names) if name.lower() == "background"]
    known = ~np.isin(segments, [IGNORE, *plain])
    mixed = image.astype(np.float32)
    mixed[known] += _OPACITY * (colors[segments[known]] - mixed[known])
    canvas, factor = _enlarged(mixed.astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(14)
    for label in np.unique(segments[known]).tolist():
        rows, columns = np.nonzero(segments == label)
        centre = np.array([rows.mean(), columns.mean()])
        nearest = np.argmin(((np.stack([rows, columns], 1) - centre) ** 2).sum(axis=1))
        place = (columns[nearest] * factor, rows[nearest] * factor)
        _write(pen, place, class_names[label], color_of(label), font)
    return np.asarray(canvas)


def _enlarged(image: np.ndarray) -> tuple[Image.Image, int]:
    factor = max(1, -(-_LEAST_SIDE // max(image.shape[:2])))
    size = image.shape[1] * factor, image.shape[0] * factor
    return Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.NEAREST), factor


def _write(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, color, font) -> None:
    """Writes on the colour, inside the picture."""
    width, height = pen.im.size
    right, bottom = pen.textbbox((0, 0), text, font=font)[2:]
    x = min(max(0, place[0]), max(0, width - right))
    y = min(max(0, place[1] - bottom), max(0, height - bottom))
    pen.rectangle((x, y, x + right, y + bottom), fill=color)
    is_bright = np.dot(color, (0.299, 0.587, 0.114)) > 128  # Rec. 601
    pen.text((x, y), text, fill=(0, 0, 0) if is_bright else (255, 255, 255), font=font)
