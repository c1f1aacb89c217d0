"""Trees of arrays as names and shapes: comparing two of them, and listing what differs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

_LISTED = 10  # names per kind of difference; of the rest only the count is given


def path_name(path: jax.tree_util.KeyPath) -> str:
    """Returns "level1_layer1/norm_mlp/bias"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Returns {"level1_layer1/norm_mlp/bias": leaf, ...} of a tree of any kind."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {path_name(path): leaf for path, leaf in leaves}


def select(mask: Any, new: Any, old: Any) -> Any:
    """Returns the leaves of `new` where those of `mask` are True, and of `old` elsewhere."""
    return jax.tree.map(lambda chosen, x, y: x if chosen else y, mask, new, old)


def merged(old: Any, new: Any) -> Any:
    """Returns nested dicts with the leaves of `new`, and those of `old` that it lacks."""
    if not isinstance(old, Mapping):
        return new
    return {key: merged(old[key], new[key]) if key in new else old[key] for key in old}


def shape_of(leaf: Any) -> tuple[int, ...]:
    """Returns the shape of an array or of a description of one, () for anything else."""
    return tuple(getattr(leaf, "shape", None) or ())


def listed(names: Sequence[str]) -> str:
    """Returns "a, b and 7 more"."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def check_tree(expected: Any, found: Any, what: str) -> None:
    """Compares the names and the shapes of two trees.

    Args:
        expected: tree whose leaves have a shape.
        found: tree to compare with it.
        what: where `found` comes from; begins the message.

    Raises:
        ValueError: listing leaves that are missing, extra or of another shape.
    """
    expected, found = flatten(expected), flatten(found)
    # In the order of `expected`: a state's parameters before the optimizer's copies of them.
    order = {name.split("/")[0]: number for number, name in enumerate(expected)}
    extra = [name for name in found if name not in expected]
    differences = {
        "missing": [name for name in expected if name not in found],
        "extra": sorted(extra, key=lambda name: order.get(name.split("/")[0], -1)),
        "mis-shaped": [
            f"{name} {shape_of(found[name])} instead of {shape_of(leaf)}"
            for name, leaf in expected.items()
            if name in found and shape_of(found[name]) != shape_of(leaf)
        ],
    }
    parts = [
        f"{len(items)} {kind}: {listed(items)}" for kind, items in differences.items() if items
    ]
    if parts:
        raise ValueError(f"{what} does not fit the model; {'; '.join(parts)}")
