"""Crops: random resized crops, the evaluation's centre crop and CIFAR's pad and crop.

Two families of interpolation, as two families of results are compared with:

- "bilinear", "bicubic": OpenCV's, which look at 2 x 2 or 4 x 4 pixels even where they make an
  image smaller. "bilinear" is what `tf.image.resize` does without antialias, the official NesT's.
  OpenCV's cubic (a = -0.75, as PyTorch's) is not TensorFlow's (a = -0.5).
- "pil_bilinear", "pil_bicubic": Pillow's, widened where they make an image smaller (antialiased),
  as torchvision and timm use them. About eight times slower.
"""

import math
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from harness.arguments import MAX_SIDE, as_height_width, as_names, check_interval, check_range

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Interpolation = Literal["bilinear", "bicubic", "pil_bilinear", "pil_bicubic"]

OPENCV = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
PILLOW = {"pil_bilinear": Image.Resampling.BILINEAR, "pil_bicubic": Image.Resampling.BICUBIC}
BORDERS = {"constant": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101}


def resize(image: np.ndarray, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """Resizes an image to exactly (height, width).

    Args:
        image: uint8 `[h, w, c]`, c = 1 or 3.
        size: height and width in pixels.
        interpolation: see above.

    Returns:
        uint8 `[height, width, c]`; the image itself where it has this size already.
    """
    height, width = size
    channels = image.shape[2]
    if image.shape[:2] == size:
        return image
    if interpolation in OPENCV:
        resized = cv2.resize(image, (width, height), interpolation=OPENCV[interpolation])
    else:
        pillow = Image.fromarray(image if channels > 1 else image[..., 0])
        resized = np.asarray(pillow.resize((width, height), PILLOW[interpolation]))
    return resized.reshape(height, width, channels)  # both drop a single channel's axis


def _box_by_area(
    height: int, width: int, area: tuple, aspect: tuple, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draws area and logarithm of the aspect uniformly, ten attempts: torchvision's rule."""
    log_aspect = math.log(aspect[0]), math.log(aspect[1])
    for _ in range(10):
        u_area, u_aspect, u_top, u_left = rng.random(4).tolist()
        pixels = (area[0] + u_area * (area[1] - area[0])) * height * width
        ratio = math.exp(log_aspect[0] + u_aspect * (log_aspect[1] - log_aspect[0]))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(u_top * (height - h + 1)), int(u_left * (width - w + 1)), h, w
    # The largest centred box of an allowed aspect.
    h = min(height, max(1, round(width / aspect[0])))
    w = min(width, max(1, round(height * aspect[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def _box_by_height(
    height: int, width: int, area: tuple, aspect: tuple, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draws aspect and height of the box uniformly: tf.image.sample_distorted_bounding_box's."""
    low, high = area[0] * height * width, area[1] * height * width
    for _ in range(100):
        u_height, u_aspect, u_top, u_left = rng.random(4).tolist()
        ratio = aspect[0] + u_aspect * (aspect[1] - aspect[0])
        smallest = round(math.sqrt(low / ratio))
        largest = min(round(math.sqrt(high / ratio)), height, math.ceil((width + 0.5) / ratio) - 1)
        h = min(smallest, largest)
        h += int(u_height * (largest - h + 1))
        # A box that rounding made too small or too large may be a pixel higher or lower.
        if h * round(h * ratio) < low:
            h += 1
        if h * round(h * ratio) > high:
            h -= 1
        w = round(h * ratio)
        if 0 < w <= width and 0 < h <= height and low <= h * w <= high:
            return int(u_top * (height - h + 1)), int(u_left * (width - w + 1)), h, w
    return 0, 0, height, width


RULES = {"torchvision": _box_by_area, "tensorflow": _box_by_height}


def enlarge(*, image_size: int | tuple[int, int], ratio: float = 0.875) -> Transform:
    """Enlarges images that are smaller than a crop's, as the official NesT does with CIFAR's.

    Args:
        image_size: side or (height, width) of the crop that follows, pixels.
        ratio: images become image_size / ratio, rounded down, as for the evaluation's crop.

    Returns:
        A transform of uint8 images with 1 or 3 channels, bilinear. A side that is large enough
        stays.

    Raises:
        ValueError: a value is out of range.

    Source: official NesT, libml/input_pipeline.py, 150-159, which also stores the enlarged image as
    JPEG in between; that is left out.
    """
    size = as_height_width("config.data.image_size", image_size)
    check_range("config.augment.enlarge.ratio", ratio, 0.1, 1.0)
    height, width = (math.floor(side / ratio + 1e-9) for side in size)

    def transform(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        target = max(height, image.shape[0]), max(width, image.shape[1])
        return resize(image, target, "bilinear")

    return transform


def random_resized_crop(
    *,
    image_size: int | tuple[int, int],
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Interpolation | tuple[Interpolation, ...] = "bilinear",
    rule: Literal["torchvision", "tensorflow"] = "torchvision",
) -> Transform:
    """Cuts out a random box and resizes it to the image size.

    Args:
        image_size: side or (height, width) of the result, pixels.
        area: range of the box's share of the image's area.
        aspect: range of the box's width / height.
        interpolation: one, or several, of which one is drawn per image.
        rule: how a box is drawn. "torchvision", also timm's: area and logarithm of the aspect
            are uniform, up to ten attempts to fit, then the largest centred box of an allowed
            aspect. "tensorflow", with which NesT was trained: the aspect is uniform, then
            the height between the least and the largest that area and image allow, so that small
            boxes are more frequent; up to 100 attempts, then the whole image. The position is
            uniform in both (TensorFlow's never touches the right and the lower edge; ours may).

    Returns:
        A transform of uint8 images of any size with 1 or 3 channels.

    Raises:
        ValueError: a value is out of range.

    Source: torchvision.transforms.RandomResizedCrop; official NesT, libml/preprocess.py (area 0.05
    to 1, aspect 0.75 to 1.33, bilinear, rule "tensorflow").
    """
    size = as_height_width("config.data.image_size", image_size)
    check_interval("config.augment.random_resized_crop.area", area, 1e-6, 1.0)
    check_interval("config.augment.random_resized_crop.aspect", aspect, 1e-2, 1e2)
    names = as_names("config.augment.random_resized_crop.interpolation", interpolation)
    draw_box = RULES[rule]

    def transform(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left, height, width = draw_box(image.shape[0], image.shape[1], area, aspect, rng)
        name = names[0] if len(names) == 1 else names[int(rng.random() * len(names))]
        return resize(image[top : top + height, left : left + width], size, name)

    transform.takes_undecoded = True  # a shape and a part are enough: data.images.UndecodedJpeg
    return transform


def _middle(length: int, wanted: int) -> slice:
    """Returns the middle part of `length` pixels, at least `wanted` of them, about its centre."""
    kept = min(length, wanted + (length - wanted) % 2)  # an even rest: the centre stays
    return slice((length - kept) // 2, (length + kept) // 2)


def center_crop(
    *,
    image_size: int | tuple[int, int],
    ratio: float = 0.875,
    interpolation: Interpolation = "bilinear",
) -> Callable[[np.ndarray], np.ndarray]:
    """The evaluation's crop: resizes the short side to side / ratio, then cuts out the centre.

    Of a size that is not square, the side that is nearer to being too short counts, as in timm:
    the image is scaled by the smallest factor that lets it cover (height, width) / ratio.
    The two codes round sizes differently, by up to a pixel; OpenCV's interpolations come with the
    official NesT's rounding and Pillow's with torchvision's. Levels are rounded to uint8, where the
    official NesT code goes on with the fractions that resizing leaves.

    Args:
        image_size: side or (height, width) of the result, pixels.
        ratio: the result's share of the resized short side (256 to 224: 0.875; timm's crop_pct).
        interpolation: see above.

    Returns:
        A function of a uint8 image of any size with 1 or 3 channels. An image that needs no change
        comes back as it is; of a very long one only the middle part is resized. Its attribute
        `window` maps (height, width) of an image to what stays of it, (top, left, bottom, right) in
        fractions of its height and width.

    Raises:
        ValueError: a value is out of range.

    Source: official NesT, libml/preprocess.py (resize_small, central_crop); timm,
    data/transforms_factory.py (transforms_imagenet_eval).
    """
    size = as_height_width("config.data.image_size", image_size)
    check_range("config.data.eval_crop_ratio", ratio, 0.1, 1.0)
    torchvision = interpolation in PILLOW
    # Down, in both codes: int(256 / 224 * 384) = floor(384 / 0.875) = 438. The small number keeps a
    # whole number that misses the last bit of a float from losing one.
    scaled = tuple(math.floor(side / ratio + 1e-9) for side in size)
    square = size[0] == size[1]

    def resized_size(height: int, width: int) -> tuple[int, int]:
        factor = min(height / scaled[0], width / scaled[1])
        if torchvision and square:  # its Resize(side) rounds the long side down
            short = min(height, width)
            return scaled[0] * height // short, scaled[0] * width // short
        return max(1, round(height / factor)), max(1, round(width / factor))

    def plan(height: int, width: int) -> tuple[tuple[slice, slice], tuple[int, int], list[int]]:
        """Returns the part that is resized, its new size, and where the crop starts in that."""
        part = slice(0, height), slice(0, width)
        resized = resized_size(height, width)
        if resized[0] * resized[1] > 16 * scaled[0] * scaled[1]:
            # Of a very long image, twice what the crop needs: its ends have no influence.
            rows = _middle(height, math.ceil(2 * scaled[0] * height / resized[0]))
            columns = _middle(width, math.ceil(2 * scaled[1] * width / resized[1]))
            part = rows, columns
            resized = resized_size(rows.stop - rows.start, columns.stop - columns.start)
        rest = resized[0] - size[0], resized[1] - size[1]
        return part, resized, [round(r / 2) if torchvision else r // 2 for r in rest]

    def transform(image: np.ndarray) -> np.ndarray:
        height, width, _ = image.shape
        if (height, width) == scaled == size:
            return image
        part, resized, (top, left) = plan(height, width)
        image = resize(image[part], resized, interpolation)
        return image[top : top + size[0], left : left + size[1]]

    def window(height: int, width: int) -> tuple[float, ...]:
        ends = []
        for side, part, resized, start, kept in zip(
            (height, width), *plan(height, width), size, strict=True
        ):
            scale = (part.stop - part.start) / resized  # pixels of the image per pixel of the crop
            ends.append([(part.start + end * scale) / side for end in (start, start + kept)])
        (top, bottom), (left, right) = ends
        return top, left, bottom, right

    transform.window = window
    return transform


def random_crop(
    *,
    image_size: int | tuple[int, int],
    padding: int,
    border: Literal["constant", "reflect"] = "constant",
    fill: int = 0,
) -> Transform:
    """Pads each side and cuts out a random part of the image size, as is usual for CIFAR.

    Args:
        image_size: side or (height, width), pixels. An image of another size is brought to it by
            `center_crop` with ratio 1 first.
        padding: pixels added on each side.
        border: "constant", or "reflect" (without repeating the edge; padding < side).
        fill: grey level (0 to 255) of the constant border.

    Returns:
        A transform of uint8 images with 1 or 3 channels.

    Raises:
        ValueError: a value is out of range.

    Source: official NesT, libml/preprocess.py (train_cifar_preprocess): zeros, 2 pixels per side.
    """
    size = as_height_width("config.data.image_size", image_size)
    most = min(size) - 1 if border == "reflect" else MAX_SIDE
    check_range("config.augment.random_crop.padding", padding, 0, most)
    check_range("config.augment.random_crop.fill", fill, 0, 255)
    bring_to_size = center_crop(image_size=size, ratio=1.0)
    kind, value = BORDERS[border], (fill,) * 3
    positions = 2 * padding + 1

    def transform(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left = rng.random(2).tolist()
        image = bring_to_size(image)
        padded = cv2.copyMakeBorder(image, padding, padding, padding, padding, kind, value=value)
        top, left = int(top * positions), int(left * positions)
        cropped = padded[top : top + size[0], left : left + size[1]]
        return cropped if cropped.ndim == 3 else cropped[..., None]

    return transform
