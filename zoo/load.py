"""The front door to weights: `load_weights` for a person, `load_variables` for code.

Both find the file (zoo/find.py), read it (zoo/formats.py, zoo/run_checkpoints.py), compare the
model's fields that no array shows (zoo/fields.py), resize position tables and re-initialise the
head (zoo/fit.py), then compare every name and shape with the model's.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from harness.strict_config import check_arguments
from harness.trees import check_tree, listed
from zoo.fields import check_fields
from zoo.find import Checkpoint, find_weights_file, is_checkpoint
from zoo.fit import Reinit, Resize, fit
from zoo.formats import read_weights
from zoo.registry import as_image_shape, parameter_shapes, variable_shapes
from zoo.run_checkpoints import read_checkpoint, read_newest
from zoo.stored_weights import NoAverage, StoredWeights, Which

__all__ = [
    "Report",
    "check_tree",
    "find_weights_file",
    "load_variables",
    "load_weights",
    "load_with_own_head",
    "parameter_shapes",
    "trained_image_size",
    "variable_shapes",
]


@dataclasses.dataclass(frozen=True)
class Report:
    """What loading weights did; `str()` gives a table to read.

    Attributes:
        path: the file or checkpoint that was read.
        kind: what it is, in words.
        loaded: names of the arrays that are as stored.
        resized: name -> (stored shape, new shape) of position tables.
        reinitialized: name -> (stored shape, new shape) of the head.
        reinit_head: how the head starts.
        skipped: what the file holds besides, which is not needed.
        notes: what a person should know.
        class_names: of the stored head, in the order of the labels, where they are known.
        rechannelled: name -> (stored shape, new shape) of the kernel that sees the image.
        image_shape: (height, width, channels) of the images that the arrays are for now.
    """

    path: Path
    kind: str
    loaded: tuple[str, ...]
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    reinitialized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    reinit_head: str
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    class_names: tuple[str, ...] | None = None
    rechannelled: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = dataclasses.field(
        default_factory=dict
    )
    image_shape: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        """Returns one line per kind of array."""
        changes = [
            [f"{name} {old} -> {new}" for name, (old, new) in changed.items()]
            for changed in (self.resized, self.reinitialized, self.rechannelled)
        ]
        rows = [
            ("loaded", len(self.loaded), ""),
            ("resized", len(changes[0]), listed(changes[0])),
            ("re-initialised", len(changes[1]), f"{listed(changes[1])} ({self.reinit_head})"),
            ("channels", len(changes[2]), listed(changes[2])),
            ("skipped", len(self.skipped), listed(self.skipped)),
        ]
        lines = [
            f"  {what:<14} {count:>4}  {names}".rstrip()
            for what, count, names in rows
            if count or what == "loaded"
        ]
        notes = [f"  note: {note}" for note in self.notes]
        return "\n".join([f"weights {self.path} ({self.kind})", *lines, *notes])


def load_weights(
    path: str | Path, model: nn.Module, *, image_size: int | tuple[int, ...], **options: Any
) -> dict[str, Any]:
    """Reads the parameters of a model and logs the report.

    Args:
        path, model, image_size, **options: see `load_variables`.

    Returns:
        The tree under "params" of the model's variables: nested dicts of float32 NumPy arrays.

    Raises:
        FileNotFoundError, ValueError: see `load_variables`.
    """
    variables, report = load_variables(path, model, image_size=image_size, **options)
    logging.info("%s", report)
    return variables["params"]


def load_variables(
    path: str | Path,
    model: nn.Module,
    *,
    image_size: int | tuple[int, ...],
    weights: Which = "raw",
    checkpoint: Checkpoint = "latest",
    resize: Resize | None = None,
    reinit_head: Reinit = "zeros",
    seed: int = 0,
    ignore_fields: Sequence[str] = (),
) -> tuple[dict[str, Any], Report]:
    """Reads weights that fit a model, or can be made to fit.

    Args:
        path: a workdir or a checkpoint in it; a file that `write_weights` wrote (.safetensors,
            .npz); a folder or a file of the official NesT (.flax); timm's NesT or TNT
            (.safetensors); the official TNT (.pth.tar); other files of torch.save. See
            `find_weights_file` for folders.
        model: the model that the weights are for.
        image_size: side, (height, width) or (height, width, channels) of its images. Position
            tables of another size are resized, and the first kernel of weights for colour images
            is made to fit grey ones, or the reverse (`fit.with_channels`).
        weights: "raw"; "ema" for their moving average; "ema_or_raw" for the average where there
            is one, and what there is where there is none, with a note that says so.
        checkpoint: "latest" or "best", of a workdir.
        resize: how position tables are resized: "linear" (None: NesT's), "bicubic" (None: the
            others'), "linear_in_blocks" (as the official NesT); see `fit.resize_table`.
        reinit_head: what the head becomes if the number of classes differs: "zeros", "noise" (as
            at the start of training), or "never", which makes that an error.
        seed: of that noise.
        ignore_fields: fields of the model, such as "gelu", that may differ from what the weights
            were made with.

    Returns:
        The model's variables ({"params": tree}, and "batch_stats" for models that have them) as
        nested dicts of float32 NumPy arrays, and a report.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: in one line: the file is unreadable or of no known format, holds values that
            are not finite, needs other fields of the model (names them), or is of another model
            (lists missing, extra and mis-shaped arrays).
    """
    check_arguments(load_variables, weights=weights)
    file, stored = read_newest(
        lambda: find_weights_file(path, checkpoint), lambda file: _read(file, model, weights)
    )
    ignored = check_fields(file, stored.kind, stored.fields, model, ignore_fields)

    height, width, channels = as_image_shape(image_size)
    expected = variable_shapes(model, (height, width, channels))
    shapes = _names(expected)
    if "backbone" in stored.variables["params"]:
        what = "of a detection or segmentation, from which no other run can start"
        raise ValueError(f"weights {file}: {what}; give those that its own backbone began with")
    # Before the head is re-initialised: what diverged is refused, wherever it shows.
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused
        arrays = {n: np.asarray(array, np.float32) for n, array in _names(stored.variables).items()}
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(f"weights {file}: values that are not finite in {listed(bad)}")
    fitted = fit(
        arrays,
        shapes,
        model,
        (height, width),
        resize=resize,
        reinit_head=reinit_head,
        seed=seed,
        stored_size=stored.image_size,
    )
    check_tree(shapes, fitted.arrays, f"weights {file}")
    arrays = fitted.arrays
    changed = fitted.resized.keys() | fitted.reinitialized.keys() | fitted.rechannelled.keys()
    report = Report(
        path=file,
        kind=stored.kind,
        loaded=tuple(name for name in arrays if name not in changed),
        resized=fitted.resized,
        reinitialized=fitted.reinitialized,
        reinit_head=reinit_head,
        skipped=stored.skipped,
        notes=(*stored.notes, *ignored),
        class_names=stored.class_names,
        rechannelled=fitted.rechannelled,
        image_shape=(height, width, channels),
    )
    paths = flatten_dict(expected, sep="/")
    return unflatten_dict({path: arrays[_name(path)] for path in paths}, sep="/"), report


def trained_image_size(
    path: str | Path, model: nn.Module, checkpoint: Checkpoint = "latest"
) -> tuple[int, int] | None:
    """Returns (height, width) of the images that weights were made for, None if that is unknown.

    Args:
        path, model, checkpoint: see `load_variables`.

    Raises:
        FileNotFoundError, ValueError: see `load_variables`.
    """
    find = functools.partial(find_weights_file, path, checkpoint)
    return read_newest(find, lambda file: _read(file, model, "raw"))[1].image_size


def load_with_own_head(
    path: str | Path,
    create: Callable[..., nn.Module],
    *,
    num_classes: int,
    image_size: int | tuple[int, ...],
    own_channels: bool = False,
    **options: Any,
) -> tuple[nn.Module, dict[str, Any], Report]:
    """Reads weights into a model of as many classes as they have.

    Args:
        path: see `load_variables`.
        create: makes the model, given `num_classes`.
        num_classes: a guess; the right one saves reading twice.
        image_size: see `load_variables`.
        own_channels: whether the channels of `image_size` are a guess, too.
        **options: see `load_variables`.

    Returns:
        The model, its variables and a report.

    Raises:
        FileNotFoundError, ValueError: see `load_variables`.
    """
    model = create(num_classes=num_classes)
    variables, report = load_variables(path, model, image_size=image_size, **options)
    *sides, channels = report.image_shape
    for stored, now in report.rechannelled.values() if own_channels else ():
        channels = channels * math.prod(stored[:-1]) // math.prod(now[:-1])
    own_shape = (*sides, channels)
    if "head/bias" in report.reinitialized:
        stored, _ = report.reinitialized["head/bias"]
        num_classes = stored[0]
    elif own_shape == report.image_shape:
        return model, variables, report
    model, options = create(num_classes=num_classes), options | {"reinit_head": "never"}
    return model, *load_variables(path, model, image_size=own_shape, **options)


def _read(file: Path, model: nn.Module, weights: Which) -> StoredWeights:
    read = read_checkpoint if is_checkpoint(file) else read_weights
    if weights != "ema_or_raw":
        return read(file, model, weights)
    try:
        return read(file, model, "ema")
    except NoAverage:
        stored = read(file, model, "raw")
        note = "it holds no moving average: its only weights are used"
        return dataclasses.replace(stored, notes=(*stored.notes, note))


def _names(variables: dict[str, Any]) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in flatten_dict(variables, sep="/").items()}


def _name(path: str) -> str:
    """Returns the name of an array for people: only other collections than "params" show."""
    return path.removeprefix("params/")
