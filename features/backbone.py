"""A classifier without its head: maps of the image.

Shape letters: b batch, h and w sides of a map in tokens, n tokens, c channels.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from features.map_infos import MapInfo, map_infos, map_sides, offer_of
from layers.layer_norm import LayerNorm
from zoo.start import HEAD

EPSILON = 1e-6
_NOT_STATE = ("intermediates", "perturbations")


def without_head(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of a classifier without those above its last map."""
    return {
        collection: {name: leaf for name, leaf in tree.items() if name not in HEAD}
        for collection, tree in variables.items()
        if collection not in _NOT_STATE
    }


class Backbone(nn.Module):
    """Maps of the image out of a classifier.

    Its parameters have the classifier's own names, without the head's and those of the norm before
    it, so that the weights of a classification run fit. NesT, ViT and TNT normalise nothing before
    their head: each of their maps gets a layer norm, `map1_norm`, ..., counted as the maps are.

    Attributes:
        model: a classifier of zoo/registry.py; its num_classes plays no part.
        maps: see `map_infos`.

    Reference:
        A layer norm for each map: official Swin Transformer for detection, swin_transformer.py.
    """

    model: nn.Module
    maps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the backbone is built."""
        map_infos(self.model, self.maps)
        super().__post_init__()

    @property
    def infos(self) -> tuple[MapInfo, ...]:
        """Name, channels and stride of each map, lowest first."""
        return map_infos(self.model, self.maps)

    def sides(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Returns (h, w) of each map for images of a (height, width) that fits the classifier."""
        return [map_sides(self.model, info, size) for info in self.infos]

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> list[Array]:
        """Computes the maps.

        Args:
            images: [b, height, width, channels], normalised, of a size that fits the classifier:
                see `features.padding`.
            train: as for the classifier.

        Returns:
            For each of `infos` a map [b, h, w, c], class token apart.

        Raises:
            ValueError: the image does not fit the classifier.
        """
        maps = self._maps(images, train)
        if not offer_of(self.model).needs_norm:
            return maps
        dtype = self.model.dtype
        return [
            LayerNorm(EPSILON, dtype, name=f"map{number}_norm")(x)
            for number, x in enumerate(maps, start=1)
        ]

    def _maps(self, images: Array, train: bool) -> list[Array]:
        # The classifier runs as a function of its variables: its head, whose result nobody reads,
        # gets zeros, and the compiler leaves it out.
        model = self.model.clone(parent=None, name=None, num_classes=1)
        if self.is_initializing():
            variables = model.init(self.make_rng("params"), images)
            for collection, tree in without_head(variables).items():
                for name, leaf in tree.items():
                    self.put_variable(collection, name, leaf)
        variables = _with_empty_head(model, images, self.variables)
        state = [
            name for name in variables if name != "params" and self.is_mutable_collection(name)
        ]
        _, new = model.apply(
            variables,
            images,
            train,
            rngs={"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else {},
            mutable=["intermediates", *state],
        )
        for collection in state:
            for name, leaf in without_head(new)[collection].items():
                self.put_variable(collection, name, leaf)
        return [
            _as_plane(new["intermediates"][info.name][0], sides, model)
            for info, sides in zip(self.infos, self.sides(images.shape[1:3]), strict=True)
        ]


def _with_empty_head(
    model: nn.Module, images: Array, variables: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Returns a classifier's variables, with zeros for those above its last map."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return {
        collection: {
            name: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), leaf)
            if name in HEAD
            else variables[collection][name]
            for name, leaf in tree.items()
        }
        for collection, tree in shapes.items()
        if collection not in _NOT_STATE
    }


def _as_plane(x: Array, sides: tuple[int, int], model: nn.Module) -> Array:
    """Maps [b, n, c] with the class token first to [b, h, w, c]; planes stay."""
    offer = offer_of(model)
    if offer.first_patch is None:
        return x
    x = x[:, offer.first_patch :]  # [b, h * w, c]
    return x.reshape(x.shape[0], *sides, x.shape[-1])  # [b, h, w, c]
