"""Several processes of one run compute the same, or do not begin."""

import hashlib
import json
import platform
import re
from typing import Any

import jax

from data.digest import data_digest
from data.pipeline import Data
from harness.errors import ConfigError
from parallel import peers
from workdirs.comparison import flatten
from workdirs.config_file import git_commit, versions

# Each machine may have its own.
OWN_KEYS = re.compile(r"data\.(num_threads|num_workers|prefetch|data_dir)$")
SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
)


def data_facts(data: Data, *, training: bool) -> dict[str, Any]:
    """Returns what tells one data set from another."""
    classes = data.dataset.class_names
    return {
        "number of training images": data.num_train_examples if training else 0,
        "number of evaluation images": len(data.eval_source),
        "number of classes": data.num_classes,
        "names of the classes": classes and hashlib.sha256(repr(classes).encode()).hexdigest(),
    } | ({"digest of the training images": data_digest(data)} if training else {})


def check_same_everywhere(config: dict[str, Any], data: Data, *, training: bool) -> None:
    """Compares all processes of a run; one that is alone has nothing to compare.

    Args:
        config: checked.
        data: opened.
        training: whether it has a training split.

    Raises:
        ConfigError: in all processes, with what differs and where.
    """
    if peers.current() is None:
        return
    flat = {f"config.{k}": v for k, v in flatten(config).items() if not OWN_KEYS.match(k)}
    facts = flat | data_facts(data, training=training) | versions()
    facts |= {"git commit of this code": git_commit(), "python": platform.python_version()}
    facts |= {name: str(getattr(jax.config, name, "absent")) for name in SETTINGS}
    facts["device"] = jax.local_devices()[0].device_kind
    compare("facts", facts)


def compare(about: str, facts: dict[str, Any]) -> None:
    """Raises ConfigError in all processes if the facts are not the same in all."""
    facts = {name: repr(value) for name, value in facts.items()}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    if len(set(peers.gather(f"digest of {about}", digest))) == 1:
        return
    first, *others = peers.gather(about, facts)
    for index, other in enumerate(others, 1):
        if names := [n for n in sorted(first | other) if first.get(n) != other.get(n)]:
            different = "; ".join(
                f"{name} is {other.get(name, 'absent')} there and {first.get(name, 'absent')} in 0"
                for name in names[:3]
            )
            more = f"; and {len(names) - 3} more" if len(names) > 3 else ""
            raise ConfigError(f"process {index} differs from process 0: {different}{more}")
