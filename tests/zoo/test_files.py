"""Files and checkpoints of this repository, what the report says, and what is refused."""

import gc
import json
import pickle
import re
import shutil
import sys
import types

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

import train
from baselines.resnet import ResNet
from nest.model import Nest
from saving.checkpoints import Checkpoints
from training import experiment
from zoo.find import find_weights_file
from zoo.load import Report, load_variables, load_weights, variable_shapes
from zoo.run_checkpoints import read_checkpoint
from zoo.save import write_weights

MODEL = Nest(10, (8, 16), (1, 1), (2, 4), patch_size=4)
RESNET = ResNet(10, depths=(1, 1), dims=(8, 16))


def random_variables(model, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, variable_shapes(model, 32))


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def refused(file, model, *parts, **options):
    with pytest.raises(ValueError) as error:
        load_weights(file, model, image_size=32, **options)
    message = str(error.value)
    assert str(file) in message and "\n" not in message, message
    for part in parts:
        assert part in message, message


# This repository's files


@pytest.fixture(params=[".safetensors", ".npz"])
def saved(request, tmp_path):
    file = tmp_path / f"weights{request.param}"
    write_weights(file, random_variables(MODEL), MODEL, (32, 32))
    return file


def test_what_was_written_is_read(saved):
    variables, report = load_variables(saved, MODEL, image_size=32)
    assert_equal(variables, random_variables(MODEL))
    assert_equal(load_weights(saved, MODEL, image_size=32), variables["params"])
    names = flatten_dict(variables["params"], sep="/")
    assert set(report.loaded) == names.keys() and not (report.resized or report.skipped)
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]  # nothing temporary


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_batch_statistics(tmp_path, suffix):
    file, variables = tmp_path / f"resnet{suffix}", random_variables(RESNET)
    write_weights(file, variables, RESNET, (32, 32))
    found, report = load_variables(file, RESNET, image_size=32)
    assert found.keys() == {"params", "batch_stats"}
    assert_equal(found, variables)
    assert "batch_stats/stem_norm/mean" in report.loaded
    write_weights(file, {"params": variables["params"]}, RESNET, (32, 32))
    refused(file, RESNET, "missing: batch_stats/stage1_block1/norm1/mean")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_bfloat16_becomes_float32(tmp_path, suffix):
    file, variables = tmp_path / f"half{suffix}", random_variables(MODEL)
    half = jax.tree.map(lambda x: np.asarray(x, jax.numpy.bfloat16), variables)
    write_weights(file, half, MODEL, (32, 32))
    found = load_weights(file, MODEL, image_size=32)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype("float32")}
    assert_equal(found, jax.tree.map(np.float32, half["params"]))


@pytest.mark.parametrize(
    ("fields", "need"),
    [
        ({"gelu": "exact"}, "gelu='tanh'"),
        ({"aggregation_padding": "torch"}, "aggregation_padding='same'"),
        ({"num_heads": (4, 2), "gelu": "exact"}, "num_heads=(2, 4), gelu='tanh'"),
        ({"depths": (2, 1)}, "depths=(1, 1)"),
    ],
)
def test_fields_that_differ_are_named(saved, fields, need):
    refused(saved, MODEL.clone(**fields), f"needs a model with {need}; set this, the model has")


def test_fields_that_may_differ(saved):
    free = {"dtype": jax.numpy.bfloat16, "remat": "block", "kernels": "plain"}
    model = MODEL.clone(gelu="exact", drop_path_rate=0.3, **free)
    _, report = load_variables(saved, model, image_size=32, ignore_fields=["gelu"])
    assert "note: gelu='tanh' there, 'exact' in the model: ignored" in str(report)
    with pytest.raises(ValueError, match="ignore_fields='gleu': unknown; did you mean 'gelu'"):
        load_weights(saved, model, image_size=32, ignore_fields=["gleu"])
    refused(saved, RESNET, "of the model Nest, not ResNet")


def test_later_versions_are_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file({"params/a": np.ones(1)}, file, {"nest_tnt_jax": '{"version": 9}'})
    refused(file, MODEL, "written by a later version, 9")
    save_file({"params/a": np.ones(1)}, file, {"nest_tnt_jax": "{"})
    refused(file, MODEL, "truncated or damaged")


# The report


def test_report_as_a_table(saved):
    model = MODEL.clone(num_classes=3)
    _, report = load_variables(saved, model, image_size=64)
    text = str(report).splitlines()
    assert text[0] == f"weights {saved} ({saved.suffix[1:]} of this repository)"
    assert text[1].split() == ["loaded", str(len(flatten_dict(random_variables(MODEL))) - 4)]
    assert text[2].split(maxsplit=2) == [
        "resized",
        "2",
        "level1_position/embedding (4, 16, 8) -> (4, 64, 8), "
        "level2_position/embedding (1, 16, 16) -> (1, 64, 16)",
    ]
    assert text[3].split(maxsplit=2) == [
        "re-initialised",
        "2",
        "head/kernel (16, 10) -> (16, 3), head/bias (10,) -> (3,) (zeros)",
    ]
    assert len(text) == 4
    assert isinstance(report, Report)


