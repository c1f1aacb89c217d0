"""Weights from a training run's checkpoint, without the optimizer's state."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn

from harness.arguments import as_height_width
from harness.errors import RunError
from harness.trees import listed
from workdirs.class_file import find_classes
from workdirs.config_file import read_config
from workdirs.plain_path import plain_path
from workdirs.records import Damaged
from zoo.fields import telling_fields
from zoo.registry import create_model
from zoo.stored_weights import NoAverage, StoredWeights, damaged


def read_checkpoint(folder: Path, model: nn.Module, weights: str) -> StoredWeights:
    """Reads the parameters, or their moving average, and the batch statistics of a checkpoint.

    Args:
        folder: of one step, ".../checkpoints/best/1200".
        model: the model that the weights are for.
        weights: "raw", or "ema" for the moving average.

    Returns:
        The weights; their model's fields are those of the run's config.json, if that is there.

    Raises:
        ValueError: the checkpoint is damaged, or has no such weights.
    """
    key, what = {"raw": ("params", "weights"), "ema": ("ema", "moving average")}[weights]
    state, skipped = read_parts(folder, key, what, optional=("model_state",))
    return StoredWeights(
        f"checkpoint of a run, step {folder.name}, {what}",
        {"params": state[key], **state.get("model_state", {})},
        fields=_config_fields(folder, model),
        skipped=skipped,
        image_size=_image_size(folder),
        class_names=find_classes(folder),
    )


def read_parts(
    folder: Path, key: str, what: str, *, optional: Sequence[str] = ()
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Reads some of the trees of a checkpoint's state, of any task.

    Args:
        folder: of one step.
        key: name of the tree in the state.
        what: what it is, for the message if it is missing.
        optional: names of others, read if they are there.

    Returns:
        name -> tree of NumPy arrays, and the names of the trees that were not read.

    Raises:
        ValueError: the checkpoint is damaged, or has no such tree.
    """
    place = plain_path(folder / "state")
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        try:
            tree = handler.metadata(place).tree
        except Exception as error:  # tensorstore, json and orbax each have their own
            raise damaged(folder, error) from error
        if not isinstance(tree, dict) or not tree.get(key):
            there = listed(sorted(name for name in tree if tree[name])) if tree else "nothing"
            missing = NoAverage if key == "ema" else ValueError
            raise missing(f"weights {folder}: no {what} ({key}) in this checkpoint; it has {there}")
        wanted = {key: tree[key]} | {
            name: tree[name] for name in optional if jax.tree.leaves(tree.get(name))
        }
        item = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), wanted)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
        try:
            state = handler.restore(place, args=args)
        except Exception as error:
            raise damaged(folder, error) from error
    return state, tuple(name for name in tree if name not in wanted and jax.tree.leaves(tree[name]))


def _image_size(folder: Path) -> tuple[int, int] | None:
    """Returns the size of the run's images, None if the folder is not inside a workdir."""
    try:
        size = read_config(folder.parents[2])["data"]["image_size"]
        return as_height_width("data.image_size", size)
    except Damaged:
        raise
    except (RunError, ValueError, KeyError, TypeError):
        return None


def _config_fields(folder: Path, model: nn.Module) -> dict[str, Any]:
    """Returns the fields of the run's model, {} if the folder is not inside a workdir."""
    workdir = folder.parents[2]
    if not (workdir / "config.json").exists():
        return {}
    try:
        section = read_config(workdir)["model"].to_dict()
        trained = create_model(**section, num_classes=1)
    except Damaged:
        raise
    except (RunError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # a model that this version does not have; names and shapes still decide
    if type(trained) is not type(model):
        raise ValueError(
            f"weights {folder}: of the model {type(trained).__name__}, not {type(model).__name__}"
        )
    return telling_fields(trained)
