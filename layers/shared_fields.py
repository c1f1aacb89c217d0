"""Passing the fields of a model on to its layers."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from flax import linen as nn


def shared_fields(
    module: nn.Module, target: type[nn.Module], *, but: Iterable[str] = ()
) -> dict[str, Any]:
    """Returns the fields of a module that another class has under the same name.

    Args:
        module: the module whose values are passed on.
        target: the class that takes them as keyword arguments.
        but: fields that `target` gets from elsewhere, because they differ from layer to layer.

    Returns:
        Field -> value.
    """
    own = {field.name for field in dataclasses.fields(module)} - {"parent", "name", *but}
    names = (field.name for field in dataclasses.fields(target) if field.init)
    return {name: getattr(module, name) for name in names if name in own}
