"""The baselines against timm, torchvision and a Wide ResNet written with torch.nn.functional.

Needs torch, timm and torchvision on top of the requirements: python -m pytest -m torch
Parameters are copied name by name from a randomly initialised model of theirs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines.resnet import ResNet
from baselines.vit import Vit
from baselines.wide_resnet import WideResNet
from zoo.load import check_tree
from zoo.registry import create_model

pytestmark = pytest.mark.torch


def randomize(torch, module, seed=0):
    """Draws everything again, so that no bias is zero, no scale one and no average untouched."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            draw = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(torch.exp(0.3 * draw))
            elif tensor.ndim == 1:  # norms and biases
                tensor.add_(0.1 * draw)
            elif "embed" in name or "token" in name:
                tensor.copy_(0.5 * draw)
    return module


def arrays(module):
    return {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}


def kernel(weight):
    return weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T


def dense(state, name):
    return {"kernel": kernel(state[f"{name}.weight"]), "bias": state[f"{name}.bias"]}


def norm(state, name):
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def averages(state, name):
    return {"mean": state[f"{name}.running_mean"], "var": state[f"{name}.running_var"]}


def vit_params(state, model):
    params = {
        "patch_embedding": dense(state, "patch_embed.proj"),
        "position": {"embedding": state["pos_embed"][0]},
        "norm": norm(state, "norm"),
        "head": dense(state, "head"),
    }
    if "cls_token" in state:
        params["class_token"] = state["cls_token"][0, 0]
    d, h = model.dim, model.num_heads
    for i in range(model.depth):
        name = f"blocks.{i}"
        qkv, out = (dense(state, f"{name}.attn.{part}") for part in ("qkv", "proj"))
        params[f"block{i + 1}"] = {
            "norm_attention": norm(state, f"{name}.norm1"),
            "attention": {
                "qkv": {
                    "kernel": qkv["kernel"].reshape(d, 3, h, d // h),
                    "bias": qkv["bias"].reshape(3, h, d // h),
                },
                "out": {"kernel": out["kernel"].reshape(h, d // h, d), "bias": out["bias"]},
            },
            "norm_mlp": norm(state, f"{name}.norm2"),
            "mlp": {
                "dense1": dense(state, f"{name}.mlp.fc1"),
                "dense2": dense(state, f"{name}.mlp.fc2"),
            },
        }
    return params


def resnet_variables(state, model):
    """Timm and torchvision name a ResNet alike."""
    params = {
        "stem_conv": {"kernel": kernel(state["conv1.weight"])},
        "stem_norm": norm(state, "bn1"),
        "head": dense(state, "fc"),
    }
    stats = {"stem_norm": averages(state, "bn1")}
    for stage, depth in enumerate(model.depths, start=1):
        for block in range(1, depth + 1):
            theirs = f"layer{stage}.{block - 1}"
            names = [(f"conv{i}", f"norm{i}", f"conv{i}", f"bn{i}") for i in (1, 2, 3)]
            if f"{theirs}.downsample.0.weight" in state:
                names.append(("shortcut_conv", "shortcut_norm", "downsample.0", "downsample.1"))
            ours = params[f"stage{stage}_block{block}"] = {}
            moving = stats[f"stage{stage}_block{block}"] = {}
            for our_conv, our_norm, their_conv, their_norm in names:
                ours[our_conv] = {"kernel": kernel(state[f"{theirs}.{their_conv}.weight"])}
                ours[our_norm] = norm(state, f"{theirs}.{their_norm}")
                moving[our_norm] = averages(state, f"{theirs}.{their_norm}")
    return {"params": params, "batch_stats": stats}


def random_images(*shape):
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def to_torch(torch, images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def assert_close(ours, theirs, tolerance=1e-5):
    """Compares relative to the largest number, as sums of float32 agree no better."""
    theirs = theirs.detach().numpy()
    assert np.abs(theirs).max() > 0.1
    error = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
    print(f"relative difference {error:.1e}")
    assert error < tolerance


def apply_to(model, variables, images):
    """Returns logits and pre-logits."""
    apply = jax.jit(lambda v, x: model.apply(v, x, mutable=["intermediates"]))
    logits, state = apply(variables, images)
    return logits, state["intermediates"]["pre_logits"][0]


def pre_logits_of(reference, images):
    return reference.forward_head(reference.forward_features(images), pre_logits=True)


def check_names(model, images, variables):
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    for collection in variables:
        check_tree(shapes[collection], variables[collection], collection)


@pytest.mark.parametrize(("ours", "theirs"), [("ti", "tiny"), ("s", "small")])
def test_deit_is_that_of_timm(torch, timm, ours, theirs):
    reference = randomize(torch, timm.create_model(f"deit_{theirs}_patch16_224")).eval()
    model = create_model(f"deit_{ours}_patch16_224", num_classes=1000)
    params, images = vit_params(arrays(reference), model), random_images(2, 224, 224, 3)
    check_names(model, images, {"params": params})
    logits, pre_logits = apply_to(model, {"params": params}, images)
    assert_close(logits, reference(to_torch(torch, images)))
    assert_close(pre_logits, pre_logits_of(reference, to_torch(torch, images)))


@pytest.mark.parametrize("pooling", ["class_token", "average"])
def test_vit_on_a_rectangle_and_its_tokens(torch, timm, pooling):
    token = pooling == "class_token"
    reference = timm.models.vision_transformer.VisionTransformer(
        img_size=(12, 20),
        patch_size=4,
        embed_dim=24,
        depth=3,
        num_heads=4,
        num_classes=10,
        class_token=token,
        global_pool="token" if token else "avg",
        fc_norm=False,
    )
    randomize(torch, reference).eval()
    model = Vit(10, dim=24, depth=3, num_heads=4, patch_size=4, pooling=pooling)
    params, images = vit_params(arrays(reference), model), random_images(3, 12, 20, 3)
    check_names(model, images, {"params": params})
    logits, state = model.apply({"params": params}, images, mutable=["intermediates"])
    assert_close(logits, reference(to_torch(torch, images)))
    (pre_logits,) = state["intermediates"]["pre_logits"]
    assert_close(pre_logits, pre_logits_of(reference, to_torch(torch, images)))
    theirs = reference.forward_intermediates(
        to_torch(torch, images),
        return_prefix_tokens=token,
        output_fmt="NLC",
        intermediates_only=True,
    )
    for block, their_tokens in enumerate(theirs, start=1):
        (ours,) = state["intermediates"][f"block{block}_tokens"]
        if token:
            assert_close(ours[:, :1], their_tokens[1])
            assert_close(ours[:, 1:], their_tokens[0])
        else:
            assert_close(ours, their_tokens)


@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_resnet50_is_theirs(torch, timm, source):
    if source == "timm":
        reference = timm.create_model("resnet50")
    else:
        reference = pytest.importorskip("torchvision").models.resnet50()
    randomize(torch, reference)
    model = create_model("resnet50", num_classes=1000)
    images = random_images(2, 96, 128, 3)
    variables = resnet_variables(arrays(reference), model)
    check_names(model, images, variables)
    logits, pre_logits = apply_to(model, variables, images)
    assert_close(logits, reference.eval()(to_torch(torch, images)))
    if source == "timm":
        assert_close(pre_logits, pre_logits_of(reference, to_torch(torch, images)))


def test_a_training_step_of_resnet_is_that_of_torchvision(torch, timm):
    """Logits, gradients and moving averages in training; PyTorch averages the unbiased variance."""
    torchvision = pytest.importorskip("torchvision")
    block = torchvision.models.resnet.Bottleneck
    reference = randomize(torch, torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=10))
    reference.train().double()
    model = ResNet(10, depths=(1, 1, 1, 1), dims=(64, 128, 256, 512), dtype=jnp.float64)
    images = random_images(4, 64, 48, 3).astype(np.float64)
    variables = resnet_variables(arrays(reference), model)

    def loss(params):
        logits, state = model.apply(
            variables | {"params": params}, images, train=True, mutable=["batch_stats"]
        )
        return (jax.nn.log_softmax(logits)[:, 3]).mean(), (logits, state["batch_stats"])

    # In float32, rounding flips some ReLUs, each of which moves the gradient of the stem.
    with jax.enable_x64(True):
        grads, (logits, stats) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
        grads, stats = jax.device_get((grads, stats))
    theirs = reference(to_torch(torch, images))
    assert_close(logits, theirs)
    torch.log_softmax(theirs, dim=1)[:, 3].mean().backward()
    stem = reference.conv1.weight.grad.permute(2, 3, 1, 0)
    assert_close(grads["stem_conv"]["kernel"], stem)

    after = resnet_variables(arrays(reference), model)["batch_stats"]
    count = 4 * 32 * 24  # values that the stem's norm averages
    old = variables["batch_stats"]["stem_norm"]["var"]
    unbiased = 0.9 * old + (stats["stem_norm"]["var"] - 0.9 * old) * count / (count - 1)
    np.testing.assert_allclose(unbiased, after["stem_norm"]["var"], rtol=1e-4)
    np.testing.assert_allclose(
        stats["stem_norm"]["mean"], after["stem_norm"]["mean"], rtol=1e-4, atol=1e-5
    )


def test_wide_resnet_as_its_authors_wrote_it(torch):
    """Pre-activation blocks; the shortcut is a convolution of the activated input."""
    functional = torch.nn.functional
    model, images = WideResNet(10, depth=16, width=2), random_images(3, 17, 24, 3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(images))
    rng = np.random.default_rng(3)

    def draw(path, leaf):
        x = rng.normal(0, 0.1, leaf.shape)
        return np.float32(np.exp(x) if path[-1].key in ("var", "scale") else x)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    params, stats = variables["params"], variables["batch_stats"]

    def tensor(x):
        return torch.from_numpy(np.asarray(x))

    def conv(x, weights, stride=1):
        weight = tensor(weights["kernel"]).permute(3, 2, 0, 1)
        return functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def activate(x, weights, moving):
        tensors = [moving["mean"], moving["var"], weights["scale"], weights["bias"]]
        return functional.relu(functional.batch_norm(x, *map(tensor, tensors), eps=1e-5))

    x = conv(to_torch(torch, images), params["stem"])
    for group in (1, 2, 3):
        for block in (1, 2):
            weights, moving = (c[f"group{group}_block{block}"] for c in (params, stats))
            stride = 2 if group > 1 and block == 1 else 1
            first = activate(x, weights["norm1"], moving["norm1"])
            y = conv(first, weights["conv1"], stride)
            y = conv(activate(y, weights["norm2"], moving["norm2"]), weights["conv2"])
            x = y + (conv(first, weights["shortcut"], stride) if block == 1 else x)
    x = activate(x, params["norm"], stats["norm"]).mean(dim=(2, 3))
    theirs = x @ tensor(params["head"]["kernel"]) + tensor(params["head"]["bias"])
    assert_close(model.apply(variables, images), theirs)
