"""Which parameters an optimizer decays, trains or moves slowly: those whose path matches."""

import re

import jax
import optax

from harness.arguments import problem
from harness.trees import flatten, path_name

SECTION = "config.optimizer"  # that a message is about, by default


def parameter_paths(params) -> dict[str, jax.Array]:
    """Returns `flatten` of parameters, with those that optax.partition hides from an optimizer."""
    return flatten(params, lambda leaf: isinstance(leaf, optax.MaskedNode))


def _matches(key: str, patterns: tuple[str, ...], path: str) -> list[bool]:
    try:
        return [bool(re.search(pattern, path)) for pattern in patterns]
    except re.error as error:
        raise ValueError(problem(key, patterns, f"no regular expression: {error}")) from None


def _matches_nothing(key: str, value, paths: list[str]) -> ValueError:
    what = f"matches no parameter; they are called {', '.join(paths[:3])}, ..."
    return ValueError(problem(key, value, what))


def decay_mask(params, exclude: tuple[str, ...], section: str = SECTION):
    """Returns a tree of bools: True where weight decay applies.

    Args:
        params: pytree of parameters.
        exclude: regular expressions, searched in the "/"-joined path of each parameter.
        section: of the config, for messages.

    Raises:
        ValueError: not a regular expression, or none of them matches anything.
    """
    excluded = _path_mask(params, exclude, f"{section}.decay_exclude")
    return jax.tree.map(lambda is_excluded: not is_excluded, excluded)


def _path_mask(params, patterns: tuple[str, ...], key: str):
    paths = list(parameter_paths(params))
    found = {path for path in paths if any(_matches(key, patterns, path))}
    if patterns and not found:
        raise _matches_nothing(key, patterns, paths)
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path) in found, params)


def slow_multipliers(params, slow: tuple[str, ...], factor: float, section: str):
    """Returns a tree of factors of the learning rate: `factor` where a pattern is found, else 1."""
    is_slow = _path_mask(params, slow, f"{section}.slow")
    return jax.tree.map(lambda is_slow: factor if is_slow else 1.0, is_slow)


def trainable_mask(params, freeze: tuple[str, ...], section: str = SECTION):
    """Returns a tree of bools: False for the parameters that stay as they are.

    Args:
        params: pytree of parameters.
        freeze: regular expressions, searched in the "/"-joined path of each parameter.
        section: of the config, for messages.

    Raises:
        ValueError: not a regular expression, one that matches nothing, or all is frozen.
    """
    paths, key = list(parameter_paths(params)), f"{section}.freeze"
    matches = {path: _matches(key, freeze, path) for path in paths}
    for pattern, found in zip(freeze, zip(*matches.values(), strict=True), strict=True):
        if not any(found):
            raise _matches_nothing(key, pattern, paths)
    if all(any(found) for found in matches.values()):
        raise ValueError(problem(key, freeze, "leaves no parameter to train"))
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not any(matches[path_name(path)]), params
    )
