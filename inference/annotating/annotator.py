"""A trained detection or segmentation from Python: what lies where in an image.

    annotator = Annotator.load("runs/digits_detr")
    for found in annotator.iterate(["scenes/"]):
        print(found.path, found.detections.labels, found.detections.boxes)

Images are prepared as in the recipe's evaluation; what is found lies on the image as it is stored.
The data set need not be there.
"""

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from ml_collections import ConfigDict

from data.annotations.annotated import Annotations
from data.annotations.average_precision import Detections
from data.annotations.drawing import draw_boxes, draw_segments
from data.annotations.pipeline import AnnotatedData, real_size
from data.datasets import Dataset
from data.images import as_channels, decode_image
from data.sources.arrays import Record
from harness.arguments import problem
from harness.errors import ConfigError, input_errors
from inference.given_images import Given, GivenImages, as_images
from parallel import sharding
from tasks.protocol import Task
from tasks.table import TASKS
from training import experiment
from training.trained_run import restore
from workdirs.class_file import find_classes
from workdirs.config_file import stored_config


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found in one image.

    Attributes:
        path: of the image; None of an array.
        image: uint8 [h, w, 3] as it is stored; None if it cannot be read.
        detections: of a detection, the most certain first.
        segments: of a segmentation, the class of each pixel, int32 [h, w].
        problem: why the image cannot be read, "" otherwise.
    """

    path: Path | None
    image: np.ndarray | None = None
    detections: Detections | None = None
    segments: np.ndarray | None = None
    problem: str = ""

    def drawn(self, class_names: Sequence[str], min_score: float) -> np.ndarray:
        """Returns it on the image, uint8 [h, w, 3]; see data/annotations/drawing.py."""
        if self.detections is not None:
            return draw_boxes(self.image, self.detections, class_names, min_score)
        return draw_segments(self.image, self.segments, class_names)

    def in_words(self, class_names: Sequence[str], min_score: float) -> str:
        """Returns "3 0.98, 7 0.91", the most certain first; of pixels "sky 61.0%, tree 20.5%"."""
        if self.detections is not None:
            rows = zip(self.detections.labels, self.detections.scores, strict=True)
            parts = [f"{class_names[i]} {score:.2f}" for i, score in rows if score >= min_score]
            return ", ".join(parts) or "nothing"
        counts = np.bincount(self.segments.ravel(), minlength=len(class_names))
        shares = counts / max(1, counts.sum())
        order = [label for label in np.argsort(-shares, kind="stable") if counts[label]]
        return ", ".join(f"{class_names[label]} {shares[label]:.1%}" for label in order)


class _Given(GivenImages):
    """Images without annotations."""

    def __getitem__(self, index: int) -> Record:
        return super().__getitem__(index) | {"label": Annotations()}


@dataclasses.dataclass(frozen=True, eq=False)
class Annotator:
    """A task with its weights; make it with `Annotator.load` or `Annotator.of_run`.

    Attributes:
        task: Detection or Segmentation.
        variables: of its model.
        data: the recipe's; its data set may be missing.
        class_names: in the order of the labels; those that nobody named are numbered.
    """

    task: Task
    variables: Mapping[str, Any]
    data: AnnotatedData
    class_names: tuple[str, ...]

    @classmethod
    def load(
        cls,
        workdir: str | os.PathLike,
        config: ConfigDict | None = None,
        *,
        checkpoint: str = "latest",
        ema: bool = False,
    ) -> "Annotator":
        """Loads a run for prediction.

        Args:
            workdir: of the run.
            config: the recipe, if not the run's own.
            checkpoint: "latest" or "best".
            ema: take the moving average of the weights.

        Raises:
            ConfigError: there is no such checkpoint, or it is no detection or segmentation.
        """
        workdir = Path(workdir)
        mesh = {"data": -1, "fsdp": 1}  # this machine, not the one it was trained on
        config = stored_config(workdir, mesh=mesh) if config is None else config
        plain = experiment.check_config(config, needs_data=False)
        if not is_annotated(plain["task"]["name"]):
            what = "it finds nothing in images"
            allowed = "detection, segmentation"
            raise ConfigError(problem("config.task.name", plain["task"]["name"], what, allowed))
        with input_errors():
            mesh = sharding.create_mesh(**plain["mesh"])
            data = TASKS[plain["task"]["name"]].data(
                **plain["data"],
                augment=plain["augment"],
                seed=plain["seed"],
                sharding=sharding.batch_sharding(mesh),
            )
            _know_dataset(data, _dataset(data, find_classes(workdir)))
        run = experiment.assemble(plain, mesh, data, jax.random.key(0), training=False)
        return cls.of_run(run, restore(run, workdir, checkpoint)[1], ema=ema)

    @classmethod
    def of_run(cls, run: experiment.Experiment, state: Any, *, ema: bool = False) -> "Annotator":
        """Takes the weights of a run's state; raises ConfigError if it has no average of them."""
        weights = run.task.evaluated(state)
        if ema and "ema" not in weights:
            raise ConfigError("--ema: the run has no moving average (config.task.ema_decay)")
        names = run.data.dataset.class_names or tuple(
            f"class {label}" for label in range(run.data.num_classes)
        )
        return cls(run.task, weights["ema" if ema else "raw"], run.data, names)

    def iterate(self, images: Given | Sequence[Given], *, batch_size: int = 8) -> Iterator[Found]:
        """Yields what is found in each image, in their order, as soon as it is known.

        Args:
            images: see given_images.as_images; those that are missing or broken get a `problem`.
            batch_size: how many go through the model at once.
        """
        given = as_images(images)
        data = dataclasses.replace(
            self.data, eval_batch_size=batch_size, num_workers=0, num_threads=None
        )
        _know_dataset(data, self.data.dataset)
        problems: dict[int, str] = {}

        def report_bad(entries: list[tuple[int, str, str]]) -> None:
            problems.update((index, reason) for index, _, reason in entries)

        source = _Given(given, data.dataset.num_channels)
        rows = self.rows(data.batches_of(source, report_bad, data.form)) if given else ()
        for index, (one, row) in enumerate(zip(given, rows, strict=False)):
            path = one if isinstance(one, Path) else None
            if index in problems:
                yield Found(path, problem=problems[index])
                continue
            pixels = decode_image(one.read_bytes()) if path else one
            yield self._found(path, as_channels(pixels, 3), row)

    def rows(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yields each row of batches as arrays, what is in the padding too, with "found"."""
        for batch in batches:
            found = jax.device_get(self._predict(self.variables, batch))
            batch = jax.device_get(batch)
            for index in range(len(batch["mask"])):
                row = {name: array[index] for name, array in batch.items()}
                yield row | {"found": jax.tree.map(lambda x, i=index: x[i], found)}

    def answer(self, row: Mapping[str, Any]) -> Detections | np.ndarray:
        """Returns what a row of `rows` says: detections, or segments of the image as stored."""
        if isinstance(found := row["found"], dict):
            return Detections(**found)
        height, width = real_size(row)
        segments = found[:height, :width].astype(np.uint8)
        size = tuple(map(int, row["size"]))
        nearest = cv2.INTER_NEAREST_EXACT
        return cv2.resize(segments, size[::-1], interpolation=nearest).astype(np.int32)

    def _found(self, path: Path | None, image: np.ndarray, row: Mapping[str, Any]) -> Found:
        answer = self.answer(row)
        kind = "detections" if isinstance(answer, Detections) else "segments"
        return Found(path, image, **{kind: answer})

    @functools.cached_property
    def _predict(self):
        return jax.jit(self.task.predict)


def is_annotated(task_name: str) -> bool:
    """Returns whether a kind of training is one of images with annotations."""
    return task_name in TASKS and issubclass(TASKS[task_name].data, AnnotatedData)


def _dataset(data: AnnotatedData, class_names: tuple[str, ...] | None) -> Dataset:
    """Returns the data set, or what a model has to know of one that is not there."""
    # Sets that ship are made at once; others may be gone, or take long to open.
    if class_names is None or data.name in data.catalogue.built_in:
        return data.dataset
    return Dataset(data.name, len(class_names), data.channels or 3, _none, class_names=class_names)


def _none(*_: Any) -> None:
    raise ValueError("the data set was not opened: nothing but names and channels is known of it")


def _know_dataset(data: AnnotatedData, dataset: Dataset) -> None:
    """Gives data their data set, which they then do not open."""
    vars(data)["dataset"] = dataset  # where functools.cached_property looks
