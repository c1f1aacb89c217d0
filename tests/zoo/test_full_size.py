"""Full-size weights of timm and of the official codes, against the models that they are of.

The first needs torch and timm beside the requirements, the others a checkout of the official code
in $OFFICIAL_NEST (google-research/nested-transformer) and $OFFICIAL_TNT (huawei-noah/CV-Backbones,
or Efficient-AI-Backbones): python -m pytest -m torch
All arrays are filled with random numbers: what the models compute is arbitrary, but the same.
"""

import argparse
import importlib.util
import os
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from safetensors.numpy import load_file, save_file

from harness.trees import flatten
from nest.convert_timm import to_timm as nest_to_timm
from tnt.convert import to_timm as tnt_to_timm
from tools import convert_weights
from zoo.load import load_variables, load_weights, parameter_shapes
from zoo.registry import create_model
from zoo.save import write_weights

pytestmark = pytest.mark.torch

EXACT, JX = {"gelu": "exact", "aggregation_padding": "torch"}, {"gelu": "exact"}

# timm's name -> (ours, fields)
MODELS = {
    "nest_tiny": ("nest_tiny_s196_224", EXACT),
    "nest_small": ("nest_small_s196_224", EXACT),
    "nest_base": ("nest_base_s196_224", EXACT),
    "nest_tiny_jx": ("nest_tiny_s196_224", JX),
    "nest_base_jx": ("nest_base_s196_224", JX),
    "tnt_s_patch16_224": ("tnt_s_patch16_224", {}),
    "tnt_b_patch16_224": ("tnt_b_patch16_224", {}),
    "tnt_s_legacy_patch16_224": ("tnt_s_legacy_patch16_224", {}),
}


def fill(name, shape, rng):
    """Random numbers that keep activations in range, with no bias zero and no scale one."""
    draw = rng.standard_normal(shape, np.float32)
    if len(shape) == 1:
        return 0.1 * draw + np.float32("norm" in name and "weight" in name)
    if "pos" in name or "token" in name:
        return 0.5 * draw
    return draw / np.float32(np.sqrt(np.prod(shape[1:])))


def filled(reference, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: fill(name, tuple(tensor.shape), rng)
        for name, tensor in reference.state_dict().items()
    }


def load(torch, reference, state):
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    reference.load_state_dict(tensors, strict=True)
    return reference.eval()


IMAGES = np.random.default_rng(7).normal(size=(1, 224, 224, 3)).astype(np.float32)


def agree(torch, reference, model, params):
    with torch.no_grad():
        theirs = reference(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())).numpy()
    ours = jax.jit(model.apply)({"params": params}, IMAGES)
    error = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
    print(f"relative difference {error:.1e}, largest logit {np.abs(theirs).max():.2f}")
    assert np.isfinite(theirs).all() and np.abs(theirs).max() > 0.1
    assert error < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_weights_of_timm(torch, timm, tmp_path, name):
    reference = timm.create_model(name)
    state = filled(reference)
    file = tmp_path / f"{name}.safetensors"
    save_file(state, file)
    ours, fields = MODELS[name]
    model = create_model(ours, num_classes=1000, **fields)
    params = load_weights(file, model, image_size=224)
    agree(torch, load(torch, reference, state), model, params)


@pytest.mark.parametrize("name", ["nest_tiny_jx", "nest_base", *list(MODELS)[5:]])
def test_converted_for_timm(torch, timm, tmp_path, name):
    """Ours to timm's file, which loads there as strictly as can be, and back, bit by bit."""
    ours, fields = MODELS[name]
    model = create_model(ours, num_classes=1000, **fields)
    rng = np.random.default_rng(1)
    params = jax.tree_util.tree_map_with_path(
        lambda path, s: (
            fill(path[-1].key, s.shape[::-1], rng).reshape(s.shape) + (path[-1].key == "scale")
        ),
        parameter_shapes(model, 224),
    )
    source, output = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    write_weights(source, {"params": params}, model, (224, 224))
    args = types.SimpleNamespace(
        model=ours,
        fields=[f"{field}={value}" for field, value in fields.items()],
        input=str(source),
        output=str(output),
        to="timm",
        **dict(num_classes=1000, image_size=None, channels=3, workdir=None),
        **dict(ema=False, checkpoint="latest"),
        **dict(resize=None, ignore_fields=[], overwrite=False),
    )
    convert_weights.main(args)
    agree(torch, load(torch, timm.create_model(name), load_file(output)), model, params)
    again = load_weights(output, model, image_size=224)
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize(
    ("name", "kwargs", "fields"),
    [
        ("tnt_ti_patch16_224", dict(embed_dim=192, inner_dim=12, num_heads_inner=2), {}),
        ("tnt_s_words64", dict(inner_dim=6, num_heads_inner=3, first_stride=2), {}),
        ("tnt_s_words4", dict(inner_dim=96, first_stride=8), {"qkv_bias": True}),
        ("tnt_s_heads8", dict(inner_dim=24, num_heads_inner=8), {"pooling": "average"}),
    ],
)
def test_other_sizes_of_tnt(torch, timm, name, kwargs, fields):
    model = create_model(name, num_classes=10, depth=2, **fields)
    reference = timm.models.tnt.TNT(
        **{"embed_dim": 384, "depth": 2, "num_classes": 10} | kwargs,
        num_heads_outer=model.num_outer_heads,
        qkv_bias=model.qkv_bias,
        global_pool="avg" if model.pooling == "average" else "token",
    )
    rng = np.random.default_rng(2)
    shapes = parameter_shapes(model, 224)
    params = jax.tree.map(lambda s: rng.normal(0, 0.1, s.shape).astype(np.float32), shapes)
    agree(torch, load(torch, reference, tnt_to_timm(params, model)), model, params)


