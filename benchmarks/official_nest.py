"""A checkout of the official NesT (google-research/nested-transformer), to compare with."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from harness.errors import ConfigError

SOURCE = "https://github.com/google-research/nested-transformer"


def load_official(folder: Path, name: str, num_classes: int, dtype: Any) -> Callable[..., Any]:
    """Returns the official model: called with `train`, it gives a linen module.

    Its drop path is off: it divides by a NumPy number, which today's JAX computes in float32, so
    that bfloat16 ends in a type error. Compare with drop_path_rate=0.

    Args:
        folder: the checkout.
        name: of the variant, "nest_tiny_s196_224".
        num_classes: of the head.
        dtype: that it computes in.

    Raises:
        ConfigError: there is no checkout, or no such variant.
    """
    if not (folder / "models" / "nest_net.py").is_file():
        raise ConfigError(
            f"--official={folder}: no models/nest_net.py; clone {SOURCE} and name its folder"
        )
    sys.path.append(str(folder))
    try:
        nest_net = importlib.import_module("models.nest_net")
        config_dict = importlib.import_module("ml_collections").ConfigDict
    except ImportError as error:
        raise ConfigError(f"--official={folder}: {error}; it needs ml-collections") from error
    finally:
        sys.path.remove(str(folder))
    if name not in nest_net.MODELS:
        allowed = ", ".join(nest_net.MODELS)
        raise ConfigError(f"--against=official: {name!r} is not among its models: {allowed}")
    # The option is of the official configs, which create_model merges into the variant.
    model = nest_net.create_model(name, config_dict({"nest": {"stochastic_depth_drop": 0.0}}))
    return lambda train: model(num_classes=num_classes, dtype=dtype, train=train)


def init_params(model: Callable[..., Any], image_shape: tuple[int, int, int]) -> Any:
    """Returns its parameters."""
    images = jnp.zeros((1, *image_shape))
    return model(train=False).init(jax.random.key(0), images)["params"]


def forward(model: Callable[..., Any]) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns (params, images) -> logits."""
    return lambda params, images: model(train=False).apply({"params": params}, images)


def logits_of(model: Callable[..., Any]) -> Callable[..., Any]:
    """Returns (params, statistics, images, key) -> (logits, statistics) of training."""

    def apply(params, statistics, images, key):
        logits = model(train=True).apply({"params": params}, images, rngs={"dropout": key})
        return logits, statistics

    return apply
