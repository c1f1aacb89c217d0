"""Scenes of one to six handwritten digits of several sizes, whose boxes and pixels are known."""

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from data.annotations.annotated import Annotations, objects_of
from data.sources.arrays import Record, check_index, digits_source
from harness.arguments import problem

_SIZES = {"train": 5000, "test": 500}
_SEEDS = {"train": 0, "test": 1}
# Scenes come in this many runs of equal length, each of its own part of the digits: no digit of
# train[80%:] is in train[:80%], as it has to be where a recipe is tuned.
_PARTS = 5
_INK = 64  # grey level from which a pixel belongs to its digit
_ATTEMPTS = 50  # to place a digit; one for which there is no room is left out


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """How scenes are made; keys of the config's section `data`.

    Attributes:
        scene_digits: fewest and most digits of a scene.
        scene_pixels: height of the lowest and of the highest digit.
        scene_overlap: share of the smaller of two boxes that may lie in the other.

    Raises:
        ValueError: a value is out of range.
    """

    scene_digits: tuple[int, int] = (1, 6)
    scene_pixels: tuple[int, int] = (12, 28)
    scene_overlap: float = 0.1

    def __post_init__(self):
        for key, least in (("scene_digits", 1), ("scene_pixels", 8)):
            low, high = getattr(self, key)
            if not least <= low <= high:
                allowed = f"two whole numbers from {least}, the lower one first"
                raise ValueError(problem(f"config.data.{key}", (low, high), "no range", allowed))
        if not 0 <= self.scene_overlap <= 1:
            overlap = self.scene_overlap
            raise ValueError(problem("config.data.scene_overlap", overlap, "wrong", "0 to 1"))


class SceneSource:
    """Scenes of the digits of one split; a record depends on its arguments and its index alone."""

    def __init__(self, split: str, image_size: tuple[int, int], scenes: Scenes):
        """Takes the digits.

        Args:
            split: "train" or "test", of the digits.
            image_size: height and width of a scene in pixels.
            scenes: how they are made.

        Raises:
            ValueError: the highest digits do not fit.
        """
        if scenes.scene_pixels[1] > min(image_size):
            what = f"higher than a scene of {image_size[0]} x {image_size[1]} pixels"
            raise ValueError(problem("config.data.scene_pixels", scenes.scene_pixels, what))
        self._split = split
        self._image_size = image_size
        self._scenes = scenes
        self._digits = digits_source(split, (8, 8))

    def __len__(self) -> int:
        return _SIZES[self._split]

    def describe(self, index: int) -> str:
        return f"record {index} of digits_scenes {self._split}"

    def __getitem__(self, index: int) -> Record:
        check_index(index, len(self))
        rng = np.random.default_rng((_SEEDS[self._split], index))
        part = range(index * _PARTS // len(self), len(self._digits), _PARTS)
        image = np.zeros(self._image_size, np.uint8)
        segments = np.zeros(self._image_size, np.uint8)
        low, high = self._scenes.scene_digits
        boxes, labels, owners = [], [], np.full(self._image_size, -1)
        for _ in range(rng.integers(low, high + 1)):
            record = self._digits[part[rng.integers(len(part))]]
            pixels = _scaled(record["image"][..., 0], self._drawn_height(rng))
            place = self._place(rng, pixels.shape, boxes)
            if place is None:
                continue
            (height, width), (top, left) = pixels.shape, place
            where = np.s_[top : top + height, left : left + width]
            is_ink = (pixels >= _INK) & (pixels >= image[where])
            image[where] = np.maximum(image[where], pixels)
            segments[where][is_ink] = record["label"] + 1
            owners[where][is_ink] = len(boxes)
            boxes.append((left, top, left + width, top + height))
            labels.append(record["label"])
        areas = np.bincount(owners[owners >= 0], minlength=len(boxes))
        objects = objects_of(boxes, labels, areas, np.zeros(len(boxes), bool))
        return {"image": image[..., None], "label": Annotations(index, objects, segments)}

    def _drawn_height(self, rng: np.random.Generator) -> int:
        low, high = self._scenes.scene_pixels
        return int(rng.integers(low, high + 1))

    def _place(
        self, rng: np.random.Generator, size: tuple[int, int], boxes: list
    ) -> tuple[int, int] | None:
        """Returns where the top left corner of a digit can lie, None if no place was found."""
        for _ in range(_ATTEMPTS):
            room = np.subtract(self._image_size, size)
            if (room < 0).any():
                return None  # a wide one
            top, left = rng.integers(room + 1).tolist()
            new = (left, top, left + size[1], top + size[0])
            if all(_overlap(new, box) <= self._scenes.scene_overlap for box in boxes):
                return top, left
        return None


def _scaled(digit: np.ndarray, height: int) -> np.ndarray:
    """Returns a digit without its margin, uint8 [height, w], of its own proportions.

    Each side of it has a pixel of ink.
    """
    inner = _trimmed(digit)
    width = max(2, round(height * inner.shape[1] / inner.shape[0]))
    resized = cv2.resize(inner.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return _trimmed(np.clip(np.rint(resized), 0, 255).astype(np.uint8))


def _trimmed(pixels: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(pixels >= _INK)
    return pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _overlap(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Returns which share of the smaller of two boxes lies in the other."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(0, width) * max(0, height) / smaller


# Slices of one split share what is in memory.
digits_scenes_source = functools.cache(SceneSource)
