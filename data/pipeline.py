"""From a recipe's data section to batches on the device: order, augmentation, padding.

    shuffled indices, another order each epoch -> read, decode, augment      record i, endless
    rows k * batch_size + [0 .. batch_size) of that list, in parts           global batch k
    read ahead in threads or worker processes -> device arrays               what the loop takes

Batch k is a function of (seed, k) and the recipe alone: it does not matter which threads and
processes make it, or at which batch a run resumes.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import grain
from jax.sharding import NamedSharding

from data import datasets, loading, selection, splits
from data.augment import transforms
from data.augment.crops import Interpolation, center_crop
from data.bad_images import BadImages, Policy
from data.batches import Batches, BatchReader, Layout, ReportBad
from data.sources import arrays
from harness.arguments import as_height_width, check_range, problem
from process.cores import num_cores

Among = Literal["named", "occurring"]
FROM_ONE = ("batch_size", "eval_batch_size", "repeats", "examples_per_class")
FROM_ZERO = ("examples_seed", "num_threads", "num_workers", "prefetch", "max_bad")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The data of one run: the config's section `data` with `augment` and `seed`.

    Making it checks all values and looks for nothing; `open` opens the data set. These are images
    with classes; what else a task may learn from has a subclass.

    Attributes:
        name: of the data set, as datasets.open_dataset takes it.
        image_size: height and width in pixels, or one number for both; None: by the training images
        batch_size: global, over all devices and processes; None: likewise (tasks/by_images.py).
        eval_batch_size: the same for evaluation; any number will do.
        train_split, eval_split: like "train", "train[:80%]" or "train+validation".
        data_dir: of prepared TensorFlow Datasets; None: its usual places.
        classes: labels of the classes to keep, which become 0, 1, ... in this order; None: all.
        examples_per_class: how many of each class to train on; None: all.
        examples_seed: of the choice of those examples, which is the same for any `seed`.
        mean, std: per channel, of pixels scaled to 0..1; None: the data set's.
        eval_crop_ratio: in evaluation the image's short side becomes image_size / ratio, of which
            the centre is cut out.
        eval_crop_interpolation: how it is resized, see data/augment/crops.py.
        channels: 1 for grey images, 3 for colour, of any data set; None: the data set's own.
        exif_orientation: whether photographs are turned as the orientation tag of their file says.
            Off, because the papers' numbers are without: TensorFlow and Pillow ignore the tag.
        repeats: augmented copies of each image in an epoch's order (repeated augmentation).
        num_threads: threads that make batches, per worker process if there are any; None: as many
            as there are cores, over all workers; 0 leaves it to the prefetch thread.
        num_workers: processes that make batches; 0: threads of this process. Each imports the
            main module, so that a script needs `if __name__ == "__main__":`, holds its own copy of
            in-memory data, and passes images in shared memory (/dev/shm, which is small in Docker).
        prefetch: batches kept ready on the device; 0 makes each when it is asked for.
        bad_images: "replace" puts others in the place of images that cannot be read (evaluation
            leaves them out), "raise" stops at the first one.
        max_bad: with "replace", how many a run may meet before it stops.
        augment: name in `transforms.TRANSFORMS` -> keyword arguments (None: off).
        seed: of order and augmentation, 0 to 2**32 - 1.
        class_names: of a trained model, in the order of its labels, which the data set's classes
            then have too, matched by name; None: the data set's own order.
        among: which of them an answer in evaluation can be: those that the data set names, or
            those that occur in the evaluation split.
        sharding: how the batch axis lies over the devices; None gives numpy batches.
        process_index, process_count: without sharding, which of how many parts of each batch to
            load; a sharding's mesh says it.

    Raises:
        ValueError: a value is out of range, or several do not go together.
    """

    # The data sets that it can name, and its augmentations: a subclass has others.
    catalogue: ClassVar[datasets.Catalogue] = datasets.CLASSES
    augmentations: ClassVar[Mapping[str, Callable]] = transforms.TRANSFORMS

    name: str
    image_size: int | tuple[int, int] | None
    batch_size: int | None
    eval_batch_size: int
    train_split: str = "train"
    eval_split: str = "test"
    data_dir: str | None = None
    classes: tuple[int, ...] | None = None
    examples_per_class: int | None = None
    examples_seed: int = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    eval_crop_ratio: float = 1.0
    eval_crop_interpolation: Interpolation = "bilinear"
    channels: int | None = None
    exif_orientation: bool = False
    repeats: int = 1
    num_threads: int | None = None
    num_workers: int = 0
    prefetch: int = 2
    bad_images: Policy = "replace"
    max_bad: int = 20
    augment: Mapping[str, Any] | None = None
    seed: int = 0
    class_names: tuple[str, ...] | None = None
    among: Among = "named"
    sharding: NamedSharding | None = None
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self):
        for least, keys in enumerate((FROM_ZERO, FROM_ONE)):
            for key in keys:
                if (value := getattr(self, key)) is not None:
                    check_range(f"config.data.{key}", value, least, 2**32 - 1)
        check_range("config.seed", self.seed, 0, 2**32 - 1)
        loading.check_channels("config.data.channels", self.channels)
        for key, least in (("mean", 0.0), ("std", 1e-6)):
            for value in getattr(self, key) or ():
                check_range(f"config.data.{key}", value, least, 1.0)
        self.catalogue.check_form(self.name)
        _ = self._train_steps  # raises what is wrong with the augmentation and the crop

    def check_there(self) -> None:
        """Raises NoSuchData if the data set is not there; reads no record."""
        self.catalogue.check_name(self.name, self.data_dir)

    def open(self, *, training: bool = True) -> "Data":
        """Opens the evaluation split and, for training, the training split.

        Raises:
            ValueError, OSError: the data are missing, broken or not what the recipe needs.
        """
        self.layout.check("config.data.batch_size", self.batch_size)
        channels = self.dataset.num_channels
        for key in ("mean", "std"):
            if (values := getattr(self, key)) is not None and len(values) not in (1, channels):
                allowed = f"1 or {channels}, the number of channels"
                raise ValueError(problem(f"config.data.{key}", values, "wrong length", allowed))
        if training and (present := self.dataset.present):
            what = f"it has only {len(present)} of the {self.num_classes} classes of this run"
            raise ValueError(problem("config.data.name", self.name, what))
        for key in ("eval", "train") if training else ("eval",):
            if what := loading.none_readable(getattr(self, f"{key}_source"), self.max_bad):
                split = getattr(self, f"{key}_split")
                raise ValueError(problem(f"config.data.{key}_split", split, what))
        return self

    @functools.cached_property
    def dataset(self) -> datasets.Dataset:
        """What is known about the data set: classes, channels, splits."""
        dataset = self._opened()
        if self.channels is not None:
            dataset = dataclasses.replace(dataset, num_channels=self.channels)
        if self.classes is not None:
            dataset = selection.keep_classes(dataset, self.classes)
        return selection.by_name(dataset, self.class_names) if self.class_names else dataset

    @functools.cached_property
    def train_source(self) -> arrays.Source:
        """The records of the training split."""
        source = self._source("train_split", self.train_split)
        if count := self.examples_per_class:
            return selection.few_of_each(source, self.num_classes, count, self.examples_seed)
        return source

    @functools.cached_property
    def train_order(self) -> grain.MapDataset:
        """Endless list of records: row r of training batch k is number k * batch_size + r."""
        return loading.training_order(len(self.train_source), self.seed, self.repeats)

    @functools.cached_property
    def eval_source(self) -> arrays.Source:
        """The records of the evaluation split."""
        return self._source("eval_split", self.eval_split)

    @functools.cached_property
    def layout(self) -> Layout:
        """How global batches lie over processes and devices."""
        return Layout(self.sharding, self.process_index, self.process_count)

    @functools.cached_property
    def bad(self) -> BadImages:
        """The images that could not be read."""
        return BadImages(self.bad_images, self.max_bad)

    @functools.cached_property
    def answers(self) -> tuple[int, ...] | None:
        """Labels that an answer in evaluation can be, None for all."""
        if self.among == "named":
            return self.dataset.present
        return selection.occurring(self.eval_source, self.num_classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images."""
        return (*self.height_and_width, self.dataset.num_channels)

    @property
    def num_train_examples(self) -> int:
        """Size of the training split."""
        return len(self.train_source)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.dataset.num_classes

    @functools.cached_property
    def form(self) -> loading.Form:
        """What records become in a batch."""
        several = (self.num_classes,) if self.dataset.multi_label else ()
        return loading.Labelled(self.image_shape, several)

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation per channel that normalise pixels scaled to 0..1."""
        return tuple(self.mean or self.dataset.mean), tuple(self.std or self.dataset.std)

    def train_batches(self, start: int = 0) -> Batches:
        """Returns endless augmented training batches from number `start` on, at no cost.

        Each epoch holds every example once, in its own order. Epochs follow each other without a
        gap: a batch may hold the end of one and the start of the next.
        """
        options = (self.form, self._train_steps, self.exif_orientation, self.channels)
        records = self.train_order.random_map(loading.ReadTraining(self.train_source, *options))
        bad = functools.partial(self.bad.add, self.train_split)
        return Batches(self._reader(records, self.batch_size, self.form, bad), start)

    def eval_batches(self, split: str | None = None) -> BatchReader:
        """Returns all examples of a split, once each, in order, without augmentation.

        The last batch is padded; the mask of padding and of unreadable images is 0. The batch size
        is rounded up to a multiple of the number of devices (or processes).

        Args:
            split: like "test" or "train[:50%]"; None is the recipe's `eval_split`.
        """
        source = self._source("eval_split", split) if split else self.eval_source
        bad = functools.partial(self.bad.add, split or self.eval_split)
        return self.batches_of(source, bad, self.form)

    def batches_of(
        self, source: arrays.Source, report_bad: ReportBad, form: loading.Form
    ) -> BatchReader:
        """Returns all records of any source, of images with as many channels as the form has.

        Otherwise as `eval_batches`; needs no data set.
        """
        options = (form, self._crop, self.exif_orientation, self.channels)
        records = grain.MapDataset.range(len(source)).map(loading.ReadEvaluation(source, *options))
        size = self.layout.round_up(self.eval_batch_size)
        return self._reader(records, size, form, report_bad)

    @property
    def height_and_width(self) -> tuple[int, int]:
        """Size of the images in pixels."""
        return as_height_width("config.data.image_size", self.image_size)

    @functools.cached_property
    def _crop(self):
        return center_crop(
            image_size=self.height_and_width,
            ratio=self.eval_crop_ratio,
            interpolation=self.eval_crop_interpolation,
        )

    @functools.cached_property
    def _train_steps(self) -> list[Callable]:
        return transforms.create_transforms(self.augment, self.height_and_width, self._crop)

    def _source(self, key: str, split: str) -> arrays.Source:
        return splits.load_for(f"config.data.{key}", self.dataset, split, self.height_and_width)

    def _opened(self) -> datasets.Dataset:
        return self.catalogue.open(self.name, self.data_dir, self.exif_orientation)

    def _reader(self, records, batch_size, form, report_bad) -> BatchReader:
        per_process = max(1, num_cores() // max(1, self.num_workers))
        return BatchReader(
            records=records,
            empty=form.empty,
            batch_size=batch_size,
            layout=self.layout,
            num_threads=per_process if self.num_threads is None else self.num_threads,
            num_workers=self.num_workers,
            prefetch=self.prefetch,
            report_bad=report_bad,
        )
