"""docs/differences.md: every recipe is there, and every flag that it names works."""

import ast
import importlib
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from training import experiment

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "differences.md").read_text()
FLAG = re.compile(r"--config\.([\w.]+)=('[^']*'|[^\s`]+)")
HEADING = re.compile(r"^### (`.*`)$", re.M)
REPOSITORY = re.compile(r"github\.com/[\w-]+/[\w-]+/(?:blob|tree)/(\w+)/")


def parts():
    """Returns recipe -> what the page says of it; what is of all counts as imagenet_tnt's."""
    general, *rest = HEADING.split(TEXT)
    found = {"imagenet_tnt": general}
    for heading, text in zip(rest[::2], rest[1::2], strict=True):
        for name in re.findall(r"`(\w+)`", heading):
            found[name] = found.get(name, "") + text
    return found


def test_every_recipe_is_there():
    files = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "common"}
    assert set(parts()) == files


def flags():
    return [(name, *flag) for name, text in parts().items() for flag in FLAG.findall(text)]


@pytest.mark.parametrize(("name", "key", "value"), flags())
def test_flags_are_those_of_the_recipe(name, key, value):
    config = importlib.import_module(f"configs.{name}").get_config(None)
    *sections, last = key.split(".")
    section = config
    for part in sections:
        if part not in section:
            section[part] = ConfigDict()
        section = section[part]
    before = section.get(last)
    try:
        value = ast.literal_eval(value.strip("'"))
    except (ValueError, SyntaxError):
        value = value.strip("'")  # a word
    with section.ignore_type():
        section[last] = value
    if key == "optimizer.cooldown_epochs":  # comes with the length of the run
        config.loop.num_epochs -= before
    experiment.check_config(config, needs_data=False)
    assert value != before, "the recipe has it already"


def test_there_are_flags():
    assert len(flags()) > 20
    assert "`--config.data.mean` and `--config.data.std`" in TEXT  # the only ones without a value
    assert TEXT.count("--config.") == len(flags()) + 2


def test_code_is_cited_by_commit():
    """A branch moves on, and its lines with it."""
    commits = REPOSITORY.findall(TEXT)
    assert len(commits) > 20
    assert all(re.fullmatch(r"[0-9a-f]{7,40}", commit) for commit in commits)
