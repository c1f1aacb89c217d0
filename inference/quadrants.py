"""Localisation in mosaics of four images: a map's way down to the quadrant of a class and on.

first_step   share of questions for which the quadrant with the largest sum of the map is that of
             the class
full_path    share for which the way goes on to a block that lies on the object's strokes: the block
             lies in the quadrant of the class, and one of its pixels has at least half of the
             largest ink in that quadrant. Ink is the distance of a pixel's grey level from the
             image's median, the background.

A way takes the quadrant with the largest sum, of the whole image, then of that quadrant, and so on,
as GradCAT goes down NesT's tree; the map of GradCAT's path is its last block, so that its way is
the path itself. The chance is that of a quadrant and a block drawn at random.
"""

import cv2
import numpy as np

from inference.localization_measures import Question

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


def lies_on_strokes(question: Question, block: Box) -> bool:
    """Returns whether a block lies on the strokes of the question's object, see above."""
    ink = ink_of(question.image)
    all_quadrants = quarters((0, 0, *question.image.shape[:2]))
    for number in quadrants_of(question) or ():
        own = all_quadrants[number]
        if block[0] >= own[0] and block[1] >= own[1] and block[2] <= own[2] and block[3] <= own[3]:
            here, there = (
                ink[top:bottom, left:right].max() for top, left, bottom, right in (block, own)
            )
            return bool(here >= there / 2 and there > 0)
    return False


def measure_way(question: Question, map_: np.ndarray, *, steps: int) -> dict[str, float]:
    """Returns the measures of a map [h, w], for `localization_measures.answers`."""
    way, block = way_of(map_, steps)
    return {
        "first_step": float(way[0] in (quadrants_of(question) or ())),
        "full_path": float(lies_on_strokes(question, block)),
    }


def chance(question: Question, *, steps: int) -> dict[str, float]:
    """Returns the expected measures of a block drawn at random.

    Returns:
        first_step; full_path; full_path_in_quadrant: of blocks in the quadrant of the class alone.
    """
    blocks = leaves(question.image.shape[:2], steps)
    own = len(quadrants_of(question) or ()) / 4
    right = np.mean([lies_on_strokes(question, block) for block in blocks])
    within = right / own if own else 0.0
    return {"first_step": own, "full_path": float(right), "full_path_in_quadrant": float(within)}
