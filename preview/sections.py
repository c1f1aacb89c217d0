"""Which function documents a section of a config."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data.augment import transforms
from harness.errors import ConfigError
from harness.recipes import ROOT
from harness.strict_config import unknown_name
from tasks.table import TASKS
from training.experiment import FUNCTIONS


def documented(task: str) -> dict[str, Any]:
    """Returns section -> the function of its keys, or the module that has one for each key."""
    common = {section: function for section, function, _ in FUNCTIONS}
    common |= {"data": TASKS[task].data, "augment": transforms}
    return common | TASKS[task].functions


def list_sections(config: ConfigDict) -> list[tuple[str, str]]:
    """Returns (section, "file: function") of each section that a config can have.

    Raises:
        ConfigError: the config names no task.
    """
    name = config.to_dict()["task"]["name"] if "task" in config else None
    if name not in list(TASKS):
        raise ConfigError(unknown_name(f"config.task.name={name!r}", name, TASKS))
    return [(section, place_of(what)) for section, what in documented(name).items()]


def place_of(what: Any) -> str:
    """Returns "tasks/optimizers.py: create_optimizer", or of a module its file."""
    if hasattr(what, "__file__"):
        return str(Path(what.__file__).relative_to(ROOT))
    return f"{what.__module__.replace('.', '/')}.py: {what.__name__}"
