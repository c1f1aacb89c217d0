"""tools/convert_weights.py and tools/export.py, as a person runs them."""

import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
from safetensors import safe_open

import train
from tools import convert_weights, export, model_flags
from training.errors import ConfigError
from training.models import create_model
from training.prediction import build_predictor
from training.weight_files import write_weights
from training.weights import load_weights, parameter_shapes

ROOT = Path(__file__).parent.parent
NEST = {
    "model": "nest_tiny_s196_224",
    "fields": {"dims": (8, 16, 32), "num_heads": (2, 4, 8), "depths": (1, 1, 2), "gelu": "exact"},
}
TNT = {
    "model": "tnt_s_patch16_224",
    "fields": {"inner_dim": 8, "outer_dim": 32, "depth": 2, "num_outer_heads": 4},
}
MODELS = pytest.mark.parametrize("named", [NEST, TNT], ids=["nest", "tnt"])


def build(named, **more):
    return create_model(named["model"], num_classes=10, **{**named["fields"], **more})


def random_params(model, size=32, seed=0):
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(model, size)
    return jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)


@pytest.fixture
def stored(tmp_path):
    def store(named):
        model, file = build(named), tmp_path / "in.npz"
        write_weights(file, {"params": random_params(model)}, model, (32, 32))
        return file

    return store


def run(tool, named, *args):
    fields = [f"--fields={name}={value}" for name, value in named["fields"].items()]
    line = [f"--model={named['model']}", *fields, "--num_classes=10", "--image_size=32", *args]
    return subprocess.run(
        [sys.executable, ROOT / "tools" / tool, *line],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=ROOT.parent,
    )


def convert(named, file, output, to, *more):
    return run(
        "convert_weights.py", named, f"--input={file}", f"--output={output}", f"--to={to}", *more
    )


@MODELS
def test_there_and_back_is_bit_exact(named, stored, tmp_path):
    model = build(named)
    there, back = tmp_path / "timm.safetensors", tmp_path / "back.npz"
    result = convert(named, stored(named), there, "timm")
    assert result.returncode == 0, result.stderr
    assert "loaded" in result.stdout and f"written: {there}" in result.stdout
    with safe_open(there, framework="numpy") as file:
        assert "patch_embed.proj.weight" in file.keys() or "pixel_pos" in file.keys()
        assert file.metadata()["format"] == "pt"
    assert convert(named, there, back, "npz").returncode == 0
    found = load_weights(back, model, image_size=32)
    jax.tree.map(np.testing.assert_array_equal, found, random_params(model))


def test_a_rectangle_there_and_back(tmp_path):
    """2 x 8 patches, which could be 4 x 4: the size goes along in timm's file."""
    model, files = build(TNT), [tmp_path / name for name in ("in.npz", "timm.safetensors")]
    params = random_params(model, (32, 128))
    write_weights(files[0], {"params": params}, model, (32, 128))
    args = dict(input=str(files[0]), output=str(files[1]), to="timm", image_size=["32", "128"])
    convert_weights.main(flags(TNT, **args))
    found = load_weights(files[1], model, image_size=(32, 128))
    jax.tree.map(np.testing.assert_array_equal, found, params)


def flags(named=None, **more):
    """Parsed flags, for calling main without a process."""
    defaults = dict(model=None, fields=[], num_classes=1000, image_size=None)
    defaults |= dict(channels=3, input=None, workdir=None)
    if named:
        fields = [f"{name}={value}" for name, value in named["fields"].items()]
        defaults |= dict(model=named["model"], fields=fields, num_classes=10, image_size=["32"])
    reading = dict(weights="raw", checkpoint="latest", resize=None, ignore_fields=[])
    return types.SimpleNamespace(**(defaults | reading | dict(overwrite=False) | more))


TANH = {**NEST, "fields": {**NEST["fields"], "gelu": "tanh"}}


