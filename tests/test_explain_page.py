"""docs/explain.md: its Grad-CAM against a split of the model, and the whole example in small."""

import importlib
import re
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from harness import workdirs
from nest.model import Nest
from tests.model_inputs import random_array, random_params
from tnt.model import Tnt
from training import experiment
from zoo.registry import create_model
from zoo.save import write_weights

PAGE = Path(__file__).parents[1] / "docs" / "explain.md"
FEATURES, GRAD_CAM, IMAGES, EXAMPLE = re.findall(
    r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S
)

NEST = Nest(10, (8, 12, 16), (1, 1, 1), (2, 2, 2), patch_size=2)
TNT = Tnt(10, 6, 12, 2, 2, depth=3, patch_size=4, word_size=2)
# name -> model, map, grid, the module that reads the map
CASES = {
    "nest": (NEST, "level2", (2, 4), "level2_aggregation"),
    "nest_last": (NEST, "level3", (1, 2), "norm"),
    "tnt": (TNT, "layer2_sentences", (2, 4), "layer3"),
    "tnt_average_last": (TNT.clone(pooling="average"), "layer3_sentences", (2, 4), "norm"),
}


def run(code, **names):
    exec(compile(code, str(PAGE), "exec"), names)
    return names


@pytest.fixture(scope="module")
def grad_cam():
    return run(GRAD_CAM)["grad_cam"]


@pytest.mark.parametrize("case", CASES)
def test_grad_cam_against_finite_differences(grad_cam, case):
    """Channels are moved at the entrance of the module that reads the map, one after the other."""
    model, name, grid, reader = CASES[case]
    images, labels = random_array(2, 8, 16, 3), np.array([3, 7])
    variables = {"params": random_params(model, images)}
    found = grad_cam(model, variables, images, labels, name, grid)

    def logits_and_map(change):
        """Adds a number per channel to all places of the map; returns the map as it was."""
        seen = []

        def move(call, args, kwargs, context):
            if context.module.path == (reader,) and context.method_name == "__call__" and not seen:
                index = 1 if reader.startswith("layer") else 0  # a layer of TNT: words, sentences
                x = args[index]
                seen.append(x)
                token = 0 if x.ndim == 4 else 1  # the class token stays as it is
                args = (*args[:index], x.at[:, token:].add(change), *args[index + 1 :])
            return call(*args, **kwargs)

        with nn.intercept_methods(move):
            logits = model.apply(variables, images)
        return logits[np.arange(2), labels], seen[0]

    x = jax.jit(logits_and_map)(np.zeros(1, np.float32))[1]
    x = np.asarray(x, np.float64).reshape(2, -1, x.shape[-1])[:, -grid[0] * grid[1] :]
    step = 2e-3 * np.eye(x.shape[-1], dtype=np.float32)
    moved = jax.jit(jax.vmap(lambda change: logits_and_map(change)[0]))
    slopes = np.asarray(moved(step) - moved(-step), np.float64).T / 4e-3  # [b, c]
    weights = slopes / x.shape[1]  # the mean over places
    expected = np.maximum(np.einsum("bc,bnc->bn", weights, x), 0).reshape(2, *grid)
    assert found.shape == (2, *grid) and expected.max() > 0
    np.testing.assert_allclose(found, expected, atol=2e-2 * expected.max())


def test_a_class_token_leaves_no_gradient_in_the_last_layer(grad_cam):
    images, labels = random_array(1, 8, 16, 3), np.array([3])
    variables = {"params": random_params(TNT, images)}
    assert not grad_cam(TNT, variables, images, labels, "layer3_sentences", (2, 4)).any()


def test_features_enter_the_head():
    images = random_array(2, 8, 16, 3)
    variables = {"params": random_params(NEST, images)}
    found = run(FEATURES, model=NEST, variables=variables, images=images)
    head = variables["params"]["head"]
    by_hand = found["features"] @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(found["logits"], by_hand, rtol=1e-4, atol=1e-4)


def test_the_example_runs(grad_cam, tmp_path, monkeypatch, capsys):
    """On random weights in the place of the two runs."""
    monkeypatch.chdir(tmp_path)
    names = run(IMAGES)
    images, classes = np.load("quadrants.npz")["test_images"], names["classes"]
    assert images.shape == (1440, 16, 16) and images.max() == 255
    digit = (names["digits"][1437] * 15.9375).astype(np.uint8).reshape(8, 8)
    for image, (top, left) in zip(images, ((0, 0), (0, 8), (8, 0), (8, 8)), strict=False):
        np.testing.assert_array_equal(image[top : top + 8, left : left + 8], digit)
    assert np.load("quadrants.npz")["test_labels"][:5].tolist() == [
        *[classes[1437]] * 4,
        classes[1438],
    ]

    small = {
        "digits_nest": {"dims": (8, 8, 8), "depths": (1, 1, 1), "num_heads": (2, 2, 2)},
        "digits_tnt": dict(inner_dim=4, outer_dim=8, num_inner_heads=2, num_outer_heads=2),
    }
    commands = re.findall(r"configs/(\w+)\.py --workdir=(\S+)", PAGE.read_text())
    assert [recipe for recipe, _ in commands] == list(small)
    for recipe, workdir in commands:
        config = importlib.import_module(f"configs.{recipe}").get_config()
        config.model.update(small[recipe])
        config.data.update(name="npz:quadrants.npz", eval_split="test[:14]", eval_batch_size=8)
        plain = experiment.check_config(config)
        with workdirs.claimed(Path(workdir), plain, None):
            model = create_model(**plain["model"], num_classes=10)
            variables = {"params": random_params(model, np.zeros((1, 16, 16, 1), np.float32))}
            write_weights(Path(workdir) / "model.safetensors", variables, model, (16, 16))
    run(EXAMPLE, grad_cam=grad_cam, np=np)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["nest", "tnt"]
    assert Image.open("grad_cam.png").size == (800, 300)
