"""Files of torch.save: read where PyTorch is installed, and no pickle in them is ever executed."""

import argparse
import re
from pathlib import Path

from flax import linen as nn

from training.state_dicts import convert_state_dict
from training.stored import Stored, one_line

SUFFIXES = (".pth", ".pt", ".bin", ".tar")  # .tar: *.pth.tar

# Keys of the weights in files of training scripts, the official TNT's and timm's among them.
_KEYS = {"raw": ("state_dict", "model"), "ema": ("state_dict_ema", "model_ema")}


def read_torch(file: Path, model: nn.Module, weights: str) -> Stored:
    """Reads a file of torch.save: names and tensors, or those under a key such as `state_dict`.

    Args:
        file: the file.
        model: the model that the weights are for.
        weights: "raw", or "ema" for the moving average beside them.

    Raises:
        ValueError: without PyTorch, for a damaged file, for one with more than tensors and plain
            values, or if it is of another model.
    """
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"weights {file}: reading PyTorch files needs torch, which is not installed: "
            "pip install torch, or convert the file to .safetensors where it is"
        ) from error
    try:
        # Training scripts store their options: a class without code of its own.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch lets many types through for damaged bytes
        raise ValueError(
            f"weights {file}: truncated or damaged file, or one that holds more than tensors, "
            f"which is never executed: save its state_dict by itself ({_first_sentence(error)})"
        ) from error
    content = content if isinstance(content, dict) else {}
    keys = [key for key in _KEYS[weights] if isinstance(content.get(key), dict)]
    is_state = bool(content) and all(map(torch.is_tensor, content.values()))
    if weights == "ema" and not keys:
        raise ValueError(f"weights {file}: no moving average in this file: no state_dict_ema")
    if not keys and not is_state:
        others = [key for key in _KEYS["ema"] if key in content]
        hint = f"; weights='ema' reads its {others[0]}" if others else ""
        raise ValueError(
            f"weights {file}: no tensors by name, nor under state_dict, in this file{hint}"
        )
    state = content[keys[0]] if keys else content
    if not state or not all(map(torch.is_tensor, state.values())):
        raise ValueError(f"weights {file}: no tensors by name under {keys[0]}")
    # PyTorch's bfloat16 has no NumPy counterpart; parameters are float32 here anyway.
    arrays = {name: tensor.detach().float().numpy() for name, tensor in state.items()}
    others = tuple(key for key in content if key not in keys[:1]) if keys else ()
    converted = convert_state_dict(file, arrays, model)
    return Stored(
        f"{converted.naming}, {keys[0]}" if keys else converted.naming,
        {"params": converted.params},
        converted.fields,
        (*converted.skipped, *others),
        converted.notes,
    )


def _first_sentence(error: Exception) -> str:
    """Cuts torch's advice to load the file all the same, which would execute it."""
    return re.split(r"(?<=[.:]) ", one_line(error), maxsplit=1)[0]