# Checkpoints of a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    cache = {}

    def get(config):
        if not cache:
            cache["workdir"] = tmp_path_factory.mktemp("run")
            train.train_and_evaluate(config, cache["workdir"])
        built = experiment.build(config)
        with Checkpoints(workdir=cache["workdir"], read_only=True) as checkpoints:
            states = {name: checkpoints.restore(built.shapes, name) for name in ("latest", "best")}
        return cache["workdir"], built, states

    return get


def test_workdir(small_config, run):
    workdir, built, states = run(small_config)
    model, shape = built.task.model, built.data.image_shape
    for checkpoint, (step, state, _) in states.items():
        for weights, expected in (("raw", state.params), ("ema", state.ema)):
            options = {"weights": weights, "checkpoint": checkpoint, "image_size": shape}
            variables, report = load_variables(workdir, model, **options)
            assert_equal(variables, {"params": jax.tree.map(np.asarray, expected)})
            assert f"step {step}" in report.kind
            assert "opt_state" in report.skipped and "step" in report.skipped
    step, state, _ = states["latest"]
    assert not jax.tree.all(jax.tree.map(np.array_equal, state.params, state.ema))
    inside = workdir / "checkpoints"
    for path in (inside, inside / "latest", inside / "latest" / str(step)):
        assert_equal(load_weights(path, model, image_size=shape), jax.device_get(state.params))
    best = load_weights(inside / "best", model, image_size=shape)
    assert_equal(best, jax.device_get(states["best"][1].params))


def test_workdir_tells_the_fields_and_what_it_lacks(small_config, run):
    workdir, built, _ = run(small_config)
    model, shape = built.task.model, built.data.image_shape
    with pytest.raises(ValueError, match="needs a model with gelu='tanh'; set this"):
        load_weights(workdir, model.clone(gelu="exact"), image_size=shape)
    assert read_checkpoint(find_weights_file(workdir), model, "raw").image_size == shape[:2]
    with pytest.raises(ValueError, match="of the model Nest, not ResNet"):
        load_weights(workdir, RESNET, image_size=shape)
    for key, value in (("weights", "average"), ("checkpoint", "newest")):
        with pytest.raises(ValueError, match=f"{key}='{value}': unknown; .*allowed: "):
            load_weights(workdir, model, image_size=shape, **{key: value})
    (workdir / "checkpoints" / "nothing" / "latest").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no finished checkpoint"):
        load_weights(workdir / "checkpoints" / "nothing", model, image_size=shape)


# Orbax gives up, and what it had begun to read ends on a closed event loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_checkpoint(small_config, run, tmp_path):
    workdir, built, states = run(small_config)
    step = states["latest"][0]
    expected = load_weights(workdir, built.task.model, image_size=built.data.image_shape)
    refused = []
    for number, damage in enumerate(("_METADATA", "manifest.ocdbt", "d", "ocdbt.process_0")):
        copy = tmp_path / str(number) / str(step)
        state = copy / "state"
        shutil.copytree(workdir / "checkpoints" / "latest" / str(step), copy)
        if (state / damage).is_dir():
            for file in (f for f in (state / damage).rglob("*") if f.is_file()):
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        else:
            (state / damage).write_bytes(b"nonsense")
        try:
            read = load_weights(copy, built.task.model, image_size=built.data.image_shape)
        except ValueError as error:
            assert re.search("truncated or damaged", str(error)) and "\n" not in str(error)
            refused.append(damage)
        else:  # Orbax had merged what the file held into another one
            jax.tree.map(np.testing.assert_array_equal, read, expected)
    gc.collect()
    assert {"_METADATA", "manifest.ocdbt"} <= set(refused) and len(refused) > 2


# Refused


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    refused(saved, MODEL, "the file is empty" if share == 0 else "truncated or damaged file")


def test_flipped_bit(tmp_path):
    file = tmp_path / "w.npz"
    write_weights(file, random_variables(MODEL), MODEL, (32, 32))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)
    refused(file, MODEL, "truncated or damaged file")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".flax"])
@pytest.mark.parametrize("wrap", ["bare", "array"])
def test_pickle_with_code_is_not_executed(tmp_path, suffix, wrap):
    file, proof = tmp_path / f"w{suffix}", tmp_path / "executed"
    if wrap == "bare":
        file.write_bytes(pickle.dumps(Bomb(proof)))
    else:
        with file.open("wb") as stream:
            np.savez(stream, **{"params/head/bias": np.array([Bomb(proof)], object)})
    refused(file, MODEL, "truncated or damaged file")
    assert not proof.exists()
    if wrap == "array":  # the file is dangerous indeed
        with np.load(file, allow_pickle=True) as archive:
            archive["params/head/bias"]
        assert proof.exists()


