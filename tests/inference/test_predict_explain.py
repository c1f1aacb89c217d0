"""predict.py --explain: a picture for each image beside its classes, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import digits_nest, digits_tnt
from inference.explain import METHODS, create_explainer
from inference.pictures.overlay import TITLES, draw_explanation
from inference.predictor import Predictor
from tasks.supervised import normalize
from tests.model_inputs import random_params
from zoo.registry import create_model
from zoo.save import write_weights

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of a small NesT and two images of one name."""
    folder = tmp_path_factory.mktemp("digits")
    model = create_model(**digits_nest.get_config().model.to_dict(), num_classes=10)
    params = random_params(model, np.zeros((1, 16, 16, 1), np.float32))
    write_weights(folder / "nest.safetensors", {"params": params}, model, (16, 16))
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir()
        pixels = rng.integers(0, 256, (20, 20), np.uint8)
        Image.fromarray(pixels).save(folder / name / "digit.png")
    return folder


def run(folder, *arguments):
    weights = ["--config", ROOT / "configs/digits_nest.py", "--weights=nest.safetensors"]
    return subprocess.run(
        [sys.executable, ROOT / "tools/predict.py", *weights, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("method", METHODS)
def test_explanations_are_those_of_the_likeliest_class(folder, method):
    predictor = Predictor.load(folder / "nest.safetensors", digits_nest.get_config())
    files = [folder / "a/digit.png", folder / "missing.png", folder / "b/digit.png"]
    first, missing, second = predictor.predict(files, batch_size=2, explain=method)
    assert missing.explanation is None and "cannot be read" in missing.problem
    explain = create_explainer(method, predictor.model, (16, 16, 1))
    for prediction in (first, second):
        found = prediction.explanation
        assert found.image.shape == (16, 16, 1) and found.image.dtype == np.uint8
        inputs = normalize(found.image[None], predictor.mean, predictor.std)
        label = np.argmax(prediction.probabilities)
        expected = explain(predictor.variables, inputs, np.array([label]))[0]
        np.testing.assert_allclose(found.saliency, expected, rtol=1e-3, atol=1e-4)
        assert (found.boxes is not None) == (method == "gradcat")
        figure = draw_explanation(found, "3, 41.0%")
        titles = [axes.get_title() for axes in figure.axes]
        assert titles[:2] == ["image", TITLES[method]]
        assert figure.get_suptitle() == "3, 41.0%"
        figure.canvas.draw()
        assert np.asarray(figure.canvas.buffer_rgba()).std() > 10
    plain = predictor.predict(files[:1], batch_size=1)[0]
    np.testing.assert_allclose(plain.probabilities, first.probabilities, atol=1e-6)
    assert plain.explanation is None


def test_the_command_writes_a_picture_for_each_image(folder):
    done = run(folder, "--explain=gradcat", "--json", "a", "b")
    assert done.returncode == 0, done.stderr
    shown = [json.loads(line)["explanation"] for line in done.stdout.splitlines()]
    assert shown == ["explained/digit.png.gradcat.png", "explained/digit.png-2.gradcat.png"]
    assert all(Image.open(folder / name).size[0] == 1400 for name in shown)


def test_what_is_refused(folder, tmp_path):
    done = run(folder, "--explain=gradcam", "--explain_folder=nest.safetensors", "a")
    assert done.returncode == 2 and done.stderr.endswith("nest.safetensors is no folder\n")
    model = create_model(**digits_tnt.get_config().model.to_dict(), num_classes=10)
    params = random_params(model, np.zeros((1, 16, 16, 1), np.float32))
    write_weights(tmp_path / "tnt.safetensors", {"params": params}, model, (16, 16))
    predictor = Predictor.load(tmp_path / "tnt.safetensors", digits_tnt.get_config())
    with pytest.raises(ValueError, match="GradCAT needs the levels of a NesT; Tnt has none"):
        predictor.predict([folder / "a/digit.png"], batch_size=1, explain="gradcat")
