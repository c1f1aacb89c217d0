"""Layer-wise learning-rate decay: the deeper a layer, the faster it learns.

A network of L layers has L + 2 groups: 0 are the embeddings, 1 to L the layers, L + 1 the last norm
and the head. The rate of group i is multiplied by decay^(L + 1 - i), so that a new head learns at
the full rate and early layers keep what they know about edges and textures.

A parameter's group follows from its name and the model's fields, by one rule per kind of model.
A name that no rule knows is an error.

Reference: BEiT, arXiv 2106.08254, appendix; its optim_factory.py, get_num_layer_for_vit. NesT's
position tables and aggregations go with the layer that they feed, as in timm's group_matcher.
"""

import itertools
import re
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from baselines.vit import Vit
from harness.arguments import problem
from nest.model import Nest
from tnt.model import Tnt

_LAST = ("norm", "head")


def _nest_group(model: Nest, name: str) -> int | None:
    before = (0, *itertools.accumulate(model.depths))  # layers below each level
    if name in ("patch_embedding", "level1_position"):
        return 0
    if match := re.fullmatch(r"level(\d+)_layer(\d+)", name):
        return before[int(match[1]) - 1] + int(match[2])
    if match := re.fullmatch(r"level(\d+)_position", name):
        return before[int(match[1]) - 1] + 1
    if match := re.fullmatch(r"level(\d+)_aggregation", name):
        return before[int(match[1])] + 1  # made by this level, and the next one's input
    return None


def _tnt_group(model: Tnt, name: str) -> int | None:
    if re.fullmatch(r"(word|sentence)_(embedding|position)|class_token", name):
        return 0
    match = re.fullmatch(r"layer(\d+)", name)
    return match and int(match[1])


def _vit_group(model: Vit, name: str) -> int | None:
    match = re.fullmatch(r"block(\d+)", name)
    return 0 if name in ("patch_embedding", "position", "class_token") else match and int(match[1])


# Kind of model -> (its number of layers L, the group of a top-level name of its parameters).
_RULES: dict[type[nn.Module], tuple[Callable[[Any], int], Callable[[Any, str], int | None]]] = {
    Nest: (lambda model: sum(model.depths), _nest_group),
    Tnt: (lambda model: model.depth, _tnt_group),
    Vit: (lambda model: model.depth, _vit_group),
}


def layer_groups(model: nn.Module, params: Any) -> Any:
    """Finds the group of each parameter.

    Args:
        model: a Nest, Tnt or Vit.
        params: its parameters, or anything with their names.

    Returns:
        A tree like `params` of integers, 0 (embeddings) to L + 1 (last norm and head).

    Raises:
        ValueError: no rule for this kind of model, or for the name of a parameter.
    """
    if type(model) not in _RULES:
        allowed = ", ".join(kind.__name__ for kind in _RULES)
        raise ValueError(
            f"tasks/layer_decay.py has no rule for {type(model).__name__}, only for {allowed}"
        )
    num_layers, group_of = _RULES[type(model)]

    def group(path, _) -> int:
        name = jax.tree_util.keystr(path[:1], simple=True)
        found = num_layers(model) + 1 if name in _LAST else group_of(model, name)
        if found is None:
            raise ValueError(
                f"tasks/layer_decay.py does not say in which layer of {type(model).__name__} "
                f"{name!r} is"
            )
        return found

    return jax.tree_util.tree_map_with_path(group, params)


def layer_multipliers(model: nn.Module, params: Any, decay: float) -> Any:
    """Returns a tree like `params` of the factors of the learning rate, decay^(L + 1 - group).

    Args:
        model, params: see `layer_groups`.
        decay: factor from a layer to the one below, in (0, 1].

    Raises:
        ValueError: see `layer_groups`.
    """
    try:
        groups = layer_groups(model, params)
    except ValueError as error:
        raise ValueError(problem("config.optimizer.layer_decay", decay, str(error))) from error
    last = _RULES[type(model)][0](model) + 1
    return jax.tree.map(lambda group: decay ** (last - group), groups)
