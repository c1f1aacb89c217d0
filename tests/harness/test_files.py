"""Where the paths of configs and flags lead."""

import ast
from pathlib import Path

import pytest

import train
from configs import digits_nest, digits_nest_gan
from harness.errors import ConfigError
from harness.files import local_path
from inference.given_images import find_files
from inference.pictures import subjects
from inference.trained_classifier import classes_in_file
from tasks.gan.embedding import load_embedding
from tools import performance
from tools.predict import PictureFolder
from training import experiment
from zoo.find import find_weights_file

ROOT = Path(__file__).parents[2]
URL = "s3://bucket/a/b"


def test_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    for given, expected in {
        "a/b": tmp_path / "a" / "b",
        "~/a": Path("/home/somebody/a"),
        "/a/": Path("/a"),
        Path("a"): tmp_path / "a",
        "a:b/c": tmp_path / "a:b" / "c",  # one letter is no scheme
        "2023": tmp_path / "2023",
    }.items():
        assert local_path("--workdir", given) == expected


@pytest.mark.parametrize("path", [URL, "gs://b", "https://host/x.npz", "hf-hub:timm/x", Path(URL)])
def test_urls_are_not_paths(path):
    with pytest.raises(ConfigError, match=r"^--x='\S+': a URL: copy remote files to this machine"):
        local_path("--x", path)


def test_no_path_at_all():
    for path in ("", " "):
        with pytest.raises(ConfigError, match="^--x=' ?': empty; allowed: a path on this machine"):
            local_path("--x", path)
    with pytest.raises(ConfigError, match="^--x='~nobody_of_this_name/a': "):
        local_path("--x", "~nobody_of_this_name/a")


@pytest.mark.parametrize(
    ("recipe", "key", "value"),
    [
        (digits_nest, "init_from", URL),
        (digits_nest, "data.name", f"folder:{URL}"),
        (digits_nest, "data.name", f"npz:{URL}"),
        (digits_nest, "data.data_dir", URL),
        (digits_nest_gan, "task.features", URL),
        (digits_nest_gan, "task.statistics", URL),
    ],
)
def test_urls_in_a_config(recipe, key, value, tmp_path):
    """As given: "gs:/bucket" or a path below this folder would hide what is wrong."""
    config = recipe.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError) as error:
        train.train_and_evaluate(config, tmp_path / "run")
    assert str(error.value).startswith(f"config.{key}='{URL}': a URL: copy remote files"), error
    assert not (tmp_path / "run").exists()


MORE_LINES = [
    ("tools/sweep.py status --workdir={}", "--workdir"),
    ("tools/sweep.py --config=configs/digits_nest.py --sweep.seed=0,1 --workdir={}", "--workdir"),
    ("tools/tables.py record nest_cifar --workdir={}", "--workdir"),
    ("tools/tables.py show nest_cifar --output={}", "--output"),
    ("tools/report.py {}", "folder"),
    ("tools/report.py tests --output={}", "--output"),
    ("tools/explain.py gradcat --workdir={}", "--workdir"),
    ("train.py --config=configs/digits_nest.py --workdir=x --compilation_cache={}", "_cache"),
    (
        "tools/compile_for.py --topology=h100 --batch_size=8 --model=deit_ti --hlo={}",
        "--hlo",
    ),
    (
        "tools/compile_for.py --topology=h100 --batch_size=8 --model=deit_ti --output={}",
        "--output",
    ),
    ("tools/prepare_data.py cifar10 --manual_dir={}", "--manual_dir"),
    ("benchmarks/measure_gpu.py --output={}", "--output"),
    ("tools/sample.py --workdir=. --npz={}", "--npz"),
]
# String flags whose values are no paths. A new flag belongs here, or gets a line above.
NO_PATHS = {
    *("config", "sweep", "against_weights", "axis", "blocks", "channels", "coordinator"),
    *("copy_name", "examples", "explain", "faithfulness", "fields", "generator", "ignore_fields"),
    *("image_size", "labels", "launch", "localization", "localization_split", "log_to", "metric"),
    *("model", "only", "platforms", "profile_steps", "queries", "seeds", "split", "topology"),
}


# Functions that get the values of flags which a script reads late.
LATE = {
    "annotated_folder": lambda path: PictureFolder("--annotated_folder", path, "annotated"),
    "against": lambda path: subjects.from_text(path, None, None),
    "classes": lambda path: classes_in_file(path, None),
    "explain_folder": lambda path: PictureFolder("--explain_folder", path, "cam"),
    "features": lambda path: load_embedding(path, num_channels=3, dataset="digits"),
    "official": lambda path: performance._run(["-"], path),
}


