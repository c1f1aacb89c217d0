"""The models that a recipe can name, and how each is built."""

import dataclasses
import re
import typing
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from baselines.resnet import VARIANTS as RESNET_VARIANTS
from baselines.resnet import ResNet
from baselines.vit import VARIANTS as VIT_VARIANTS
from baselines.vit import Vit
from baselines.wide_resnet import VARIANTS as WIDE_RESNET_VARIANTS
from baselines.wide_resnet import WideResNet
from harness.strict_config import as_annotated, checked_value, unknown_name
from nest.gan.discriminator import ConvDiscriminator, NestDiscriminator
from nest.gan.generator import NestGenerator
from nest.gan.variants import CONV_DISCRIMINATORS, NEST_DISCRIMINATORS
from nest.gan.variants import GENERATORS as NEST_GENERATORS
from nest.model import Nest
from nest.variants import VARIANTS as NEST_VARIANTS
from tnt.model import Tnt
from tnt.pyramid import VARIANTS as PYRAMID_VARIANTS
from tnt.pyramid import PyramidTnt
from tnt.variants import VARIANTS as TNT_VARIANTS

# name -> (class, the variant's fields)
Table = dict[str, tuple[type[nn.Module], dict[str, Any]]]
MODELS: Table = {
    **{name: (Nest, fields) for name, fields in NEST_VARIANTS.items()},
    **{name: (Vit, fields) for name, fields in VIT_VARIANTS.items()},
    **{name: (ResNet, fields) for name, fields in RESNET_VARIANTS.items()},
    **{name: (WideResNet, fields) for name, fields in WIDE_RESNET_VARIANTS.items()},
    **{name: (Tnt, fields) for name, fields in TNT_VARIANTS.items()},
    **{name: (PyramidTnt, fields) for name, fields in PYRAMID_VARIANTS.items()},
}

GENERATORS: Table = {
    **{name: (NestGenerator, fields) for name, fields in NEST_GENERATORS.items()},
}

DISCRIMINATORS: Table = {
    **{name: (ConvDiscriminator, fields) for name, fields in CONV_DISCRIMINATORS.items()},
    **{name: (NestDiscriminator, fields) for name, fields in NEST_DISCRIMINATORS.items()},
}

# Collections that a forward pass returns, which are not weights.
_OUTPUTS = ("intermediates", "perturbations")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def model_fields(model_class: type[nn.Module]) -> tuple[str, ...]:
    """Returns the fields of a model class without those that flax adds to every module."""
    fields = (field.name for field in dataclasses.fields(model_class) if field.init)
    return tuple(name for name in fields if name not in ("parent", "name"))


def default_image_size(name: str) -> int:
    """Returns the side in pixels of the images that a model is made for: most names end with it."""
    if name.startswith("wrn"):
        return 32
    number = re.search(r"_(\d+)$", name)
    return int(number[1]) if number else 224


