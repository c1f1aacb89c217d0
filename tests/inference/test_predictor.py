"""Predictor from Python: what it gives is what the tools, the model and each other give."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from configs import digits_nest
from harness.errors import ConfigError
from inference.explain import create_explainer
from inference.predictor import Predictor
from nest.gradcat import gradcat
from tasks.supervised import normalize
from tests.inference.test_export import random_weights, recipe

CLASSES = "abcd"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of several sizes, one of them grey, and one that is broken."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(1)
    for index in range(5):
        small = rng.integers(0, 256, (5 + index, 4, 3), np.uint8)
        image = Image.fromarray(small).resize((40 + 7 * index, 50), 3)
        image.convert("L" if index == 3 else "RGB").save(root / f"{index}.png")
    (root / "broken.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "nest.npz"
    random_weights(file, recipe("nest"), classes=CLASSES)
    return file


@pytest.fixture(scope="module")
def predictor(weights):
    return Predictor.load(weights, recipe("nest"))


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_says_what_the_tool_prints(run_script, folder, tmp_path, monkeypatch):
    """The same numbers, names and order, from the command line and from a recipe's name."""
    config, file = digits_nest.get_config("debug"), tmp_path / "digits.npz"
    config.model = dict(config.model)
    random_digits = dict(channels=1, classes="0123456789")
    random_weights(file, config, **random_digits, size=(16, 16))
    arguments = ["--config=configs/digits_nest.py:debug", f"--weights={file}", "--json"]
    code, stdout, stderr = run_script("tools/predict.py", *arguments, "--top_k=3", str(folder))
    assert code == 2 and "broken.png" in stderr
    printed = [json.loads(line) for line in stdout.splitlines()]
    found = Predictor.load(file, "configs/digits_nest.py:debug").predict(folder)
    readable = [one for one in found if not one.problem]
    assert [str(one.path) for one in readable] == [line["image"] for line in printed]
    for one, line in zip(readable, printed, strict=True):
        assert [guess._asdict() for guess in one.best(3)] == line["predictions"]
        first = line["predictions"][0]
        assert (one.label, one.name) == (first["label"], first["name"])
        assert one.probability == first["probability"]
    assert len({one.probability for one in readable}) == 5
    (bad,) = [one for one in found if one.problem]
    assert bad.path == folder / "broken.png" and bad.probabilities is None
    with pytest.raises(ValueError, match=r"broken.png: .*not an image"):
        _ = bad.label


def test_arrays_are_what_files_hold(predictor, folder):
    files = sorted(folder.glob("[0-9].png"))
    expected = np.stack([one.probabilities for one in predictor.predict(files)])
    assert expected.shape == (5, 4) and len(np.unique(expected)) == 20
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-5)
    grey = np.asarray(Image.open(files[3]))
    assert grey.ndim == 2
    given = [
        pixels(files[0]),
        Image.open(files[1]),
        str(files[2]),
        grey,
        jax.numpy.asarray(pixels(files[4])),
    ]
    found = predictor.predict(given)
    assert [one.path for one in found] == [None, None, files[2], None, None]
    np.testing.assert_array_equal([one.probabilities for one in found], expected)
    several = np.stack([pixels(files[0])] * 3)
    found = np.stack([one.probabilities for one in predictor.predict(several)])
    np.testing.assert_array_equal(found, expected[[0, 0, 0]])
    (alone,) = predictor.predict(pixels(files[0]))
    np.testing.assert_array_equal(alone.probabilities, expected[0])
    np.testing.assert_array_equal(
        predictor.predict([several, grey[..., None]])[-1].probabilities, expected[3]
    )
    assert predictor.predict([]) == [] == predictor.explain([])
    assert predictor.features([]).shape == (0, 32)


def test_grey_models_take_colours(tmp_path, folder):
    config, file = recipe("nest", "npz:/nowhere.npz"), tmp_path / "grey.npz"
    random_weights(file, config, channels=1)
    predictor, path = Predictor.load(file, config), folder / "0.png"
    (expected, found) = predictor.predict([path, pixels(path)])
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    (other,) = predictor.predict(pixels(path)[..., 0])
    assert np.abs(other.probabilities - expected.probabilities).max() > 1e-4


