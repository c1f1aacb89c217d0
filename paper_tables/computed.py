"""What needs no training: sizes and costs of a row's model, settings of its recipe, formulas."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from baselines.full_attention_generator import FullAttentionGenerator
from benchmarks.generators import multiply_adds as multiply_adds_of_generator
from data.datasets import BUILT_IN
from harness.arguments import as_height_width, unknown
from harness.errors import ConfigError
from harness.overrides import apply_overrides
from harness.recipes import recipe_config
from layers.shared_fields import shared_fields
from nest.gan.generator import latent_shape
from paper_tables.tables import ROOT, Column, Row, recipe_of
from tnt.block import TransformerBlock
from tnt.fusion import Project
from training import experiment
from workdirs.comparison import flatten
from zoo.cost_tables import total
from zoo.costs import Cost, count_products, model_costs
from zoo.registry import MODELS, create_generator, create_model, model_fields, parameter_shapes

# Of sets that have to be prepared: the costs of a model need no images.
CLASSES = {"imagenet2012": 1000, "cifar10": 10, "cifar100": 100, "downsampled_imagenet/64x64": 1}
FULL_ATTENTION = "full attention"  # `record` of a row: the counterpart of its generator
CLASSES |= {"oxford_flowers102": 102, "oxford_iiit_pet": 37, "inat:": 1010}


def config_of(recipe: str, overrides: Mapping[str, str]) -> ConfigDict:
    """Returns the config of a recipe, as train.py would have it.

    Raises:
        ConfigError: the recipe does not exist or fails.
    """
    config = recipe_config(str(ROOT / recipe))
    apply_overrides(config, overrides.items())
    return config


def compute(row: Row, column: Column) -> Any:
    """Returns a number or words of a row that this code computes, None where it cannot.

    Raises:
        ConfigError: the row's recipe is wrong, or there is nothing of this name.
    """
    name = column.computed
    if name in COMPLEXITY:
        return COMPLEXITY[name](**row.case) if row.case else None
    recipe = recipe_of(row, column)
    if recipe is None or (name == "setting" and row.setting is None):
        return None
    plain = _checked(recipe, json.dumps(dict(row.overrides)))
    if name == "setting" and not row.setting.startswith("model."):
        return _setting(plain, row.setting)
    if name == "image_size":
        height, width = as_height_width("config.data.image_size", plain["data"]["image_size"])
        return height if height == width else f"{height}, {width}"
    model, shape = _model(plain)
    if row.record == FULL_ATTENTION:
        model = _full_attention(model)
    if name == "setting":  # what the recipe leaves to the variant counts too
        return _plain(getattr(model, row.setting.removeprefix("model.")))
    if name in OF_MODEL:
        function, *needed = OF_MODEL[name]
        return function(model, shape) if all(hasattr(model, field) for field in needed) else None
    if name not in FIELDS:
        known = [*COMPLEXITY, "setting", "image_size", *OF_MODEL, *sorted(FIELDS)]
        raise ConfigError(f"computed={name!r}: {unknown(name, known)}")
    return _plain(getattr(model, name)) if hasattr(model, name) else None


@functools.cache
def _checked(recipe: str, overrides: str) -> dict[str, Any]:
    return experiment.check_config(config_of(recipe, json.loads(overrides)), needs_data=False)


def _setting(plain: Mapping[str, Any], key: str) -> Any:
    sections = {name: value for name, value in plain.items() if isinstance(value, dict)}
    flat = {**plain, **flatten(sections)}
    if key in flat:
        return _plain(flat[key])
    if key.split(".")[0] in ("augment", "device_augment"):  # absent, or on with arguments
        return "on" if any(other.startswith(f"{key}.") for other in flat) else "none"
    raise ConfigError(f"setting={key!r}: {unknown(key, flat)}")


def _plain(value: Any) -> Any:
    """Returns a value of a config or a field as tables have it: a number, or words."""
    if isinstance(value, tuple | list):
        items = (f"{item:.4g}" if isinstance(item, float) else str(item) for item in value)
        return ", ".join(items) or "none"
    return "none" if value is None else value


def _model(plain: Mapping[str, Any]) -> tuple[nn.Module, tuple[int, int, int]]:
    """Returns the model of a config, or the generator, and the shape of an image."""
    data = plain["data"]
    size = as_height_width("config.data.image_size", data["image_size"])
    ships = BUILT_IN.get(data["name"])
    channels = ships().num_channels if ships else 3
    classes = len(data["classes"] or ()) or (
        ships().num_classes if ships else CLASSES[data["name"]]
    )
    if "generator" in plain:
        made = {"image_size": size[0], "num_channels": channels, "num_classes": None}
        return create_generator(**plain["generator"], **made), (*size, channels)
    return create_model(**plain["model"], num_classes=classes), (*size, channels)


def generator_of(row: Row) -> nn.Module:
    """Returns the generator of a row's recipe."""
    return _model(_checked(row.config, json.dumps(dict(row.overrides))))[0]


def _full_attention(generator: nn.Module) -> nn.Module:
    """Returns the generator of the same widths that attends to whole images."""
    return FullAttentionGenerator(**shared_fields(generator, FullAttentionGenerator))


