"""The weights that a fresh run starts from: the config's key `init_from` and section `init`."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from harness.arguments import problem
from harness.class_lists import assumed_order, places
from harness.errors import ConfigError, input_errors
from harness.steps import steps_of
from layers.initializers import truncated_normal
from workdirs.config_file import read_record
from zoo.find import Checkpoint, is_checkpoint
from zoo.fit import Reinit, Resize
from zoo.load import Report, load_variables
from zoo.stored_weights import Which

Weights = tuple[dict[str, Any], Report]  # as load_variables returns them
# Arguments of read_init_from that the code gives rather than the section `init`.
INIT_PROVIDED = ("image_shape", "class_names", "seed")
HEAD = ("norm", "head")  # what a classifier has above its last map
FROM_SCRATCH = "none"  # for the command line, where None cannot be given


def check_init_from(value: Any) -> None:
    """Raises ConfigError unless the value may be config.init_from."""
    if not isinstance(value, str | None):
        raise ConfigError(problem("config.init_from", value, "not a path"))


def read_init_from(
    path: str | None,
    model: nn.Module,
    *,
    weights: Which = "raw",
    checkpoint: Checkpoint = "latest",
    resize: Resize | None = None,
    reinit_head: Reinit = "zeros",
    other_classes: bool | None = None,
    ignore_fields: tuple[str, ...] = (),
    image_shape: tuple[int, int, int],
    class_names: tuple[str, ...] | None,
    seed: int,
) -> Weights | None:
    """Reads the weights that a fresh run starts from; the section `init` holds its arguments.

    Args:
        path: config.init_from, also a name of released weights. None or "none": from scratch; "": a
            fine-tuning recipe that still lacks its weights.
        model: of the run. One with a `backbone` starts from weights of the classifier that this is
            made of, without what is in HEAD: `reinit_head` and `other_classes` have no effect, and
            weights of such a model start no other.
        weights, checkpoint, resize, reinit_head, ignore_fields: see `load_variables`.
        other_classes: whether the run's classes differ from those of the weights, so that the head
            is re-initialised even if their number is the same. None: decided by the class names.
            Unless it is True, a head of the same classes in another order is put in the run's.
        image_shape: (height, width, channels) of the run's images.
        class_names: of the run's classes, where known.
        seed: of a head of noise.

    Returns:
        The model's variables and what was done to them, or None: from scratch.

    Raises:
        ConfigError: the path or the weights are missing, or the weights do not fit.
    """
    if path in (None, FROM_SCRATCH):
        return None
    if not path:
        what = (
            "this recipe fine-tunes; give --config.init_from=PATH, weights or a workdir, or a name "
            f"of tools/weights.py list, or --config.init_from={FROM_SCRATCH} to train from scratch"
        )
        raise ConfigError(problem("config.init_from", path, what))
    options = {
        "image_size": image_shape,
        "weights": weights,
        "checkpoint": checkpoint,
        "resize": resize,
        "ignore_fields": ignore_fields,
    }
    with input_errors():
        if (backbone := getattr(model, "backbone", None)) is not None:
            return _as_backbone(*load_variables(path, backbone.model, **options))
        variables, report = load_variables(
            path, model, reinit_head=reinit_head, seed=seed, **options
        )
        if note := unfinished(report):
            report = dataclasses.replace(report, notes=(*report.notes, note))
        if not other_classes and not report.reinitialized and class_names:
            if report.class_names is None:
                instead = "config.init.other_classes=True makes a new head"
                what = f"{assumed_order(class_names)}; {instead}"
                report = dataclasses.replace(report, notes=(*report.notes, what))
            elif ordered := _in_order(variables, report, class_names):
                return ordered
            elif other_classes is None:
                other_classes = report.class_names != tuple(class_names)
        if other_classes and not report.reinitialized:
            if reinit_head == "never":
                what = (
                    f"keeps the head of {report.path}, which was made for other classes; "
                    "config.init.other_classes=False allows that"
                )
                raise ValueError(problem("config.init.reinit_head", reinit_head, what))
            variables, report = _with_new_head(variables, report, seed)
    return variables, report


def _as_backbone(variables: dict[str, Any], report: Report) -> Weights:
    """Returns the weights of a classifier as those of a model's backbone, without its head."""
    below = {
        collection: {"backbone": {name: tree[name] for name in tree if name not in HEAD}}
        for collection, tree in variables.items()
    }
    names = (*report.loaded, *report.reinitialized)
    above = tuple(f"{part}/" for part in HEAD)
    left_out = tuple(n for n in names if n.removeprefix("batch_stats/").startswith(above))
    notes = report.notes + ((note,) if (note := unfinished(report)) else ())
    report = dataclasses.replace(
        report,
        loaded=tuple(name for name in report.loaded if name not in left_out),
        reinitialized={},
        skipped=(*report.skipped, *left_out),
        notes=(*notes, "weights of the backbone; all else starts anew"),
    )
    return below, report


def unfinished(report: Report) -> str:
    """Returns a sentence if weights are of a run that has not finished; "" for others."""
    if not is_checkpoint(report.path):
        return ""
    workdir = report.path.parents[2]
    if not (workdir / "config.json").exists() or (workdir / "DONE").exists():
        return ""
    record = read_record(workdir)
    steps = steps_of(record["config"], record.get("num_examples"))
    of = f" of {steps.total}" if steps else ""
    return f"the run in {workdir} is not finished (it has no DONE): step {report.path.name}{of}"


def _in_order(
    variables: dict[str, Any], report: Report, class_names: tuple[str, ...]
) -> Weights | None:
    """Returns the weights with the head in the order of the run's classes, None if they differ."""
    try:
        order = places(class_names, report.class_names)
    except ValueError:
        return None
    if order == list(range(len(order))):
        return variables, report
    head = {name: array[..., order] for name, array in variables["params"]["head"].items()}
    report = dataclasses.replace(
        report,
        class_names=tuple(class_names),
        notes=(*report.notes, "the same classes in another order: the head is put in the run's"),
    )
    return variables | {"params": variables["params"] | {"head": head}}, report


def _with_new_head(variables: dict[str, Any], report: Report, seed: int) -> Weights:
    head = {name: np.zeros_like(array) for name, array in variables["params"]["head"].items()}
    if report.reinit_head == "noise":
        head["kernel"] = np.asarray(truncated_normal(jax.random.key(seed), head["kernel"].shape))
    shapes = {f"head/{name}": (array.shape, array.shape) for name, array in head.items()}
    report = dataclasses.replace(
        report,
        loaded=tuple(name for name in report.loaded if name not in shapes),
        reinitialized=shapes,
        notes=(*report.notes, "as many classes, but different ones: the head is re-initialised"),
    )
    return variables | {"params": variables["params"] | {"head": head}}, report
