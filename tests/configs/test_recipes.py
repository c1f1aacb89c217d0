"""Every recipe builds, is what its golden file says, and runs in its debug form."""

import dataclasses
import importlib
import json
import os
from pathlib import Path

import jax
import pytest

import train
from configs import common
from data import datasets
from harness import workdirs
from harness.errors import ConfigError
from tasks.optimizers import decay_mask, parameter_paths
from training import experiment

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden" / "configs"

# Every recipe with every argument that changes it.
RECIPES = {
    "digits_nest": ["", "debug"],
    "cifar_nest": [
        f"{size},{dataset}"
        for size in ("tiny", "small", "base")
        for dataset in ("cifar10", "cifar100")
    ]
    + ["debug"],
    "imagenet_nest": ["tiny", "small", "base", "tiny,384", "small,384", "base,384", "debug"],
    "digits_tnt": ["", "debug"],
    "imagenet_tnt": ["ti", "s", "b", "ti,384", "s,384", "b,384", "384,debug", "debug"],
    "digits_deit": ["", "debug"],
    "cifar_deit": [
        f"{size},{data}" for size in ("ti", "s", "b") for data in ("cifar10", "cifar100")
    ]
    + ["debug"],
    "imagenet_deit": ["ti", "s", "b", "debug"],
    "imagenet_resnet50": ["", "debug"],
    "cifar_wrn": ["cifar10", "cifar100", "debug"],
    "digits_nest_gan": ["", "debug"],
    "cifar_nest_gan": ["small", "base", "debug"],
    "imagenet64_nest_gan": ["base", "small", "debug"],
    "digits_transfer": ["pretrain", "finetune", "scratch", "finetune,debug", "debug"],
    "transfer_tnt": ["cifar10", "cifar100", "flowers", "pets", "flowers,b", "debug"],
    "transfer_nest": ["cifar10", "cifar100", "flowers", "pets", "flowers,tiny", "debug"],
}
ALL = [(name, argument) for name, arguments in RECIPES.items() for argument in arguments]
NUM_CLASSES = {  # of the data sets that have to be prepared
    "cifar10": 10,
    "cifar100": 100,
    "imagenet2012": 1000,
    "downsampled_imagenet/64x64": 1,
    "oxford_flowers102": 102,
    "oxford_iiit_pet": 37,
}


def get_config(name, argument):
    return importlib.import_module(f"configs.{name}").get_config(argument)


def checked_config(name, argument):
    """Returns the config with the defaults of what the recipe leaves out."""
    return experiment.check_config(get_config(name, argument), needs_data=False)


def flat(config):
    """Returns {"data.batch_size": "96", ...}, values as JSON, of the keys that are no sections."""
    flattened = workdirs.flatten(json.loads(json.dumps(config)))
    return {key: json.dumps(value) for key, value in flattened.items()}


def test_no_recipe_is_left_out():
    files = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "common"}
    assert files == set(RECIPES)


@pytest.fixture(scope="module", params=ALL, ids="-".join)
def recipe(request):
    """A recipe, built; of data that have to be prepared, with made-up images in as many classes."""
    name, argument = request.param
    config = get_config(name, argument)
    config.mesh.data = 1
    with pytest.MonkeyPatch.context() as patch:
        if (num_classes := NUM_CLASSES.get(config.data.name)) is not None:
            data = dataclasses.replace(
                datasets.open_dataset("synthetic"), name=config.data.name, num_classes=num_classes
            )
            patch.setitem(datasets.BUILT_IN, config.data.name, lambda: data)
        run = experiment.build(config)
    return name, argument, run


def test_golden(recipe):
    """The checked config and the parameters without weight decay, as text for review.

    Defaults that are newer than a file, and that the recipe leaves alone, are not in it.
    UPDATE_GOLDEN=1 python -m pytest tests/configs/test_recipes.py rewrites the files.
    """
    name, argument, run = recipe
    config = checked_config(name, argument)
    shapes = run.task.parameters(run.shapes)
    is_gan = config["task"]["name"] == "gan"
    optimizer = config["generator_optimizer" if is_gan else "optimizer"]
    mask = decay_mask(shapes, optimizer["decay_exclude"])
    path = GOLDEN / f"{name}{'_' if argument else ''}{argument.replace(',', '_')}.txt"
    values, listed = flat(config), set(flat(get_config(name, argument).to_dict()))
    if path.exists():
        listed |= {line.split(" = ")[0] for line in path.read_text().splitlines()}
    else:
        listed = set(values)
    lines = [f"{key} = {values[key]}" for key in sorted(values) if key in listed]
    kept = [path for path, decays in parameter_paths(mask).items() if not decays]
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    lines += [f"# {total:,} parameters; without weight decay:", *kept]
    text = "\n".join(lines) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


def test_builds(recipe):
    _, _, run = recipe
    assert run.steps.total > 0


@pytest.mark.parametrize(("name", "argument"), ALL)
def test_says_how_to_prepare_its_data(name, argument, tmp_path):
    config = get_config(name, argument)
    if config.data.name in datasets.BUILT_IN:
        experiment.check_config(config)
        return
    config.data.data_dir = str(tmp_path)
    run_this = f"run: python tools/prepare_data.py {config.data.name} --data_dir={tmp_path}"
    with pytest.raises(ConfigError, match=f"{config.data.name}.* is not prepared .*{run_this}"):
        experiment.check_config(config)


# One of each family in the default run; NesT's is in tests/harness/test_commandline.py.
DEFAULT = ("imagenet_tnt", "cifar_deit", "imagenet_resnet50", "cifar_wrn", "digits_nest_gan")


@pytest.mark.parametrize(
    "name",
    [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES],
)
def test_debug_runs(name, tmp_path):
    config = get_config(name, "debug")
    config.mesh.data = 1
    metrics = train.train_and_evaluate(config, tmp_path)
    assert metrics["num_examples"] > 0
    assert (tmp_path / "DONE").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_unknown_argument(name):
    with pytest.raises(ValueError, match="'hugee' is unknown; allowed: .*debug"):
        get_config(name, "hugee")


def test_argument_twice():
    with pytest.raises(ValueError, match="chooses size twice"):
        common.parse_argument("tiny,base", size=("tiny", "base"))
