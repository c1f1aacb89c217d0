"""Augmentations that carry boxes and masks along.

Each entry of `TRANSFORMS` is a function of keyword arguments that returns
`transform(annotated, rng) -> annotated`, with every random draw from `rng`, as those of single
images in data/augment/transforms.py.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from PIL import Image

from data.annotations.annotated import Annotated
from data.augment import color, crops
from harness.arguments import MAX_SIDE, check_range, problem

Transform = Callable[[Annotated, np.random.Generator], Annotated]


def resized(item: Annotated, size: tuple[int, int]) -> Annotated:
    """Resizes to (height, width): the image bilinear and antialiased, segments to the nearest."""
    if item.size == size:
        return item
    height, width = size
    factor = np.array([width / item.size[1], height / item.size[0]] * 2, np.float32)
    segments = item.segments
    if segments is not None:
        nearest = {"interpolation": cv2.INTER_NEAREST_EXACT}
        segments = cv2.resize(segments, (width, height), **nearest)
    image = crops.resize(item.image, size, "pil_bilinear")
    return item.with_boxes(item.objects.boxes * factor, image=image, segments=segments)


def cropped(
    item: Annotated, size: tuple[int, int], top: int, left: int, height: int, width: int
) -> Annotated:
    """Cuts a part out of the image resized to a size; objects outside it are left out.

    No more than the part is made: a banner, its short side enlarged, would fill the memory.

    Args:
        item: the image before.
        size: height and width of the whole image resized.
        top, left, height, width: of the part, pixels of the image resized; it lies inside.
    """
    factor = np.array([size[1] / item.size[1], size[0] / item.size[0]] * 2, np.float32)
    boxes = item.objects.boxes * factor - np.array([left, top, left, top], np.float32)
    if item.size == size:
        where = np.s_[top : top + height, left : left + width]
        image, segments = item.image[where], item.segments
        segments = None if segments is None else segments[where]
        return within(item.with_boxes(boxes, image=image, segments=segments))
    # The same pixels as those of the whole image resized: Pillow looks beyond the box, too.
    across, down = item.size[1] / size[1], item.size[0] / size[0]
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    box = tuple(np.minimum(box, item.size[::-1] * 2).tolist())  # rounding leads beyond
    image = item.image if item.image.shape[2] > 1 else item.image[..., 0]
    image = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box)
    image = np.asarray(image).reshape(height, width, -1)
    segments = item.segments
    if segments is not None:
        rows = _nearest(top, height, size[0], item.size[0])
        columns = _nearest(left, width, size[1], item.size[1])
        segments = segments[rows[:, None], columns]
    return within(item.with_boxes(boxes, image=image, segments=segments))


def _nearest(start: int, count: int, resized_side: int, side: int) -> np.ndarray:
    """Returns which pixels of a side are nearest to some of it resized, [count]."""
    if resized_side <= MAX_SIDE:  # as `resized` rounds halves
        pixels = np.arange(side, dtype=np.int32)[None]
        nearest = cv2.resize(pixels, (resized_side, 1), interpolation=cv2.INTER_NEAREST_EXACT)
        return nearest[0, start : start + count]
    # OpenCV's steps, of 16 binary places, would add up to whole pixels there.
    middles = 2 * np.arange(start, start + count, dtype=np.int64) + 1
    return middles * side // (2 * resized_side)


def within(item: Annotated) -> Annotated:
    """Cuts boxes off at the image's edges; those of which nothing remains are left out."""
    height, width = item.size
    boxes = np.clip(item.objects.boxes, 0, np.array([width, height, width, height], np.float32))
    remains = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    item = item.with_boxes(boxes)
    return dataclasses.replace(item, objects=item.objects.select(remains))


def without_crowds(item: Annotated, rng: np.random.Generator) -> Annotated:
    """Leaves out crowds, from which nothing can be learned, and what lies outside the image."""
    return within(dataclasses.replace(item, objects=item.objects.select(~item.objects.is_crowd)))


def fitting(size: tuple[int, int], limits: tuple[int, int], short: int | None, longest: int | None):
    """Returns (height, width) of an image resized to a short side, as far as it fits.

    Args:
        size: height and width of the image.
        limits: height and width in which it has to fit.
        short: wanted length of the shorter side; None: as it is.
        longest: most that the longer side may have; None: what fits.
    """
    factor = 1.0 if short is None else short / min(size)
    factor = min(factor, limits[0] / size[0], limits[1] / size[1])
    if longest is not None:
        factor = min(factor, longest / max(size))
    # Rounding must not lead out of the limits.
    return tuple(
        max(1, min(limit, round(side * factor))) for side, limit in zip(size, limits, strict=True)
    )


def flip(*, probability: float = 0.5) -> Transform:
    """Mirrors, left to right.

    Args:
        probability: of doing so.

    Raises:
        ValueError: a value is out of range.
    """
    check_range("config.augment.flip.probability", probability, 0, 1)

    def transform(item: Annotated, rng: np.random.Generator) -> Annotated:
        if rng.random() >= probability:
            return item
        left, top, right, bottom = item.objects.boxes.T
        width = item.size[1]
        segments = None if item.segments is None else item.segments[:, ::-1]
        boxes = np.stack([width - right, top, width - left, bottom], axis=1)
        return item.with_boxes(boxes, image=item.image[:, ::-1], segments=segments)

    return transform


