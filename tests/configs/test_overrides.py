"""Recipes list what differs from the defaults; every key can still be set, and old runs go on."""

import functools
import importlib
import inspect
import json
import operator
import sys
import types
import typing
from pathlib import Path

import pytest
from absl import flags
from flax import traverse_util
from ml_collections import ConfigDict

from configs import digits_nest, digits_nest_gan
from data import pipeline
from data.augment.mixing import DEVICE_AUGMENTS
from data.augment.transforms import TRANSFORMS
from harness import commandline, overrides, strict_config
from harness.errors import ConfigError
from harness.steps import plan_steps
from parallel.sharding import create_mesh, state_shardings
from preview.recipe_flag import define_config_flag
from saving.checkpoints import Checkpoints
from tasks.classification import Classification
from tasks.gan.options import GanOptions
from tasks.optimizers import create_optimizer
from training import experiment
from training.trained_run import check_same_config
from workdirs.config_file import read_config
from zoo.registry import DISCRIMINATORS, GENERATORS, MODELS
from zoo.start import read_init_from

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(monkeypatch):
    """Reads a recipe with arguments of the command line."""
    before = set(flags.FLAGS)

    def remove_flags():
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)

    def load(recipe, *arguments):
        remove_flags()
        argv = ["train.py", f"--config={ROOT / 'configs' / recipe}.py", *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        define_config_flag()
        assert commandline._parse(argv) == ["train.py"]
        return flags.FLAGS.config

    yield load
    remove_flags()


@pytest.fixture
def parse(load):
    return lambda *arguments: experiment.check_config(load("digits_nest", *arguments))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("data.repeats=3", 3),
        ("mesh.fsdp=2", 2),
        ("optimizer.final_lr=1e-5", 1e-5),
        ("optimizer.final_lr=1", 1.0),
        ("augment.random_affine.max_scale=2", 2.0),
        ("optimizer.layer_decay=1", 1.0),
        ("task.ema_warmup=True", True),
        ("task.ema_warmup=true", True),
        ("task.linear_probe=False", False),
        ("data.train_split=train[:80%]", "train[:80%]"),
        ("data.data_dir=/some/where", "/some/where"),
        ("checkpoint.best_mode=min", "min"),
        ("data.mean=(0.5,)", (0.5,)),
        ("data.std=[0.5]", (0.5,)),
        ("data.classes=3,1", (3, 1)),
        ("optimizer.freeze=('^level1_',)", ("^level1_",)),
        ("optimizer.freeze=^head/", ("^head/",)),
        ("data.mean=0.5", (0.5,)),
        ("optimizer.decay_exclude=", ()),
        ("data.data_dir=2024_01", str(Path("2024_01").absolute())),
        ("data.mean=(1,0.5,0)", (1.0, 0.5, 0.0)),
        ("task.linear_probe=1", True),
        ("init.ignore_fields=()", ()),
        ("data.num_threads=None", None),
        ("data.data_dir=None", None),
        ("checkpoint.best_mode=None", None),
        ("device_augment.random_erasing=None", None),
        ("loop.num_epochs=30", 30.0),  # listed
        ("data.image_size=(16,24)", (16, 24)),  # listed as one number
        ("data.image_size=[16,24]", (16, 24)),
        ("data.image_size=16", 16),
        ("data.data_dir=2023", str(Path("2023").absolute())),
        ("data.train_split=1", "1"),  # which no data set has
        ("augment.flip.probability=0.5", 0.5),  # not in the recipe
        ("device_augment.random_erasing.probability=1", 1.0),
        ("model.dims=[8,8,8]", (8, 8, 8)),
        ("model.qkv_bias=0", False),
        ("model.drop_path_rate=0", 0.0),
        ("init_from=2023", str(Path("2023").absolute())),
        ("seed=7", 7),
        ("task.ema_decay=0", 0.0),  # listed
    ],
)
def test_override_of_a_key_that_the_recipe_may_not_list(parse, argument, value):
    found = parse(f"--config.{argument}")
    for key in argument.split("=")[0].split("."):
        found = found[key]
    assert found == value and type(found) is type(value)


