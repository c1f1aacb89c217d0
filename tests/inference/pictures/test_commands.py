"""tools/explain.py draws every picture: its size, its labels, that it is not blank; its errors."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from configs import digits_nest
from harness.errors import ConfigError
from inference.pictures import style
from inference.pictures.subjects import from_text
from tests.model_inputs import fill
from workdirs.config_file import write_config
from zoo.registry import create_model, variable_shapes
from zoo.save import write_weights

ROOT = Path(__file__).parents[3]
SMALL = [
    "--config.model.depths=(1,1,1)",
    "--config.model.dims=(8,12,16)",
    "--config.model.num_heads=(2,2,2)",
]
NEST = ["--config=configs/digits_nest.py", *SMALL]
TNT = ["--config=configs/digits_tnt.py", "--config.model.depth=2", "--config.model.outer_dim=32"]
WRN = ["--config=configs/cifar_wrn.py", "--config.model.depth=10", "--config.model.width=1"]
DEIT = ["--against=configs/digits_deit.py:debug"]
TITLES = {
    "nest": "nest_tiny_s16_32, random weights",
    "tnt": "tnt_s_patch16_224, random weights",
    "deit": "deit_ti_patch16_224, random weights",
}
# arguments, and texts that the picture has
PICTURES = {
    "gradcat": (
        ["gradcat", *NEST, "--examples=0,5", "--labels=7,3"],
        [
            *(f"GradCAT in {TITLES['nest']}", "7", "3", "step 1: level 3", "step 2: level 2"),
            *("tree of blocks", "score of a quadrant, in units of the largest of its step"),
        ],
    ),
    "gradcat_of_a_file": (
        ["gradcat", *NEST, "--image_size=32,48", "--rule=grad_cam", "--sign=-", "{image}"],
        [r"\d \(predicted\)"],
    ),
    "mosaic": (
        ["mosaic", *NEST, "--examples=0,1,2,3"],
        [
            *(f"GradCAT of each class in {TITLES['nest']}", "image", "7", "6", "3"),
            *("step 1: level 3", "not the class's quadrant"),
        ],
    ),
    "mosaic_of_one": (["mosaic", *NEST, "{image}", "--labels=0,9"], ["0", "9", "step 2: level 2"]),
    "features": (
        ["features", *TNT, *DEIT, "--examples=3", "--num_channels=5", "--seed=1"],
        [
            *(TITLES["tnt"], "16 x 16 pixels", "block 1", "block 2"),
            *(r"channels( \d+){5}", "value, each map scaled by itself", "least", "largest"),
        ],
    ),
    "features_of_levels": (
        ["features", *NEST, "--examples=3", "--channels=1,7", "--blocks=1,3"],
        ["level 1", "level 3", "channels 1 7"],
    ),
    "words": (
        ["words", *TNT, "--examples=0,1"],
        [f"Word embeddings of {TITLES['tnt']}", "block 1", "block 2", "mean over channels"],
    ),
    "tsne": (
        ["tsne", *TNT, *DEIT, "--examples=0"],
        [f"{TITLES['tnt']}: 32 channels of block 2", f"{TITLES['deit']}: 72 channels of block 1"],
    ),
    "attention_of_words": (
        ["attention", "--kind=words", *TNT, "--examples=0", "--queries=0.2:0.9"],
        [f"Attention of words in {TITLES['tnt']}", "the patch", "word 0, 1", "weight in %"],
    ),
    "attention_of_patches": (
        ["attention", *TNT, *DEIT, "--examples=0"],
        ["Attention of patches", TITLES["tnt"], TITLES["deit"], "query", "block 2", "weight in %"],
    ),
    "attention_in_blocks": (
        ["attention", *NEST, "--examples=0", "--blocks=1,2", "--queries=0:0,0.9:0.3"],
        ["level 1, layer 1", "level 2, layer 1"],
    ),
    "attention_of_the_class_token": (
        ["attention", "--kind=class_token", *TNT, "--examples=0,1"],
        ["Attention of the class token", TITLES["tnt"], "image", "block 1", "weight in %"],
    ),
    "positions": (
        ["positions", *NEST],
        [
            *(f"Similarity of position embeddings in {TITLES['nest']}", "level 1, 8 x 8"),
            *("level 3, 2 x 2", "row of the query", "column of the query", "cosine with the query"),
        ],
    ),
    "positions_of_words": (["positions", *TNT], ["sentences, 4 x 4", "words of a sentence, 2 x 2"]),
    "filters": (
        ["filters", *NEST],
        [f"Filters of the stem of {TITLES['nest']}", "8 filters of 2 x 2 pixels", "weight"],
    ),
    "filters_in_colour": (
        ["filters", *NEST, "--config.data.name=synthetic", "--channels=3,4"],
        ["2 filters of 2 x 2 pixels: 3 4", "weight of red, green and blue"],
    ),
}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("name", PICTURES)
def test_picture(run_script, tmp_path, monkeypatch, image, name):
    figures, save = [], style.save
    monkeypatch.setattr(
        style, "save", lambda figure, path: (figures.append(figure), save(figure, path))
    )
    arguments, texts = PICTURES[name]
    arguments = [argument.format(image=image) for argument in arguments]
    code, stdout, stderr = run_script(
        "tools/explain.py", *arguments, f"--output={tmp_path}/drawn.svg"
    )
    assert code == 0, stderr
    assert stdout == f"wrote {tmp_path}/drawn.svg\n"
    (figure,) = figures
    save(figure, tmp_path / "drawn.png")
    assert {path.name for path in tmp_path.iterdir()} == {"drawn.svg", "drawn.png"}

    pixels = np.asarray(Image.open(tmp_path / "drawn.png").convert("RGB"))
    assert pixels.shape[1] == 1400 and 300 < pixels.shape[0] < 2000
    assert pixels.std() > 20
    edge = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[0], pixels[-1]])
    assert (edge == 255).all()  # nothing is cut off

    shown = [text.get_text() for text in figure.findobj(Text) if text.get_text()]
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 8
    letters = (tmp_path / "drawn.svg").read_text()
    unbroken = [" ".join(text.split()) for text in shown]
    for text in texts:
        assert text in unbroken or any(re.fullmatch(text, one) for one in unbroken), (text, shown)
    for text in shown:
        for line in text.split("\n"):  # letters stay letters
            escaped = line.replace("&", "&amp;")
            assert escaped in letters or any(axis in line for axis in "\N{MINUS SIGN}0123456789"), (
                line
            )


def test_weights_of_another_image_size(run_script, tmp_path):
    config = digits_nest.get_config()
    config.model.update(dims=(8, 12, 16), depths=(1, 1, 1), num_heads=(2, 2, 2))
    model = create_model(**config.model, num_classes=10)
    params = fill(variable_shapes(model, (16, 16, 1)))["params"]
    write_weights(tmp_path / "trained.npz", {"params": params}, model, (16, 16))
    code, _, stderr = run_script(
        "tools/explain.py",
        *("positions", *NEST, f"--weights={tmp_path}/trained.npz", "--image_size=32,16"),
        f"--output={tmp_path}/drawn.svg",
    )
    assert code == 0, stderr
    assert "level1_position/embedding (16, 4, 8) -> (16, 8, 8)" in stderr
    letters = (tmp_path / "drawn.svg").read_text()
    assert "level 1, 16 x 8" in letters
    assert "nest_tiny_s16_32, trained.npz" in letters and "random" not in letters


def test_the_same_command_writes_the_same_file_in_a_process_of_its_own(
    run_script, one_device, tmp_path
):
    arguments = ["filters", *NEST, "--output={}/filters.svg"]
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.mkdir()
    result = subprocess.run(
        [sys.executable, "tools/explain.py", *(a.format(paths[0]) for a in arguments)],
        cwd=ROOT,
        env=one_device,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert run_script("tools/explain.py", *(a.format(paths[1]) for a in arguments))[0] == 0
    assert (paths[0] / "filters.svg").read_bytes() == (paths[1] / "filters.svg").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gradcat", *TNT, "--examples=0"], "GradCAT needs the levels of a NesT; Tnt has none"),
        (["mosaic", *TNT, "--examples=0,1,2,3"], "GradCAT needs the levels of a NesT"),
        (["words", *NEST, "--examples=0"], "Nest has no words; TNT has"),
        (["attention", "--kind=words", *NEST, "--examples=0"], "Nest has no words"),
        (["attention", "--kind=class_token", *NEST, "--examples=0"], "no class token"),
        (["attention", *WRN], "ResNet has no attention"),
        (["positions", *WRN], "no position embedding"),
        (["gradcat", *NEST, "--examples=0", "--labels=10"], "--labels=10: out of range.*0 to 9"),
        (["gradcat", *NEST, "--examples=0", "--labels=x"], "--labels=x: unknown"),
        (["gradcat", *NEST, "--examples=0,1", "--labels=1,2,3"], "3 classes for 2 images"),
        (["gradcat", *NEST, "--examples=360"], "--examples=360: out of range; allowed: 0 to 359"),
        (["gradcat", *NEST, "--examples=one"], "--examples='one': not a whole number"),
        (["gradcat", *NEST, "--image_size=4"], r"image_size=\(4, 4\): does not fit"),
        (["gradcat", *NEST, "--image_size=8"], "blocks of 1 x 1 tokens"),
        (["features", *TNT, "--examples=0", "--channels=32"], "--channels=32: out of range"),
        (["features", *TNT, "--examples=0", "--blocks=3"], "--blocks=3: out of range"),
        (["features", *TNT, "--examples=0,1"], "2 images; this picture shows 1 at most"),
        (["features", *TNT, "nowhere.jpg"], "nowhere.jpg: it cannot be read"),
        (["features", *TNT, "--against=nothing"], "--against=nothing: no workdir, no recipe"),
        (["features", *TNT, "--against=no.py"], "--against=no.py: no such file"),
        (["features", "--examples=0"], "name a model: --workdir"),
        (["features", "--model=tnt"], "--model=tnt: unknown"),
        (["tsne", *TNT, "--examples=0", "--image_size=4"], "t-SNE of 32 channels at 1 x 1"),
        (["mosaic", *NEST, "--examples=0,1"], "mosaic needs four images.* not 2"),
        (["mosaic", *NEST, "{image}"], "--labels says which to explain"),
        (["attention", *TNT, "--examples=0", "--queries=2:0"], "--queries='2:0': no place"),
        (["filters", *NEST, "{image}"], "shows weights alone, no image"),
        (["filters", *NEST, "--output=a.jpg"], "a.jpg: the name must end with .png or .svg"),
        (["filter", *NEST], "unknown command 'filter'; allowed: gradcat"),
    ],
)
def test_errors(run_script, tmp_path, image, arguments, words):
    arguments = [argument.format(image=image) for argument in arguments]
    if not any(argument.startswith("--output") for argument in arguments):
        arguments.append(f"--output={tmp_path}/drawn.png")
    code, _, stderr = run_script("tools/explain.py", *arguments)
    assert code == 2
    assert re.search(words, stderr) and len(stderr.strip().splitlines()) == 1, stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config():\n    return nothing\n", "NameError.*mine.py:2"),
        ("def get_config(:\n", "SyntaxError.*mine.py:1"),
        ("import nothing_such\n", "ModuleNotFoundError.*mine.py:1"),
        ("x = 1\n", "has no function get_config"),
    ],
)
def test_a_broken_recipe_to_compare_with(tmp_path, text, words):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=f"^--against=.*{words}"):
        from_text(f"{tmp_path}/mine.py", None, None)


def test_what_to_compare_with_is_named_as_any_config(tmp_path, monkeypatch):
    config = digits_nest.get_config("debug")
    write_config(tmp_path, config.to_dict())
    monkeypatch.chdir(tmp_path)
    for text in ("configs/digits_nest.py:debug", "config.json"):
        assert from_text(text, None, None).predictor.model.dims == tuple(config.model.dims)


def test_an_existing_file_stays(run_script, tmp_path):
    (tmp_path / "a.png").touch()
    code, _, stderr = run_script("tools/explain.py", "filters", *NEST, f"--output={tmp_path}/a.png")
    assert code == 2 and "exists already; --overwrite replaces it" in stderr
