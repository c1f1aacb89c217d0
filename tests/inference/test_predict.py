"""tools/predict.py gives what evaluate.py's own batches and step give, whatever is around."""

import dataclasses
import io
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps

import zoo.load
from configs import digits_nest, digits_nest_gan
from data.class_names import imagenet_names, readable, short_name
from data.loading import Labelled
from data.pipeline import Data
from data.sources.arrays import digits_source
from harness.errors import ConfigError
from inference.given_images import GivenImages, compute_rows, find_files
from inference.pictures.subjects import Subject
from inference.prediction import Prediction
from inference.predictor import Predictor
from preview import dry_run
from saving.checkpoints import Checkpoints
from tests.training.test_trained_run import write_old_config
from tools import predict
from training import batch_pictures, experiment
from workdirs.claims import claimed
from zoo.load import parameter_shapes
from zoo.registry import create_model
from zoo.save import write_weights

ROOT = Path(__file__).parents[2]


def picture(seed, size=(37, 29), mode="RGB"):
    """Smooth colours with an edge, so that JPEG keeps them and a wrong crop shows."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize(size, 3)
    small.paste((255, 0, 0), (3, 3, 12, 9))
    return small.convert(mode)


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


FILES = {
    "cat/colour.png": encoded(picture(0), format="PNG"),
    "cat/photo.jpg": encoded(picture(1, (64, 48)), format="JPEG", quality=95),
    "dog/grey.png": encoded(picture(2, mode="L"), format="PNG"),
    "dog/grey.jpeg": encoded(picture(3, (40, 90), "L"), format="JPEG"),
    "n02123045/cmyk.jpg": encoded(picture(4, mode="CMYK"), format="JPEG"),
    "n02123045/palette.gif": encoded(picture(5, mode="P"), format="GIF"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pets")
    for split in ("train", "val"):
        for name, content in FILES.items():
            path = root / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def small(config):
    config.model.update(patch_size=2, dims=(16, 32), depths=(1, 1), num_heads=(2, 2))
    config.data.update(image_size=16, batch_size=2, eval_batch_size=1)
    config.task.ema_decay = 0.9
    config.mesh.data = 1
    return config


@pytest.fixture(scope="module")
def config(folder):
    config = small(digits_nest.get_config())
    config.data.update(name=f"folder:{folder}", eval_split="val", eval_crop_ratio=0.8)
    config.data.eval_crop_interpolation = "pil_bicubic"
    config.augment = {}
    return config


def random_tree(shapes):
    rng = np.random.default_rng(0)

    def draw(leaf):
        return (0.4 * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(draw, shapes)


def random_weights(path, section, num_classes, num_channels):
    """A weights file for the model of a config's section."""
    model = create_model(**section, num_classes=num_classes)
    params = random_tree(parameter_shapes(model, (16, 16, num_channels)))
    write_weights(path, {"params": params}, model, (16, 16))
    return path


def saved_run(config, workdir):
    """A workdir with a checkpoint of random weights, whose average is another model."""
    run = experiment.build(config)
    state = random_tree(run.shapes)  # initial weights would find all classes equal
    plain = experiment.check_config(config)
    with claimed(workdir, plain, run.data.dataset.class_names):
        with Checkpoints(workdir=workdir, **plain["checkpoint"]) as saved:
            saved.save(1, state, {}, wait=True)
            other = state.replace(params=jax.tree.map(lambda x: 0.9 * x, state.params))
            saved.save_best(1, other, {}, {"top1_accuracy": 0.5})
            saved.wait()
    return run, state, other


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "pets"
    return workdir, *saved_run(config, workdir)


def of_evaluation(run, state, weights="raw"):
    """-log p(label), and whether the label is first, of each image as evaluate.py has them."""
    sums = [run.eval_step(state, batch, run.key)[0][weights] for batch in run.data.eval_batches()]
    return [(float(one.loss.total), int(one.top1_accuracy.total)) for one in sums]


def evaluation_files(run):
    source = run.data.eval_source
    return [Path(source.describe(i)) for i in range(len(source))], [
        source[i]["label"] for i in range(len(source))
    ]


@pytest.mark.parametrize(
    ("checkpoint", "average"), [("latest", False), ("latest", True), ("best", False)]
)
def test_probabilities_are_those_of_evaluation(config, trained, checkpoint, average):
    workdir, run, latest, best = trained
    state = best if checkpoint == "best" else latest
    expected = of_evaluation(run, state, "ema" if average else "raw")
    files, labels = evaluation_files(run)
    assert {path.suffix for path in files} == {".png", ".jpg", ".jpeg", ".gif"}
    predictor = Predictor.load(workdir, config, checkpoint=checkpoint, ema=average)
    predictions = predictor.predict(files, batch_size=4)  # two batches, the last one padded
    assert [prediction.path for prediction in predictions] == files
    for prediction, label, (loss, top1) in zip(predictions, labels, expected, strict=True):
        probabilities = prediction.probabilities
        assert probabilities.sum() == pytest.approx(1, rel=1e-5)
        assert -math.log(probabilities[label]) == pytest.approx(loss, rel=1e-4, abs=1e-5)
        assert (probabilities.argmax() == label) == top1
    assert len({round(float(p.probabilities.max()), 4) for p in predictions}) > 3  # they differ


