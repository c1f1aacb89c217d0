"""Reading weights from files into the parameters of a model.

`load_weights` is the one entry. A format is a function from a file and a model to parameters in our
names, chosen by the file's suffix in READERS; how foreign names map to ours lives beside the model
(nest/weights.py, tnt/weights.py). TensorFlow is not needed, PyTorch for its own files only, and
nothing is unpickled but tensors.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.serialization import msgpack_restore
from safetensors import SafetensorError
from safetensors.numpy import load_file

from nest.model import Nest
from nest.weights import from_official
from tnt.model import Tnt
from tnt.weights import from_pytorch as tnt_from_pytorch

_LISTED = 10  # names listed of each kind of difference, before only their count is given


def load_weights(
    path: str | Path, model: nn.Module, *, image_size: int | tuple[int, ...]
) -> dict[str, Any]:
    """Reads weights that fit a model.

    Args:
        path: a folder in the official checkpoint format (the newest checkpoint in it), the prefix
            of one checkpoint (".../ckpt-39"), or a weights file.
        model: the model that the weights are for.
        image_size: side, (height, width) or (height, width, channels) of its images.

    Returns:
        The tree under "params" of the model's variables: nested dicts of float32 NumPy arrays.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not readable, not of a known format, holds values that are not
            finite, or is of another model (lists missing, extra and mis-shaped parameters).
    """
    file = find_weights_file(path)
    if file.suffix not in READERS:
        known = ", ".join(f"*{suffix}" for suffix in READERS)
        raise ValueError(f"weights {file}: unknown format; files that can be read: {known}")
    params = READERS[file.suffix](file, model)
    check_tree(parameter_shapes(model, image_size), params, f"weights {file}")
    params = jax.tree.map(lambda array: np.asarray(array, np.float32), params)
    bad = [name for name, array in _flatten(params).items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(f"weights {file}: values that are not finite in {_some(bad)}")
    return params


def parameter_shapes(model: nn.Module, image_size: int | tuple[int, ...]) -> dict[str, Any]:
    """Finds the shapes of a model's parameters without computing any.

    Args:
        model: the model.
        image_size: side, (height, width) or (height, width, channels); channels are 3 by default.

    Returns:
        The tree under "params" of the model's variables, with `jax.ShapeDtypeStruct` leaves.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    height, width, channels = size if len(size) == 3 else (*size, 3)
    image = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


def check_tree(expected: Any, found: Any, what: str) -> None:
    """Compares the names and the shapes of two trees.

    Args:
        expected: tree whose leaves have a shape.
        found: tree to compare with it.
        what: where `found` comes from; begins the message.

    Raises:
        ValueError: listing leaves that are missing, extra or of another shape.
    """
    expected, found = _flatten(expected), _flatten(found)
    # Of a whole state, the parameters before the optimizer's copies of them, as in `expected`.
    order = {name.split("/")[0]: number for number, name in enumerate(expected)}
    extra = [name for name in found if name not in expected]
    differences = {
        "missing": [name for name in expected if name not in found],
        "extra": sorted(extra, key=lambda name: order.get(name.split("/")[0], -1)),
        "mis-shaped": [
            f"{name} {_shape(found[name])} instead of {_shape(leaf)}"
            for name, leaf in expected.items()
            if name in found and _shape(found[name]) != _shape(leaf)
        ],
    }
    parts = [f"{len(items)} {kind}: {_some(items)}" for kind, items in differences.items() if items]
    if parts:
        raise ValueError(f"{what} does not fit the model; {'; '.join(parts)}")


def find_weights_file(path: str | Path) -> Path:
    """Finds the file that a path means: itself, a checkpoint's prefix, or the newest in a folder.

    Raises:
        FileNotFoundError: if nothing is there, naming the checkpoints near it.
        ValueError: if the path is empty or not on this machine.
    """
    if not str(path).strip():
        raise ValueError("the weights path is empty")
    if "://" in str(path):
        raise ValueError(f"weights {path}: copy remote files to this machine first")
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return _newest_checkpoint(path)
    file = path.with_name(f"{path.name}.flax")
    if file.is_file():
        return file
    near = _numbered(path.parent) if path.parent.is_dir() else {}
    there = f"; {path.parent} has {_some([near[n].stem for n in sorted(near)])}" if near else ""
    raise FileNotFoundError(f"weights {path}: no such file or folder{there}")


