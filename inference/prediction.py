"""What a model says about image files, one after the other."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from data.pipeline import Data
from inference.explain import Method
from inference.image_files import ImageFiles


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Which pixels speak for the likeliest class.

    Attributes:
        method: one of inference.explain.METHODS.
        image: uint8 [h, w, c], as the model sees it.
        saliency: [h, w], float32, larger where more speaks for the class.
        boxes: [steps, 4]: (top, left, bottom, right) of the blocks that GradCAT chose; None for
            other methods.
    """

    method: Method
    image: np.ndarray
    saliency: np.ndarray
    boxes: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says about one image.

    Attributes:
        path: of the image.
        probabilities: [num_classes], float32; None if the image cannot be read.
        problem: why it cannot be read, "" otherwise.
        explanation: of the likeliest class, if asked for.
    """

    path: Path
    probabilities: np.ndarray | None
    problem: str = ""
    explanation: Explanation | None = None

    def best(self, names: Sequence[str] | None, top_k: int) -> list[dict[str, Any]]:
        """Returns the most probable classes, best first; of equals, the lower label first.

        Args:
            names: of the classes, if known.
            top_k: how many.

        Returns:
            One dict per class: label, name (None if not known), probability.
        """
        labels = np.argsort(-self.probabilities, kind="stable")[:top_k].tolist()
        return [
            {"label": label, "name": names[label] if names else None}
            | {"probability": float(self.probabilities[label])}
            for label in labels
        ]


def predict_files(
    paths: Sequence[Path],
    outputs: Callable[[jax.Array], Mapping[str, jax.Array]],
    *,
    explain: Method | None = None,
    data: Data,
    num_channels: int,
    batch_size: int,
    images_sharding: NamedSharding | None,
) -> Iterator[Prediction]:
    """Yields one prediction per image file, in their order.

    Args:
        paths: of the files. Those that are missing, empty or broken have a `problem`.
        outputs: maps uint8 images [batch_size, h, w, c] to "probabilities" [batch_size, n] and, to
            explain them, "saliency" and perhaps "boxes" as in Explanation, with a leading axis.
        explain: the method by which `outputs` explains.
        data: prepares the images, as in evaluation.
        num_channels: 3, or 1 for grey images.
        batch_size: the last batch is padded to it.
        images_sharding: of the images; None: NumPy arrays.
    """
    data = dataclasses.replace(
        data,
        eval_batch_size=batch_size,
        num_workers=0,  # starting processes takes longer than most folders
        num_threads=None,
        sharding=images_sharding,
    )
    problems: dict[int, str] = {}

    def report_bad(entries: list[tuple[int, str, str]]) -> None:
        problems.update((index, reason) for index, _, reason in entries)

    indexed = enumerate(paths)
    source = ImageFiles(paths, num_channels, exif_orientation=data.exif_orientation)
    for batch in data.batches_of(source, num_channels, report_bad):
        rows = jax.device_get(outputs(batch["image"]))
        images = np.asarray(batch["image"]) if explain else None
        # The last rows are padding.
        for row, (index, path) in zip(range(len(batch["mask"])), indexed, strict=False):
            if index in problems:
                yield Prediction(path, None, problems[index])
                continue
            own = {name: values[row] for name, values in rows.items()}
            probabilities, explanation = own.pop("probabilities"), None
            if explain is not None:
                explanation = Explanation(explain, images[row], **own)
            yield Prediction(path, probabilities, explanation=explanation)
