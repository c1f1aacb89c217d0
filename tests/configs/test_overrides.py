"""Recipes list what differs from the defaults; every key can still be set, and old runs go on."""

import json
import sys
from pathlib import Path

import pytest
from absl import flags
from flax import traverse_util

from configs import digits_nest, digits_nest_gan
from harness import commandline
from harness.errors import ConfigError
from training import experiment
from training.trained_run import check_same_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def parse(monkeypatch):
    before = set(flags.FLAGS)

    def remove_flags():
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)

    def parse(*arguments):
        remove_flags()
        argv = ["train.py", f"--config={ROOT / 'configs' / 'digits_nest.py'}", *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        commandline.define_config_flag()
        assert commandline._parse(argv) == ["train.py"]
        return experiment.check_config(flags.FLAGS.config)

    yield parse
    remove_flags()


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
        ("data.data_dir=2024_01", "2024_01"),
        ("data.mean=(1,0.5,0)", (1.0, 0.5, 0.0)),
        ("task.linear_probe=1", True),
        ("init.ignore_fields=()", ()),
        ("data.num_threads=None", None),
        ("data.data_dir=None", None),
        ("checkpoint.best_mode=None", None),
        ("device_augment.random_erasing=None", None),
        ("loop.num_epochs=30", 30.0),  # listed
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