def test_images_and_logits_are_those_of_evaluation(config, trained):
    """Bit for bit, in the same program."""
    workdir, run, state, _ = trained
    predictor = Predictor.load(workdir, config)
    files, _ = evaluation_files(run)
    batches = predictor.data.batches_of(
        GivenImages(files, 3), None, Labelled((*predictor.data.height_and_width, 3))
    )
    logits = jax.jit(predictor.logits)
    for ours, theirs in zip(batches, run.data.eval_batches(), strict=True):
        np.testing.assert_array_equal(np.asarray(ours["image"]), np.asarray(theirs["image"]))
        variables = {"params": state.params}
        theirs = logits(variables, np.asarray(theirs["image"]))
        np.testing.assert_array_equal(logits(predictor.variables, ours["image"]), theirs)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_photographs_that_lie_on_their_side(tmp_path, channels, suffix):
    """With data.exif_orientation they are predicted as `exif_transpose` turns them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, (24, 16)).save(tmp_path / f"lying.{suffix}", exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / f"lying.{suffix}"))
    assert upright.size == (16, 24)
    upright.save(tmp_path / "upright.png")
    files = [tmp_path / f"lying.{suffix}", tmp_path / "upright.png"]
    seen = {}

    def brightness(images, first):
        seen[data.exif_orientation] = np.array(images)
        return {"probabilities": images.mean(axis=(1, 2))}

    for exif_orientation in (False, True):
        data = Data(name="synthetic", image_size=(24, 16), batch_size=2, eval_batch_size=2)
        data = dataclasses.replace(data, exif_orientation=exif_orientation)
        given = dict(num_channels=channels, batch_size=2, images_sharding=None)
        assert len(list(compute_rows(files, brightness, data=data, **given))) == 2
    np.testing.assert_array_equal(seen[True][0], seen[True][1])
    np.testing.assert_array_equal(seen[True][1], seen[False][1])
    assert np.abs(seen[False][0].astype(int) - seen[False][1]).mean() > 10


def test_grey_models_get_grey_images(tmp_path):
    config = small(digits_nest.get_config())
    config.data.eval_split = "test[:3]"
    run, state, _ = saved_run(config, tmp_path / "run")
    files, source = [], digits_source("test", (16, 16))
    for index in range(3):
        image = Image.fromarray(source[index]["image"][..., 0])
        files.append(tmp_path / f"{index}.png")
        (image if index else image.convert("RGB")).save(files[-1])
        array = GivenImages(files, 1)[index]["image"]
        np.testing.assert_array_equal(array, source[index]["image"])
    predictor = Predictor.load(tmp_path / "run", config)
    assert (predictor.num_channels, predictor.class_names) == (1, tuple("0123456789"))
    for index, prediction in enumerate(predictor.predict(files, batch_size=1)):
        loss, _ = of_evaluation(run, state)[index]
        label = source[index]["label"]
        assert -math.log(prediction.probabilities[label]) == pytest.approx(loss, rel=1e-4)
    path = tmp_path / "colour.png"
    picture(0).save(path)
    grey = GivenImages([path], 1)[0]["image"][..., 0].astype(int)
    pillow = np.asarray(picture(0).convert("L")).astype(int)
    assert np.abs(grey - pillow).max() <= 1  # two ways of rounding


def arguments(**given):
    """Flags as absl would have parsed them."""
    flags = {"config": None, "workdir": None, "checkpoint": "latest", "weights": None}
    flags |= {"ema": False, "classes": None, "top_k": 5, "batch_size": 32, "json": False}
    flags |= {"exported": None, "explain": None, "explain_folder": "explained", "ids": None}
    return SimpleNamespace(**(flags | given))


def test_table_and_json(folder, trained, capsys):
    workdir = trained[0]
    images = [str(folder / "train" / "cat"), str(folder / "train" / "n02123045" / "cmyk.jpg")]
    predict.main(arguments(workdir=workdir, json=True), images)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["colour.png", "photo.jpg", "cmyk.jpg"]
    for line in lines:
        chances = [row["probability"] for row in line["predictions"]]
        assert chances == sorted(chances, reverse=True) and sum(chances) == pytest.approx(1)
        # The folder that has WordNet's number for a name shows what it means.
        assert {(row["label"], row["name"]) for row in line["predictions"]} == (
            {(0, "cat"), (1, "dog"), (2, "tabby, tabby cat")}
        )
    predict.main(arguments(workdir=workdir, top_k=1), images)
    table = capsys.readouterr().out.splitlines()
    for row, line in zip(table, lines, strict=True):
        first = line["predictions"][0]
        end = f"  {first['probability']:7.2%}  {first['name']}"
        assert row.startswith(line["image"]) and row.endswith(end)
    assert len({line.index("%") for line in table}) == 1  # aligned


def test_differences_from_training_are_noted(config, trained, folder, tmp_path, capsys):
    """Also when an earlier version wrote the run's config."""
    (tmp_path / "checkpoints").symlink_to(trained[0] / "checkpoints")
    write_old_config(tmp_path, config)
    image = [str(folder / "val" / "cat" / "photo.jpg")]
    predict.main(arguments(workdir=tmp_path, config=config), image)
    assert "note" not in capsys.readouterr().err
    other = config.copy_and_resolve_references()
    other.data.eval_crop_ratio = 0.9
    predict.main(arguments(workdir=tmp_path, config=other), image)
    expected = "note: not as trained: data.eval_crop_ratio: 0.8 there, 0.9 now\n"
    assert capsys.readouterr().err == expected


