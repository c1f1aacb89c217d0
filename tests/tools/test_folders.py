"""What every command makes of a folder that lacks something, or whose names are odd."""

import json
import os

import jax
import numpy as np
import pytest
from PIL import Image

from configs import digits_nest
from data import datasets, prepare
from data.pipeline import Data
from inference.export import load_exported
from training.batch_pictures import label_text
from workdirs.claims import claimed
from workdirs.class_file import find_classes
from zoo.load import load_variables, parameter_shapes
from zoo.registry import create_model
from zoo.save import write_weights

NO_TEXT = os.fsdecode(b"caf\xe9")  # not UTF-8


def make(root, splits, classes):
    """Two pictures in each class folder."""
    for split in splits:
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (20, 24), (90 * i, 50, 0)).save(folder / f"{i}.png")
    return root


def weights(path, class_names):
    """Random weights of the recipe's debug model; returns the model too."""
    model = create_model(**digits_nest.get_config("debug").model, num_classes=len(class_names))
    shapes = parameter_shapes(model, (16, 16, 3))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)
    write_weights(path, {"params": params}, model, (16, 16), class_names)
    return model


def recipe(folder):
    return [
        "--config=configs/digits_nest.py:debug",
        f"--config.data.name=folder:{folder}",
        "--config.data.eval_split=test",
        "--config.mesh.data=1",
    ]


TRAINING = {
    "train": ["train.py", "--workdir={out}"],
    "benchmark": ["tools/benchmark.py", "data", "--data=own"],
    "visualize": ["tools/visualize.py", "batch", "--output={out}.png"],
}
OTHERS = {
    "evaluate": ["evaluate.py", "--weights={weights}"],
    "prepare": ["tools/prepare_data.py", "folder:{folder}", "--resize=8", "--data_dir={out}"],
}


def call(run_script, arguments, root, **places):
    arguments = [argument.format(**places, out=root / "out") for argument in arguments]
    if "prepare_data" not in arguments[0]:
        arguments += recipe(places["folder"])
    return run_script(*arguments)


@pytest.mark.parametrize("command", TRAINING)
@pytest.mark.parametrize("split", ["test", "val"])
def test_nothing_to_train_on(run_script, tmp_path, split, command):
    folder = make(tmp_path / "set", [split], "ab")
    code, _, stderr = call(run_script, TRAINING[command], tmp_path, folder=folder)
    assert code == 2 and len(stderr.strip().splitlines()) == 1
    assert "config.data.train_split=" in stderr
    assert "nothing to train on, it can only be evaluated" in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_folder_to_evaluate_only(run_script, tmp_path, split):
    """Evaluated, predicted and copied; what is left out is said each time, in one line."""
    folder = make(tmp_path / "set", [split], "ab")
    (folder / split / "a/notes.txt").touch()
    note = f"note: {folder}/{split}: 1 file left out: 1 .txt\n"
    weights(tmp_path / "w.npz", "ab")
    places = dict(folder=folder, weights=tmp_path / "w.npz")
    code, stdout, stderr = call(run_script, OTHERS["evaluate"], tmp_path, **places)
    assert code == 0, stderr
    result = json.loads(stdout)
    assert (result["split"], result["num_examples"]) == ("test", 4) and note in stderr
    code, stdout, stderr = call(run_script, OTHERS["prepare"], tmp_path, **places)
    assert code == 0 and note in stdout
    copy = datasets.open_dataset("set_8", str(tmp_path / "out"))
    assert copy.splits == (("validation", "test")[split == "test"],)
    predict = ["tools/predict.py", "--json", "--weights={weights}", str(folder)]
    code, stdout, stderr = call(run_script, predict, tmp_path, **places)
    assert code == 0, stderr
    rows = [json.loads(line)["predictions"] for line in stdout.splitlines()]
    assert len(rows) == 4 and {row["name"] for row in rows[0]} == {"a", "b"}
    assert f"note: {folder}: 1 file left out: 1 .txt; 4 of 4 images lie in subfolders" in stderr


@pytest.mark.parametrize("command", TRAINING | OTHERS)
@pytest.mark.parametrize("name", ["b\nc", "b\r"])
def test_a_class_of_two_lines_is_refused_at_the_start(run_script, tmp_path, name, command):
    """The lists that a run and a copy keep have a class on each line."""
    folder = make(tmp_path / "set", ["train", "test"], ["a", name])
    places = dict(folder=folder, weights=tmp_path / "w.npz")
    code, _, stderr = call(run_script, (TRAINING | OTHERS)[command], tmp_path, **places)
    assert code == 2 and len(stderr.strip().splitlines()) == 1
    assert f"the name of the class {name!r} holds a line end" in stderr
    assert not (tmp_path / "out").exists()


def test_class_names_that_are_no_text_are_kept(run_script, tmp_path):
    """By a copy, a workdir, weights files and exports; pictures show them somehow."""
    folder, names = make(tmp_path / "set", ["train", "test"], ["a", NO_TEXT]), ("a", NO_TEXT)
    prepare.resize(f"folder:{folder}", 8, str(tmp_path))
    assert (tmp_path / "set_8/1.0.0/label.labels.txt").read_bytes() == b"a\ncaf\xe9\n"
    assert datasets.open_dataset("set_8", str(tmp_path)).class_names == names
    data = Data(name=f"folder:{folder}", image_size=8, batch_size=2, eval_batch_size=2).open()
    with claimed(tmp_path / "run", {}, data.dataset.class_names):
        assert find_classes(tmp_path / "run") == names
    for suffix in ("npz", "safetensors"):
        model = weights(tmp_path / f"w.{suffix}", names)
        _, report = load_variables(tmp_path / f"w.{suffix}", model, image_size=(16, 16))
        assert report.class_names == names
    export = ["tools/export.py", "--weights={weights}", "--output={out}.jax", "--platforms=cpu"]
    places = dict(folder=folder, weights=tmp_path / "w.npz")
    code, _, stderr = call(run_script, export, tmp_path, **places)
    assert code == 0, stderr
    assert load_exported(tmp_path / "out.jax").class_names == names
    assert label_text(np.array([0.0, 1.0]), names).encode()
