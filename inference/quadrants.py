"""Localisation in mosaics of four images: a map's way down to the quadrant of a class and on.

first_step   share of questions for which the quadrant with the largest sum of the map is that of
             the class
full_path    share for which the way goes on to a block that lies on the object's strokes: the block
             lies in the quadrant of the class, and one of its pixels has at least half of the
             largest ink in that quadrant. Ink is the distance of a pixel's grey level from the
             image's median, the background.
full_path_above_mean    the same, of blocks that have at least the mean ink of the quadrant: harder,
                        where a digit fills its quadrant and so leaves no block without a stroke

A way takes the quadrant with the largest sum, of the whole image, then of that quadrant, and so on,
as GradCAT goes down NesT's tree; the map of GradCAT's path is its last block, so that its way is
the path itself. The chance is that of a block drawn at random; divided by that of the first step,
that of a block in the right quadrant.
"""

import cv2
import numpy as np

from inference.localization_measures import Question

MEASURES = ("first_step", "full_path", "full_path_above_mean")
_TOLERANCE = 0.01  # of an image's side: resizing rounds
Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels, ends exclusive


def quarters(box: Box) -> list[Box]:
    """Returns the quarters of a box: above left, above right, below left, below right."""
    top, left, bottom, right = box
    y, x = (top + bottom) // 2, (left + right) // 2
    return [(top, left, y, x), (top, x, y, right), (y, left, bottom, x), (y, x, bottom, right)]


def quadrants_of(question: Question) -> list[int] | None:
    """Returns the numbers of the quadrants that are a question's boxes; None if others are."""
    size = question.image.shape[:2]
    off = np.abs(question.boxes[:, None] - np.array(quarters((0, 0, *size)))).max(-1)  # [m, 4]
    near = off <= _TOLERANCE * max(size)
    return near.argmax(1).tolist() if near.any(1).all() else None


def way_of(map_: np.ndarray, steps: int) -> tuple[list[int], Box]:
    """Goes from quadrant to quadrant of a map [h, w], each time to the one with the largest sum.

    Returns:
        The numbers of the quadrants, 0 above left to 3 below right, and the last one's box.
    """
    way, box = [], (0, 0, *map_.shape)
    for _ in range(steps):
        boxes = quarters(box)
        sums = [map_[top:bottom, left:right].sum() for top, left, bottom, right in boxes]
        way.append(int(np.argmax(sums)))
        box = boxes[way[-1]]
    return way, box


def leaves(image_size: tuple[int, int], steps: int) -> list[Box]:
    """Returns the boxes of all blocks that ways of so many steps can end in."""
    boxes = [(0, 0, *image_size)]
    for _ in range(steps):
        boxes = [quarter for box in boxes for quarter in quarters(box)]
    return boxes


def ink_of(image: np.ndarray) -> np.ndarray:
    """Returns how far each pixel of an image [h, w, c] is from the background, [h, w]."""
    grey = image[..., 0] if image.shape[-1] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.abs(grey.astype(np.float64) - np.median(grey))


def measure_block(question: Question, blocks: list[Box]) -> dict[str, float]:
    """Returns the measures of blocks, means over them."""
    ink = ink_of(question.image)
    all_quadrants = quarters((0, 0, *question.image.shape[:2]))
    own = {all_quadrants[number] for number in quadrants_of(question) or ()}
    rows = []
    for block in blocks:
        within = [box for box in own if all(np.less_equal(box[:2], block[:2]))]
        within = [box for box in within if all(np.less_equal(block[2:], box[2:]))]
        row = np.zeros(3)
        if within:
            here, there = (ink[t:b, left:r] for t, left, b, r in (block, within[0]))
            row[:] = 1, here.max() >= there.max() / 2, here.mean() >= there.mean()
        rows.append(row)
    return dict(zip(MEASURES, np.mean(rows, axis=0).tolist(), strict=True))


def measure_way(question: Question, map_: np.ndarray, *, steps: int) -> dict[str, float]:
    """Returns the measures of a map [h, w], for `localization_measures.answers`."""
    return measure_block(question, [way_of(map_, steps)[1]])


def chance(question: Question, *, steps: int) -> dict[str, float]:
    """Returns the expected measures of a block drawn at random."""
    return measure_block(question, leaves(question.image.shape[:2], steps))