def test_bad_images_are_named_and_the_others_predicted(folder, trained, tmp_path, capsys):
    photo = FILES["cat/photo.jpg"]
    (tmp_path / "sub" / ".hidden").mkdir(parents=True)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("not an image")
    (tmp_path / "a.jpg").write_bytes(photo[: len(photo) // 2])
    (tmp_path / "b.png").touch()
    (tmp_path / "c.jpg").write_bytes(photo)
    (tmp_path / "sub" / "d.PNG").write_bytes(FILES["cat/colour.png"])
    (tmp_path / "sub" / "e.png").write_text("not an image")
    (tmp_path / "sub" / ".f.png").write_text("hidden")
    (tmp_path / "sub" / ".hidden" / "g.png").write_text("hidden")
    command = [sys.executable, "tools/predict.py", f"--workdir={trained[0]}", "--json"]
    paths = [tmp_path, tmp_path / "missing.png", tmp_path / "none"]
    done = subprocess.run(
        [*command, "--batch_size=2", *map(str, paths)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    predicted = [json.loads(line)["image"] for line in done.stdout.splitlines()]
    assert predicted == [str(tmp_path / "c.jpg"), str(tmp_path / "sub" / "d.PNG")]
    for name, reason in (
        ("none", "the folder holds no image"),
        ("a.jpg", "it cannot be decoded"),
        ("b.png", "the file is empty"),
        ("sub/e.png", "not an image of a known format"),
        ("missing.png", "No such file"),
    ):
        (line,) = [line for line in done.stderr.splitlines() if f"{tmp_path / name}: " in line]
        assert reason in line
    assert done.stderr.splitlines()[-1].endswith("5 of 7 could not be predicted, see above")
    assert "Traceback" not in done.stderr and "hidden" not in done.stderr


def test_folders_are_listed_in_order(tmp_path):
    for name in ("b/2.JPG", "b/10.jpg", "a.webp", "c.txt", "b/d/x.tiff", "b/e.avif", "b/f.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files, problems, notes = find_files([str(tmp_path), str(tmp_path / "c.txt")])
    found = [str(file.relative_to(tmp_path)) for file in files]
    expected = ["a.webp", "b/10.jpg", "b/2.JPG", "b/d/x.tiff", "b/e.avif", "c.txt"]
    assert found == expected and not problems
    left_out = "2 files left out: 1 .txt, 1 .mp4; 4 of 5 images lie in subfolders"
    assert notes == [f"{tmp_path}: {left_out}"]


def test_without_the_data_set(folder, config, trained, tmp_path):
    """A workdir without its images; weights of ImageNet's classes where ImageNet is not."""
    workdir = trained[0]
    files = [folder / "val" / name for name in FILES]
    before = Predictor.load(workdir, config)
    elsewhere = tmp_path / "copied"
    shutil.copytree(workdir, elsewhere)
    moved = config.copy_and_resolve_references()
    moved.data.name = f"folder:{tmp_path / 'gone'}"
    after = Predictor.load(elsewhere, moved)
    assert after.class_names == before.class_names == ("cat", "dog", "tabby, tabby cat")
    for one, other in zip(
        before.predict(files, batch_size=8), after.predict(files, batch_size=8), strict=True
    ):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)

    moved.data.update(name="imagenet2012", data_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="imagenet2012.* is not prepared"):
        experiment.check_config(moved)
    weights = random_weights(tmp_path / "w.safetensors", moved.model, 1000, 3)
    predictor = Predictor.load(weights, moved)
    assert predictor.class_names[281] == "tabby, tabby cat"
    assert predictor.mean == (0.485, 0.456, 0.406) and predictor.std == (0.229, 0.224, 0.225)
    (prediction,) = predictor.predict(files[:1], batch_size=8)
    assert prediction.probabilities.shape == (1000,)
    # Weights with other classes than the recipe's data set: theirs count, without names.
    moved.data.update(name=f"folder:{folder}", mean=(0.5, 0.4, 0.3))
    predictor = Predictor.load(weights, moved)
    assert (predictor.model.num_classes, predictor.class_names) == (1000, None)
    assert predictor.mean == (0.5, 0.4, 0.3) and predictor.std == (0.229, 0.224, 0.225)


def test_grey_arrays_that_are_not_here(tmp_path, monkeypatch):
    config, reads = small(digits_nest.get_config()), []
    config.data.name = f"npz:{tmp_path / 'gone.npz'}"
    weights = random_weights(tmp_path / "w.npz", config.model, 4, 1)
    read = zoo.load._read
    monkeypatch.setattr(zoo.load, "_read", lambda *given: reads.append(given) or read(*given))
    predictor = Predictor.load(weights, config)
    assert len(reads) == 2  # of which the first says classes and channels
    assert (predictor.num_channels, predictor.model.num_classes) == (1, 4)
    assert predictor.mean == pytest.approx((0.449,))


def test_names_of_classes(trained, config, tmp_path):
    names = list(imagenet_names().items())
    assert len(names) == 1000 and names == sorted(names)  # ImageNet's labels are in this order
    assert names[0] == ("n01440764", "tench, Tinca tinca")
    assert names[999] == ("n15075141", "toilet tissue, toilet paper, bathroom tissue")
    assert readable(["n15075141", "n99999999", "cat"])[1:] == ("n99999999", "cat")
    (tmp_path / "names.txt").write_text("x\ny\nz\n")
    chosen = Predictor.load(trained[0], config, classes_file=tmp_path / "names.txt")
    assert chosen.class_names == ("x", "y", "z")
    (tmp_path / "names.txt").write_bytes("\ufeffx\r\ny\r\nz\r\n".encode())  # Notepad's
    chosen = Predictor.load(trained[0], config, classes_file=tmp_path / "names.txt")
    assert chosen.class_names == ("x", "y", "z")
    (tmp_path / "names.txt").write_text("x\ny\n")
    with pytest.raises(ConfigError, match="names 2 classes, the weights have 3"):
        Predictor.load(trained[0], config, classes_file=tmp_path / "names.txt")


def test_only_imagenets_synonyms_are_cut():
    names = ("Lab, black", "Lab, yellow")
    assert [short_name(name) for name in names] == [*names]
    assert short_name("tench, Tinca tinca") == "tench" and short_name("tench, other") != "tench"
    text = batch_pictures.label_text(np.float32([0.6, 0.4]), names)
    assert text == "Lab, black 0.60 + Lab, yellow 0.40"
    data = SimpleNamespace(form=Labelled(()), dataset=SimpleNamespace(class_names=names))
    batch = {"image": jax.numpy.zeros((2, 1)), "label": jax.numpy.arange(2)}
    assert dry_run._labels(batch, data) == "Lab, black, Lab, yellow, ..."
    assert Subject("any", SimpleNamespace(class_names=names)).class_name(1) == "Lab, yellow"


def test_best_classes():
    prediction = Prediction(Path("a.png"), np.float32([0.1, 0.3, 0.3, 0.2, 0.1]))
    rows = prediction.best(3)
    assert [row.label for row in rows] == [1, 2, 3]
    assert len(prediction.best(9)) == 5
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"top_k={wrong}: out of range; allowed: at least 1"):
            prediction.best(wrong)
    table = predict.as_table(Path("a.png"), rows, width=8)
    assert table.splitlines()[0] == "a.png      30.00%  class 1"
    assert table.splitlines()[2] == "           20.00%  class 3"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give one of --workdir=FOLDER and --weights=PATH"),
        ({"weights": "w.npz"}, "--weights needs --config"),
        ({"workdir": "nothere"}, "nothere/config.json does not exist"),
    ],
)
def test_wrong_flags(given, message):
    with pytest.raises(ConfigError) as error:
        predict.main(arguments(**given), ["a.png"])
    assert message in str(error.value)


def test_wrong_weights(config, trained):
    with pytest.raises(ConfigError, match="no such file or folder"):
        Predictor.load("/nothere", config)
    other = config.copy_and_resolve_references()
    other.model.dims = (16, 16)
    with pytest.raises(ConfigError, match=r"dims=\(16, 32\)"):
        Predictor.load(trained[0], other)
    with pytest.raises(ConfigError, match="config.task.name='gan'"):
        Predictor.load(trained[0], digits_nest_gan.get_config("debug"))
