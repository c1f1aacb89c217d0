"""How two configs differ."""

import json
import re
from typing import Any

from flax import traverse_util


def flatten(config: dict[str, Any]) -> dict[str, Any]:
    """Returns {"optimizer.base_lr": 0.001, ..., "device_augment": {}}."""
    flat = traverse_util.flatten_dict(config, keep_empty_nodes=True, sep=".")
    return {k: {} if v is traverse_util.empty_node else v for k, v in flat.items()}


# They decide where and how fast a run runs, not what it computes: a resumed run may change them.
FREE_KEYS = re.compile(
    r"(mesh|sharding|faults)\."
    r"|data\.(num_threads|num_workers|prefetch|data_dir|bad_images|max_bad)$"
    r"|(model|generator|discriminator)\.(remat|kernels)$"
)


# They decide what a run says and keeps, not its state: a resumed run may change them, too, and
# config.json then has the new ones.
RESUMABLE_KEYS = re.compile(
    r"loop\.(log_every_steps|evaluate_every_epochs|save_every_epochs)$"
    r"|checkpoint\.keep_last$|data\.eval_\w+$|task\.(num_samples|neighbors)$"
)
LENGTH = "loop.num_epochs"  # that --extend changes
# Of these, what the numbers of an evaluation depend on.
_MEASURING = re.compile(r"data\.eval_(?!batch_size$)\w+$|task\.(num_samples|neighbors)$")


def measured_with(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the keys and values of a checked config that evaluations are made with."""
    return {k: value for k, value in flatten(config).items() if _MEASURING.match(k)}


def config_changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Returns the keys in which two checked configs differ, without the FREE_KEYS.

    None, an empty section and an absent key are the same: off, or the default.

    Returns:
        Key -> the old value and the new one, as text.
    """
    old, new = (flatten(json.loads(json.dumps(config))) for config in (old, new))  # no tuples

    old, new = ({k: v for k, v in flat.items() if v is not None and v != {}} for flat in (old, new))

    def shown(flat, key):
        return repr(flat[key]) if key in flat else "(absent)"

    return {
        key: (shown(old, key), shown(new, key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not FREE_KEYS.match(key)
    }


def in_words(changes: dict[str, tuple[str, str]]) -> list[str]:
    """Returns what `config_changes` finds as "key: OLD there, NEW now"."""
    return [f"{key}: {before} there, {now} now" for key, (before, now) in changes.items()]
