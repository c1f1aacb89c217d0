"""Reading and writing files of weights. Nothing is unpickled but tensors; TensorFlow is not needed.

A format is a function from a file and a model to what is stored there, in our names; the file's
suffix chooses it in READERS. Our own files hold the arrays "params/..." and "batch_stats/..." and
tell the fields of the model that they are of.
"""

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from harness.arguments import as_height_width
from harness.files import replacing
from harness.trees import listed
from nest.convert_official import FIELDS as OFFICIAL_NEST_FIELDS
from nest.convert_official import from_official
from nest.model import Nest
from zoo.contents import Stored, damaged
from zoo.fields import telling_fields
from zoo.state_dicts import convert_state_dict
from zoo.torch_files import SUFFIXES as TORCH_SUFFIXES
from zoo.torch_files import read_torch

VERSION = 1  # of our own files
METADATA = "nest_tnt_jax"  # their key in safetensors' metadata and name in .npz


def read_weights(file: Path, model: nn.Module, weights: str) -> Stored:
    """Reads a file in any known format.

    Args:
        file: the file.
        model: the model that the weights are for.
        weights: "raw", or "ema" for the moving average beside them.

    Raises:
        ValueError: if the file is damaged, of no known format or of another model.
    """
    if file.suffix not in READERS:
        known = ", ".join(f"*{suffix}" for suffix in READERS)
        raise ValueError(f"weights {file}: unknown format; files that can be read: {known}")
    if file.stat().st_size == 0:
        raise ValueError(f"weights {file}: the file is empty")
    stored = READERS[file.suffix](file, model, weights)
    if weights == "ema" and file.suffix not in TORCH_SUFFIXES:
        raise ValueError(f"weights {file}: there is no moving average in this file")
    return stored


def write_weights(
    file: Path,
    variables: Mapping[str, Any],
    model: nn.Module,
    image_size: tuple[int, ...],
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes a file of ours: .safetensors or .npz.

    Args:
        file: its suffix decides; replaced if it exists.
        variables: {"params": tree} and other collections, such as "batch_stats".
        model: the model that they are of.
        image_size: (height, width) of the images that it takes.
        class_names: in the order of the labels, where they are known.

    Raises:
        ValueError: for another suffix.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in flatten_dict(variables, sep="/").items()}
    about = json.dumps(
        {
            "version": VERSION,
            "model": type(model).__name__,
            "fields": telling_fields(model),
            "image_size": list(image_size)[:2],
            "classes": None if class_names is None else list(class_names),
        }
    )
    if file.suffix == ".safetensors":
        write_safetensors(file, arrays, {METADATA: about, "format": "flax"})
    elif file.suffix == ".npz":
        # NumPy reads back only the types of its own; bfloat16 comes from another package.
        arrays = {
            name: array.astype(np.float32) if array.dtype.kind == "V" else array
            for name, array in arrays.items()
        }
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **{METADATA: np.array(about)}, **arrays)
    else:
        raise ValueError(f"weights {file}: can be written as .safetensors or .npz only")


def write_safetensors(
    file: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes arrays under their names, at once or not at all."""
    # Contiguous, because safetensors writes a transposed view as if it were not transposed.
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(file) as temporary:
        save_file(arrays, temporary, dict(metadata))


def _read_official_nest(file: Path, model: nn.Module, _: str) -> Stored:
    """Reads a .flax file as clu writes it: a train state with `optimizer.target` in MessagePack."""
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
    return Stored("official NesT", {"params": params}, OFFICIAL_NEST_FIELDS, tuple(skipped))


def _is_parameters(tree: Any) -> bool:
    """Tells whether something is nested dicts of numbers, which names lead to."""
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
        ValueError: if the file is damaged.
    """
    try:
        with safe_open(file, framework="numpy") as stream:
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}
            return arrays, stream.metadata() or {}
    except (SafetensorError, ValueError, TypeError, KeyError, OSError) as error:
        raise damaged(file, error) from error


def _read_safetensors(file: Path, model: nn.Module, _: str) -> Stored:
    return _from_arrays(file, *read_safetensors(file), model)


def _read_npz(file: Path, model: nn.Module, _: str) -> Stored:
    try:
        if not zipfile.is_zipfile(file):
            raise ValueError("not an archive of NumPy")
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise damaged(file, error) from error
    metadata = {}
    if arrays.get(METADATA, np.zeros(0)).dtype.kind == "U":
        metadata[METADATA] = str(arrays.pop(METADATA))
    return _from_arrays(file, arrays, metadata, model)


def _from_arrays(
    file: Path, arrays: dict[str, np.ndarray], metadata: Mapping[str, str], model: nn.Module
) -> Stored:
    """Tells files of ours from state dicts, which other formats may hold as well."""
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
        both = [name for name in arrays if any(above in arrays for above in _folders(name))]
        if both:
            raise ValueError(f"weights {file}: what is above {listed(both)} is an array as well")
        variables = unflatten_dict({tuple(name.split("/")): arrays[name] for name in arrays})
        known = {"image_size": image_size, "class_names": names}
        return Stored(f"{file.suffix[1:]} of ours", variables, fields, **known)
    converted = convert_state_dict(file, arrays, model, metadata.get("architecture"))
    params, fields = {"params": converted.params}, {**fields, **converted.fields}
    skipped, notes = converted.skipped, converted.notes
    return Stored(converted.naming, params, fields, skipped, notes, image_size, names)


def _folders(name: str) -> list[str]:
    """Returns ["params", "params/head"] of "params/head/bias"."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


# suffix -> function from a file, a model and "raw" or "ema" to what is stored
READERS: dict[str, Callable[[Path, nn.Module, str], Stored]] = {
    ".flax": _read_official_nest,
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    **dict.fromkeys(TORCH_SUFFIXES, read_torch),
}
