"""The models that a recipe can name."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from baselines.resnet import VARIANTS as RESNET_VARIANTS
from baselines.resnet import ResNet
from baselines.vit import VARIANTS as VIT_VARIANTS
from baselines.vit import Vit
from baselines.wide_resnet import VARIANTS as WIDE_RESNET_VARIANTS
from baselines.wide_resnet import WideResNet
from nest.model import Nest
from nest.variants import VARIANTS as NEST_VARIANTS
from tnt.model import Tnt
from tnt.variants import VARIANTS as TNT_VARIANTS
from training.sections import unknown_name, wrong_type

# name -> (class, the variant's fields)
MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    **{name: (Nest, fields) for name, fields in NEST_VARIANTS.items()},
    **{name: (Vit, fields) for name, fields in VIT_VARIANTS.items()},
    **{name: (ResNet, fields) for name, fields in RESNET_VARIANTS.items()},
    **{name: (WideResNet, fields) for name, fields in WIDE_RESNET_VARIANTS.items()},
    **{name: (Tnt, fields) for name, fields in TNT_VARIANTS.items()},
}

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def model_fields(model_class: type[nn.Module]) -> tuple[str, ...]:
    """Lists the fields of a model class, without those that flax adds to every module."""
    fields = (field.name for field in dataclasses.fields(model_class) if field.init)
    return tuple(name for name in fields if name not in ("parent", "name"))


def create_model(name: str, *, num_classes: int, **overrides: Any) -> nn.Module:
    """Builds a model by its name.

    Args:
        name: a key of MODELS.
        num_classes: number of logits.
        **overrides: fields of the model that replace the variant's own. None keeps the variant's
            value. Lists become tuples, and `dtype` may be a name such as "bfloat16".

    Returns:
        The module, without parameters.

    Raises:
        ValueError: for an unknown name or field, listing what exists, or for a value that the model
            does not take.
    """
    return create_from(MODELS, "model", name, {"num_classes": num_classes}, overrides)


def create_from(
    table: Mapping[str, tuple[type[nn.Module], dict[str, Any]]],
    kind: str,
    name: str,
    given: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> nn.Module:
    """Builds a module of a table by its name.

    Args:
        table: name -> (class, the variant's fields).
        kind: what the table holds, for messages.
        name: a key of the table.
        given: fields that the caller knows, such as the number of classes.
        overrides: fields that replace the variant's own, see `create_model`.

    Raises:
        ValueError: see `create_model`.
    """
    if name not in table:
        raise ValueError(unknown_name(f"{kind} {name!r}", str(name), table))
    model_class, variant = table[name]
    allowed = [field for field in model_fields(model_class) if field not in given]
    for field in overrides:
        if field not in allowed:
            raise ValueError(unknown_name(f"field {field!r} of {kind} {name}", field, allowed))
    overrides = {field: value for field, value in overrides.items() if value is not None}
    fields = {field: _plain(value) for field, value in {**variant, **overrides}.items()}
    hints = typing.get_type_hints(model_class)
    for field, value in fields.items():
        if problem := wrong_type(value, hints[field]):
            raise ValueError(f"{kind} {name}: {field}={value!r} {problem}")
    if "dtype" in fields:
        fields["dtype"] = _dtype(fields["dtype"])
    return model_class(**given, **fields)


def _plain(value: Any) -> Any:
    """Makes tuples of lists and Python numbers of NumPy's: fields are hashable, plain values."""
    if isinstance(value, np.generic):
        return value.item()
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value


def _dtype(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in DTYPES:
        raise ValueError(f"dtype={value!r} does not exist; choose from {', '.join(DTYPES)}")
    return DTYPES[value]
