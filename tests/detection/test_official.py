"""DETR equals the official code on fixed weights; tests/fixtures/README.md says how it was run."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from configs import coco_tnt_detr, digits_detr
from detection.detr import Detr, create_detector
from detection.results import results_of
from tests.detection.test_losses import task
from zoo.registry import create_model, variable_shapes

FIXTURE = Path(__file__).parents[1] / "fixtures" / "detr_official.npz"
DIM, HEADS = 16, 2
LABELS = np.array([[2, 0, 1], [1, -1, -1]])
TARGETS = np.zeros((2, 3, 4), np.float32)
TARGETS[0] = [[0.5, 0.5, 0.2, 0.3], [0.2, 0.3, 0.2, 0.1], [0.7, 0.6, 0.5, 0.4]]
TARGETS[1, 0] = [0.3, 0.4, 0.2, 0.5]
ATTENTIONS = {"self_attn": "self_attention", "multihead_attn": "attention"}
NORMS = {
    "encoder": {"norm1": "norm_attention", "norm2": "norm_mlp"},
    "decoder": {"norm1": "norm_self_attention", "norm2": "norm_attention", "norm3": "norm_mlp"},
}


class GivenMap(nn.Module):
    """A backbone for images that are maps already."""

    def __call__(self, images, train):
        return [images]


@pytest.fixture(scope="module")
def official():
    with np.load(FIXTURE) as arrays:
        return dict(arrays)


def converted(official):
    """Returns the official weights under the names of this code."""
    flat = {}

    def put(path, name, value):
        if name == "weight":
            is_norm = value.ndim == 1
            value, name = (
                (value, "scale") if is_norm else (value.reshape(*value.shape[:2]).T, "kernel")
            )
        flat[(*path, name)] = value

    for name, value in official.items():
        if not name.startswith("weights/"):
            continue
        parts = name.removeprefix("weights/").split(".")
        if parts[0] != "transformer":
            if parts[0] == "query_embed":
                flat["queries",] = value
            else:
                paths = {
                    "class_embed": ("heads", "classes"),
                    "input_proj": ("projection",),
                    "bbox_embed": ("heads", f"box_dense{int(parts[2]) + 1 if parts[2:] else 0}"),
                }
                put(paths[parts[0]], parts[-1], value)
            continue
        kind, *rest = parts[1:]
        if rest[0] == "norm":
            put(("decoder_norm",), rest[1], value)
            continue
        layer, part, *inner = f"{kind}{int(rest[1]) + 1}", *rest[2:]
        if part in ATTENTIONS:
            attention = "attention" if kind == "encoder" else ATTENTIONS[part]
            if inner[0] == "out_proj":
                put((layer, attention, "out"), inner[1], value)
            else:
                for own, third in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                    put((layer, attention, own), inner[0].removeprefix("in_proj_"), third)
        else:
            ours = NORMS[kind].get(part) or f"dense{part[-1]}"
            put((layer, ours), inner[0], value)
    return unflatten_dict(flat)


@pytest.fixture(scope="module")
def predicted(official):
    model = Detr(
        backbone=GivenMap(),
        num_logits=4,
        dim=DIM,
        num_heads=HEADS,
        mlp_dim=24,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_queries=5,
    )
    images, mask = official["map"], official["mask"]
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, mask)["params"]
    params = converted(official)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    return model.apply({"params": params}, images, mask)


def test_logits_and_boxes_of_every_layer(official, predicted):
    np.testing.assert_allclose(predicted.logits, official["logits"], atol=1e-5)
    np.testing.assert_allclose(predicted.boxes, official["boxes"], atol=1e-6)


@pytest.mark.parametrize("layer", [0, 1])
def test_losses(official, layer):
    logits, boxes = official["logits"][layer], official["boxes"][layer]
    values = task("softmax")._losses(logits, boxes, LABELS, TARGETS, np.array([2.0, 2.0]))
    found = dict(zip(("ce", "bbox", "giou"), values, strict=True))
    for name, value in found.items():
        expected = official[f"losses/loss_{name}{'' if layer else '_0'}"]
        assert float(value) == pytest.approx(float(expected), rel=1e-5), name


def test_results(official):
    size = np.array([[480, 640], [300, 200]])
    found = results_of(
        official["logits"][-1], official["boxes"][-1], size, classes="softmax", most=5
    )
    order = np.argsort(-official["post/scores"], axis=1)
    for name, values in found._asdict().items():
        expected = official[f"post/{name}"]
        for ours, theirs, rows in zip(values, expected, order, strict=True):
            np.testing.assert_allclose(ours, theirs[rows], rtol=1e-5, atol=1e-3)


def test_number_of_parameters_of_detr_on_resnet_50():
    """As the released run logs it: without norms, stem and first stage of the ResNet (frozen)."""
    model = create_detector(create_model("resnet50", num_classes=1), 91)
    params = flatten_dict(variable_shapes(model, 64)["params"], sep="/")
    frozen = ("backbone/stem_", "backbone/stage1_")
    trained = [
        leaf
        for name, leaf in params.items()
        if not name.startswith(frozen) and ("backbone" not in name or len(leaf.shape) == 4)
    ]
    assert sum(leaf.size for leaf in trained) == 41_302_368


def test_number_of_parameters_of_the_recipe_for_coco():
    """As docs/detection.md has them; the paper says 39 M."""
    config = coco_tnt_detr.get_config()
    classifier = create_model(**config.model.to_dict(), num_classes=1)
    detector = create_detector(classifier, 80, **config.detector)
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(variable_shapes(detector, size)["params"]))
        for size in (224, 1344)
    ]
    assert counts == [41_024_629, 43_658_869]


@pytest.mark.parametrize(
    ("argument", "expected"), [("nest", 430_532), ("tnt", 430_420), ("deit", 434_228)]
)
def test_numbers_of_parameters_of_the_recipe_for_digits(argument, expected):
    """As docs/detection.md has them."""
    config = digits_detr.get_config(argument)
    classifier = create_model(**config.model.to_dict(), num_classes=1)
    shapes = variable_shapes(create_detector(classifier, 10, **config.detector), (64, 64, 1))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == expected
