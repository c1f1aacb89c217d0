"""Speed of the input pipeline alone: images/s of each of its stages, and of tf.data."""

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import machine
from benchmarks.official_input import official_batches
from data.augment.transforms import TRANSFORMS
from data.images import decode_image
from data.pipeline import Data
from harness.arguments import as_height_width
from harness.errors import ConfigError
from process.cores import num_cores

NUM_JPEGS = 512
YARDSTICK = "decode, one thread"
NUM_YARDSTICK_JPEGS = 64
JPEG_SHAPE = (375, 500)  # of most ImageNet photographs
TF_DATA = "tf.data: decode, random_resized_crop, flip"
OFFICIAL = "official NesT: all of its augmentation, with erasing and mixing"
SMALL = 64  # recipes up to this image size get images in memory, like CIFAR's


def make_jpegs(folder: Path, num_images: int, shape: tuple[int, int]) -> list[Path]:
    """Writes JPEGs of random parts of the two photographs that come with scikit-learn.

    Args:
        folder: gets one folder per class, of two.
        num_images: in all.
        shape: height and width in pixels.
    """
    from sklearn.datasets import load_sample_image

    rng = np.random.default_rng(0)
    photographs = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    paths = []
    for index in range(num_images):
        image = photographs[index % 2]
        height, width = image.shape[:2]
        part = rng.uniform(0.6, 1.0)
        h, w = round(height * part), round(width * part)
        y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
        image = cv2.resize(
            image[y : y + h, x : x + w], shape[::-1], interpolation=cv2.INTER_AREA
        ).astype(np.int16)
        # Film grain: without it the files are half the size of ImageNet's.
        image += rng.normal(0, 6, image.shape).astype(np.int16)
        path = folder / f"class{index % 2}" / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        cv2.imwrite(str(path), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        paths.append(path)
    return paths


def make_arrays(folder: Path, num_images: int, size: int) -> Path:
    """Writes a .npz of random small images of two classes."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (num_images, size, size, 3), np.uint8)
    images = np.stack([cv2.GaussianBlur(image, (0, 0), 2) for image in noise])
    labels = np.arange(num_images) % 2
    path = folder / "made.npz"
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return path


def count_images(batches, seconds: float) -> float:
    """Returns images/s of an iterator of batches without the first three, which fill buffers."""
    for _ in range(3):
        next(batches)
    images, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds or not images:
        images += len(next(batches)["image"])
    return images / passed


def loader_stage(options: dict[str, Any], augment: dict[str, Any]) -> Callable[[float], float]:
    """Returns a measurement of the whole loader with these augmentations."""
    data = Data(**options, augment=augment).open()

    def measure(seconds: float) -> float:
        batches = data.train_batches()
        try:
            return count_images(batches, seconds)
        finally:
            batches.close()

    return measure


def decode_stage(files: list[bytes], num_threads: int) -> Callable[[float], float]:
    """Returns a measurement of decoding alone."""

    def measure(seconds: float) -> float:
        def work(_) -> int:
            images = 0
            while time.perf_counter() < end:
                decode_image(files[images % len(files)])
                images += 1
            return images

        started = time.perf_counter()
        end = started + seconds
        with ThreadPoolExecutor(num_threads) as pool:
            images = sum(pool.map(work, range(num_threads)))
        return images / (time.perf_counter() - started)

    return measure


def tensorflow_stage(
    paths: list[Path], image_size: int, batch_size: int, area: tuple, aspect: tuple
) -> Callable[[float], float] | None:
    """Returns a measurement of tf.data: decode, random resized crop, flip, batch.

    It decodes only the crop, as the official pipelines do. None if TensorFlow is not installed.
    """
    try:
        import tensorflow as tf
    except ImportError:
        return None
    tf.config.set_visible_devices([], "GPU")

    def load(path):
        encoded = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(encoded),
            tf.zeros((1, 0, 4)),
            area_range=area,
            aspect_ratio_range=aspect,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], 0)
        image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
        image = tf.image.resize(image, (image_size, image_size))
        return tf.cast(tf.image.random_flip_left_right(image), tf.uint8)

    data = tf.data.Dataset.from_tensor_slices([str(path) for path in paths])
    data = data.shuffle(len(paths)).repeat()
    data = data.map(load, tf.data.AUTOTUNE, deterministic=True).batch(batch_size).prefetch(2)

    def measure(seconds: float) -> float:
        return count_images(({"image": batch} for batch in data.as_numpy_iterator()), seconds)

    return measure


def run(
    plain: dict[str, Any],
    *,
    made: bool,
    seconds: float,
    rounds: int,
    say: Callable[[str], None],
    official: Path | None = None,
) -> list[dict[str, Any]]:
    """Measures all stages of a recipe.

    Args:
        plain: checked config.
        made: whether to use images made here rather than the recipe's data set.
        seconds: length of a measurement.
        rounds: measurements of each stage; the median counts.
        say: prints a line.
        official: checkout of the official NesT, whose whole ImageNet pipeline is measured too.

    Returns:
        Per stage: its name, the images/s of each round and their median; the cores that it kept
        busy and the images per second of such a core (None with worker processes, whose time is
        not known here); its images/s as a multiple of what one core decodes; the machine.
    """
    here = machine.describe()
    say(machine.in_words(here))
    options = plain["data"] | {"seed": plain["seed"]}
    size = max(as_height_width("data.image_size", options["image_size"]))
    if official and not (made and size > SMALL):
        raise ConfigError("--against=official needs --data=made and a recipe of larger images")
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryDirectory() as others:
        jpegs = make_jpegs(Path(others), NUM_YARDSTICK_JPEGS, JPEG_SHAPE)
        stages = {YARDSTICK: decode_stage([path.read_bytes() for path in jpegs], 1)}
        if made and size > SMALL:
            paths = make_jpegs(Path(temporary), NUM_JPEGS, JPEG_SHAPE)
            options["name"] = f"folder:{temporary}"
            files = [path.read_bytes() for path in paths]
            mean_kb = statistics.mean(map(len, files)) / 1000
            what = f"{NUM_JPEGS} JPEGs of 500 x 375 pixels, {mean_kb:.0f} kB on average"
            stages["decode"] = decode_stage(files, options["num_threads"] or num_cores())
            crop = plain["augment"].get("random_resized_crop") or {}
            tf_data = tensorflow_stage(
                paths,
                size,
                options["batch_size"],
                crop.get("area", (0.08, 1.0)),
                crop.get("aspect", (3 / 4, 4 / 3)),
            )
            if tf_data is None:
                say("TensorFlow is not installed: tf.data is left out")
            else:
                stages[TF_DATA] = tf_data
            if official:
                start = official_batches(official, paths)
                stages[OFFICIAL] = lambda seconds: count_images(start(), seconds)
        elif made:
            options["name"] = f"npz:{make_arrays(Path(temporary), 10_000, size)}"
            what = f"10,000 images of {size} x {size} pixels in memory"
        else:
            what = f"{options['name']}, {options['train_split']}"
        augment: dict[str, Any] = {}
        wanted = [name for name in TRANSFORMS if plain["augment"].get(name) is not None]
        names = ["loader: read, decode" if size > SMALL or not made else "loader: read"]
        stages[f"{names[0]}, centre crop"] = loader_stage(options, {})
        for name in wanted:
            augment[name] = plain["augment"][name]
            names.append(name)
            stages[", ".join(names)] = loader_stage(options, dict(augment))

        if not made:
            for note in Data(**options).open().dataset.notes:
                say(f"note: {note}")
        say(
            f"{what}; batches of {options['batch_size']}, {options['num_workers']} workers, "
            f"{options['num_threads'] or num_cores()} threads, {num_cores()} cores"
        )
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in stages}
        for _ in range(rounds):
            for name, measure in stages.items():
                measured[name].append(machine.with_cores(measure)(seconds))
    speeds = {name: [speed for speed, _ in found] for name, found in measured.items()}
    one_core = statistics.median(speeds[YARDSTICK])
    results = []
    for name, values in speeds.items():
        median = statistics.median(values)
        cores = statistics.median(busy for _, busy in measured[name])
        if options["num_workers"] and name.startswith("loader"):
            cores = None  # theirs are not counted
        result = {
            "stage": name,
            "images_per_second": median,
            "rounds": values,
            "cores_busy": cores,
            "per_busy_core": cores and median / cores,
            "times_one_core_decoding": median / one_core,
            "machine": here,
        }
        busy = f", {cores:.2f} cores busy, {median / cores:,.0f} each" if cores else ""
        say(
            f"{median:9,.0f} images/s  ({min(values):,.0f} to {max(values):,.0f})  {name}: "
            f"{median / one_core:.2f} x one core's decoding{busy}"
        )
        results.append(result)
    ours = {name.removeprefix("loader: read, decode, "): name for name in speeds}
    for other, mine in ((TF_DATA, "random_resized_crop, flip"), (OFFICIAL, ", ".join(wanted))):
        if other in speeds and mine in ours:
            # Of the turns, each of which has both under the same load.
            turns = zip(speeds[ours[mine]], speeds[other], strict=True)
            ratio = statistics.median(a / b for a, b in turns)
            say(f"{ratio:9.2f} times {other.split(':')[0]}: {mine}")
    return results
