"""Inception-v3 as a feature space, against definitions, OpenCV, pytorch-fid and torchvision.

What needs the last two carries the marker `torch`: pip install torch torchvision pytorch-fid.
"""

import dataclasses
import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import save_file

from baselines.inception import InceptionV3, average_pool
from harness.errors import ConfigError
from parallel import sharding
from tasks.gan.embedding import Embedding, load_embedding
from zoo.inception import state_shapes

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 32, 3)).astype(np.uint8)
SMOOTH = np.stack([cv2.GaussianBlur(image, (9, 9), 3) for image in IMAGES]) / np.float32(255)


def load(path):
    return load_embedding(str(path), num_channels=3, dataset="cifar10")


def random_state(rows: int) -> dict[str, np.ndarray]:
    """Draws a state dict of FID's network (1008 rows) or torchvision's (1000).

    Activations keep their size from layer to layer, and no norm is at its start.
    """
    rng = np.random.default_rng(rows)
    state = {}
    for name, leaf in state_shapes(InceptionV3(rows, fid_pools=rows == 1008)).items():
        draw = rng.standard_normal(leaf.shape, np.float32)
        if name.endswith("running_var"):
            state[name] = np.exp(np.float32(0.3) * draw)
        elif name.endswith("bn.weight"):
            state[name] = 1 + np.float32(0.1) * draw
        elif draw.ndim == 1:
            state[name] = np.float32(0.1) * draw
        else:
            state[name] = draw * np.float32(np.sqrt(2 / np.prod(leaf.shape[1:])))
    return state


def zero_state(rows: int) -> dict[str, np.ndarray]:
    shapes = state_shapes(InceptionV3(rows, fid_pools=rows == 1008))
    return {name: np.zeros(leaf.shape, np.float16) for name, leaf in shapes.items()}


@pytest.fixture(scope="module")
def fid_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("inception") / "fid.safetensors"
    save_file(random_state(1008), file)
    return file


# The network.


@pytest.mark.parametrize(("rows", "count"), [(1000, 23_834_568), (1008, 23_850_960)])
def test_parameters(rows, count):
    """Torchvision states 27,161,264 with the auxiliary classifier's 3,326,696."""
    shapes = state_shapes(InceptionV3(rows, fid_pools=False))
    sizes = {name: math.prod(leaf.shape) for name, leaf in shapes.items()}
    assert sum(size for name, size in sizes.items() if "running" not in name) == count
    assert len(shapes) == 94 * 5 + 2  # convolutions with their norms; the last layer
    assert shapes["fc.weight"].shape == (rows, 2048)
    assert shapes["Mixed_6c.branch7x7dbl_2.conv.weight"].shape == (160, 160, 7, 1)
    assert shapes["Mixed_7c.branch3x3dbl_3a.bn.running_var"].shape == (384,)


@pytest.mark.parametrize("count_padding", [False, True])
def test_average_pool_is_its_definition(count_padding):
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)
    expected = np.zeros_like(x)
    for i in range(5):
        for j in range(4):
            around = x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            count = 9 if count_padding else around.shape[1] * around.shape[2]
            expected[:, i, j] = around.sum(axis=(1, 2)) / count
    np.testing.assert_allclose(
        average_pool(x, count_padding=count_padding), expected, rtol=1e-5, atol=1e-6
    )


def test_the_network_is_for_inference():
    with pytest.raises(ValueError, match="inference only"):
        InceptionV3(10, fid_pools=True).init(jax.random.key(0), jnp.zeros((1, 75, 75, 3)), True)
    with pytest.raises(ValueError, match="num_classes=0: wrong; allowed: a positive integer"):
        InceptionV3(0, fid_pools=True)


# The feature space.


class Pixels(nn.Module):
    """Its features are the pixels that enter the network."""

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(2, name="fc")(images.reshape(len(images), -1))


def pixels_embedding(shape, **options):
    model = Pixels()
    variables = model.init(jax.random.key(0), jnp.zeros((1, *shape)))
    half = (0.5,) * shape[-1]
    return Embedding(model, variables, shape, half, half, {}, head="fc", **options)


@pytest.mark.parametrize("size", [(71, 64), (13, 50), (40, 32)], ids=["larger", "smaller", "same"])
def test_resizing_is_opencvs(size):
    """OpenCV's bilinear has half-pixel centres and no antialiasing, as PyTorch's."""
    embedding = pixels_embedding((*size, 3), resize="bilinear", antialias=False)
    features, _ = embedding(SMOOTH)
    expected = np.stack([cv2.resize(image, size[::-1]) for image in SMOOTH])
    np.testing.assert_allclose(features.reshape(3, *size, 3), 2 * expected - 1, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 8])
def test_parts_of_a_batch_equal_the_whole(devices):
    shape = (4, 4, 1)
    whole = pixels_embedding(shape)
    parts = dataclasses.replace(whole, chunk=1)  # on each of 8 devices
    mesh = sharding.create_mesh(data=devices, fsdp=1)
    for count in (16, 24) if devices == 8 else (8, 23):
        images = np.random.default_rng(0).uniform(size=(count, *shape)).astype(np.float32)
        images = jax.device_put(images, sharding.batch_sharding(mesh))
        for found, expected in zip(jax.jit(parts)(images), whole(images), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_features_of_a_file(fid_file):
    """Grey images are as their three equal channels; the numbers are those of pytorch-fid."""
    embedding = load(fid_file)
    assert embedding.width == 2048
    images = np.concatenate([SMOOTH[:1], SMOOTH[:1].mean(axis=-1, keepdims=True).repeat(3, -1)])
    features, probabilities = jax.jit(embedding)(images)
    assert (features.shape, probabilities.shape) == ((2, 2048), (2, 1008))
    np.testing.assert_allclose(features[0, :5], FID_FEATURES, atol=1e-4)
    fc = embedding.variables["params"]["fc"]
    expected = jax.nn.softmax(np.asarray(features) @ fc["kernel"] + fc["bias"])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-3)
    protocol = embedding.protocol
    assert "pool3 of Inception-v3, pytorch-fid's" in protocol["features"]
    assert "299x299" in protocol["resize"] and "clean-fid" in protocol["resize"]
    assert protocol["classes"] == "1008 of Inception-v3"


