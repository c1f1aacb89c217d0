"""docs/own-images.md: its commands, as they stand, and what it says of the rules."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import folder_nest, folder_tnt
from training.experiment import check_config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "own-images.md").read_text()
SHORTER = ["--config.loop.num_epochs=1", "--config.optimizer.warmup_epochs=0.5"]


def blocks(language):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.M | re.S)
    return [block for name, block in found if name == language]


def commands():
    """Returns the commands of the page, in words: program and arguments."""
    lines = [block.replace("\\\n", " ") for block in blocks("bash")]
    return [shlex.split(line) for block in lines for line in block.splitlines()]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The folder that the page makes, in the folder where the commands are given."""
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(compile(code, "own-images.md", "exec"), {})
    return tmp_path / "photos"


def test_the_folder_is_the_one_described(photos):
    assert len(list(photos.glob("*/*.jpg"))) == 288
    (tree,) = (block for block in blocks("") if block.startswith("photos/"))
    for line in tree.splitlines():
        assert (photos.parent / line).is_file(), line
    named = {word for words in commands() for word in words if word.endswith(".jpg")}
    assert len(named) == 2 and all((photos.parent / name).is_file() for name in named)


def walk(photos, shorter, flags):
    """Gives all commands but the one that downloads, as a person; returns what they printed."""
    printed = {}
    for python, script, *arguments in commands():
        assert python == "python"
        if "--config.data.name=folder:birds" in arguments:
            continue
        arguments += shorter if script == "train.py" else []
        arguments = [word.replace("--config=", f"--config={ROOT}/") for word in arguments]
        ended = subprocess.run(
            [sys.executable, ROOT / script, *arguments],
            cwd=photos.parent,
            env=os.environ | {"XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert ended.returncode == 0, ended.stdout
        printed[script] = ended.stdout
    return printed


def test_the_commands_run(photos):
    printed = walk(photos, SHORTER, "--xla_backend_optimization_level=0")
    assert printed.keys() == {"train.py", "tools/predict.py", "tools/explain.py"}
    assert re.search(r"264_320.jpg +\d+\.\d+%  (temple|flower)", printed["tools/predict.py"])
    picture = np.asarray(Image.open(photos.parent / "photos.png").convert("L"))
    assert picture.shape[0] > 300 and picture.std() > 10


@pytest.mark.slow
def test_the_commands_as_they_stand_learn_it(photos):
    printed = walk(photos, [], "")
    accuracies = re.findall(r"validation: .*top1_accuracy (\d+\.\d+)%", printed["train.py"])
    assert float(accuracies[-1]) > 90
    assert re.search(r"264_320.jpg +9\d\.\d+%  temple", printed["tools/predict.py"])


def test_what_is_chosen_is_what_the_page_shows(photos):
    (line,) = (block for block in blocks("") if block.startswith("by the"))
    config = folder_nest.get_config()
    config.data.name = f"folder:{photos}"
    plain = check_config(config)
    data, loop = plain["data"], plain["loop"]
    assert line.strip() == (
        f"by the 259 training images: config.data.batch_size={data['batch_size']}, "
        f"config.data.image_size={data['image_size']}, config.loop.num_epochs={loop['num_epochs']}"
    )


def test_the_table_of_recipes_names_their_weights():
    rows = re.findall(r"^\| `configs/(folder_\w+).py(?::(\w+))?` .*\| (.+) \|$", PAGE, re.M)
    assert len(rows) == 3
    for recipe, argument, weights in rows:
        module = {"folder_nest": folder_nest, "folder_tnt": folder_tnt}[recipe]
        init_from = module.get_config(argument or None).init_from
        assert f"`{init_from}`" in weights if init_from else "nothing is released" in weights
