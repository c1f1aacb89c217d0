"""tools/export.py: one file that runs without the model's code, and its loader."""

import json
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from configs import digits_nest
from harness.errors import ConfigError
from inference.export import load_exported
from inference.predictor import Predictor
from tools import export, predict
from zoo.load import parameter_shapes
from zoo.registry import create_model
from zoo.save import write_weights

ROOT = Path(__file__).parents[2]
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
SECTIONS = {
    "nest": dict(
        name="nest_tiny_s196_224", dims=(8, 16, 32), num_heads=(2, 4, 8), depths=(1, 1, 2)
    ),
    "tnt": dict(name="tnt_s_patch16_224", inner_dim=8, outer_dim=32, depth=2, num_outer_heads=4),
}
MODELS = pytest.mark.parametrize("name", SECTIONS)


def recipe(name, data="folder:/nowhere", size=32):
    config = digits_nest.get_config()
    config.model = SECTIONS[name]
    config.data.update(name=data, image_size=size, eval_crop_ratio=0.8)
    config.data.eval_crop_interpolation = "pil_bicubic"
    if "npz" not in data:
        config.data.update(mean=MEAN, std=STD)
    return config


def random_weights(file, config, channels=3, classes="abcd", size=(32, 32)):
    model = create_model(**config.model, num_classes=len(classes))
    shapes = parameter_shapes(model, (*size, channels))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)
    write_weights(file, {"params": params}, model, size, classes)
    return model, params


def flags(**given):
    """Parsed flags, for calling main without a process."""
    defaults = dict(config=None, workdir=None, checkpoint="latest", weights=None, ema=False)
    defaults |= dict(classes=None, batch_size=None, format="jax")
    defaults["platforms"] = None if given.get("format") == "onnx" else ["cpu"]
    defaults |= dict(explain=None, explain_folder="explained")
    return types.SimpleNamespace(**(defaults | dict(output=None, overwrite=False) | given))


def predict_flags(**given):
    given = dict(exported=None, top_k=4, batch_size=2, json=True, ids=None) | given
    return flags(**given)


def expected_probabilities(model, params, images):
    """By NumPy, from the logits on."""
    images = (images / 255 - np.array(MEAN)) / np.array(STD)
    logits = np.asarray(model.apply({"params": params}, np.float32(images)))
    exponentials = np.exp(logits.astype(np.float64))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["nest", pytest.param("tnt", marks=pytest.mark.slow)])