def _newest_checkpoint(folder: Path) -> Path:
    """Asks the folder's `checkpoint` file, as the official code does, or takes the highest number.

    The file names the path on the machine that wrote it, so only the last part counts.
    """
    index = folder / "checkpoint"
    text = index.read_text(errors="replace") if index.is_file() else ""
    named = re.search(r'^model_checkpoint_path:\s*"(?:.*/)?([^/"]+)"', text, re.MULTILINE)
    if named:
        file = folder / f"{named[1]}.flax"
        if not file.is_file():
            raise FileNotFoundError(f"weights {file}: named by {index}, but not there")
        return file
    numbered = _numbered(folder)
    if not numbered:
        raise FileNotFoundError(f"weights {folder}: no checkpoint (ckpt-N.flax) in this folder")
    return numbered[max(numbered)]


def _numbered(folder: Path) -> dict[int, Path]:
    matches = ((re.fullmatch(r"ckpt-(\d+)\.flax", file.name), file) for file in folder.iterdir())
    return {int(match[1]): file for match, file in matches if match}


def _read_official_nest(file: Path, model: nn.Module) -> dict[str, Any]:
    """Reads a .flax file as clu writes it: a train state with `optimizer.target` in MessagePack."""
    if not isinstance(model, Nest):
        raise ValueError(f"weights {file}: official .flax checkpoints are of NesT models only")
    content = file.read_bytes()
    if not content:
        raise ValueError(f"weights {file}: the file is empty")
    try:
        state = msgpack_restore(content)
    except Exception as error:  # the decoder lets many types through for damaged bytes
        raise ValueError(f"weights {file}: truncated or damaged file ({_line(error)})") from error
    try:
        params = state["optimizer"]["target"]
    except (KeyError, TypeError, IndexError):
        params = None
    if not isinstance(params, dict) or not _all_numbers(params):
        raise ValueError(f"weights {file}: no parameters under optimizer/target in this file")
    return from_official(params, model.depths)


def _all_numbers(params: dict[str, Any]) -> bool:
    leaves = jax.tree.leaves(params)
    kinds = ("real floating", "integral")
    return all(isinstance(leaf, np.ndarray) and jnp.isdtype(leaf.dtype, kinds) for leaf in leaves)


def _read_safetensors(file: Path, model: nn.Module) -> dict[str, Any]:
    try:
        state = load_file(file)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"weights {file}: truncated or damaged file ({_line(error)})") from error
    return _from_pytorch(file, state, model)


def _read_torch(file: Path, model: nn.Module) -> dict[str, Any]:
    """Reads a file of torch.save: names and tensors, or those under `state_dict`."""
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"weights {file}: reading PyTorch files needs torch, which is not installed: "
            "pip install torch, or convert the file to .safetensors where it is"
        ) from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch lets many types through for damaged bytes
        raise ValueError(
            f"weights {file}: truncated or damaged file, or one that holds more than tensors, "
            f"which is never executed: save its state_dict by itself ({_line(error)})"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise ValueError(f"weights {file}: no tensors by name, nor under state_dict, in this file")
    # PyTorch's bfloat16 has no NumPy counterpart; parameters are float32 here anyway.
    state = {name: tensor.detach().float().numpy() for name, tensor in state.items()}
    return _from_pytorch(file, state, model)


def _from_pytorch(file: Path, state: dict[str, np.ndarray], model: nn.Module) -> dict[str, Any]:
    """Hands a state dict to the model that it is for."""
    convert = STATE_DICTS.get(type(model))
    if convert is None:
        known = ", ".join(model_class.__name__ for model_class in STATE_DICTS)
        raise ValueError(
            f"weights {file}: state dicts can be read for {known}, not for {type(model).__name__}"
        )
    try:
        return convert(state, model)
    except (ValueError, IndexError, AttributeError) as error:  # names of some other model
        raise ValueError(f"weights {file}: {error}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# model class -> function from a PyTorch state dict and a model to parameters in our names
STATE_DICTS: dict[type[nn.Module], Callable[[dict[str, np.ndarray], Any], dict[str, Any]]] = {
    Tnt: tnt_from_pytorch,
}

# suffix -> function from a file and a model to parameters in our names
READERS: dict[str, Callable[[Path, nn.Module], dict[str, Any]]] = {
    ".flax": _read_official_nest,
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".tar": _read_torch,  # *.pth.tar
}


def _flatten(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(getattr(leaf, "shape", None) or ())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