def test_flags_without_value(parse):
    assert parse("--config.task.linear_probe")["task"]["linear_probe"] is True
    assert parse("--noconfig.task.linear_probe")["task"]["linear_probe"] is False
    assert parse("--config.data.batch_size", "8")["data"]["batch_size"] == 8
    # Also where the recipe has nothing, as config_flags takes it.
    assert parse("--config.init_from", "/data")["init_from"] == "/data"
    assert (
        parse("--config.augment.flip.probability", "0.5")["augment"]["flip"]["probability"] == 0.5
    )


def test_a_flag_that_lacks_its_value(run_script):
    line = [
        "train.py",
        "--config=configs/digits_nest.py",
        "--config.data.batch_size",
        "--workdir=x",
    ]
    code, _, stderr = run_script(*line)
    assert code == 2 and "--config.data.batch_size needs a value" in stderr
    line[2] = "--config.augment.flip=True"
    code, _, stderr = run_script(*line)
    assert code == 2 and "allowed: its keys, {} for their defaults, or None" in stderr


def test_a_recipe_may_lock_its_config(tmp_path, run_script):
    (tmp_path / "locked.py").write_text(
        "from configs import digits_nest\n\n"
        "def get_config():\n    return digits_nest.get_config().lock()\n"
    )
    line = ["train.py", f"--config={tmp_path}/locked.py", "--config.augment.flip.probability=2"]
    code, _, stderr = run_script(*line, "--workdir=x")
    assert code == 2 and "flip.probability=2.0: out of range" in stderr


def test_a_whole_section(parse):
    found = parse("--config.augment.random_affine={'max_scale': 2}", "--config.device_augment={}")
    assert found["augment"]["random_affine"]["max_scale"] == 2.0
    assert found["augment"]["random_affine"]["max_shift_pixels"] == 0.0
    assert found["device_augment"] == {}


def test_a_section_that_is_off_is_switched_on(parse):
    off, probability = "--config.augment.flip=None", "--config.augment.flip.probability=0.25"
    assert parse(off, probability)["augment"]["flip"] == {"probability": 0.25}
    assert parse(probability, off)["augment"]["flip"] is None  # the last one counts


SECTIONS = {
    "data": pipeline.Data,
    "init": read_init_from,
    "task": Classification,
    "optimizer": create_optimizer,
    "mesh": create_mesh,
    "sharding": state_shardings,
    "loop": plan_steps,
    "checkpoint": Checkpoints,
    **{f"augment.{name}": function for name, function in TRANSFORMS.items()},
    **{f"device_augment.{name}": function for name, function in DEVICE_AUGMENTS.items()},
}
GAN_SECTIONS = {"task": GanOptions, "generator_optimizer": create_optimizer}
NETWORKS = {kind for kind, _ in (MODELS | GENERATORS | DISCRIMINATORS).values()}


