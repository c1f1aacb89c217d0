"""The fields of a model that decide what its weights mean, whether or not an array shows them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import linen as nn

from harness.strict_config import unknown_name

# Fields that only training reads, or that vary with image and data: the same weights fit.
_FREE_FIELDS = {
    *("num_classes", "block_size", "dtype", "remat", "kernels"),
    *("zero_init_last_norm", "batch_norm_momentum"),
    *("drop_path_rate", "dropout_rate", "attention_dropout_rate"),
}


def telling_fields(model: nn.Module) -> dict[str, Any]:
    """Returns the fields of a model that decide what its weights mean, as JSON gives them."""
    names = [field.name for field in dataclasses.fields(model) if field.init]
    values = {name: getattr(model, name) for name in names if name not in _FREE_FIELDS}
    plain = bool | int | float | str | tuple | list | None
    return {
        name: json.loads(json.dumps(value))
        for name, value in values.items()
        if isinstance(value, plain) and name not in ("name", "parent")
    }


def check_fields(
    file: Path, kind: str, fields: Mapping[str, Any], model: nn.Module, ignore: Sequence[str] = ()
) -> list[str]:
    """Compares the fields that weights need with those of a model.

    Args:
        file: where the weights come from.
        kind: what they are, in words.
        fields: field -> the value that the weights need, as JSON gives it.
        model: the model that they are for.
        ignore: fields that may differ.

    Returns:
        One sentence per ignored field that differs.

    Raises:
        ValueError: other fields differ, or a name in `ignore` is not a field.
    """
    have = telling_fields(model)
    for name in ignore:
        if name not in have:
            raise ValueError(unknown_name(f"ignore_fields={name!r}", str(name), have))
    differing = [
        name for name in fields if name in have and _value(fields[name]) != _value(have[name])
    ]
    wrong = [name for name in differing if name not in ignore]
    if wrong:
        need, got = (
            ", ".join(f"{name}={_value(values[name])!r}" for name in wrong)
            for values in (fields, have)
        )
        raise ValueError(
            f"weights {file}: {kind} needs a model with {need}; set this, the model has {got} "
            f"(ignore_fields={wrong} loads them all the same)"
        )
    return [
        f"{name}={_value(fields[name])!r} there, {_value(have[name])!r} in the model: ignored"
        for name in differing
    ]


def _value(value: Any) -> Any:
    return tuple(map(_value, value)) if isinstance(value, list | tuple) else value