def test_other_sizes_of_nest(torch, timm):
    model = create_model(
        "nest_tiny_s64_32", num_classes=10, depths=(1, 2, 1), mlp_ratio=2.5, **EXACT
    )
    reference = timm.models.nest.Nest(
        **dict(img_size=32, patch_size=1, embed_dims=192, num_heads=3, depths=(1, 2, 1)),
        **dict(num_classes=10, mlp_ratio=2.5),
    )
    rng = np.random.default_rng(2)
    shapes = parameter_shapes(model, 32)
    params = jax.tree.map(lambda s: rng.normal(0, 0.1, s.shape).astype(np.float32), shapes)
    load(torch, reference, nest_to_timm(params, model))
    images = IMAGES[:, :32, :32]
    with torch.no_grad():
        theirs = reference(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    ours = jax.jit(model.apply)({"params": params}, images)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_bicubic_table_is_that_of_timm(torch, timm, tmp_path):
    model = create_model("tnt_ti_patch16_224", num_classes=10, depth=1)
    rng = np.random.default_rng(3)
    shapes = parameter_shapes(model, 224)
    params = jax.tree.map(lambda s: rng.normal(0, 0.1, s.shape).astype(np.float32), shapes)
    write_weights(tmp_path / "w.npz", {"params": params}, model, (224, 224))
    table = torch.from_numpy(params["sentence_position"]["embedding"])[None]
    for size in ((384, 384), (160, 320)):
        sides = [side // 16 for side in size]
        theirs = timm.layers.resample_abs_pos_embed(table, sides, num_prefix_tokens=1)
        found = load_weights(tmp_path / "w.npz", model, image_size=size)
        ours = found["sentence_position"]["embedding"]
        np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-5)


# Files of torch.save


def tnt_file(torch, path, **more):
    model = create_model("tnt_ti_patch16_224", num_classes=10, depth=1)
    rng = np.random.default_rng(4)
    shapes = parameter_shapes(model, 224)
    params = jax.tree.map(lambda s: rng.normal(0, 0.1, s.shape).astype(np.float32), shapes)
    state = {name: torch.from_numpy(array) for name, array in tnt_to_timm(params, model).items()}
    torch.save({"state_dict": state, **more}, path)
    return model, params, state


def test_training_checkpoint_with_options_and_average(torch, tmp_path):
    file = tmp_path / "checkpoint-7.pth.tar"
    _, _, state = tnt_file(torch, file)
    average = {name: tensor + 1 for name, tensor in state.items()}
    options = argparse.Namespace(lr=1e-3, model="tnt")
    model, params, _ = tnt_file(torch, file, state_dict_ema=average, args=options, epoch=7)
    raw, report = load_variables(file, model, image_size=224)
    assert report.kind == "timm TNT, state_dict"
    assert report.skipped == ("state_dict_ema", "args", "epoch")
    jax.tree.map(np.testing.assert_array_equal, raw["params"], params)
    ema = load_weights(file, model, image_size=224, weights="ema")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b + 1, rtol=1e-6), ema, params)
    either = load_weights(file, model, image_size=224, weights="ema_or_raw")
    jax.tree.map(np.testing.assert_array_equal, either, ema)
    tnt_file(torch, file)
    either, report = load_variables(file, model, image_size=224, weights="ema_or_raw")
    jax.tree.map(np.testing.assert_array_equal, either, raw)
    assert "no moving average" in report.notes[-1]
    with pytest.raises(ValueError, match="no moving average in this file"):
        load_weights(file, model, image_size=224, weights="ema")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_torch_file_is_not_executed(torch, tmp_path):
    file, proof = tmp_path / "tnt.pth", tmp_path / "executed"
    model, _, _ = tnt_file(torch, file, epoch=Bomb(proof))
    with pytest.raises(ValueError, match="never executed") as error:
        load_weights(file, model, image_size=224)
    assert not proof.exists() and "\n" not in str(error.value)
    torch.load(file, weights_only=False)
    assert proof.exists()  # the file is dangerous indeed
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="truncated or damaged"):
        load_weights(file, model, image_size=224)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state}])
