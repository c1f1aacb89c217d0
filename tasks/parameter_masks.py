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
    """Returns a tree of factors of the learning rate: `factor` where a pattern is found, else 1.

    Raises:
        ValueError: not a regular expression, or one that matches nothing.
    """
    found = _found(params, slow, f"{section}.slow")
    return jax.tree_util.tree_map_with_path(
        lambda path, _: factor if found[path_name(path)] else 1.0, params
    )


def trainable_mask(params, freeze: tuple[str, ...], section: str = SECTION):
    """Returns a tree of bools: False for the parameters that stay as they are.

    Args:
        params: pytree of parameters.
        freeze: regular expressions, searched in the "/"-joined path of each parameter.
        section: of the config, for messages.

    Raises:
        ValueError: not a regular expression, one that matches nothing, or all is frozen.
    """
    key = f"{section}.freeze"
    found = _found(params, freeze, key)
    if all(found.values()):
        raise ValueError(problem(key, freeze, "leaves no parameter to train"))
    return jax.tree_util.tree_map_with_path(lambda path, _: not found[path_name(path)], params)


def _found(params, patterns: tuple[str, ...], key: str) -> dict[str, bool]:
    """Returns path -> whether any pattern is in it; raises ValueError for one that is in none."""
    paths = list(parameter_paths(params))
    matches = {path: _matches(key, patterns, path) for path in paths}
    for pattern, found in zip(patterns, zip(*matches.values(), strict=True), strict=True):
        if not any(found):
            raise _matches_nothing(key, pattern, paths)
    return {path: any(found) for path, found in matches.items()}