def random_sized_crop(
    *,
    probability: float = 0.5,
    short_sides: tuple[int, ...] = (400, 500, 600),
    crop_sides: tuple[int, int] = (384, 600),
) -> Transform:
    """Cuts out a part whose sides are drawn, of the image resized to a short side that is drawn.

    Args:
        probability: of doing so.
        short_sides: of the image before, pixels.
        crop_sides: least and most height and width of the part, pixels; no more than the image has.

    Raises:
        ValueError: a value is out of range.

    Source: DETR (arXiv 2005.12872, 4) crops half of the images; its values are the defaults.
    """
    key = "config.augment.random_sized_crop"
    check_range(f"{key}.probability", probability, 0, 1)
    _check_sides(f"{key}.short_sides", short_sides)
    _check_sides(f"{key}.crop_sides", crop_sides)
    if crop_sides[0] > crop_sides[1]:
        raise ValueError(problem(f"{key}.crop_sides", crop_sides, "the least is above the most"))

    def transform(item: Annotated, rng: np.random.Generator) -> Annotated:
        if rng.random() >= probability:
            return item
        short = short_sides[rng.integers(len(short_sides))]
        size = fitting(item.size, (2**30, 2**30), short, None)
        sides = [
            int(rng.integers(min(crop_sides[0], side), min(crop_sides[1], side) + 1))
            for side in size
        ]
        return _random_part(item, size, (sides[0], sides[1]), rng)

    return transform


def random_resize(
    *,
    short_sides: tuple[int, ...],
    longest_side: int | None = None,
    image_size: tuple[int, int],
) -> Transform:
    """Resizes so that the shorter side has a length that is drawn.

    Args:
        short_sides: to draw from, pixels.
        longest_side: most that the longer side may have; the shorter one is then shorter, too.
        image_size: height and width that hold any image; longer sides are made to fit.

    Raises:
        ValueError: a value is out of range.
    """
    _check_sides("config.augment.random_resize.short_sides", short_sides)
    if longest_side is not None:
        check_range("config.augment.random_resize.longest_side", longest_side, 1)

    def transform(item: Annotated, rng: np.random.Generator) -> Annotated:
        short = short_sides[rng.integers(len(short_sides))]
        return resized(item, fitting(item.size, image_size, short, longest_side))

    return transform


def random_scale_crop(
    *,
    short_side: int,
    scale: tuple[float, float] = (0.5, 2.0),
    image_size: tuple[int, int],
) -> Transform:
    """Resizes by a factor that is drawn, and cuts out a part as large as the model's images.

    Args:
        short_side: of the image at factor 1, pixels.
        scale: least and largest factor.
        image_size: height and width of the part. An image with a shorter side is taken whole there.

    Raises:
        ValueError: a value is out of range.
    """
    key = "config.augment.random_scale_crop"
    _check_sides(f"{key}.short_side", (short_side,))
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(problem(f"{key}.scale", scale, "no range of factors"))

    def transform(item: Annotated, rng: np.random.Generator) -> Annotated:
        short = max(1, round(short_side * rng.uniform(*scale)))
        size = fitting(item.size, (2**30, 2**30), short, None)
        part = min(size[0], image_size[0]), min(size[1], image_size[1])
        return _random_part(item, size, part, rng)

    return transform


def color_jitter(
    *, strength: float, probability: float = 0.8, grayscale_probability: float = 0.2
) -> Transform:
    """Changes the colours, as the augmentation of the same name in data/augment/color.py."""
    change = color.color_jitter(
        strength=strength,
        probability=probability,
        grayscale_probability=grayscale_probability,
    )
    return lambda item, rng: dataclasses.replace(
        item, image=change(np.ascontiguousarray(item.image), rng)
    )


# In the order in which they are applied, independent of the recipe's order. Those that take
# `image_size` get it from `create_transforms`, not from the recipe.
TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "flip": flip,
    "random_sized_crop": random_sized_crop,
    "random_resize": random_resize,
    "random_scale_crop": random_scale_crop,
    "color_jitter": color_jitter,
}


def create_transforms(
    augment: Mapping[str, Any] | None,
    image_size: tuple[int, int],
    otherwise: Callable[[Annotated], Annotated],
) -> list[Transform]:
    """Builds the transforms of a recipe in the order of `TRANSFORMS`.

    Args:
        augment: name of a transform -> its keyword arguments, or None for one that is switched off.
        image_size: height and width in which every image has to fit in the end.
        otherwise: the evaluation's resizing, for recipes without a random one.

    Raises:
        ValueError: a value is out of range.
    """
    steps: list[Transform] = [without_crowds]
    is_resized = False
    for name, create in TRANSFORMS.items():
        if (options := (augment or {}).get(name)) is not None:
            takes_size = name in ("random_resize", "random_scale_crop")
            is_resized |= takes_size
            steps.append(create(**options, **({"image_size": image_size} if takes_size else {})))
    return steps if is_resized else [*steps, lambda item, rng: otherwise(item)]


def _random_part(
    item: Annotated, size: tuple[int, int], part: tuple[int, int], rng: np.random.Generator
) -> Annotated:
    """Cuts a part of a size, drawn where, out of the image resized to another."""
    top, left = rng.integers(np.subtract(size, part) + 1).tolist()
    return cropped(item, size, top, left, *part)


def _check_sides(key: str, sides: tuple[int, ...]) -> None:
    if not sides or min(sides) < 1 or max(sides) > MAX_SIDE:
        raise ValueError(problem(key, sides, "no sides of images", f"1 to {MAX_SIDE} pixels"))