@pytest.mark.parametrize(
    ("named", "more", "message"),
    [
        (NEST, {"output": "out.h5"}, "the name must end with .safetensors"),
        (NEST, {"output": "none/out.safetensors"}, "the folder .*none does not exist"),
        (NEST, {"output": "there.safetensors"}, "exists already; --overwrite replaces it"),
        (NEST, {"output": None}, "--output is missing"),
        (NEST, {"input": "absent.npz"}, "no such file or folder"),
        (NEST, {"input": None}, "--input is missing"),
        (NEST, {"model": "nest_tiny"}, "model 'nest_tiny': unknown; did you mean"),
        (NEST, {"fields": ["gelu"]}, "--fields=gelu: looks like --fields=gelu=exact"),
        (NEST, {"image_size": ["32", "0"]}, "--image_size=32,0: looks like 224 or 224,320"),
        (TNT, {}, "of the model Nest, not Tnt"),
        (NEST, {"num_classes": 7}, r"mis-shaped: head/bias \(10,\) instead of \(7,\)"),
        (TANH, {}, "needs a model with gelu='exact'"),
        (TANH, {"ignore_fields": ["gelu"]}, "timm has no NesT with gelu='tanh'"),
        (NEST, {"image_size": ["32", "64"]}, "its NesT takes square images only, not 32x64"),
    ],
)
def test_what_is_wrong_is_said(stored, tmp_path, monkeypatch, named, more, message):
    monkeypatch.chdir(tmp_path)
    Path("there.safetensors").touch()
    files = {"input": str(stored(NEST)), "output": "out.safetensors", "to": "timm"}
    with pytest.raises(ConfigError, match=message) as error:
        convert_weights.main(flags(named, **(files | more)))
    assert "\n" not in str(error.value)
    assert {file.name for file in tmp_path.iterdir()} == {"there.safetensors", "in.npz"}


def test_exit_code_of_wrong_input(tmp_path):
    result = convert(NEST, tmp_path / "absent.npz", tmp_path / "out.safetensors", "ours")
    assert result.returncode == 2
    assert "no such file or folder" in result.stderr and len(result.stderr.splitlines()) == 1


# Export

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
PREPROCESSING = ["--mean=0.5,0.4,0.3", "--std=0.2,0.3,0.25"]


def expected_probabilities(named, images):
    model = build(named)
    images = (images / 255 - np.array(MEAN)) / np.array(STD)
    logits = np.asarray(model.apply({"params": random_params(model)}, np.float32(images)))
    exponentials = np.exp(logits.astype(np.float64))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@MODELS