def without_defaults(section: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the name in a config section of a network, and the fields that differ from its own.

    Two sections that describe the same network in more or fewer words become equal.

    Raises:
        KeyError, ValueError: no network is named, there is none of that name, or no such value.
    """
    model_class, variant = _entry(section["name"], MODELS | GENERATORS | DISCRIMINATORS)
    own = {field.name: field.default for field in dataclasses.fields(model_class)} | variant

    def value_of(field: str, value: Any) -> Any:
        return _dtype(value) if field == "dtype" else _plain(value)

    return {
        field: value
        for field, value in section.items()
        if value is not None and value_of(field, value) != value_of(field, own.get(field))
    }


def create_model(name: str, *, num_classes: int, **overrides: Any) -> nn.Module:
    """Builds a model by its name.

    Args:
        name: a key of MODELS.
        num_classes: number of logits.
        **overrides: fields of the model that replace the variant's own; None keeps the variant's
            value. Lists become tuples, and `dtype` may be a name such as "bfloat16".

    Returns:
        The module, without parameters.

    Raises:
        ValueError: an unknown name or field (lists what exists), or a value that the model does
            not take. It begins with the field, as harness/arguments.py shows.
    """
    return _create(MODELS, name, {"num_classes": num_classes}, overrides)


def create_generator(
    name: str, *, image_size: int, num_channels: int, num_classes: int | None, **overrides: Any
) -> nn.Module:
    """Builds a generator by its name.

    Args:
        name: a key of GENERATORS.
        image_size: side of the images in pixels.
        num_channels: channels of the images.
        num_classes: classes, or None for an unconditional generator.
        **overrides: as in create_model.

    Returns:
        The module, without parameters.

    Raises:
        ValueError: as create_model, or if the variant's levels do not lead to such images.
    """
    given = {"image_size": image_size, "num_channels": num_channels, "num_classes": num_classes}
    return _create(GENERATORS, name, given, overrides)


def create_discriminator(name: str, *, num_classes: int | None, **overrides: Any) -> nn.Module:
    """Builds a discriminator by its name.

    Args:
        name: a key of DISCRIMINATORS.
        num_classes: classes, or None for an unconditional discriminator.
        **overrides: as in create_model.

    Returns:
        The module, without parameters.

    Raises:
        ValueError: as create_model.
    """
    return _create(DISCRIMINATORS, name, {"num_classes": num_classes}, overrides)


def variable_shapes(model: nn.Module, image_size: int | tuple[int, ...]) -> dict[str, Any]:
    """Returns the shapes of a model's variables without computing any.

    Args:
        model: the model.
        image_size: side, (height, width) or (height, width, channels); channels are 3 by default.

    Returns:
        {"params": tree} and other collections such as "batch_stats", with `jax.ShapeDtypeStruct`
        leaves.
    """
    image = jax.ShapeDtypeStruct((1, *as_image_shape(image_size)), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    return {name: tree for name, tree in variables.items() if name not in _OUTPUTS}


def parameter_shapes(model: nn.Module, image_size: int | tuple[int, ...]) -> dict[str, Any]:
    """Returns the shapes of a model's parameters: "params" of `variable_shapes`."""
    return variable_shapes(model, image_size)["params"]


def as_image_shape(image_size: int | tuple[int, ...]) -> tuple[int, int, int]:
    """Returns (height, width, channels) of a side, (height, width) or all three."""
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    height, width, channels = size if len(size) == 3 else (*size, 3)
    return height, width, channels


def _entry(name: Any, table: Table) -> tuple[type[nn.Module], dict[str, Any]]:
    if not isinstance(name, str) or name not in table:
        raise ValueError(unknown_name(f"{name=}", name, table))
    return table[name]


def _create(
    table: Table,
    name: Any,
    given: dict[str, Any],
    overrides: dict[str, Any],
) -> nn.Module:
    """Builds an entry of a table: the variant's fields, overrides over them, and those given."""
    model_class, variant = _entry(as_annotated(name, str), table)
    allowed = [field for field in model_fields(model_class) if field not in given]
    for field in overrides:
        if field not in allowed:
            raise ValueError(unknown_name(field, field, allowed))
    overrides = {field: value for field, value in overrides.items() if value is not None}
    hints = typing.get_type_hints(model_class)
    fields = {
        field: checked_value(field, _plain(value), hints[field])
        for field, value in {**variant, **overrides}.items()
    }
    if "dtype" in fields:
        fields["dtype"] = _dtype(fields["dtype"])
    return model_class(**given, **fields)


def _plain(value: Any) -> Any:
    """Turns lists into tuples and NumPy's numbers into Python's: fields are hashable values."""
    if isinstance(value, np.generic):
        return value.item()
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value


def _dtype(value: Any) -> Any:
    if isinstance(value, str) and value in DTYPES:
        return DTYPES[value]
    if value in DTYPES.values():
        return value
    raise ValueError(unknown_name(f"dtype={value!r}", value, DTYPES))
