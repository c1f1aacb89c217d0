"""tools/convert_weights.py, as a person runs it."""

import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

import train
from harness.errors import ConfigError
from inference.flags import as_image_size
from inference.predictor import Predictor
from tools import convert_weights
from zoo.load import load_variables, load_weights, parameter_shapes
from zoo.registry import create_model
from zoo.save import write_weights

ROOT = Path(__file__).parents[2]
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
    convert_weights.main(flags(named, input=str(there), output=str(back), to="npz"))
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
    reading = dict(ema=False, checkpoint="latest", resize=None, ignore_fields=[])
    return types.SimpleNamespace(**(defaults | reading | dict(overwrite=False) | more))


TANH = {**NEST, "fields": {**NEST["fields"], "gelu": "tanh"}}


@pytest.mark.parametrize(
    ("named", "more", "message"),
    [
        (NEST, {"output": "out.h5"}, "the name must end with .safetensors"),
        (NEST, {"output": "none/out.safetensors"}, "there is no such folder: .*none$"),
        (NEST, {"output": "there.safetensors"}, "exists already; --overwrite replaces it"),
        (NEST, {"output": None}, "--output is missing"),
        (NEST, {"input": "absent.npz"}, "no such file or folder"),
        (NEST, {"input": None}, "--input is missing"),
        (NEST, {"model": "nest_tiny"}, "name='nest_tiny': unknown; did you mean"),
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


def test_exit_code_of_wrong_input(run_script, tmp_path):
    arguments = ["--model=nest_tiny_s16_32", f"--input={tmp_path / 'absent.npz'}"]
    arguments += [f"--output={tmp_path / 'out.safetensors'}", "--to=ours"]
    code, _, stderr = run_script("tools/convert_weights.py", *arguments)
    assert code == 2
    assert "no such file or folder" in stderr and len(stderr.splitlines()) == 1


def test_grey_images(tmp_path):
    model, files = build(NEST), [tmp_path / name for name in ("in.npz", "ours.npz")]
    params = random_params(model, (32, 32, 1))
    write_weights(files[0], {"params": params}, model, (32, 32))
    args = dict(input=str(files[0]), channels=1)
    convert_weights.main(flags(NEST, **args, output=str(files[1]), to="npz"))
    found = load_weights(files[1], model, image_size=(32, 32, 1))
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_a_workdir_tells_all(small_config, tmp_path):
    """Of grey 8 x 8 digits: as predict.py has them."""
    workdir, outputs = tmp_path / "run", [tmp_path / "run.npz", tmp_path / "run.safetensors"]
    small_config.loop.num_epochs = 2.0
    train.train_and_evaluate(small_config, workdir)
    run = Predictor.load(workdir, small_config, ema=True)
    args = dict(workdir=str(workdir), ema=True)
    for output, to in zip(outputs, ("npz", "ours"), strict=True):
        convert_weights.main(flags(**args, output=str(output), to=to))
        found, report = load_variables(output, run.model, image_size=(8, 8, 1))
        jax.tree.map(np.testing.assert_array_equal, found["params"], run.variables["params"])
        assert report.class_names == tuple("0123456789")
    for name, value in dict(model="resnet50", channels=1, num_classes=7, resize="linear").items():
        with pytest.raises(ConfigError, match=f"--{name} .*with --workdir, whose config says"):
            convert_weights.main(flags(**(args | {name: value}), output="more.npz", to="npz"))


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
    assert as_image_size(None, name) == (size, size)
    assert as_image_size(["64", "96"], name) == (64, 96)
