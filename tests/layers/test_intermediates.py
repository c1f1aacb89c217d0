"""What models sow: the head's input under one name, and maps with gradients; free if unused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import baselines.resnet
import baselines.vit
import baselines.wide_resnet
import nest.model
import tnt.model
import tnt.pyramid
from tests.model_inputs import fill, random_array
from zoo.load import load_weights
from zoo.registry import MODELS, create_model

NEST = {"patch_size": 4, "dims": (8, 16, 32), "depths": (1, 1, 2), "num_heads": (2, 4, 8)}
TNT = {"inner_dim": 8, "outer_dim": 32, "num_inner_heads": 2, "num_outer_heads": 4, "depth": 2}
VIT = {"dim": 12, "depth": 2, "num_heads": 3}
PYRAMID_TNT = {
    **{"depths": (1, 1, 1, 1), "inner_dims": (2, 2, 2, 2), "outer_dims": (4, 4, 8, 8)},
    **{"num_inner_heads": (1, 1, 1, 1), "num_outer_heads": (2, 2, 2, 2)},
}
# Every class of MODELS, with each pooling: (name, fields, last map, how it is pooled).
CASES = {
    "nest": ("nest_tiny_s196_224", NEST, "level3", "plane"),
    "tnt": ("tnt_s_patch16_224", TNT, "layer2_sentences", "class_token"),
    "tnt_average": (
        "tnt_s_patch16_224",
        TNT | {"pooling": "average"},
        "layer2_sentences",
        "patches",
    ),
    "vit": ("deit_ti_patch16_224", VIT, "block2_tokens", "class_token"),
    "vit_average": (
        "deit_ti_patch16_224",
        VIT | {"pooling": "average"},
        "block2_tokens",
        "all",
    ),
    "pyramid_tnt": ("ptnt_ti_patch16_192", PYRAMID_TNT, "stage4", "plane"),
    "resnet": ("resnet50", {"depths": (1, 1), "dims": (4, 8)}, "stage2", "plane"),
    "wide_resnet": ("wrn28_10", {"depth": 10, "width": 1}, "group3", "plane"),
}
POOLINGS = {
    "plane": lambda x: x.mean(axis=(1, 2)),
    "class_token": lambda x: x[:, 0],
    "patches": lambda x: x[:, 1:].mean(axis=1),  # without the class token, as in timm's TNT
    "all": lambda x: x.mean(axis=1),
}


def build(case, **overrides):
    """Returns a model, its variables and images."""
    name, fields, _, _ = CASES[case]
    model, images = (
        create_model(name, num_classes=10, **fields, **overrides),
        random_array(2, *(2 * [64 if case == "pyramid_tnt" else 32]), 3),
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.abs(leaf) if path[-1].key == "var" else leaf, fill(shapes)
    )
    return model, variables, images


def sown(model, variables, images):
    logits, state = jax.jit(lambda: model.apply(variables, images, mutable=["intermediates"]))()
    return np.asarray(logits), {name: maps[0] for name, maps in state["intermediates"].items()}


def last_norm(variables, x):
    """The norm of a classifier after its last map, by hand."""
    params = variables["params"]
    if "norm" not in params:  # ResNet
        return x
    if "norm" in variables.get("batch_stats", {}):  # WideResNet
        stats = variables["batch_stats"]["norm"]
        x = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
        return np.maximum(x * params["norm"]["scale"] + params["norm"]["bias"], 0)
    epsilon = 1e-5 if "word_position" in params else 1e-6  # TNT's
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return x * params["norm"]["scale"] + params["norm"]["bias"]


def test_every_class_of_models_is_tested():
    assert {MODELS[name][0] for name, *_ in CASES.values()} == {c for c, _ in MODELS.values()}


@pytest.mark.parametrize("case", CASES)
def test_pre_logits_are_pooled_after_the_last_norm_and_enter_the_head(case):
    model, variables, images = build(case)
    logits, maps = sown(model, variables, images)
    _, _, last, pooling = CASES[case]
    found = np.asarray(maps["pre_logits"])
    expected = POOLINGS[pooling](last_norm(variables, np.asarray(maps[last], np.float64)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    head = variables["params"]["head"]
    by_hand = found @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, by_hand, rtol=1e-4, atol=1e-4 * np.abs(by_hand).max())


@pytest.mark.parametrize("name", ["nest_timm", "nest_timm_jx", "tnt_timm", "tnt_timm_legacy"])
def test_pre_logits_are_those_of_timm(fixtures, name):
    """forward_head(forward_features(images), pre_logits=True) of timm, with the same weights."""
    case = name.split("_")[0]
    fields = {
        "nest_timm": {"gelu": "exact", "aggregation_padding": "torch"},
        "nest_timm_jx": {"gelu": "exact"},
        "tnt_timm": {},
        "tnt_timm_legacy": {"stem": "conv7_image", "fusion": "legacy"},
    }[name]
    variant, own, _, _ = CASES[case]
    model = create_model(variant, num_classes=10, **own, **fields)
    params = load_weights(fixtures / f"{name}.safetensors", model, image_size=32)
    images = np.load(fixtures / f"{name}.npz")["images"]
    found = sown(model, {"params": params}, images)[1]["pre_logits"]
    expected = np.load(fixtures / "pre_logits_timm.npz")[name]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_pre_logits_are_float32_and_no_variable(case):
    model, variables, images = build(case, dtype="bfloat16")
    assert set(variables) <= {"params", "batch_stats"}
    shapes = jax.eval_shape(
        lambda: model.apply(variables, images, mutable=["intermediates"])[1]["intermediates"]
    )
    dtypes = {name: maps[0].dtype for name, maps in shapes.items()}
    assert dtypes.pop("pre_logits") == jnp.float32
    assert set(dtypes.values()) == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("case", CASES)
def test_unused_maps_are_free(case, monkeypatch):
    """Without "intermediates" the program is that of a model that sows nothing."""
    model, variables, images = build(case)

    def program():
        jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x))(variables, images)
        return re.sub(r"0x[0-9a-f]+", "", str(jaxpr))

    exposing = program()
    baselines_of = (baselines.vit, baselines.resnet, baselines.wide_resnet)
    for module in (nest.model, tnt.model, tnt.pyramid, *baselines_of):
        monkeypatch.setattr(module, "expose", lambda module, name, x: x)
    monkeypatch.setattr(type(model), "sow", lambda *_: None)
    assert program() == exposing


@pytest.mark.parametrize("case", CASES)
def test_gradients_with_respect_to_every_map(case):
    """The perturbation of the last map changes the logit as the model's end alone says it does."""
    model, variables, images = build(case)
    _, _, last, pooling = CASES[case]
    maps = sown(model, variables, images)[1]
    kernel = variables["params"]["head"]["kernel"][:, 3].astype(np.float64)
    shapes = jax.eval_shape(lambda: model.apply(variables, images, mutable=["perturbations"])[1])
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes["perturbations"])
    assert set(zeros) == set(maps) - {"pre_logits"}

    def logit(zeros):
        return model.apply(variables | {"perturbations": zeros}, images)[:, 3].sum()

    gradient = np.asarray(jax.jit(jax.grad(logit))(zeros)[last])

    def end(x):
        return float((POOLINGS[pooling](last_norm(variables, x)) @ kernel).sum())

    x = np.asarray(maps[last], np.float64)
    for seed in range(3):
        step = 1e-5 * np.random.default_rng(seed).normal(size=x.shape)
        slope = (end(x + step) - end(x - step)) / 2
        assert float((gradient * step).sum()) == pytest.approx(slope, rel=1e-2, abs=1e-8)
