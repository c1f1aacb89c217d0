"""Writing weights files: this repository's own, and timm's. zoo/formats.py reads both."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from harness.files import replacing
from nest.convert_timm import to_timm as nest_to_timm
from nest.model import Nest
from tnt.convert import to_timm as tnt_to_timm
from tnt.model import Tnt
from zoo.fields import telling_fields
from zoo.formats import METADATA, VERSION


def write_weights(
    file: Path,
    variables: Mapping[str, Any],
    model: nn.Module,
    image_size: tuple[int, ...],
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes a file that names its model's fields: .safetensors or .npz.

    Args:
        file: its suffix decides the format; replaced if it exists.
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
        _write_safetensors(file, arrays, {METADATA: about, "format": "flax"})
    elif file.suffix == ".npz":
        # NumPy reads back only its own types; bfloat16 comes from another package.
        arrays = {
            name: array.astype(np.float32) if array.dtype.kind == "V" else array
            for name, array in arrays.items()
        }
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **{METADATA: np.array(about)}, **arrays)
    else:
        raise ValueError(f"weights {file}: can be written as .safetensors or .npz only")


def write_timm(
    file: Path,
    variables: Mapping[str, Any],
    model: nn.Module,
    image_size: tuple[int, ...],
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes .safetensors for `timm.create_model(...).load_state_dict(..., strict=True)`.

    Args:
        file, variables, model, image_size, class_names: see `write_weights`.

    Raises:
        ValueError: timm has no such model.
    """
    to_timm = {Nest: nest_to_timm, Tnt: tnt_to_timm}.get(type(model))
    if to_timm is None:
        raise ValueError(f"timm's format is for NesT and TNT only, not for {type(model).__name__}")
    height, width, *_ = image_size
    # What no array shows and load_weights reads: class names, the rectangle that a table is of...
    told = {"image_size": [height, width], "classes": class_names}
    about = {"format": "pt", METADATA: json.dumps(told)}
    if isinstance(model, Nest):
        if height != width:
            raise ValueError(f"timm: its NesT takes square images only, not {height}x{width}")
        # ... and what pads the aggregation.
        about["architecture"] = {"same": "nest_jx", "torch": "nest"}[model.aggregation_padding]
    _write_safetensors(file, to_timm(variables["params"], model), about)


def _write_safetensors(
    file: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    # Contiguous, because safetensors writes a transposed view as if it were not transposed.
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(file) as temporary:
        save_file(arrays, temporary, dict(metadata))
