"""The formats of weights files: READERS, at the end, has one line per suffix.

To add a format, write a function (file, model, "raw" or "ema") -> StoredWeights and give its suffix
a line in READERS. Nothing is unpickled but tensors, and TensorFlow is not needed.

Files that zoo/save.py wrote hold the arrays "params/..." and "batch_stats/...", and under METADATA
the model's fields, image size and class names.
"""

import dataclasses
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.serialization import msgpack_restore
from flax.traverse_util import unflatten_dict
from safetensors import SafetensorError, safe_open

from harness.arguments import as_height_width
from harness.trees import listed
from nest.convert_official import FIELDS as OFFICIAL_NEST_FIELDS
from nest.convert_official import from_official
from nest.model import Nest
from zoo.released.locate import released_folder
from zoo.state_dicts import convert_state_dict, select
from zoo.stored_weights import NoAverage, StoredWeights, damaged
from zoo.torch_files import SUFFIXES as TORCH_SUFFIXES
from zoo.torch_files import read_torch

VERSION = 1  # of the files that zoo/save.py writes
METADATA = "nest_tnt_jax"  # their key in safetensors' metadata and name in .npz


def read_weights(file: Path, model: nn.Module, weights: str) -> StoredWeights:
    """Reads a file in any known format.

    Args:
        file: the file.
        model: the model that the weights are for.
        weights: "raw", or "ema" for their moving average.

    Raises:
        ValueError: the file is damaged, of no known format or of another model.
    """
    try:
        return _read(file, model, weights)
    except NoAverage:
        raise
    except ValueError as error:
        if (folder := released_folder(file)) is None:
            raise
        todo = f"delete {folder}, and it is downloaded again"
        raise ValueError(f"{error}; if that is not what was released, {todo}") from error


def _read(file: Path, model: nn.Module, weights: str) -> StoredWeights:
    if file.suffix not in READERS:
        known = ", ".join(f"*{suffix}" for suffix in READERS)
        raise ValueError(f"weights {file}: unknown format; files that can be read: {known}")
    if file.stat().st_size == 0:
        raise ValueError(f"weights {file}: the file is empty")
    return READERS[file.suffix](file, model, weights)


def _check_raw(file: Path, weights: str) -> None:
    if weights == "ema":
        raise NoAverage(f"weights {file}: there is no moving average in this file")


def _read_official_nest(file: Path, model: nn.Module, weights: str) -> StoredWeights:
    """Reads a .flax file as clu writes it: a train state with `optimizer.target` in MessagePack."""
    _check_raw(file, weights)
    if not isinstance(model, Nest):
        raise ValueError(f"weights {file}: official .flax checkpoints are of NesT models only")
    try:
        state = msgpack_restore(file.read_bytes())
    except Exception as error:  # the decoder lets many types through for damaged bytes
        raise damaged(file, error) from error
    try:
        params = state["optimizer"]["target"]
    except (KeyError, TypeError, IndexError):
        params = None
    if not _is_parameters(params):
        raise ValueError(f"weights {file}: no parameters under optimizer/target in this file")
    skipped = [f"optimizer/{name}" for name in state["optimizer"] if name != "target"]
    skipped += [str(name) for name in state if name != "optimizer"]
    params = from_official(params, model.depths)
    return StoredWeights("official NesT", {"params": params}, OFFICIAL_NEST_FIELDS, tuple(skipped))


def _is_parameters(tree: Any) -> bool:
    """Returns whether `tree` is nested dicts of numeric arrays with strings as keys."""
    return isinstance(tree, dict) and all(
        isinstance(name, str) and (_is_parameters(branch) or _is_numbers(branch))
        for name, branch in tree.items()
    )


def _is_numbers(array: Any) -> bool:
    kinds = ("real floating", "integral")
    return isinstance(array, np.ndarray) and jnp.isdtype(array.dtype, kinds)


def read_safetensors(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the arrays of a .safetensors file by name, and its metadata.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with safe_open(file, framework="numpy") as stream:
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}
            return arrays, stream.metadata() or {}
    except (SafetensorError, ValueError, TypeError, KeyError, OSError) as error:
        raise damaged(file, error) from error


def _read_safetensors(file: Path, model: nn.Module, weights: str) -> StoredWeights:
    return _from_arrays(file, *read_safetensors(file), model, weights)


def _read_npz(file: Path, model: nn.Module, weights: str) -> StoredWeights:
    try:
        if not zipfile.is_zipfile(file):
            raise ValueError("not a NumPy archive")
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise damaged(file, error) from error
    metadata = {}
    if arrays.get(METADATA, np.zeros(0)).dtype.kind == "U":
        metadata[METADATA] = str(arrays.pop(METADATA))
    return _from_arrays(file, arrays, metadata, model, weights)


def _from_arrays(
    file: Path,
    arrays: dict[str, np.ndarray],
    metadata: Mapping[str, str],
    model: nn.Module,
    weights: str,
) -> StoredWeights:
    """Reads arrays under this repository's names, or a state dict in the same kind of file."""
    odd = [name for name, array in arrays.items() if not _is_numbers(array)]
    if odd:
        raise ValueError(f"weights {file}: no numbers in {listed(odd)}")
    try:
        about = json.loads(metadata.get(METADATA, "{}"))
        version, fields = int(about.get("version", 0)), dict(about.get("fields", {}))
        size = about.get("image_size")
        image_size = None if size is None else as_height_width("image_size", size)
        names = None if about.get("classes") is None else tuple(map(str, about["classes"]))
    except (ValueError, TypeError, AttributeError) as error:
        raise damaged(file, error) from error
    if version > VERSION:
        raise ValueError(f"weights {file}: written by a later version, {version}, of this code")
    kind = about.get("model")
    if kind is not None and kind != type(model).__name__:
        raise ValueError(f"weights {file}: of the model {kind}, not {type(model).__name__}")
    if any(name.startswith("params/") for name in arrays):
        _check_raw(file, weights)
        both = [name for name in arrays if any(above in arrays for above in _folders(name))]
        if both:
            raise ValueError(f"weights {file}: what is above {listed(both)} is an array as well")
        stored = StoredWeights(
            f"{file.suffix[1:]} of this repository", unflatten_dict(arrays, sep="/")
        )
    else:
        copy = select(file, arrays, model, weights)
        stored = convert_state_dict(file, copy, model, metadata.get("architecture"))
    return dataclasses.replace(
        stored, fields={**fields, **stored.fields}, image_size=image_size, class_names=names
    )


def _folders(name: str) -> list[str]:
    """Returns ["params", "params/head"] of "params/head/bias"."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


# suffix -> function (file, model, "raw" or "ema") -> what the file holds
READERS: dict[str, Callable[[Path, nn.Module, str], StoredWeights]] = {
    ".flax": _read_official_nest,
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    **dict.fromkeys(TORCH_SUFFIXES, read_torch),
}
