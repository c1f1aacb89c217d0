"""Every recipe builds, is what its golden file says, and runs in its debug form."""

import functools
import importlib
import json
import os
from pathlib import Path

import jax
import pytest

import train
from configs import common
from harness import workdirs
from harness.errors import ConfigError
from nest.gan.generator import latent_shape
from tasks.optimizers import decay_mask, parameter_paths
from training import experiment
from zoo.registry import create_discriminator, create_generator, create_model

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
INPUTS = {  # channels and classes of data sets whose files tests do not have
    "digits": (1, 10),
    "synthetic": (3, 10),
    "cifar10": (3, 10),
    "cifar100": (3, 100),
    "imagenet2012": (3, 1000),
    "downsampled_imagenet/64x64": (3, 1),
    "oxford_flowers102": (3, 102),
    "oxford_iiit_pet": (3, 37),
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


@functools.cache
def parameter_shapes(name, argument):
    config = get_config(name, argument)
    channels, num_classes = INPUTS[config.data.name]
    if config.task.name == "gan":
        return gan_parameter_shapes(config, channels)
    shape = (config.data.image_size, config.data.image_size, channels)
    num_classes = len(config.data.get("classes") or range(num_classes))
    model = create_model(**config.model.to_dict(), num_classes=num_classes)
    images = jax.ShapeDtypeStruct((1, *shape), "float32")
    return jax.eval_shape(
        lambda key, x: model.init(key, x, train=False), jax.random.key(0), images
    )["params"]


def gan_parameter_shapes(config, channels):
    size = config.data.image_size
    generator = create_generator(
        **config.generator.to_dict(), image_size=size, num_channels=channels, num_classes=None
    )
    discriminator = create_discriminator(**config.discriminator.to_dict(), num_classes=None)
    noise = jax.ShapeDtypeStruct(latent_shape(generator, 1), "float32")
    images = jax.ShapeDtypeStruct((1, size, size, channels), "float32")
    key = jax.random.key(0)
    return {
        "generator": jax.eval_shape(generator.init, key, noise)["params"],
        "discriminator": jax.eval_shape(discriminator.init, key, images)["params"],
    }


@pytest.mark.parametrize(("name", "argument"), ALL)
def test_golden(name, argument):
    """The checked config and the parameters without weight decay, as text for review.

    Defaults that are newer than a file, and that the recipe leaves alone, are not in it.
    UPDATE_GOLDEN=1 python -m pytest tests/configs/test_recipes.py rewrites the files.
    """
    config = checked_config(name, argument)
    shapes = parameter_shapes(name, argument)
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


@pytest.mark.parametrize(("name", "argument"), ALL)
def test_builds_or_says_what_to_run(name, argument, tmp_path):
    config = get_config(name, argument)
    config.mesh.data = 1
    if config.data.name in ("digits", "synthetic"):
        assert experiment.build(config).steps.total > 0
        return
    config.data.data_dir = str(tmp_path)
    run_this = f"run: python tools/prepare_data.py {config.data.name} --data_dir={tmp_path}"
    with pytest.raises(ConfigError, match=f"{config.data.name}.* is not prepared .*{run_this}"):
        experiment.check_config(config)
    # All but the data is right: with made-up images it builds, with its augmentation.
    config.data.update(name="synthetic", eval_split="test", train_split="train")
    run = experiment.build(config)
    assert run.steps.total > 0


@pytest.mark.parametrize("name", RECIPES)
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