def examples(kind):
    """Returns a value of each member of an annotation."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return [value for member in members for value in examples(member)]
    if origin is typing.Literal:
        return list(members)
    if origin is tuple and members[1:] == (...,):
        return [(value,) * 3 for value in examples(members[0])[-1:]]
    if origin is tuple:
        firsts = [examples(member)[:1] for member in members]
        return [sum(map(tuple, firsts), ())] if all(firsts) else []
    plain = {int: 3, float: 0.5, str: "word", bool: True, type(None): None}
    return [plain[kind]] if kind in plain else []  # what no recipe gives


def union_fields():
    """Yields (recipe, section, key, annotation) of every key that may be of several types."""
    networks = {f"model {kind.__name__}": kind for kind in NETWORKS}
    for recipe, sections in ("digits_nest", SECTIONS | networks), ("digits_nest_gan", GAN_SECTIONS):
        for path, function in sections.items():
            target = function.__init__ if inspect.isclass(function) else function
            for key, kind in typing.get_type_hints(target).items():
                is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
                if is_union and key not in ("parent", "name", "return") and examples(kind):
                    yield recipe, path.split(" ")[0], key, kind


def test_every_key_of_several_types_takes_each(load, tmp_path):
    """From the command line, from a recipe on top of another one, and from a run's config.json."""
    fields = list(union_fields())
    assert {("data", "image_size"), ("model", "block_size"), ("checkpoint", "best_mode")} <= {
        (path, key) for _, path, key, _ in fields
    }
    recipes = {recipe: importlib.import_module(f"configs.{recipe}") for recipe, *_ in fields}

    def found(config, path, key):
        return functools.reduce(operator.getitem, path.split("."), config.to_dict())[key]

    for recipe, path, key, kind in fields:
        for value in examples(kind):
            text = value if isinstance(value, str) else repr(value)
            given = load(recipe, f"--config.{path}.{key}={text}")
            config = recipes[recipe].get_config()
            section = config
            for name in path.split("."):
                if section.get(name) is None:
                    section[name] = {}
                section = section[name]
            section[key] = value
            record = json.loads(json.dumps({"config": config.to_dict()}))
            (tmp_path / "config.json").write_text(json.dumps(record))
            for origin in given, config, read_config(tmp_path):
                raw = found(origin, path, key)
                read = strict_config.as_annotated(raw, kind)
                assert read == value and type(read) is type(value), (path, key, raw)
                assert strict_config.wrong_type(read, kind) is None, (path, key, raw)


def test_what_is_computed_from_an_overridden_value_follows():
    config = ConfigDict({"data": {"size": 8, "name": "digits"}})
    config.data.double = config.data.get_ref("size") * 2
    overrides.apply_overrides(config, [("data.size", "16")])
    assert config.data.to_dict() == {"size": 16, "double": 32, "name": "digits"}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("data.repeets=3", "config.data.repeets: unknown; did you mean 'repeats'"),
        ("data.repeats=3.5", "config.data.repeats=3.5: of type float; allowed: int"),
        ("data.bad_images=rais", "'rais': unknown; did you mean 'raise'. allowed: replace, raise"),
        ("optimizer.freeze=3", "freeze=3: of type int; allowed: tuple"),
        ("optimizer.freeze=None", "freeze=None: of type NoneType; allowed: tuple"),
        ("task.linear_probe=2", "linear_probe=2: of type int; allowed: bool"),
        ("data.mean=True", "mean=True: of type bool; allowed: tuple"),
        ("data.mean=grey", "mean='grey': of type str; allowed: tuple"),
    ],
)
def test_wrong_override(parse, argument, message):
    with pytest.raises(ConfigError, match=message):
        parse(f"--config.{argument}")


@pytest.mark.parametrize("recipe", [digits_nest, digits_nest_gan])
def test_a_run_whose_recipe_listed_all_keys_goes_on(recipe, tmp_path):
    """The golden files hold what recipes gave when they repeated the defaults."""
    name = recipe.__name__.split(".")[-1]
    golden = (ROOT / "tests" / "golden" / "configs" / f"{name}.txt").read_text().split("# ")[0]
    flat = dict(line.split(" = ") for line in golden.splitlines())
    nested = traverse_util.unflatten_dict({k: json.loads(v) for k, v in flat.items()}, sep=".")
    (tmp_path / "config.json").write_text(json.dumps({"config": nested}))
    config = recipe.get_config()
    check_same_config(tmp_path, config)
    config["optimizer" if "optimizer" in config else "generator_optimizer"].b1 = 0.5
    with pytest.raises(ConfigError, match=r"optimizer.b1: 0\.\d+ there, 0.5 now"):
        check_same_config(tmp_path, config)
