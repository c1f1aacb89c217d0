"""Files of torch.save: read if PyTorch is installed, without executing any pickle in them."""

import argparse
import dataclasses
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from flax import linen as nn

from harness.errors import one_line
from zoo.state_dicts import convert_state_dict
from zoo.stored_weights import NoAverage, StoredWeights

SUFFIXES = (".pth", ".pt", ".bin", ".tar")  # .tar: *.pth.tar

# The first release whose weights_only=True executes nothing (CVE-2025-32434).
_OLDEST = (2, 6)

# Keys of the weights in files of training scripts, the official TNT's and timm's among them.
_KEYS = {"raw": ("state_dict", "model"), "ema": ("state_dict_ema", "model_ema")}


@dataclasses.dataclass(frozen=True)
class TorchState:
    """The tensors of a file.

    Attributes:
        arrays: name -> float32 array.
        key: the file's key that holds them; None: they are the whole file.
        others: the file's other keys.
    """

    arrays: dict[str, np.ndarray]
    key: str | None
    others: tuple[str, ...]


def read_torch(file: Path, model: nn.Module, weights: str) -> StoredWeights:
    """Reads a model's weights from a file of torch.save.

    Args:
        file: the file.
        model: the model that the weights are for.
        weights: "raw", or "ema" for their moving average.

    Raises:
        ValueError: see `read_torch_state`; or the file is of another model.
    """
    state = read_torch_state(file, weights)
    stored = convert_state_dict(file, state.arrays, model)
    return dataclasses.replace(
        stored,
        kind=f"{stored.kind}, {state.key}" if state.key else stored.kind,
        skipped=(*stored.skipped, *state.others),
    )


def read_torch_state(file: Path, weights: str = "raw") -> TorchState:
    """Reads a file of torch.save: names and tensors, or those under a key such as `state_dict`.

    Args:
        file: the file.
        weights: "raw", or "ema" for their moving average.

    Raises:
        ValueError: PyTorch is missing or too old, the file is damaged, or it holds more than
            tensors and plain values.
    """
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
    content = content if isinstance(content, dict) else {}
    keys = [key for key in _KEYS[weights] if isinstance(content.get(key), dict)]
    is_state = _is_state(torch, content)
    if weights == "ema" and not keys:
        raise NoAverage(f"weights {file}: no moving average in this file: no state_dict_ema")
    if not keys and not is_state:
        others = [key for key in _KEYS["ema"] if key in content]
        hint = f"; weights='ema' reads its {others[0]}" if others else ""
        raise ValueError(
            f"weights {file}: no tensors by name, nor under state_dict, in this file{hint}"
        )
    state = content[keys[0]] if keys else content
    if not _is_state(torch, state):
        raise ValueError(f"weights {file}: no tensors by name under {keys[0]}")
    arrays = {name: _as_array(file, name, tensor) for name, tensor in state.items()}
    others = tuple(str(key) for key in content if key not in keys[:1]) if keys else ()
    return TorchState(arrays, keys[0] if keys else None, others)


def _is_state(torch: ModuleType, content: dict[Any, Any]) -> bool:
    """Returns whether `content` is one or more tensors by name."""
    return bool(content) and all(
        isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in content.items()
    )


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
