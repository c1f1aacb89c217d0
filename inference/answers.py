"""What a classifier answers about each image of an evaluation, and the files of it.

evaluation_latest_test.json              the metrics
evaluation_latest_test_per_class.json    each class, confusions, calibration: see `per_class.py`
evaluation_latest_test_predictions.csv   one line an image
"""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.class_names import readable
from data.sources.arrays import Source
from harness.errors import ConfigError
from inference.per_class import Answers, per_class
from inference.trained_classifier import TrainedClassifier
from tasks.classification import Classification
from tasks.metrics import label_rank
from training.experiment import Experiment
from workdirs.records import write_record

COLUMNS = (
    *("index", "image", "label", "label_name", "predicted", "predicted_name"),
    *("confidence", "label_probability", "correct"),
)


class AnswerSheet:
    """Notes what a trained classifier answers about the batches of an evaluation."""

    def __init__(self, run: Experiment, state: Any, *, ema: bool = False):
        """Takes the model of a run, before anything is evaluated.

        Args:
            run: built.
            state: its state.
            ema: ask the moving average of the weights, where there is one.

        Raises:
            ConfigError: it does not classify, or its batches are spread over several processes.
        """
        if not isinstance(run.task, Classification) or jax.process_count() > 1:
            raise ConfigError("--per_class needs a classifier and a single process")
        self._run, self._classifier = run, TrainedClassifier.of_run(run, state, ema=ema)
        self._ask = jax.jit(self._asked)
        self._rows: list[dict] = []

    def watched(self, batches: Iterable) -> Iterator:
        """Yields the batches of the split, in order, and notes the answers to each."""
        for batch in batches:
            yield batch
            # Rows leave the device while it works on the next batch.
            self._rows[-1:] = jax.device_get(self._rows[-1:])
            logits = self._classifier.logits(batch["image"])
            self._rows.append(self._ask(logits, batch["label"]) | {"mask": batch["mask"]})

    def _asked(self, logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        probabilities = self._classifier.probabilities(logits)
        likeliest = jnp.argmax(logits, axis=-1)
        rows = {
            "labels": labels,
            "likeliest": likeliest,
            "confidence": jnp.take_along_axis(probabilities, likeliest[:, None], -1)[:, 0],
        }
        if labels.ndim == 1:
            own = jnp.take_along_axis(probabilities, labels[:, None], axis=-1)[:, 0]
            return rows | {"probability": own, "rank": label_rank(logits, labels)}
        own = jnp.where(labels > 0, probabilities, jnp.inf).min(axis=-1)
        order = jnp.argsort(logits, axis=-1, descending=True, stable=True)  # as in evaluation
        own = jnp.where(labels.sum(axis=-1) > 0, own, jnp.nan)
        return rows | {"probability": own, "order": order, "scores": logits}

    def answers(self) -> Answers:
        """Returns the answers to all batches so far."""
        fetched = jax.device_get(self._rows)
        rows = {name: np.concatenate([row[name] for row in fetched]) for name in fetched[0]}
        (indices,) = np.nonzero(rows.pop("mask") > 0)  # padding and unreadable images are left out
        rows = {name: values[indices] for name, values in rows.items()}
        labels, order = rows.pop("labels"), rows.pop("order", None)
        if order is None:
            places = np.arange(len(indices))
            truth, named = (
                np.stack([places, column], axis=1).astype(np.int64)
                for column in (labels, rows["likeliest"])
            )
        else:
            truth = np.argwhere(labels > 0)
            is_named = np.arange(labels.shape[1]) < labels.sum(axis=1)[:, None]
            row, place = np.nonzero(is_named)
            named = np.stack([row, order[row, place]], axis=1).astype(np.int64)
        data = self._run.data
        every = range(data.num_classes) if data.answers is None else data.answers
        return Answers(
            indices=indices, truth=truth, named=named, labels=np.array(every, np.int64), **rows
        )

    def results(self) -> "PerClass":
        """Returns the answers with the names of classes and images, and what they amount to."""
        run, answers = self._run, self.answers()
        names = run.data.dataset.class_names
        names = readable(names) if names else None
        is_probability = run.task.loss == "sigmoid" or not run.task.multi_label
        numbers = {
            "split": run.data.eval_split,
            "weights": self._classifier.weights,
            "loss": run.task.loss,
            "multi_label": run.task.multi_label,
        }
        numbers |= per_class(answers, names, is_probability=is_probability)
        return PerClass(numbers, answers, names, run.data.eval_source)


@dataclasses.dataclass(frozen=True)
class PerClass:
    """What `evaluate.py --per_class` writes.

    Attributes:
        numbers: for JSON, see `per_class.per_class`; with split, weights, loss and multi_label.
        answers: image by image.
        names: of the classes, if known.
        source: of the images.
    """

    numbers: dict[str, Any]
    answers: Answers
    names: Sequence[str] | None
    source: Source

    def predictions(self) -> str:
        """Returns the answers as CSV, one line an image; of several labels, spaces between them."""
        answers = self.answers
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        for index, labels, named, *numbers, is_right in zip(
            answers.indices.tolist(),
            answers.classes_of(answers.truth),
            answers.classes_of(answers.named),
            answers.confidence.tolist(),
            answers.probability.tolist(),
            answers.is_right.tolist(),
            strict=True,
        ):
            row = [index, as_cell(self.source.describe(index)), *self._cells(labels)]
            row += self._cells(named)
            row += [f"{number:.6g}" if math.isfinite(number) else "" for number in numbers]
            table.writerow([*row, str(is_right).lower() if labels else ""])
        return text.getvalue()

    def _cells(self, labels: list[int]) -> tuple[str, str]:
        names = "; ".join(self.names[label] for label in labels) if self.names else ""
        return " ".join(map(str, labels)), as_cell(names)

    def write(self, evaluation: Path, result: dict[str, Any]) -> list[Path]:
        """Writes both files next to the evaluation's own.

        Args:
            evaluation: path of its JSON file.
            result: of the evaluation; what it says of the checkpoint is repeated.

        Returns:
            The paths of the files.
        """
        files = [per_class_path(evaluation), predictions_path(evaluation)]
        for path, content in zip(files, self.contents(result), strict=True):
            write_record(path, content)
        return files

    def contents(self, result: dict[str, Any]) -> tuple[str, str]:
        """Returns what `write` writes: the numbers as JSON, the predictions as CSV."""
        where = {key: result[key] for key in ("checkpoint", "step") if key in result}
        numbers = json.dumps(finite(where | self.numbers), allow_nan=False)
        return f"{numbers}\n", self.predictions()


def as_cell(text: str) -> str:
    """Returns a text as a cell of a table that no spreadsheet takes for a formula."""
    is_risky = text.startswith(("\t", "\r")) or text.lstrip().startswith(tuple("=+-@＝＋－＠"))
    return f"'{text}" if is_risky else text


def finite(value: Any) -> Any:
    """Returns nested dicts and lists with None for numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluation_path(prefix: Path, split: str) -> Path:
    """Returns where an evaluation on a split is written: PREFIX_SPLIT.json.

    Args:
        prefix: the workdir's "evaluation_latest", or the weights' "NAME.evaluation".
        split: such as "train[:50%]", which becomes "train_-50p".
    """
    split = split.translate({ord("["): "_", ord("]"): "", ord(":"): "-", ord("%"): "p"})
    return prefix.with_name(f"{prefix.name}_{split}.json")


def per_class_path(evaluation: Path) -> Path:
    """Returns where the numbers of each class are, from the path of the evaluation."""
    return evaluation.with_name(f"{evaluation.stem}_per_class.json")


def predictions_path(evaluation: Path) -> Path:
    """Returns where the answer to each image is, from the path of the evaluation."""
    return evaluation.with_name(f"{evaluation.stem}_predictions.csv")