@pytest.mark.parametrize("version", ["1.13.1", "2.4.0", "2.5.1+cu124"])
def test_torch_that_may_execute_code_is_refused(tmp_path, monkeypatch, version):
    """Before 2.6, weights_only=True could be got round (CVE-2025-32434)."""
    file, old = tmp_path / "w.pth", types.ModuleType("torch")
    old.__version__ = version
    monkeypatch.setitem(sys.modules, "torch", old)
    file.write_bytes(b"never read")
    refused(file, MODEL, f"needs torch 2.6 or later, not {version}")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite(saved, value):
    variables = random_variables(MODEL)
    bias = variables["params"]["head"]["bias"].astype(np.float64)
    bias[3] = value
    variables["params"]["head"]["bias"] = bias
    write_weights(saved, variables, MODEL, (32, 32))
    for model in (MODEL, MODEL.clone(num_classes=3)):  # of the second, the head is replaced
        refused(saved, model, "values that are not finite in head/bias")


@pytest.mark.parametrize("array", [np.array(["a"]), np.ones(10, np.complex64), np.ones(10, bool)])
def test_values_that_are_no_numbers(tmp_path, array):
    np.savez(tmp_path / "w.npz", **{"params/head/bias": array})
    refused(tmp_path / "w.npz", MODEL, "no numbers in params/head/bias")


def test_an_array_that_is_a_folder_as_well(tmp_path):
    file = tmp_path / "w.npz"
    for names in (("params/a", "params/a/b"), ("params/a/b", "params/a")):
        np.savez(file, **dict.fromkeys(names, np.ones(2)))
        refused(file, MODEL, "what is above params/a/b is an array as well")


@pytest.mark.parametrize(
    "about",
    ['{"version": "x"}', '{"version": null}', "[1]", '{"fields": 3}', '{"image_size": [0, 2]}'],
)
def test_metadata_of_other_types(tmp_path, about):
    file = tmp_path / "w.safetensors"
    save_file({"params/a": np.ones(1)}, file, {"nest_tnt_jax": about})
    refused(file, MODEL, "truncated or damaged")


@pytest.mark.parametrize("key", [b"PatchEmbedding_0", 3])
def test_names_that_are_no_text(tmp_path, key):
    file = tmp_path / "ckpt-1.flax"
    for target in ({key: np.ones(2)}, {key: np.ones(2), "a": {"b": np.ones(2)}}, {"a": {key: {}}}):
        state = {"optimizer": {"target": target}}
        file.write_bytes(msgpack_serialize(state, in_place=True))
        refused(file, MODEL, "no parameters under optimizer/target")


def test_weights_of_another_model(tmp_path):
    saved = tmp_path / "w.safetensors"
    write_weights(saved, random_variables(MODEL), MODEL, (32, 32))
    save_file(load_file(saved), saved)  # without what tells the fields
    refused(saved, RESNET, "does not fit the model", "missing", "extra")
    wide = MODEL.clone(dims=(8, 32))
    refused(saved, wide, "mis-shaped: head/kernel (16, 10) instead of (32, 10)")
    refused(saved, MODEL, "no moving average", weights="ema")


def test_the_average_where_there_is_one(small_config, run, saved):
    """As the released files: the official TNT's hold one set of weights."""
    workdir, built, states = run(small_config)
    options = {"image_size": built.data.image_shape, "weights": "ema_or_raw"}
    variables, report = load_variables(workdir, built.task.model, **options)
    assert_equal(variables["params"], jax.device_get(states["latest"][1].ema))
    assert "moving average" in report.kind and report.notes == ()

    alone, report = load_variables(saved, MODEL, image_size=32, weights="ema_or_raw")
    assert_equal(alone, load_variables(saved, MODEL, image_size=32)[0])
    assert report.notes == ("it holds no moving average: its only weights are used",)
    saved.write_bytes(saved.read_bytes()[:-100])  # what is damaged is not called without average
    refused(saved, MODEL, "damaged", weights="ema_or_raw")


def test_a_run_without_average(small_config, tmp_path):
    small_config.task.ema_decay = None
    small_config.loop.num_epochs = 2.0
    train.train_and_evaluate(small_config, tmp_path)
    built = experiment.build(small_config)
    options = {"image_size": built.data.image_shape}
    variables, report = load_variables(tmp_path, built.task.model, weights="ema_or_raw", **options)
    assert_equal(variables, load_variables(tmp_path, built.task.model, **options)[0])
    assert "no moving average" in report.notes[0]


def test_folder_of_a_model_hub(tmp_path):
    file = tmp_path / "model.safetensors"
    write_weights(file, random_variables(MODEL), MODEL, (32, 32))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "nest_tiny_jx"}))
    assert_equal(load_weights(tmp_path, MODEL, image_size=32), random_variables(MODEL)["params"])
