"""Colour jitter as SimCLR v2's, which the official NesT code uses after RandAugment.

In float32 from 0 to 1, as there, because the steps follow one another without rounding: a jittered
image equals the definition to a level. OpenCV's conversions make it quick enough.
"""

from collections.abc import Callable

import cv2
import numpy as np

from harness.arguments import check_range

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]

SCALE = np.float32(1 / 255)
GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # tf.image.rgb_to_grayscale


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies a float32 image `[h, w, c]` of 0 to 1 by `factor`, up to 1."""
    image = image * np.float32(factor)
    return np.clip(image, 0, 1, out=image) if factor > 1 else image


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Scales the distance from each channel's mean by `factor`, within 0 to 1."""
    channels = image.shape[2]
    means = np.array(cv2.mean(image)[:channels])
    matrix = np.hstack([factor * np.eye(channels), (1.0 - factor) * means[:, None]])
    image = cv2.transform(image, matrix).reshape(image.shape)
    return np.clip(image, 0, 1, out=image) if factor > 1 else image


def adjust_hsv(image: np.ndarray, factor: float, turn: float) -> np.ndarray:
    """Multiplies the saturation by `factor`, up to 1, and turns the hue by `turn` circles.

    Args:
        image: float32 `[h, w, 3]` of 0 to 1; with one channel it stays as it is.
        factor: 0 is grey, 1 leaves the saturation.
        turn: share of the full circle of hues, -1 to 1.

    Returns:
        The image.
    """
    if image.shape[2] == 1:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # degrees, 0 to 1, 0 to 1
    shift = np.array([[1.0, 0, 0, turn % 1.0 * 360], [0, factor, 0, 0], [0, 0, 1.0, 0]])
    hsv = cv2.transform(hsv, shift)  # OpenCV takes angles beyond 360
    if factor > 1:
        np.minimum(hsv[..., 1], 1, out=hsv[..., 1])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def to_grey(image: np.ndarray) -> np.ndarray:
    """Gives each channel of a float32 image the brightness."""
    return image if image.shape[2] == 1 else cv2.transform(image, np.array([GREY_WEIGHTS] * 3))


def color_jitter(
    *,
    strength: float,
    probability: float = 0.8,
    grayscale_probability: float = 0.2,
) -> Transform:
    """Changes brightness, contrast, saturation and hue in a random order, and drops colours.

    With s the strength, the factors of brightness, contrast and saturation are uniform in
    1 +- 0.8 s (brightness is not below 0), and the hue turns by up to 0.2 s of the circle.

    Args:
        strength: s; 1 is SimCLR's, 0.3 NesT's. At most 1.25, where factors reach 0.
        probability: of the four changes.
        grayscale_probability: of dropping the colours after that.

    Returns:
        A transform of uint8 images with 3 channels, or with 1, of which only brightness and
        contrast change.

    Raises:
        ValueError: a value is out of range.

    Source: SimCLR v2 (arXiv 2006.10029); official NesT, augment/color_util.py, impl "simclrv2".
    """
    key = "config.augment.color_jitter"
    check_range(f"{key}.strength", strength, 0, 1.25)
    check_range(f"{key}.probability", probability, 0, 1)
    check_range(f"{key}.grayscale_probability", grayscale_probability, 0, 1)

    def transform(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        draws = rng.random(10).tolist()
        jitter, grey = draws[0] < probability, draws[1] < grayscale_probability
        if not (jitter or grey):
            return image
        brightness, contrast, saturation = (1 + 0.8 * strength * (2 * u - 1) for u in draws[2:5])
        turn = 0.2 * strength * (2 * draws[5] - 1)
        result = image * SCALE
        if jitter:
            order = sorted(range(4), key=draws[6:10].__getitem__)
            # Saturation and hue side by side are one conversion.
            joint = abs(order.index(2) - order.index(3)) == 1
            for step in order:
                if step == 0:
                    result = adjust_brightness(result, brightness)
                elif step == 1:
                    result = adjust_contrast(result, contrast)
                elif joint and step == 2:
                    result = adjust_hsv(result, saturation, turn)
                elif not joint:
                    factor, angle = (saturation, 0.0) if step == 2 else (1.0, turn)
                    result = adjust_hsv(result, factor, angle)
        if grey:
            result = to_grey(result)
        result *= 255.0
        return result.astype(np.uint8)  # rounds down, as the official code does

    return transform
