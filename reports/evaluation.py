"""The answers of a run's checkpoint to its evaluation split: read, or evaluated now."""

import csv
import dataclasses
import functools
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from data.sources.arrays import Subset
from harness.errors import ConfigError
from inference.annotating.annotator import Annotator
from inference.answers import AnswerSheet, evaluation_path, per_class_path, predictions_path
from inference.trained_classifier import TrainedClassifier
from training import experiment
from training.trained_run import checkpoint_folder, restore
from workdirs.class_file import find_classes
from workdirs.config_file import read_config
from workdirs.records import DamagedFile, read_json, read_text


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A line of the predictions: what was said about an image."""

    index: int  # in the split
    image: str
    labels: tuple[int, ...]
    named: tuple[int, ...]  # the likeliest first
    confidence: float
    label_probability: float
    is_right: bool


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate.py --per_class` writes, read again.

    Attributes:
        numbers: see inference/per_class.py, with split, step, weights, loss and multi_label.
        predictions: one an image.
    """

    numbers: dict[str, Any]
    predictions: list[Prediction]

    @property
    def names(self) -> dict[int, str]:
        """Label -> the name to show."""
        return {row["label"]: row["name"] or f"class {row['label']}" for row in self.classes}

    @property
    def classes(self) -> list[dict[str, Any]]:
        """The numbers of each class."""
        return self.numbers["classes"]

    def mistakes(self, at_most: int) -> list[Prediction]:
        """Returns the wrong answers that were surest; of several labels, of the least likely."""
        wrong = [one for one in self.predictions if not one.is_right]
        if self.numbers["multi_label"]:
            wrong.sort(key=lambda one: one.label_probability)
        else:
            wrong.sort(key=lambda one: -one.confidence)
        return wrong[:at_most]


class TrainedRun:
    """A run whose data and model are opened when they are asked for.

    Attributes:
        workdir: its folder.
        checkpoint: "latest" or "best".
        ema: whether the average of the weights answers.
    """

    def __init__(self, workdir: Path, checkpoint: str = "latest", *, ema: bool = False):
        self.workdir, self.checkpoint, self.ema = workdir, checkpoint, ema

    @functools.cached_property
    def folder(self) -> Path:
        """The folder of the checkpoint."""
        return checkpoint_folder(self.workdir, self.checkpoint)

    @functools.cached_property
    def run(self) -> experiment.Experiment:
        """The run, built for this machine's devices."""
        config = read_config(self.workdir)
        config.mesh = {"data": -1, "fsdp": 1}
        names = find_classes(self.workdir)
        return experiment.build(config, training=False, class_names=names)

    @functools.cached_property
    def state(self) -> Any:
        """The state at the checkpoint."""
        return restore(self.run, self.workdir, self.checkpoint)[1]

    @functools.cached_property
    def classifier(self) -> TrainedClassifier:
        """The model with its weights."""
        return TrainedClassifier.of_run(self.run, self.state, ema=self.ema)

    @functools.cached_property
    def annotator(self) -> Annotator:
        """The model of a detection or segmentation with its weights."""
        return Annotator.of_run(self.run, self.state, ema=self.ema)

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """Returns images of the split as the model sees them, uint8 [n, h, w, c]."""
        data = self.run.data
        source = Subset(data.eval_source, list(indices))
        data = dataclasses.replace(data, num_workers=0, prefetch=0, sharding=None)
        data = dataclasses.replace(data, eval_batch_size=max(1, min(len(indices), 64)))
        batches = data.batches_of(source, lambda bad: None, data.form)
        images = np.concatenate([np.asarray(batch["image"]) for batch in batches])
        return images[: len(indices)]


_TODO = "it is made again"


def find_evaluation(trained: TrainedRun, split: str) -> Evaluation | None:
    """Returns what was written about this checkpoint, None if nothing was, or of an older one."""
    folder = trained.folder
    path = evaluation_path(trained.workdir / f"evaluation_{trained.checkpoint}", split)
    files = per_class_path(path), predictions_path(path)
    if not all(file.is_file() for file in files):
        return None
    try:
        numbers = read_json(files[0], _TODO, lambda value: isinstance(value, dict))
        expected = (int(folder.name), split, "ema" if trained.ema else "raw")
        is_same = (numbers["step"], numbers["split"], numbers["weights"]) == expected
        # A run that was made again may have got as far as the one before.
        if not is_same or files[0].stat().st_mtime < folder.stat().st_mtime:
            return None
        text = read_text(files[1], _TODO, errors="surrogateescape")
        return Evaluation(numbers, read_predictions(text))
    except DamagedFile as error:
        print(f"note: {error}", file=sys.stderr)
        return None
    except (ConfigError, OSError, ValueError, KeyError, TypeError):  # of an earlier version
        return None


def read_predictions(text: str) -> list[Prediction]:
    """Reads the CSV of `evaluate.py --per_class`.

    Raises:
        ValueError, KeyError: it is damaged.
    """
    return [
        Prediction(
            index=int(row["index"]),
            image=row["image"].removeprefix("'"),
            labels=tuple(map(int, row["label"].split())),
            named=tuple(map(int, row["predicted"].split())),
            confidence=float(row["confidence"] or "nan"),
            label_probability=float(row["label_probability"] or "nan"),
            is_right=row["correct"] != "false",
        )
        for row in csv.DictReader(io.StringIO(text))
    ]


def evaluate(trained: TrainedRun) -> Evaluation:
    """Evaluates the checkpoint on the run's own split, and writes what `find_evaluation` reads.

    Raises:
        ConfigError: there is no checkpoint, the data are not there, or it is no classifier.
    """
    folder, run = trained.folder, trained.run
    sheet = AnswerSheet(run, trained.state, ema=trained.ema)
    split, batches = run.data.eval_split, run.data.eval_batches()
    print(
        f"evaluating {split} ({batches.num_examples:,} images) at step {folder.name}; "
        "--no_evaluate leaves it out",
        file=sys.stderr,
    )
    bar = tqdm.tqdm(batches, unit="batch", leave=False, disable=not sys.stderr.isatty())
    for _ in sheet.watched(bar):
        pass
    results = sheet.results()
    path = evaluation_path(trained.workdir / f"evaluation_{trained.checkpoint}", split)
    where = {"checkpoint": str(folder), "step": int(folder.name)}
    try:
        results.write(path, where)
    except OSError as error:  # of a folder that is only to be read
        print(f"note: the evaluation is not kept: {error}", file=sys.stderr)
    numbers, predictions = results.contents(where)
    return Evaluation(json.loads(numbers), read_predictions(predictions))
