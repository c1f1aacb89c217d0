"""Runs of detection and segmentation: predicted from, drawn, reported."""

import importlib
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import train
from data.annotations.digits_scenes import Scenes, SceneSource
from data.annotations.pipeline import AnnotatedData
from data.pixel_statistics import default_statistics
from harness.errors import ConfigError
from inference.annotating.annotator import Annotator
from reports.run_record import read_run
from reports.run_sections import run_page
from tools import predict
from training import batch_pictures, experiment
from workdirs.config_file import read_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["digits_detr", "digits_segment"])
def workdir(request, tmp_path_factory):
    config = importlib.import_module(f"configs.{request.param}").get_config("debug")
    config.mesh.data = 1
    folder = tmp_path_factory.mktemp(request.param)
    train.train_and_evaluate(ConfigDict(config), folder)
    return folder


def predict_images(workdir, images, folder, **options):
    """Calls the tool's functions as its flags would."""
    flags = {"config": None, "workdir": str(workdir), "weights": None, "checkpoint": "latest"}
    flags |= {"ema": False, "classes": None, "exported": None, "explain": None, "batch_size": 3}
    flags |= {"annotated_folder": str(folder), "min_score": 0.02, "json": False, "top_k": None}
    flags["ids"] = None
    args = type("Flags", (), flags | {"explain_folder": "explained"} | options)
    predict.main(args, [str(image) for image in images])


def test_predict_draws_and_writes(workdir, tmp_path, capsys):
    source = SceneSource("test", (64, 64), Scenes())
    for number in range(4):
        image = Image.fromarray(source[number]["image"][..., 0])
        image.save(tmp_path / f"{number}.png")
    predict_images(workdir, [tmp_path], tmp_path / "out")
    written = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [image["file_name"] for image in written["images"]] == [
        str(tmp_path / f"{number}.png") for number in range(4)
    ]
    assert len(capsys.readouterr().out.splitlines()) == 4
    rows = written["annotations"]
    assert {row["image_id"] for row in rows} <= {1, 2, 3, 4} and rows
    key = "score" if "score" in rows[0] else "segmentation"
    assert all(key in row for row in rows)
    for number in range(4):
        picture = np.asarray(Image.open(tmp_path / f"out/{number}.png.annotated.png"))
        assert picture.shape == (384, 384, 3)

    names = [{"id": 90 - row["id"], "name": row["name"]} for row in written["categories"]]
    images = [{"id": 100 - n, "file_name": f"train/{n}.png"} for n in range(4)]
    file = tmp_path / "ids.json"
    file.write_text(json.dumps({"images": images, "categories": names, "annotations": []}))
    predict_images(workdir, [tmp_path], tmp_path / "out", ids=str(file))
    content = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [image["id"] for image in content["images"]] == [100, 99, 98, 97]
    for row, before in zip(content["annotations"], rows, strict=True):
        assert row["category_id"] == 90 - before["category_id"]
        assert row["image_id"] == 101 - before["image_id"]
    for wrong, message in (("nowhere.json", "no such file"), (str(tmp_path / "0.png"), "not JSON")):
        with pytest.raises(ConfigError, match=message):
            predict_images(workdir, [tmp_path], tmp_path / "out", ids=wrong)


@pytest.mark.parametrize("flag", [{"json": True}, {"top_k": 1}])
def test_flags_of_classification_are_refused(workdir, tmp_path, flag):
    with pytest.raises(ConfigError, match=f"--{next(iter(flag))} is for classification"):
        predict_images(workdir, [tmp_path], tmp_path / "out", **flag)


def test_weights_without_the_data_set(workdir, monkeypatch):
    """All that a model needs of it are its names and its channels."""
    image = SceneSource("test", (64, 64), Scenes())[0]["image"]
    (expected,) = Annotator.load(workdir).iterate(image)
    config = read_config(workdir)
    kind = {"detection": "coco", "segmentation": "masks"}[config.task.name]
    config.data.name = f"{kind}:/nowhere"
    config.data.channels = 1  # else taken to be in colour
    with config.data.ignore_type():  # else of the new name
        config.data.mean, config.data.std = default_statistics("digits_scenes", 1)
    config.mesh.data = -1  # as `load` without a config: the same bits

    def gone(self):
        raise FileNotFoundError("the data set")

    monkeypatch.setattr(AnnotatedData, "_opened", gone)
    (found,) = Annotator.load(workdir, config).iterate(image)
    for name in ("detections", "segments"):
        jax.tree.map(np.testing.assert_array_equal, *map(vars_of(name), (found, expected)))


def vars_of(name):
    return lambda found: vars(value) if hasattr(value := getattr(found, name), "boxes") else value


def test_the_page_shows_the_best_and_the_worst(workdir):
    page = run_page(read_run(workdir))
    (section,) = [one for one in page.sections if one.title == "Best and worst"]
    pictures = [block for block in section.blocks if hasattr(block, "pictures")]
    assert [len(block.pictures) for block in pictures] == [6, 6]
    qualities = [float(one.lines[0]) for one in pictures[0].pictures]
    assert qualities == sorted(qualities, reverse=True)
    assert all(len(one.images) == 2 for block in pictures for one in block.pictures)


def test_batches_are_drawn(workdir):
    run = experiment.build(read_config(workdir))
    figure = batch_pictures.draw_batch(run, num_images=4, start=0)
    assert len(figure.axes) == 4
