"""What a model says about one image, and why."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.arguments import check_range
from inference.explain import Method
from inference.given_images import Row


class Guess(NamedTuple):
    """A class, its name if that is known, and how probable it is."""

    label: int
    name: str | None
    probability: float


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Which pixels speak for a class.

    Attributes:
        method: one of inference.explain.METHODS.
        image: uint8 [h, w, c], as the model sees it.
        saliency: [h, w], float32, larger where more speaks for the class.
        label: of the class.
        name: of the class, if known.
        boxes: [steps, 4]: (top, left, bottom, right) of the blocks that GradCAT chose; None for
            other methods.
    """

    method: Method
    image: np.ndarray
    saliency: np.ndarray
    label: int
    name: str | None = None
    boxes: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says about one image.

    An image that cannot be read has a `problem`; asking for its classes is then a ValueError.

    Attributes:
        path: of the image; None of an array.
        probabilities: [num_classes], float32; None if the image cannot be read.
        problem: why it cannot be read, "" otherwise.
        class_names: in the order of the labels, if known.
        explanation: of the likeliest class, if asked for.
    """

    path: Path | None
    probabilities: np.ndarray | None
    problem: str = ""
    class_names: Sequence[str] | None = None
    explanation: Explanation | None = None

    @classmethod
    def of_row(
        cls,
        row: Row,
        class_names: Sequence[str] | None,
        explanation: Explanation | None = None,
    ) -> "Prediction":
        """Returns what the outputs of an image say."""
        path = row.given if isinstance(row.given, Path) else None
        probabilities = row.outputs.get("probabilities")
        return cls(path, probabilities, row.problem, class_names, explanation)

    def best(self, top_k: int = 5) -> list[Guess]:
        """Returns the most probable classes, best first; of equals, the lower label first.

        Raises:
            ValueError: the image could not be read, or `top_k` is below 1.
        """
        check_range("top_k", top_k, 1)
        if self.probabilities is None:
            raise ValueError(f"{self.path}: {self.problem}")
        labels = np.argsort(-self.probabilities, kind="stable")[:top_k].tolist()
        names = self.class_names
        return [
            Guess(label, names[label] if names else None, float(self.probabilities[label]))
            for label in labels
        ]

    @property
    def label(self) -> int:
        """The most probable class."""
        return self.best(1)[0].label

    @property
    def name(self) -> str | None:
        """Its name, if known."""
        return self.best(1)[0].name

    @property
    def probability(self) -> float:
        """How probable it is."""
        return self.best(1)[0].probability
