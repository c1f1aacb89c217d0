"""A config with all its defaults, and where each value comes from."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ml_collections import ConfigDict

from tasks.by_images import open_keys, unknown
from tasks.table import TASKS
from training.experiment import SECTIONS, VALUES, check_config

FORMATS = ("yaml", "json")
_COLUMN = 52  # of the comments


def leaves(section: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple]:
    """Yields (keys, value) of each value that is no section with keys."""
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def sources_of(config: ConfigDict, overrides: Iterable[str]) -> tuple[dict[str, Any], dict]:
    """Checks a config; its data need not be there.

    Args:
        config: the recipe's, with the command line's values.
        overrides: keys that the command line has set, such as "optimizer.base_lr".

    Returns:
        The config with its defaults, and key -> "default", "recipe", "command line", or "by the
        images" of what it leaves to them; that is None where they are not there.

    Raises:
        ConfigError: as check_config.
    """
    plain, left = check_config(config, needs_data=False), open_keys(config.to_dict())
    for key in unknown(left, plain) if left else ():
        section, name = key.split(".")
        plain[section][name] = None
    given = {".".join(keys) for keys, _ in leaves(config.to_dict())}
    overrides = tuple(overrides)

    def source(key: str) -> str:
        if key in left:
            return "by the images"
        if any(f"{key}.".startswith(f"{override}.") for override in overrides):
            return "command line"
        return "recipe" if key in given else "default"

    order = (*VALUES, "task", *TASKS[plain["task"]["name"]].sections, *SECTIONS)
    plain = {key: plain[key] for key in dict.fromkeys(order)}
    sources = {key: source(key) for key in (".".join(keys) for keys, _ in leaves(plain))}
    return plain, sources


def as_text(plain: dict[str, Any], sources: dict[str, str], form: str) -> str:
    """Returns a config to read: YAML with the sources as comments, or JSON with both.

    --config takes the JSON.
    """
    if form == "json":
        return json.dumps({"config": plain, "sources": sources}, indent=2)
    return "\n".join(_yaml_lines(plain, sources, ()))


def _yaml_lines(section, sources, path) -> Iterator[str]:
    """Yields a section's lines, what is only a default last."""
    indent = "  " * len(path)

    def is_default(item) -> bool:
        return sources.get(".".join((*path, item[0]))) == "default"

    for key, value in sorted(section.items(), key=is_default) if path else section.items():
        keys = (*path, key)
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _yaml_lines(value, sources, keys)
        else:
            line = f"{indent}{key}: {_yaml(value)}"
            yield f"{line:<{_COLUMN}}  # {sources['.'.join(keys)]}"


def _yaml(value: Any) -> str:
    """Returns a value in one line, which YAML 1.1 and 1.2 read alike."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    text = json.dumps(value, ensure_ascii=False)
    return re.sub(r"^(-?\d+)e", r"\1.0e", text) if isinstance(value, float) else text
