"""Pictures of what a recipe does to images: augmented batches, and RandAugment's operations."""

from typing import Any

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data.annotations.pipeline import AnnotatedData
from data.augment import crops, randaugment
from data.class_names import short_name
from harness.errors import printable
from tasks.classification import Classification
from tasks.losses import targets_of
from training import experiment

COLUMNS = 8
SHOWN_CLASSES = 4  # in the title of an image
MAGNITUDES = 7  # pictures in a row of draw_operations


def augmented_batch(run: experiment.Experiment, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a training batch as the model sees it after `start` updates, in step `start` + 1.

    Args:
        run: of any task; what a task other than classification does with the images is left out.
        start: number of the batch.

    Returns:
        Images, float32 [b, h, w, c] in 0..1 (erased, mixed, and no longer normalised), and targets
        [b, classes] without label smoothing.
    """
    batches = run.data.train_batches(start)
    batch = next(batches)
    batches.close()
    classes, is_classified = run.data.num_classes, isinstance(run.task, Classification)
    if is_classified:
        batch, _ = jax.jit(run.task.augmented)(batch, start, run.key)
    if "target" not in batch:
        images = np.asarray(batch["image"]) / np.float32(255)
        loss = run.task.loss if is_classified else "softmax"
        return images, np.asarray(targets_of(batch["label"], classes, loss))
    smoothing = run.task.label_smoothing
    mean, std = (np.asarray(values, np.float32) for values in run.data.statistics)
    images = np.clip(np.asarray(batch["image"]) * std + mean, 0, 1)
    return images, (np.asarray(batch["target"]) - smoothing / classes) / (1 - smoothing)


def annotated_batch(run: experiment.Experiment, start: int) -> tuple[list[np.ndarray], list[str]]:
    """Returns the images of a training batch with their boxes or classes drawn, and no labels."""
    batches = run.data.train_batches(start)
    batch = jax.device_get(next(batches))
    batches.close()
    names = run.data.dataset.class_names or list(map(str, range(run.data.num_classes)))
    count = len(batch["image"])
    rows = ({name: array[index] for name, array in batch.items()} for index in range(count))
    return [run.data.form.drawn(row, names) for row in rows], [""] * count


def label_text(target: np.ndarray, names: tuple[str, ...] | None) -> str:
    """Returns "cat", "cat 0.70 + dog 0.30", or "cat + dog + owl" where shares are equal."""
    order = np.argsort(-target, kind="stable")
    order = order[target[order] > 0.005][:SHOWN_CLASSES]
    shown = [printable(short_name(names[c])) if names else str(c) for c in order]
    shares = target[order]
    if len(shares) and (shares.min() > 0.995 or (len(shares) > 2 and np.ptp(shares) < 0.005)):
        return " + ".join(shown)
    return " + ".join(f"{name} {share:.2f}" for name, share in zip(shown, shares, strict=True))


def draw_batch(run: experiment.Experiment, *, num_images: int, start: int) -> Figure:
    """Draws an augmented training batch with its labels and the numbers of its records.

    Args:
        run: of any task, see `augmented_batch`.
        num_images: how many of the batch at most.
        start: number of the batch.
    """
    data, records = run.data, run.records_of(start + 1)
    if isinstance(data, AnnotatedData):
        images, labels = annotated_batch(run, start)
    else:
        images, targets = augmented_batch(run, start)
        labels = [label_text(target, data.dataset.class_names) for target in targets]
    count = min(num_images, len(images))
    # The halves of a mixed batch show the same pairs: take from the start.
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(1.9 * columns, 2.3 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(printable(f"{data.name} {data.train_split}, step {start + 1}"))
    for position in range(count):
        axes = figure.add_subplot(rows, columns, position + 1)
        shown = _shown(images[position])
        # Made smaller, lines of boxes would lose pixels; small images keep theirs sharp.
        way = "antialiased" if min(shown.shape[:2]) > 256 else "nearest"
        axes.imshow(shown, interpolation=way)
        axes.set_title(f"{labels[position]}\n{records[position]}", fontsize=8)
        axes.axis("off")
    return figure


def draw_operations(
    options: dict[str, Any], image_size: int | tuple[int, int], image: np.ndarray | None
) -> Figure:
    """Draws one row per operation of a RandAugment section: its magnitudes up to the largest.

    Operations with a random sign go from one side through 0 to the other.

    Args:
        options: the section.
        image_size: of the recipe.
        image: uint8 [h, w, 3]; None: a photograph that comes with scikit-learn.
    """
    if image is None:
        from sklearn.datasets import load_sample_image

        image = load_sample_image("china.jpg")
    size = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    image = crops.center_crop(image_size=size, ratio=1.0, interpolation="pil_bicubic")(image)
    rows = randaugment.create_operations(
        options["variant"],
        fill=options["fill"],
        max_translate=randaugment.largest_translations(
            options["variant"],
            *size,
            options["max_translate_pixels"],
            options["max_translate_fraction"],
        ),
        increasing=options["increasing"],
    )
    interpolation = randaugment.interpolations(options["variant"], options["interpolation"])[-1]
    figure = Figure(figsize=(1.6 * MAGNITUDES + 1, 1.6 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), MAGNITUDES, squeeze=False)
    for (name, operation), line in zip(rows.items(), grid, strict=True):
        levels = np.linspace(-1 if operation.signed else 0, 1, MAGNITUDES)
        for axes, level in zip(line, levels, strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            if operation.argument is None and axes is not line[0]:
                axes.axis("off")  # it has only one strength
                continue
            drawn = operation(image, float(level), interpolation)
            axes.imshow(_shown(drawn), interpolation="nearest")
            if operation.argument is not None:
                magnitude = abs(level) * randaugment.NUM_LEVELS
                axes.set_title(f"{magnitude:.3g}", fontsize=7, pad=2)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def _shown(image: np.ndarray) -> np.ndarray:
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