def test_export_needs_jax_alone(named, stored, tmp_path):
    pytest.importorskip("flatbuffers")
    output = tmp_path / "model.jax"
    result = run(
        "export.py", named, f"--input={stored(named)}", f"--output={output}", *PREPROCESSING
    )
    assert result.returncode == 0, result.stderr
    images = np.random.default_rng(5).integers(0, 256, (5, 32, 32, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    script = f"""
import os, sys, pathlib
os.chdir({str(tmp_path)!r})
import jax.export, numpy
exported = jax.export.deserialize(pathlib.Path("model.jax").read_bytes())
images = numpy.load("images.npy")
for count in (1, 5):
    numpy.save(f"out{{count}}.npy", exported.call(images[:count]))
assert exported.platforms == ("cpu", "cuda", "tpu")
assert not {{"flax", "nest", "tnt", "training", "layers"}} & set(sys.modules)
"""
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-I", "-c", script], check=True, env=env)
    expected = expected_probabilities(named, images)
    for count in (1, 5):
        out = np.load(tmp_path / f"out{count}.npy")
        np.testing.assert_allclose(out, expected[:count], atol=1e-6)


def test_grey_images(tmp_path):
    pytest.importorskip("flatbuffers")
    model, files = build(NEST), [tmp_path / name for name in ("in.npz", "ours.npz", "model.jax")]
    params = random_params(model, (32, 32, 1))
    write_weights(files[0], {"params": params}, model, (32, 32))
    args = dict(input=str(files[0]), channels=1)
    convert_weights.main(flags(NEST, **args, output=str(files[1]), to="npz"))
    found = load_weights(files[1], model, image_size=(32, 32, 1))
    jax.tree.map(np.testing.assert_array_equal, found, params)

    args |= dict(mean=["0.4"], std=["0.2"], platforms=["cpu"], format="jax", batch_size=None)
    export.main(flags(NEST, **args, output=str(files[2])))
    images = np.random.default_rng(5).integers(0, 256, (3, 32, 32, 1), np.uint8)
    found = jax.export.deserialize(files[2].read_bytes()).call(images)
    logits = model.apply({"params": params}, np.float32((images / 255 - 0.4) / 0.2))
    np.testing.assert_allclose(found, jax.nn.softmax(logits), atol=1e-6)


def test_a_workdir_tells_all(small_config, tmp_path):
    """Of grey 8 x 8 digits: as predict.py has them."""
    pytest.importorskip("flatbuffers")
    workdir, outputs = tmp_path / "run", [tmp_path / "run.npz", tmp_path / "run.jax"]
    small_config.loop.num_epochs = 2.0
    train.train_and_evaluate(small_config, workdir)
    run = build_predictor(small_config, workdir, average=True)
    args = dict(workdir=str(workdir), weights="ema")
    convert_weights.main(flags(**args, output=str(outputs[0]), to="npz"))
    found = load_weights(outputs[0], run.model, image_size=(8, 8, 1))
    jax.tree.map(np.testing.assert_array_equal, found, run.variables["params"])

    args |= dict(mean=None, std=None, platforms=["cpu"], format="jax", batch_size=None)
    export.main(flags(**args, output=str(outputs[1])))
    images = np.random.default_rng(5).integers(0, 256, (3, 8, 8, 1), np.uint8)
    found = jax.export.deserialize(outputs[1].read_bytes()).call(images)
    expected = jax.nn.softmax(run.logits(run.variables, images))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for name, value in dict(model="resnet50", channels=1, num_classes=7, mean=["1"]).items():
        with pytest.raises(ConfigError, match=f"--{name} .*with --workdir, whose config tells"):
            export.main(flags(**(args | {name: value}), output=str(tmp_path / "more.jax")))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("wrn28_10", 32),
        ("nest_tiny_s16_32", 32),
        ("tnt_s_patch16_224", 224),
        ("tnt_s_words64", 224),
        ("tnt_s_se", 224),
        ("resnet50", 224),
    ],
)
def test_image_size_of_a_name(name, size):
    assert model_flags.as_image_size(None, name) == (size, size)
    assert model_flags.as_image_size(["64", "96"], name) == (64, 96)


@pytest.mark.parametrize("named", [NEST, TNT], ids=["nest", "tnt"])
def test_onnx_gives_the_same(named, stored, tmp_path):
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    output = tmp_path / "model.onnx"
    args = [f"--input={stored(named)}", f"--output={output}", "--format=onnx", *PREPROCESSING]
    if named is NEST:
        result = run("export.py", named, *args)
        assert result.returncode == 2 and "--batch_size=1 may help" in result.stderr
        args.append("--batch_size=4")
    result = run("export.py", named, *args)
    assert result.returncode == 0, result.stderr
    images = np.random.default_rng(5).integers(0, 256, (4, 32, 32, 3), np.uint8)
    session = runtime.InferenceSession(output)
    (out,) = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(out, expected_probabilities(named, images), atol=1e-6)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"std": None}, "--std is missing: a number for each of 3 channels, in units of 0..1"),
        ({"mean": ["0.5"]}, "--mean=0.5 is wrong"),
        ({"channels": 1}, "--mean=0.5,0.5,0.5 is wrong: a number for each of 1 channels"),
        ({"std": ["1", "0", "1"]}, "--std=1,0,1 is wrong"),
        ({"output": "model.h5"}, "the name must end with .jax"),
        ({"input": "absent.npz"}, "no such file or folder"),
    ],
)
def test_what_export_needs(more, message, tmp_path):
    numbers = {"mean": ["0.5"] * 3, "std": ["0.5"] * 3}
    files = {"input": "", "output": str(tmp_path / "model.jax"), "format": "jax"}
    with pytest.raises(ConfigError, match=message):
        export.main(flags(NEST, **(files | numbers | more)))