@pytest.mark.parametrize("name", LATE)
def test_flags_that_are_read_late(name):
    with pytest.raises(ConfigError, match=f"{name}='{URL}': a URL"):
        LATE[name](URL)


def string_flags():
    """Returns the names of all flags that are text, as the code defines them."""
    kinds = {"DEFINE_string", "DEFINE_list", "DEFINE_multi_string", "DEFINE_spaceseplist"}
    names = set()
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).parts
        if parts[0] == "tests" or parts[0].startswith((".", "venv", "runs")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in kinds:
                if isinstance(node.args[0], ast.Constant):
                    names.add(node.args[0].value)
    return names


def test_every_flag_is_tried_or_no_path():
    tried = {word.partition("=")[0][2:] for line in lines_with_paths() for word in line.split()}
    assert string_flags() - NO_PATHS - tried - LATE.keys() == set()


def lines_with_paths():
    (mark,) = [m for m in test_urls_in_flags.pytestmark if m.name == "parametrize"]
    return [" ".join(w for w in line.split() if w.endswith("={}")) for line, _ in mark.args[1]]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("train.py --config=configs/digits_nest.py --workdir={}", "workdir"),
        ("train.py --config={} --workdir=x", "--config"),
        ("evaluate.py --workdir={}", "--workdir"),
        ("evaluate.py --config=configs/digits_nest.py --weights={}", "--weights"),
        ("tools/predict.py --workdir={} a.png", "--workdir"),
        ("tools/predict.py --config=configs/digits_nest.py --weights={} a.png", "--weights"),
        ("tools/predict.py --exported={} a.png", "--exported"),
        ("tools/predict.py --config=configs/digits_detr.py --workdir=. --ids={} a.png", "--ids"),
        ("tools/sample.py --workdir={} --grid=a.png", "--workdir"),
        ("tools/sample.py --workdir=. --grid={}", "--grid"),
        ("tools/sample.py --workdir=. --compare --statistics={}", "--statistics"),
        ("tools/export.py --workdir=. --output={}", "--output"),
        ("tools/convert_weights.py --workdir=. --output={}", "--output"),
        (
            "tools/convert_weights.py --model=nest_tiny_s16_32 --input={} --output=/a.safetensors",
            "--input",
        ),
        ("tools/prepare_data.py folder:{} --resize=16", "config.data.name"),
        ("tools/prepare_data.py downsampled_imagenet --data_dir={}", "data_dir"),
        ("tools/benchmark.py data --config=configs/digits_nest.py --output={}", "--output"),
        (
            "tools/visualize.py operations --config=configs/imagenet_nest.py:tiny,debug "
            "--config.augment.randaugment.num_layers=2 --image={}",
            "--image",
        ),
        *MORE_LINES,
    ],
)
def test_urls_in_flags(run_script, line, key):
    script, *arguments = (word.format(URL) for word in line.split())
    code, _, stderr = run_script(script, *arguments)
    assert code == 2
    (message,) = stderr.strip().splitlines()
    assert f"{key}='{URL}': a URL: copy remote files to this machine first" in message


def test_home_in_a_flag(run_script, monkeypatch, tmp_path):
    """The shell leaves the ~ of --workdir=~/run as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, stderr = run_script("evaluate.py", "--workdir=~/run")
    assert code == 2 and str(tmp_path / "run" / "config.json") in stderr


def test_home_before_a_recipe_and_an_image(run_script, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text("def get_config(arg=None):\n    raise ValueError(arg)\n")
    code, _, stderr = run_script("train.py", "--config=~/mine.py:tiny", "--workdir=~/run")
    assert code == 2 and "tiny" in stderr and not (tmp_path / "run").exists()
    (tmp_path / "a.png").write_bytes(b"")
    assert find_files(["~/a.png"])[0] == [tmp_path / "a.png"]


def test_relative_paths_of_a_config_are_recorded_absolutely(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = digits_nest.get_config()
    config.init_from, config.data.data_dir = "weights", "sets"
    plain = experiment.check_config(config)
    assert plain["init_from"] == str(tmp_path / "weights")
    assert plain["data"]["data_dir"] == str(tmp_path / "sets")
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "weights")):
        find_weights_file("weights")


def test_no_other_function_makes_paths_absolute():
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).parts
        if parts[0] == "tests" or parts[0].startswith((".", "venv", "runs")):
            continue
        names = {n.attr for n in ast.walk(ast.parse(path.read_text())) if hasattr(n, "attr")}
        if parts != ("harness", "files.py"):
            assert names.isdisjoint({"absolute", "expanduser", "abspath"}), path