def test_runs_with_jax_alone(name, tmp_path):
    config, weights = recipe(name), tmp_path / "in.npz"
    model, params = random_weights(weights, config)
    platforms = ["cpu", "cuda", "tpu"]
    output = tmp_path / "model.jax"
    export.main(flags(config=config, weights=weights, output=output, platforms=platforms))
    images = np.random.default_rng(5).integers(0, 256, (5, 32, 32, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    script = f"""
import os, sys, zipfile
os.chdir({str(tmp_path)!r})
import jax.export, numpy
with zipfile.ZipFile("model.jax") as file:
    exported = jax.export.deserialize(bytearray(file.read("function")))
images = numpy.load("images.npy")
for count in (1, 5):
    numpy.save(f"out{{count}}.npy", exported.call(images[:count]))
assert exported.platforms == ("cpu", "cuda", "tpu")
assert not {{"flax", "nest", "tnt", "training", "layers"}} & set(sys.modules)
"""
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-I", "-c", script], check=True, env=env)
    expected = expected_probabilities(model, params, images)
    for count in (1, 5):
        out = np.load(tmp_path / f"out{count}.npy")
        np.testing.assert_allclose(out, expected[:count], atol=1e-6)
    told = json.loads(zipfile.ZipFile(output).read("about.json"))
    assert (told["image_shape"], told["classes"]) == ([32, 32, 3], list("abcd"))
    assert (told["mean"], told["std"]) == (list(MEAN), list(STD))


@pytest.mark.parametrize("batch_size", [None, 3])
def test_predict_takes_it_with_preprocessing_and_names(batch_size, tmp_path, capsys):
    """The same lines as from the weights, with images of all sizes and one that is broken."""
    config, weights, output = recipe("nest"), tmp_path / "in.npz", tmp_path / "model.jax"
    config.data.exif_orientation = True
    random_weights(weights, config)
    given = dict(config=config, weights=weights)
    export.main(flags(**given, output=output, batch_size=batch_size))
    assert load_exported(output).batch_size == batch_size
    rng = np.random.default_rng(1)
    (tmp_path / "images").mkdir()
    for index in range(4):
        pixels = rng.integers(0, 256, (40 + 7 * index, 50, 3), np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 3 + 3 * index  # turned, turned aside, and two without meaning
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png", exif=exif)
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    lines = []
    capsys.readouterr()
    for which in (given, dict(exported=output)):
        with pytest.raises(ConfigError, match="1 of 4 could not be predicted"):
            predict.main(predict_flags(**which), [str(tmp_path / "images")])
        lines.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    one, other = lines
    assert load_exported(output).data.exif_orientation
    assert len(one) == 3 and len({line["predictions"][0]["probability"] for line in one}) == 3
    for row, same in zip(one, other, strict=True):
        assert row["image"] == same["image"]
        chances = {row["name"]: row["probability"] for row in row["predictions"]}
        assert sorted(chances) == list("abcd")
        assert chances == pytest.approx({r["name"]: r["probability"] for r in same["predictions"]})


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_grey_images_and_either_loss(loss, tmp_path):
    config, files = recipe("nest", "npz:/nowhere.npz"), [tmp_path / "in.npz", tmp_path / "m.jax"]
    config.task.loss = loss
    model, params = random_weights(files[0], config, channels=1)
    export.main(flags(config=config, weights=files[0], output=files[1]))
    images = np.random.default_rng(5).integers(0, 256, (3, 32, 32, 1), np.uint8)
    predictor = Predictor.load(files[0], config)
    (mean,), (std,) = predictor.mean, predictor.std
    logits = model.apply({"params": params}, np.float32((images / 255 - mean) / std))
    exported = load_exported(files[1])
    expected = getattr(jax.nn, loss)(logits)
    np.testing.assert_allclose(exported(images), expected, atol=1e-6)
    found = predictor.probabilities({"params": params}, images)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (exported.num_channels, exported.class_names) == (1, tuple("abcd"))


@pytest.mark.onnx
@MODELS
def test_onnx_gives_the_same(name, tmp_path):
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    config, weights, output = recipe(name), tmp_path / "in.npz", tmp_path / "model.onnx"
    model, params = random_weights(weights, config)
    given = dict(config=config, weights=weights, output=output, format="onnx")
    if name == "nest":
        with pytest.raises(ConfigError, match="--batch_size=1 may help"):
            export.main(flags(**given))
    export.main(flags(**given, batch_size=4 if name == "nest" else None))
    images = np.random.default_rng(5).integers(0, 256, (4, 32, 32, 3), np.uint8)
    session = runtime.InferenceSession(output)
    (out,) = session.run(None, {session.get_inputs()[0].name: images})
    expected = expected_probabilities(model, params, images)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    assert json.loads(Path(f"{output}.json").read_text())["classes"] == list("abcd")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": "absent.npz"}, "no such file or folder"),
        ({"weights": None}, "give one of --workdir=FOLDER and --weights=PATH"),
        ({"output": "model.h5"}, "the name must end with .jax"),
        (
            {"platforms": ["abacus"], "weights": "absent.npz"},  # said before weights are looked at
            "platform 'abacus': unknown; allowed: cpu, cuda, rocm, tpu",
        ),
        ({"platforms": []}, "no platform is named; allowed: cpu, cuda, rocm, tpu"),
        (
            {"format": "onnx", "output": "model.onnx", "platforms": ["cpu"]},
            "--platforms is for --format=jax",
        ),
        (
            {"format": "onnx", "output": "model.onnx"},
            "--format=onnx needs jax2onnx .*requirements-onnx.txt",
        ),
    ],
)
def test_what_export_needs(given, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    monkeypatch.chdir(tmp_path)
    config = recipe("nest")
    random_weights(tmp_path / "in.npz", config)
    with pytest.raises(ConfigError, match=message):
        export.main(flags(**(dict(config=config, weights="in.npz", output="m.jax") | given)))
    assert [file.name for file in tmp_path.iterdir()] == ["in.npz"]


def test_the_description_beside_onnx_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)  # which the next look would find missing
    (tmp_path / "m.onnx.json").write_text("mine")
    given = dict(config=recipe("nest"), weights="absent", format="onnx")
    given["output"] = f"{tmp_path}/m.onnx"
    with pytest.raises(ConfigError, match="m.onnx.json exists already; --overwrite replaces it"):
        export.main(flags(**given))
    with pytest.raises(ConfigError, match="needs jax2onnx"):
        export.main(flags(**given, overwrite=True))


def test_files_that_are_no_exports(tmp_path):
    config, weights, output = recipe("nest"), tmp_path / "in.npz", tmp_path / "model.jax"
    random_weights(weights, config)
    export.main(flags(config=config, weights=weights, output=output))
    whole = output.read_bytes()
    middle = len(whole) // 2
    for content, message in (
        (b"", "no exported model"),
        (whole[:middle], "no exported model"),
        (whole[:middle] + bytes(9) + whole[middle + 9 :], "no exported model: Bad CRC"),
        (weights.read_bytes(), "no exported model"),
    ):
        output.write_bytes(content)
        with pytest.raises(ConfigError, match=message) as error:
            load_exported(output)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="absent.jax: No such file"):
        load_exported(tmp_path / "absent.jax")
    with pytest.raises(ConfigError, match="--weights does not go with --exported"):
        predict.main(predict_flags(exported=output, weights=weights), ["a.png"])
