"""Many small images as one picture."""

from pathlib import Path

import numpy as np

from harness.files import replacing


def image_grid(
    images: np.ndarray, columns: int, *, gap: int = 1, gap_value: int = 96
) -> np.ndarray:
    """Lays images out in rows.

    Args:
        images: uint8 [n, h, w, c].
        columns: images per row; the last row may be shorter.
        gap: pixels between images.
        gap_value: grey level of the gaps.

    Returns:
        uint8 [rows * (h + gap) - gap, columns * (w + gap) - gap, c].
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    grid = np.full(shape, gap_value, np.uint8)
    for index, image in enumerate(images):
        top, left = (
            place * (side + gap)
            for place, side in zip(divmod(index, columns), (height, width), strict=True)
        )
        grid[top : top + height, left : left + width] = image
    return grid


def save_png(path: Path, image: np.ndarray, *, least_side: int = 600) -> None:
    """Writes uint8 [h, w, c] as PNG, enlarged by a whole number so that small images can be seen.

    Args:
        path: of the file, there completely or not at all.
        image: grey or colour.
        least_side: pixels that the longer side gets, about, if it has fewer.
    """
    from PIL import Image

    factor = max(1, least_side // max(image.shape[:2]))
    image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    image = image[..., 0] if image.shape[-1] == 1 else image
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