def test_what_is_no_array_by_name(torch, tmp_path, wrap):
    file, model = tmp_path / "tnt.pth", create_model("tnt_ti_patch16_224", num_classes=10)
    tensor = torch.ones(2, 2)
    for state, message in (
        ({0: tensor}, "parameter names are not those of a TNT"),
        ({"a": tensor, 0: tensor}, "parameter names are not those of a TNT"),
        ({"a": 1, "b": [tensor]}, "no tensors by name"),
        ({"a": tensor.to_sparse()}, r"no dense array in (state_dict\.)?a "),
        ({"a": tensor.to("meta")}, r"no dense array in (state_dict\.)?a "),
    ):
        torch.save(wrap(state), file)
        with pytest.raises(ValueError, match=message) as error:
            load_weights(file, model, image_size=224)
        assert str(file) in str(error.value) and "\n" not in str(error.value)


# Official codes


def official(monkeypatch, variable, path):
    """Imports a file of a checkout, under a name that is not one of ours."""
    checkout = os.environ.get(variable)
    if not checkout:
        pytest.skip(f"{variable} names no checkout")
    monkeypatch.syspath_prepend(checkout)  # where it looks for its own libml
    spec = importlib.util.spec_from_file_location(f"official_{path.stem}", checkout / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["nest_tiny_s196_224", "nest_base_s196_224", "nest_tiny_s16_32"])
def test_weights_of_the_official_nest(tmp_path, monkeypatch, name):
    ml_collections = pytest.importorskip("ml_collections")
    nest_net = official(monkeypatch, "OFFICIAL_NEST", Path("models/nest_net.py"))
    images = IMAGES[:, : int(name[-2:])] if name.endswith("_32") else IMAGES
    images = images[:, :, : images.shape[1]]
    reference = nest_net.create_model(name, ml_collections.ConfigDict())(num_classes=1000)
    shapes = jax.eval_shape(reference.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(5)

    def draw(path, leaf):
        key = path[-1].key
        x = rng.standard_normal(leaf.shape, np.float32)
        if key in ("scale", "bias"):
            return 0.1 * x + (key == "scale")
        # [in, heads, out] of queries, keys and values; [..., out] of all others.
        split = key == "kernel" and leaf.ndim == 3
        fan_in = leaf.shape[0] if split else np.prod(leaf.shape[:-1])
        return 0.5 * x if "pos" in key else x / np.float32(np.sqrt(fan_in))

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    state = {"step": 1, "optimizer": {"target": params, "state": {}}}
    (tmp_path / "ckpt-1.flax").write_bytes(msgpack_serialize(state))
    theirs = np.asarray(jax.jit(reference.apply)({"params": params}, images))
    model = create_model(name, num_classes=1000)
    ours = load_weights(tmp_path, model, image_size=images.shape[1])
    assert len(flatten(ours)) > 100
    logits = np.asarray(jax.jit(model.apply)({"params": ours}, images))
    error = np.abs(logits - theirs).max() / np.abs(theirs).max()
    print(f"relative difference {error:.1e}, largest logit {np.abs(theirs).max():.2f}")
    assert np.isfinite(theirs).all() and error < 1e-4


@pytest.mark.parametrize("name", ["tnt_s_patch16_224", "tnt_b_patch16_224", "tnt_s_se"])
def test_weights_of_the_official_tnt(torch, timm, tmp_path, monkeypatch, name):
    for module, names in {  # where timm had them in 2021
        "helpers": {"load_pretrained": None},
        "layers": {part: getattr(timm.layers, part) for part in ("DropPath", "to_2tuple")}
        | {"trunc_normal_": timm.layers.trunc_normal_},
        "resnet": {"resnet26d": None, "resnet50d": None},
        "registry": {"register_model": lambda function: function},
    }.items():
        fake = types.ModuleType(f"timm.models.{module}")
        fake.__dict__.update(names)
        monkeypatch.setitem(sys.modules, f"timm.models.{module}", fake)
    tnt = official(monkeypatch, "OFFICIAL_TNT", Path("tnt_pytorch/tnt.py"))
    create = tnt.tnt_b_patch16_224 if "_b_" in name else tnt.tnt_s_patch16_224
    reference = create(se=1) if name.endswith("_se") else create()
    state = filled(reference)
    load(torch, reference, state)
    torch.save({"state_dict": reference.state_dict()}, tmp_path / "tnt.pth.tar")
    model = create_model(name, num_classes=1000)
    params, report = load_variables(tmp_path / "tnt.pth.tar", model, image_size=224)
    assert report.skipped == ("outer_tokens",)
    agree(torch, reference, model, params["params"])
