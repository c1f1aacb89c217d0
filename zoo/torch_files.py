"""Files of torch.save: read if PyTorch is installed, without executing any pickle in them."""

import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn

from harness.errors import one_line
from zoo.state_dicts import convert_state_dict, select
from zoo.stored_weights import StoredWeights

SUFFIXES = (".pth", ".pt", ".bin", ".tar")  # .tar: *.pth.tar

# The first release whose weights_only=True executes nothing (CVE-2025-32434).
_OLDEST = (2, 6)

# Keys of the weights in files of training scripts, and of their moving average.
_KEYS = ("state_dict", "model")
_EMA_KEYS = ("state_dict_ema", "model_ema")


def read_torch(file: Path, model: nn.Module, weights: str) -> StoredWeights:
    """Reads a model's weights from a file of torch.save.

    Args:
        file: the file.
        model: the model that the weights are for.
        weights: "raw", or "ema" for their moving average.

    Raises:
        ValueError: see `read_torch_state`; or the file is of another model.
    """
    content = _load(file)
    tensors, others = _flatten(content)
    if not tensors:
        raise ValueError(f"weights {file}: no tensors by name, nor under state_dict, in this file")
    named = {".".join(path): tensor for path, tensor in tensors.items()}
    copy = select(file, named, model, weights, (*_KEYS, *_EMA_KEYS))
    arrays = {name: _as_array(file, name, tensor) for name, tensor in copy.arrays.items()}
    stored = convert_state_dict(file, dataclasses.replace(copy, arrays=arrays), model)
    # The keys of nested dicts that lead to the copy are no part of its names.
    keys = [path[:-1] for path in tensors if ".".join(path).startswith(copy.prefix)]
    key = ".".join(min(keys, key=len, default=()))
    skipped = dict.fromkeys((*stored.skipped, *others))
    return dataclasses.replace(
        stored, kind=f"{stored.kind}, {key}" if key else stored.kind, skipped=tuple(skipped)
    )


def read_torch_state(file: Path) -> dict[str, np.ndarray]:
    """Reads a file of torch.save: names and tensors, or those under `state_dict` or `model`.

    Raises:
        ValueError: PyTorch is missing or too old, the file is damaged, or it holds more than
            tensors and plain values.
    """
    content = _load(file)
    content = next((content[key] for key in _KEYS if isinstance(content.get(key), dict)), content)
    tensors, others = _flatten(content)
    if not tensors or others:
        raise ValueError(f"weights {file}: no tensors by name, nor under state_dict, in this file")
    return {".".join(path): _as_array(file, path[-1], tensor) for path, tensor in tensors.items()}


def _load(file: Path) -> dict[Any, Any]:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"weights {file}: reading PyTorch files needs torch, which is not installed: "
            "pip install torch, or convert the file to .safetensors where it is"
        ) from error
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < _OLDEST:
        raise ValueError(
            f"weights {file}: reading PyTorch files needs torch {'.'.join(map(str, _OLDEST))} or "
            f"later, not {torch.__version__}: earlier ones may execute code in them"
        )
    try:
        # Training scripts store their options in it: a class without code of its own.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch lets many types through for damaged bytes
        raise ValueError(
            f"weights {file}: truncated or damaged file, or one that holds more than tensors, "
            f"which is never executed: save its state_dict by itself ({_first_sentence(error)})"
        ) from error
    return content if isinstance(content, dict) else {}


def _flatten(content: dict[Any, Any]) -> tuple[dict[tuple[str, ...], Any], list[str]]:
    """Returns the tensors in nested dicts by their keys, and the outer keys of all else."""
    tensors, others = {}, []
    for key, value in content.items():
        if isinstance(value, dict):
            inner, _ = _flatten(value)
            tensors |= {(str(key), *path): tensor for path, tensor in inner.items()}
            others += [str(key)] * (not inner)
        elif hasattr(value, "detach"):
            tensors[str(key),] = value
        else:
            others.append(str(key))
    return tensors, others


def _as_array(file: Path, name: str, tensor: Any) -> np.ndarray:
    try:
        # PyTorch's bfloat16 has no NumPy counterpart; parameters are float32 here anyway.
        return tensor.detach().float().numpy()
    except (TypeError, RuntimeError) as error:  # sparse, or without any values (meta)
        raise ValueError(
            f"weights {file}: no dense array in {name} ({_first_sentence(error)})"
        ) from error


def _first_sentence(error: Exception) -> str:
    """Cuts torch's advice to load the file anyway, which would execute it."""
    return re.split(r"(?<=[.:]) ", one_line(error), maxsplit=1)[0]