@functools.cache
def _cost(model: nn.Module, shape: tuple[int, int, int]) -> Cost:
    if not hasattr(model, "latent_dim"):
        return total(model_costs(model, shape))
    noise = jax.ShapeDtypeStruct(latent_shape(model, 1), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), noise)["params"]
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Cost(parameters=size, multiply_adds=multiply_adds_of_generator(model, params, noise))


def _parameters(model: nn.Module, shape: tuple[int, int, int]) -> int:
    return _cost(model, shape).parameters


def _sentences(model: nn.Module, shape: tuple[int, int, int]) -> int:
    return math.prod(side // model.patch_size for side in shape[:2])


def _with_outer_tokens(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Counts the official TNT's parameters too that nothing uses: a vector for each sentence."""
    unused = _sentences(model, shape) * model.outer_dim if hasattr(model, "outer_dim") else 0
    return _parameters(model, shape) + unused


def _with_positions_twice(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Counts a second set of position embeddings, as the NesT paper's counts seem to."""
    shapes = parameter_shapes(model, shape)
    tables = {name: tree for name, tree in shapes.items() if name.endswith("_position")}
    return _parameters(model, shape) + sum(leaf.size for leaf in jax.tree.leaves(tables))


def _tokens_of_a_block(model: nn.Module, shape: tuple[int, int, int]) -> int:
    return math.prod(model.block_sides_for(shape[:2]))


def _map_sides(model: nn.Module, shape: tuple[int, int, int]) -> str:
    return _plain([shape[0] // model.patch_size // 2**level for level in range(len(model.dims))])


def _blocks(model: nn.Module, shape: tuple[int, int, int]) -> str:
    levels = len(model.dims)
    return ", ".join(str(4 ** (levels - level)) for level in range(1, levels + 1))


def _inner_layers(model: nn.Module, shape: tuple[int, int, int]) -> str:
    return "all" if model.inner_layers is None else _plain(model.inner_layers)


# name -> function of a model and the shape of an image, and the fields that the model must have
OF_MODEL: dict[str, tuple] = {
    "parameters": (_parameters,),
    "parameters_with_outer_tokens": (_with_outer_tokens,),
    "parameters_with_positions_twice": (_with_positions_twice,),
    "multiply_adds": (lambda model, shape: _cost(model, shape).multiply_adds,),
    "tokens_of_a_block": (_tokens_of_a_block, "dims"),
    "blocks": (_blocks, "dims"),
    "map_sides": (_map_sides, "dims"),
    "words": (lambda model, shape: (model.patch_size // model.word_size) ** 2, "word_size"),
    "sentences": (lambda model, shape: _sentences(model, shape), "word_size"),
    "inner_layers": (_inner_layers, "inner_layers"),
    "inner_head_dim": (lambda model, _: model.inner_dim // model.num_inner_heads, "inner_dim"),
    "outer_head_dim": (lambda model, _: model.outer_dim // model.num_outer_heads, "inner_dim"),
    "head_dim": (lambda model, _: model.dims[0] // model.num_heads[0], "dims"),
}
FIELDS = {field for model_class, _ in MODELS.values() for field in model_fields(model_class)}


@dataclasses.dataclass(frozen=True)
class _Layer:
    """Kernel entries and multiply-adds of a layer, without norms and biases."""

    parameters: int
    multiply_adds: int

    def __add__(self, other: "_Layer") -> "_Layer":
        return _Layer(self.parameters + other.parameters, self.multiply_adds + other.multiply_adds)


def _traced(module: nn.Module, *shape: int) -> _Layer:
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    args = (False,) if isinstance(module, TransformerBlock) else ()
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, *args), x)
    program = jax.make_jaxpr(lambda v, x: module.apply(v, x, *args))(variables, x).jaxpr
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    kernels = sum(leaf.size for path, leaf in leaves if path[-1].key == "kernel")
    return _Layer(kernels, sum(cost.multiply_adds for cost in count_products(program).values()))


@functools.cache
def _layers(d: int, n: int, c: int, m: int) -> tuple[_Layer, _Layer]:
    """Returns a standard transformer layer and a TNT layer, as our modules have them.

    Args:
        d, n: channels and number of sentences.
        c, m: channels and number of the words of a sentence.
    """
    fields = {"mlp_ratio": 4, "qkv_bias": False, "gelu": "exact", "dtype": jnp.float32}
    block = TransformerBlock(num_heads=1, **fields)
    outer = _traced(block, 1, n, d)
    return outer, outer + _traced(block, 1, n, m, c) + _traced(Project(d), 1, n, m, c)


def _ratio(quantity: str) -> Callable[..., float]:
    def ratio(**case: int) -> float:
        standard, tnt = _layers(**case)
        return getattr(tnt, quantity) / getattr(standard, quantity)

    return ratio


COMPLEXITY: dict[str, Callable[..., Any]] = {
    "standard_layer_multiply_adds": lambda **case: _layers(**case)[0].multiply_adds,
    "tnt_layer_multiply_adds": lambda **case: _layers(**case)[1].multiply_adds,
    "multiply_adds_ratio": _ratio("multiply_adds"),
    "parameters_ratio": _ratio("parameters"),
}
