"""Weights from a training run's checkpoint, without the optimizer's state.

What is read is compared with the checksums that were saved with it.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn

from harness.arguments import as_height_width
from harness.errors import RunError
from harness.trees import listed
from workdirs import records
from workdirs.checksums import array_checksums, differing
from workdirs.class_file import find_classes
from workdirs.config_file import read_config
from workdirs.plain_path import plain_path
from workdirs.quiet_orbax import quiet_orbax
from workdirs.step_files import (
    DamagedCheckpoint,
    WrongName,
    find_damage,
    may_pass,
    patiently,
    read_record,
)
from zoo.fields import telling_fields
from zoo.registry import create_model
from zoo.stored_weights import NoAverage, StoredWeights, damaged


class Gone(ValueError):
    """A checkpoint was deleted while it was read: its run goes on, and has newer ones."""


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
    state, skipped, notes = read_parts(folder, key, what, optional=("model_state",))
    return StoredWeights(
        f"checkpoint of a run, step {folder.name}, {what}",
        {"params": state[key], **state.get("model_state", {})},
        fields=_config_fields(folder, model),
        skipped=skipped,
        notes=notes,
        image_size=_image_size(folder),
        class_names=find_classes(folder),
    )


def read_newest(find: Callable[[], Path], read: Callable[[Path], Any]) -> tuple[Path, Any]:
    """Returns a checkpoint's folder and what it holds; finds it again if its run deletes it."""
    while True:
        folder = find()
        try:
            return folder, read(folder)
        except Gone:
            if find() == folder:  # a person named this one
                raise


def read_parts(
    folder: Path, key: str, what: str, *, optional: Sequence[str] = ()
) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """Reads some of the trees of a checkpoint's state, of any task.

    Args:
        folder: of one step.
        key: name of the tree in the state.
        what: what it is, for the message if it is missing.
        optional: names of others, read if they are there.

    Returns:
        name -> tree of NumPy arrays, the names of the trees that were not read, and what a person
        should know.

    Raises:
        ValueError: the checkpoint is damaged, or has no such tree.
        StorageError: it cannot be read now.
    """
    there, state, notes = patiently(_read_parts, folder, (key, *optional))
    if key not in there:
        missing = NoAverage if key == "ema" else ValueError
        has = listed(sorted(there)) or "nothing"
        raise missing(f"weights {folder}: no {what} ({key}) in this checkpoint; it has {has}")
    return state, tuple(name for name in there if name not in state), notes


def _read_parts(
    folder: Path, names: Sequence[str]
) -> tuple[list[str], dict[str, Any], tuple[str, ...]]:
    """Returns the names of all trees, those that were asked for, and what there is to know."""
    try:
        if damage := find_damage(folder):
            raise DamagedCheckpoint(damage)
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            tree = handler.metadata(plain_path(folder / "state")).tree
            there = [name for name in tree if jax.tree.leaves(tree[name])]
            wanted = {name: tree[name] for name in names if name in there}
            state = _restore(handler, folder, wanted) if names[0] in there else {}
        return there, state, _compare(folder, state)
    except WrongName:
        raise
    except Exception as error:  # tensorstore, json and orbax each have their own
        if may_pass(error):
            raise
        if not folder.exists():
            raise Gone(f"weights {folder}: deleted while they were read, by the run") from error
        # What our own reading of the files finds, or else what was raised.
        damage = None if isinstance(error, DamagedCheckpoint) else find_damage(folder)
        raise damaged(folder, DamagedCheckpoint(damage) if damage else error) from error


def read_whole_state(folder: Path) -> dict[str, Any]:
    """Returns the state in a checkpoint as NumPy arrays, of any task.

    Raises:
        Exception: what Orbax raises.
    """
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        return _restore(handler, folder, handler.metadata(plain_path(folder / "state")).tree)


def _restore(
    handler: ocp.PyTreeCheckpointHandler, folder: Path, wanted: dict[str, Any]
) -> dict[str, Any]:
    quiet_orbax()
    item = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), wanted)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
    return handler.restore(plain_path(folder / "state"), args=args)


def _compare(folder: Path, state: dict[str, Any]) -> tuple[str, ...]:
    """Raises DamagedCheckpoint if arrays are not as saved; returns what there is to know."""
    record = read_record(folder, "checksums")
    if record is None:
        return ("saved without checksums: nobody can say whether it is as written",)
    if record["step"] != int(folder.name):
        raise WrongName(
            f"weights {folder}: that of step {record['step']} under another name; give the folder "
            "its name back"
        )
    if wrong := differing(record["arrays"], array_checksums(state)):
        raise DamagedCheckpoint(f"{len(wrong)} arrays are not as saved: {listed(wrong)}")
    return ()


def _image_size(folder: Path) -> tuple[int, int] | None:
    """Returns the size of the run's images, None if the folder is not inside a workdir."""
    try:
        size = read_config(folder.parents[2])["data"]["image_size"]
        return as_height_width("data.image_size", size)
    except records.DamagedFile:
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
    except records.DamagedFile:
        raise
    except (RunError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # a model that this version does not have; names and shapes still decide
    if type(trained) is not type(model):
        raise ValueError(
            f"weights {folder}: of the model {type(trained).__name__}, not {type(model).__name__}"
        )
    return telling_fields(trained)
