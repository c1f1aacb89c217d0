"""Grad-CAM against the package grad-cam, and rollout from timm's own attention weights.

Needs torch, timm and grad-cam 1.5.7 on top of the requirements: python -m pytest -m torch
"""

import functools

import jax
import numpy as np
import pytest

from inference import explain
from tests.baselines.test_timm import randomize, resnet_variables, to_torch, vit_params
from tests.zoo.test_full_size import filled, load
from zoo.load import load_weights
from zoo.registry import create_model

pytestmark = pytest.mark.torch

IMAGES = np.random.default_rng(7).normal(size=(2, 224, 224, 3)).astype(np.float32)
CLASSES = np.array([3, 7])
SHAPE = IMAGES.shape[1:]


def timm_model(torch, timm, name, tmp_path):
    """Returns a model of timm, ours, and its variables, all with the same weights."""
    if name == "deit_tiny_patch16_224":
        theirs = randomize(torch, timm.create_model(name, depth=3)).eval()
        ours = create_model("deit_ti_patch16_224", num_classes=1000, depth=3)
        state = {key: tensor.numpy().copy() for key, tensor in theirs.state_dict().items()}
        return theirs, ours, {"params": vit_params(state, ours)}
    if name == "resnet50":
        theirs = randomize(torch, timm.create_model(name)).eval()
        ours = create_model(name, num_classes=1000)
        state = {key: tensor.numpy().copy() for key, tensor in theirs.state_dict().items()}
        return theirs, ours, resnet_variables(state, ours)
    from safetensors.numpy import save_file

    theirs = timm.create_model(name)
    state = filled(theirs)
    file = tmp_path / f"{name}.safetensors"
    save_file(state, file)
    fields = {"gelu": "exact", "aggregation_padding": "torch"} if name == "nest_tiny" else {}
    ours = create_model(
        {"nest_tiny": "nest_tiny_s196_224"}.get(name, name), num_classes=1000, **fields
    )
    params = load_weights(file, ours, image_size=224)
    return load(torch, theirs, state), ours, {"params": params}


def tokens_as_plane(tensor):
    """Without the class token: [b, c, h, w]."""
    side = int((tensor.shape[1] - 1) ** 0.5)
    return tensor[:, 1:].reshape(len(tensor), side, side, -1).permute(0, 3, 1, 2)


# Where each model's last map with a gradient at every token is in timm's.
TARGETS = {
    "nest_tiny": (lambda model: model.levels[-1], None),
    "resnet50": (lambda model: model.layer4, None),
    "deit_tiny_patch16_224": (lambda model: model.blocks[-2], tokens_as_plane),
}


@pytest.mark.parametrize("name", TARGETS)
def test_grad_cam_is_that_of_the_package(torch, timm, name, tmp_path):
    package = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    theirs, ours, variables = timm_model(torch, timm, name, tmp_path)
    layer, reshape = TARGETS[name]
    reference = package.GradCAM(theirs, [layer(theirs)], reshape_transform=reshape)
    targets = [ClassifierOutputTarget(label) for label in CLASSES]
    expected = reference(to_torch(torch, IMAGES), targets)
    found = np.asarray(explain.create_explainer("gradcam", ours, SHAPE)(variables, IMAGES, CLASSES))
    # The package scales the small map to 0..1 before it enlarges it, and again afterwards.
    planes = explain.planes_of(ours, SHAPE[:2])
    small = np.asarray(explain.grad_cam(planes, ours, variables, IMAGES, CLASSES))
    low, high = (f(small, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    assert (high > 0).all() and expected.std() > 0.01
    scaled = (found - low) / (high - low)
    low, high = (f(scaled, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    error = np.abs((scaled - low) / (high - low) - expected).max()
    print(f"{name}: largest difference {error:.1e} of the range")
    assert error < 1e-4


def test_rollout_from_the_attention_weights_of_timm(torch, timm, tmp_path):
    """The recursion of Abnar and Zuidema, in products of matrices, over what timm attends to."""
    theirs, ours, variables = timm_model(torch, timm, "deit_tiny_patch16_224", tmp_path)
    seen = []
    for block in theirs.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda *call: seen.append(call[-1].detach()))
    theirs(to_torch(torch, IMAGES))
    flow = functools.reduce(
        lambda flow, weights: (weights.mean(dim=1) + torch.eye(197)) / 2 @ flow,
        seen,
        torch.eye(197),
    )
    expected = flow[:, 0, 1:].reshape(2, 14, 14).numpy()
    planes = explain.planes_of(ours, SHAPE[:2])
    found = np.asarray(
        jax.jit(functools.partial(explain.rollout, planes, ours))(variables, IMAGES, CLASSES)
    )
    error = np.abs(found - expected).max() / np.ptp(expected)
    print(f"largest difference {error:.1e} of the range")
    assert error < 1e-4