# Of random_state(1008) and SMOOTH[0], the first of InceptionV3() in pytorch-fid 0.3.0 with torch
# 2.13; test_features_are_pytorch_fids takes them again.
FID_FEATURES = [0.968468, 0.316568, 0.0, 1.278313, 0.005648]


# Files.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("fc.bias"), "not Inception-v3: no fc.bias; it has fc.bias of 1008 or"),
        (lambda s: s.update({"fc.bias": s["fc.bias"][:10]}), "not Inception-v3: one of 10"),
        (lambda s: s.pop("Mixed_6a.branch3x3.bn.running_var"), "1 missing: Mixed_6a.branch3x3.bn"),
        (lambda s: s.update({"layer1.0.bn": s["fc.bias"]}), "1 extra: layer1.0.bn"),
        (lambda s: s.update({"fc.weight": s["fc.weight"].T}), r"fc.weight \(2048, 1008\) instead"),
        (
            lambda s: s["Mixed_7a.branch3x3_1.bn.bias"].fill(np.nan),
            "not finite in Mixed_7a.branch3x3_1.bn.bias",
        ),
        (
            lambda s: s["Conv2d_1a_3x3.bn.running_var"].fill(-1),
            "negative variances in Conv2d_1a_3x3.bn.running_var",
        ),
    ],
    ids=["no-head", "classes", "missing", "extra", "shape", "nan", "variance"],
)
def test_files_of_other_networks(tmp_path, change, message):
    state = zero_state(1008)
    change(state)
    state = {name: np.ascontiguousarray(array) for name, array in state.items()}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=message) as error:
        load(tmp_path / "other.safetensors")
    assert "\n" not in str(error.value)


def test_files_that_are_none(fid_file, tmp_path):
    with pytest.raises(ConfigError, match="missing.pth: no such file"):
        load(tmp_path / "missing.pth")
    (tmp_path / "inception.onnx").write_bytes(b"text")
    with pytest.raises(ConfigError, match=r"inception.onnx: Inception-v3 is read from \*.safet"):
        load(tmp_path / "inception.onnx")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(fid_file.read_bytes()[:50_000])
    with pytest.raises(ConfigError, match="cut.safetensors: truncated or damaged file"):
        load(cut)
    with pytest.raises(ConfigError, match="takes images of 3 channel.*generated ones have 4"):
        load_embedding(str(fid_file), num_channels=4, dataset="x")


def test_what_is_needed_in_training_only_is_left_out(tmp_path):
    """Torchvision's file has the auxiliary classifier, newer ones count batches."""
    state, file = zero_state(1000), tmp_path / "a.safetensors"
    state["AuxLogits.fc.bias"] = state["fc.bias"]
    state["Mixed_5b.branch1x1.bn.num_batches_tracked"] = np.asarray(3)
    save_file(state, file)
    embedding = load(file)
    assert embedding.model == InceptionV3(1000, fid_pools=False)
    assert "torchvision's" in embedding.protocol["features"]


# Against code of others.


def compare(ours, theirs):
    difference = np.abs(np.asarray(ours) - theirs.numpy()).max() / theirs.abs().max().item()
    print("largest deviation, of the largest:", difference)
    assert theirs.std() > 0.01 * theirs.abs().max()
    assert difference < 1e-4


@pytest.mark.torch
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_features_are_pytorch_fids(torch, tmp_path, monkeypatch, is_zip):
    """The whole of its network: resizing, inputs, pools. The file is as torch saved it in 2019."""
    theirs = pytest.importorskip("pytorch_fid.inception")
    state = {name: torch.from_numpy(array) for name, array in random_state(1008).items()}
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: state)
    network = theirs.InceptionV3().eval()
    file = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(state, file, _use_new_zipfile_serialization=is_zip)
    with torch.no_grad():
        expected = network(torch.from_numpy(SMOOTH.transpose(0, 3, 1, 2)))[0][:, :, 0, 0]
    compare(jax.jit(load(file))(SMOOTH)[0], expected)
    np.testing.assert_allclose(expected[0, :5], FID_FEATURES, atol=1e-5)


@pytest.mark.torch
def test_features_are_torchvisions(torch, tmp_path):
    models = pytest.importorskip("torchvision").models
    network = models.inception_v3(
        weights=None, aux_logits=True, transform_input=False, init_weights=False
    ).eval()
    state = {name: torch.from_numpy(array) for name, array in random_state(1000).items()}
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected and all("AuxLogits" in name or "num_batches" in name for name in missing)
    features = []
    network.avgpool.register_forward_hook(lambda *call: features.append(call[-1][:, :, 0, 0]))
    file = tmp_path / "inception_v3_google-0cc3c7bd.pth"
    torch.save(network.state_dict(), file)
    images = torch.nn.functional.interpolate(
        torch.from_numpy(SMOOTH.transpose(0, 3, 1, 2)), (299, 299), mode="bilinear"
    )
    with torch.no_grad():
        expected = torch.softmax(network(2 * images - 1), dim=1)
    found, probabilities = jax.jit(load(file))(SMOOTH)
    compare(found, features[0])
    compare(probabilities, expected)
