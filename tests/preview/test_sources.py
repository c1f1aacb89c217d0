"""--print_config: every value, its source, in a form that is read back as the same config."""

import json

import pytest
import yaml

import train  # noqa: F401  (before its output is captured)
from configs import digits_nest
from harness.arguments import Override
from preview.sections import list_sections
from preview.sources import leaves, sources_of
from tests.tasks.test_by_images import folder_of
from training.experiment import check_config
from workdirs.config_file import load_config, write_config

RECIPE = "--config=configs/digits_nest.py:debug"


def show(run_script, *arguments):
    code, stdout, stderr = run_script("train.py", *arguments)
    assert (code, stderr) == (0, "")
    return stdout


def as_lists(value):
    return json.loads(json.dumps(value))


def test_each_value_has_its_source(run_script):
    text = show(
        run_script,
        RECIPE,
        "--print_config=json",
        "--config.optimizer.base_lr=1e-5",
        "--config.augment.flip.probability=0.25",
        "--config.augment.random_affine=None",
        "--config.data.image_size=(16,16)",
    )
    shown = json.loads(text)
    sources, config = shown["sources"], shown["config"]
    assert set(sources) == {".".join(keys) for keys, _ in leaves(config)}
    for key, source in {
        "optimizer.base_lr": "command line",
        "augment.flip.probability": "command line",
        "augment.random_affine": "command line",
        "data.image_size": "command line",
        "data.batch_size": "recipe",
        "model.dims": "recipe",
        "seed": "recipe",
        "data.max_bad": "default",
        "optimizer.b2": "default",
        "faults.spike_factor": "default",
        "task.linear_probe": "default",
    }.items():
        assert sources[key] == source, key
    assert config["optimizer"]["base_lr"] == 1e-5 and config["data"]["image_size"] == [16, 16]
    assert config["augment"] == {"random_affine": None, "flip": {"probability": 0.25}}


@pytest.mark.parametrize("recipe", ["digits_nest.py", "digits_nest_gan.py", "imagenet_tnt.py:b"])
def test_both_forms_are_the_whole_config(run_script, tmp_path, recipe):
    """Of ImageNet too, whose data are not here."""
    plain = as_lists(check_config(load_config(f"configs/{recipe}"), needs_data=False))
    text = show(run_script, f"--config=configs/{recipe}", "--print_config")
    assert yaml.safe_load(text) == plain
    assert text == show(run_script, f"--config=configs/{recipe}", "--print_config=yaml")
    as_json = show(run_script, f"--config=configs/{recipe}", "--print_config=json")
    assert json.loads(as_json)["config"] == plain
    (tmp_path / "mine.json").write_text(as_json)
    again = show(run_script, f"--config={tmp_path / 'mine.json'}", "--print_config")
    assert yaml.safe_load(again) == plain
    assert {line.rpartition("# ")[2] for line in again.splitlines() if "#" in line} == {"recipe"}


def test_the_config_of_a_run_is_a_recipe(run_script, tmp_path, monkeypatch):
    """Overrides work on top of it; one that was damaged is one line."""
    plain = check_config(digits_nest.get_config("debug"))
    write_config(tmp_path, plain)
    file = tmp_path / "config.json"
    text = show(run_script, f"--config={file}", "--print_config", "--config.seed=7")
    assert yaml.safe_load(text) == as_lists(plain | {"seed": 7})
    assert check_config(load_config(str(file))) == plain
    assert f"--config={file}: no such file" not in text
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    code, stdout, stderr = run_script("train.py", f"--config={file}", "--print_config")
    assert (code, stdout, len(stderr.splitlines())) == (2, "", 1)
    assert "not as it was written" in stderr


def test_nothing_is_touched_or_needed(run_script, tmp_path):
    """No workdir, no data set; but what is wrong is said."""
    workdir = tmp_path / "run"
    imagenet = ("--config=configs/imagenet_nest.py:tiny", f"--workdir={workdir}")
    assert "imagenet2012" in show(run_script, *imagenet, "--print_config")
    assert not workdir.exists()
    code, _, stderr = run_script("train.py", *imagenet, "--print_config", "--config.loop.epochs=1")
    assert code == 2 and "config.loop.epochs: unknown" in stderr
    code, _, stderr = run_script("train.py", *imagenet, "--print_config=xml")
    assert code == 2 and "allowed: yaml, json" in stderr and len(stderr.splitlines()) == 1
    code, _, stderr = run_script("train.py", "--print_config")
    assert code == 2 and "--config=FILE.py" in stderr


def test_a_whole_section_from_the_command_line():
    config = digits_nest.get_config("debug")
    config.model.dims = Override("(8,8,8)")
    _, sources = sources_of(config, ["model"])
    assert {sources[key] for key in sources if key.startswith("model.")} == {"command line"}
    assert sources["model.dims"] == "command line"
    _, sources = sources_of(config, ["model.dim"])  # a prefix of a name is another key
    assert sources["model.dims"] == "recipe"


def test_what_is_left_to_the_images_is_theirs(run_script, tmp_path):
    def shown(*arguments):
        text = show(run_script, "--config=configs/folder_nest.py:scratch,micro", *arguments)
        config, sources = json.loads(text).values()
        keys = ("data.batch_size", "data.image_size", "loop.num_epochs")
        values = [config[key.split(".")[0]][key.split(".")[1]] for key in keys]
        return values, [sources[key] for key in keys]

    left = "by the images"
    given = ("--print_config=json", "--config.loop.num_epochs=3.0")
    assert shown(*given) == ([None, 32, 3.0], [left, "recipe", "command line"])
    there = f"--config.data.name={folder_of(tmp_path, (20, 20))}"
    assert shown(*given[:1], there) == ([16, 32, 300.0], [left, "recipe", left])
    nothing_to_train_on = folder_of(tmp_path / "other" / "val", (20, 20)).removesuffix("/val")
    only = f"--config.data.name={nothing_to_train_on}"
    assert shown(*given[:1], only) == ([None, 32, None], [left, "recipe", left])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("model.nmae=3", "config.model.nmae: unknown; allowed: "),
        ("model.name=nest_smal", "config.model.name='nest_smal': unknown; did you mean 'nest_sma"),
        ("model.depths=3", "config.model.dims=(96, 192, 384): differs in length from depths"),
    ],
)
def test_a_wrong_key_of_a_folder_recipe_is_named(run_script, given, message):
    recipe = ("--config=configs/folder_nest.py", "--print_config")
    code, _, stderr = run_script("train.py", *recipe, f"--config.{given}")
    assert code == 2 and message in stderr


@pytest.mark.parametrize("recipe", ["digits_nest", "digits_nest_gan"])
def test_every_section_is_documented(recipe):
    config = load_config(f"configs/{recipe}.py")
    plain = check_config(config)
    listed = dict(list_sections(config))
    assert set(listed) == set(plain) - {"seed", "init_from"}