def test_few_programs_serve_any_number_of_images(weights, folder):
    predictor, image = Predictor.load(weights, recipe("nest")), pixels(folder / "0.png")
    devices, sizes = jax.device_count(), []
    for count in (1, 2, devices, devices + 1, 3 * devices, 33, 64, 70, 1, 33):
        found = predictor.predict([image] * count)
        assert len(found) == count
        for one in found:
            assert one.probabilities.tolist() == pytest.approx(found[0].probabilities.tolist())
        sizes.append(predictor._compiled._cache_size())
    padded = {-(-size // devices) * devices for size in (1, 2, devices, 2 * devices, 32)}
    assert sizes[-1] == len(padded)
    assert sizes[5:] == [len(padded)] * 5  # nothing more from 33 images on


def test_features_are_what_the_head_reads(predictor, folder):
    files = sorted(folder.glob("[0-9].png"))
    features, head = predictor.features(files), predictor.variables["params"]["head"]
    assert features.shape == (5, 32) and features.dtype == np.float32
    logits = features @ head["kernel"] + head["bias"]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.stack([one.probabilities for one in predictor.predict(files)])
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert predictor.layers == {
        "level1": (8, 8, 8),
        "level2": (4, 4, 16),
        "level3": (2, 2, 32),
        "pre_logits": (32,),
    }
    assert predictor.features(pixels(files[0]), layer="level2").shape == (1, 4, 4, 16)
    with pytest.raises(ValueError, match="layer='level4': unknown; did you mean 'level3'"):
        predictor.features(files, layer="level4")
    with pytest.raises(ValueError, match="broken.png: .*not an image"):
        predictor.features(folder)


def test_explanations_are_the_methods_own(predictor, folder):
    files = sorted(folder.glob("[0-9].png"))
    found = predictor.explain(files)
    cropped = np.stack([one.image for one in found])
    assert cropped.shape == (5, 32, 32, 3) and cropped.dtype == np.uint8
    inputs = normalize(cropped, predictor.mean, predictor.std)
    way = gradcat(predictor.model, predictor.variables, inputs)
    for index, one in enumerate(found):
        assert one.method == "gradcat" and one.name == CLASSES[one.label]
        assert one.label == predictor.predict(files[index])[0].label
        np.testing.assert_array_equal(one.boxes, way.boxes[index])
    given = [3, "b", 0, "d", 1]
    labels = np.int32([3, 1, 0, 3, 1])
    found = predictor.explain(files, method="gradcam", classes=given, batch_size=2)
    assert [one.label for one in found] == labels.tolist()
    explainer = create_explainer("gradcam", predictor.model, predictor.image_shape)
    expected = np.asarray(explainer(predictor.variables, inputs, labels))
    assert expected.max() > 0
    for one, saliency in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.saliency, saliency, atol=1e-5 * expected.max())
        assert one.boxes is None
    same = predictor.explain(files, method="gradcam", classes="b")
    assert {one.label for one in same} == {1}
    np.testing.assert_allclose(same[1].saliency, found[1].saliency, atol=1e-5 * expected.max())
    (with_prediction,) = predictor.predict(files[0], explain="gradcat")
    np.testing.assert_array_equal(with_prediction.explanation.boxes, way.boxes[0])
    assert with_prediction.explanation.label == with_prediction.label


def test_models_without_blocks_get_grad_cam(tmp_path, folder):
    random_weights(tmp_path / "tnt.npz", recipe("tnt"))
    predictor = Predictor.load(tmp_path / "tnt.npz", recipe("tnt"))
    (one,) = predictor.explain(pixels(folder / "0.png"), classes="c")
    assert (one.method, one.label, one.name, one.boxes) == ("gradcam", 2, "c", None)
    with pytest.raises(ValueError, match="GradCAT needs the levels of a NesT; Tnt has none"):
        predictor.explain(folder / "0.png", method="gradcat")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            np.zeros((8, 8, 3)),
            r"an image is a path, or uint8 .* this is ndarray, float64 \[8, 8, 3",
        ),
        (np.zeros((8, 8, 4), np.uint8), r"with 1 or 3 channels; .*\[8, 8, 4\]"),
        (np.zeros((2, 2, 8, 8, 3), np.uint8), r"\[2, 2, 8, 8, 3\]"),
        (np.zeros((0, 8, 3), np.uint8), r"\[0, 8, 3\] has no pixels"),
        ([None], "this is NoneType"),
        (7, "this is int"),
        ("https://host/a.png", "a URL"),
    ],
)
def test_what_is_no_image(predictor, given, words):
    for method in (predictor.predict, predictor.features, predictor.explain):
        with pytest.raises(ValueError, match=words) as error:
            method(given)
        assert "\n" not in str(error.value)


def test_an_empty_folder_and_missing_files(predictor, tmp_path):
    with pytest.raises(ValueError, match="the folder holds no image"):
        predictor.predict(tmp_path)
    (missing,) = predictor.predict(tmp_path / "a.png")
    assert missing.problem == "it cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (4, "there is no class 4; allowed: 0 to 3"),
        (-1, "there is no class -1"),
        ("e", "classes='e': unknown"),
        ([1, 2], "the number of classes is 2, of images 1: give one"),
        (True, "classes are bool"),
        (1.0, "classes are float64"),
    ],
)
def test_classes_that_are_not_there(predictor, folder, classes, words):
    with pytest.raises(ValueError, match=words):
        predictor.explain(folder / "0.png", classes=classes)


def test_what_load_needs(weights, tmp_path):
    with pytest.raises(ConfigError, match="is no workdir: name its recipe too, config=RECIPE"):
        Predictor.load(weights)
    with pytest.raises(ConfigError, match="nowhere/config.json does not exist"):
        Predictor.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="configs/no_recipe.py: no such file"):
        Predictor.load(weights, "configs/no_recipe.py")
