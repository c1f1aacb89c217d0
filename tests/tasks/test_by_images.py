"""What a recipe leaves to the training images: batch, epochs, image size."""

import json

import jax
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

import evaluate
import train
from baselines.vit import Vit
from configs import folder_nest, folder_tnt, imagenet_nest
from harness.errors import ConfigError
from inference.predictor import Predictor
from preview.dry_run import dry_run
from tasks import by_images
from training import experiment
from training.beginning import check_start
from training.experiment import build, check_config
from training.trained_run import check_same_config
from workdirs.config_file import read_config, write_config
from zoo.registry import create_model, variable_shapes
from zoo.save import write_weights

NEST = create_model("nest_tiny_s196_224", num_classes=2)
TNT = create_model("tnt_s_patch16_224", num_classes=2)


def folder_of(path, size, per_class=4, mode="RGB"):
    """Makes two classes of noise, (width, height)."""
    rng = np.random.default_rng(0)
    for number in range(2 * per_class):
        file = path / ("robin", "wren")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        image.convert(mode).resize(size).save(file)
    return f"folder:{path}"


@pytest.mark.parametrize(
    ("num_images", "batch", "fine_tuning", "scratch"),
    [
        (1, 16, 60, 300),
        (300, 16, 58, 300),
        (1_000, 32, 32, 300),
        (5_000, 64, 14, 300),
        (10_000, 128, 10, 300),
        (30_000, 128, 10, 173),
        (100_000, 128, 10, 100),
        (1_300_000, 128, 10, 100),
    ],
)
def test_batch_and_epochs(num_images, batch, fine_tuning, scratch):
    assert by_images.batch_size_for(num_images) == batch
    assert by_images.epochs_for(num_images, fine_tunes=True) == fine_tuning
    assert by_images.epochs_for(num_images, fine_tunes=False) == scratch


@pytest.mark.parametrize(
    ("model", "short_side", "size"),
    [
        (NEST, None, 224),
        (NEST, 3000, 224),
        (NEST, 112, 224),
        (NEST, 100, 192),  # multiples of 16
        (NEST, 64, 128),
        (NEST, 32, 64),
        (NEST, 5, 16),  # the smallest there is
        (TNT, 100, 192),
        (TNT, 5, 16),
        (Vit(2, dim=8, depth=1, num_heads=1, patch_size=(4, 10)), 55, 100),
        (create_model("resnet50", num_classes=2), 33, 66),
    ],
)
def test_the_largest_size_that_fits_and_enlarges_twofold_at_most(model, short_side, size):
    assert by_images.image_size_for(model, 224, short_side) == size


@pytest.mark.parametrize(
    ("model", "fitting"),
    [
        (NEST, {16, 32, 48}),
        (TNT, {16, 32, 48}),
        (Vit(2, dim=8, depth=1, num_heads=1, patch_size=6), {24, 30, 48}),
    ],
)
def test_which_sizes_fit(model, fitting):
    sides = (16, 20, 24, 30, 32, 37, 48)
    assert {side for side in sides if by_images.takes(model, side)} == fitting


def test_a_model_of_ones_own_says_itself_what_fits():
    class Fives(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            if images.shape[1] % 5:
                raise ValueError("multiples of 5")
            return nn.Dense(2)(images.mean(axis=(1, 2)))

    assert by_images.image_size_for(Fives(), 224, None) == 220
    assert by_images.image_size_for(Fives(), 224, 1) == 5


@pytest.mark.parametrize("recipe", [folder_nest, folder_tnt])
@pytest.mark.parametrize(
    ("argument", "epochs"), [("", 60.0), ("scratch", 300.0), ("scratch,micro", 300.0)]
)
def test_a_folder_decides_what_the_recipe_leaves_open(recipe, argument, epochs, tmp_path):
    config = recipe.get_config(argument)
    config.data.name = folder_of(tmp_path / "birds", (90, 50))
    plain = check_config(config)
    assert plain["data"]["batch_size"] == 16
    assert plain["loop"]["num_epochs"] == epochs
    assert plain["data"]["image_size"] == (32 if "micro" in argument else 96)
    config.data.batch_size, config.data.image_size, config.loop.num_epochs = 8, 64, 3.0
    assert check_config(config)["data"] == plain["data"] | {"batch_size": 8, "image_size": 64}
    assert check_config(config)["loop"]["num_epochs"] == 3.0


def test_any_recipe_may_ask_for_it(tmp_path):
    config = imagenet_nest.get_config("tiny")
    assert by_images.open_keys(config.to_dict()) == []
    config.data.name = folder_of(tmp_path / "birds", (400, 300))
    config.data.batch_size = config.loop.num_epochs = None
    plain = check_config(config)
    assert (plain["data"]["batch_size"], plain["loop"]["num_epochs"]) == (16, 300.0)
    assert plain["data"]["image_size"] == 224


def test_images_that_cannot_be_read_and_arrays(tmp_path):
    name = folder_of(tmp_path / "birds", (90, 50))
    for file in (tmp_path / "birds").rglob("*.png"):
        file.write_bytes(b"no image")
    config = folder_nest.get_config("scratch")
    config.data.name = name
    assert check_config(config)["data"]["image_size"] == 224
    images, labels = np.zeros((1_000, 8, 9), np.uint8), np.arange(1_000) % 2
    arrays = {"train_images": images, "train_labels": labels}
    np.savez(tmp_path / "grey.npz", **arrays, test_images=images, test_labels=labels)
    config.data.name = f"npz:{tmp_path / 'grey.npz'}"
    assert check_config(config)["data"]["image_size"] == 16
    assert check_config(config)["data"]["batch_size"] == 32


def test_where_there_is_nothing_to_train_on(tmp_path):
    """To evaluate weights, and to predict without the data."""
    config = folder_nest.get_config("scratch,micro")
    config.data.name = folder_of(tmp_path / "birds" / "val", (40, 40)).removesuffix("/val")
    run = build(config, training=False)
    assert run.data.num_classes == 2
    config.data.name = f"folder:{tmp_path / 'absent'}"
    assert check_config(config, needs_data=False)["data"]["image_size"] == 32
    with pytest.raises(ConfigError, match="there is no folder"):
        check_config(config)


def micro_on(path, argument="scratch,micro"):
    config = folder_nest.get_config(argument)
    config.data.name = folder_of(path, (20, 20), per_class=8)
    config.mesh.data = 1
    config.model.depths = (1, 1, 1)
    config.optimizer.warmup_epochs = 0.5
    return config


def test_a_run_says_what_it_chose_and_keeps_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(by_images, "epochs_for", lambda *_, **__: 2.0)
    config = micro_on(tmp_path / "birds")
    train.train_and_evaluate(config, tmp_path / "run")
    line = "by the 14 training images: config.data.batch_size=16, config.loop.num_epochs=2.0"
    assert line in capsys.readouterr().out
    stored = read_config(tmp_path / "run")
    assert stored.loop.num_epochs == 2.0 and stored.data.batch_size == 16
    # Whatever the rule says later, the run is the same one.
    monkeypatch.setattr(by_images, "epochs_for", lambda *_, **__: 7.0)
    assert check_same_config(tmp_path / "run", config) == ()
    train.train_and_evaluate(config, tmp_path / "run")
    assert "is finished" in capsys.readouterr().out
    (tmp_path / "run" / "DONE").unlink()  # also one that goes on
    train.train_and_evaluate(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert max(line["step"] for line in lines) == 2
    start = check_start(config, tmp_path / "run", **FRESH)
    assert build(start.config, plain=start.plain).steps.total == 2 and start.changed == ()
    config.loop.num_epochs = 4.0
    with pytest.raises(ConfigError, match=r"config: loop\.num_epochs: 2\.0 there, 4\.0 now"):
        check_same_config(tmp_path / "run", config)


FRESH = {"profile_steps": None, "log_to": (), "restart": False, "extend": False}


def test_what_a_run_was_given_counts_where_it_is_left_out_later(tmp_path):
    config = micro_on(tmp_path / "birds")
    given = config.copy_and_resolve_references()
    given.data.batch_size, given.loop.num_epochs = 8, 20.0
    (tmp_path / "run").mkdir()
    write_config(tmp_path / "run", check_config(given))
    start = check_start(config, tmp_path / "run", **FRESH)
    steps = build(start.config, plain=start.plain).steps
    assert (steps.batch_size, steps.total, start.changed) == (8, 35, ())  # 14 images
    anew = check_start(config, tmp_path / "run", **FRESH | {"restart": True})
    assert anew.plain["data"]["batch_size"] == 16


def test_the_images_are_looked_at_once_before_a_run(tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    def stop(*_, **__):
        raise Enough

    look, looks = by_images._sources, []
    monkeypatch.setattr(by_images, "_sources", lambda *a, **k: looks.append(a) or look(*a, **k))
    monkeypatch.setattr(experiment, "assemble", stop)
    config = micro_on(tmp_path / "birds")
    for begin in (
        lambda: train.train_and_evaluate(config, tmp_path / "run"),
        lambda: dry_run("birds", config, compiled=False),
    ):
        with pytest.raises(Enough):
            begin()
        assert len(looks) == 1
        looks.clear()


def test_the_weights_decide_the_size_of_images_that_they_are_shown(tmp_path, capsys):
    config = folder_nest.get_config("scratch,micro")
    config.data.name = folder_of(tmp_path / "birds", (20, 20))
    config.data.image_size, config.mesh.data = None, 1
    assert check_config(config)["data"]["image_size"] == 32
    section = check_config(config)["model"]
    model = create_model(**section, num_classes=2)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape), variable_shapes(model, 24))
    file = tmp_path / "birds.safetensors"
    write_weights(file, {"params": variables["params"]}, model, (24, 24))
    predictor = Predictor.load(file, config)
    assert predictor.image_shape == (24, 24, 3)
    assert "config.data.image_size=(24, 24): that of the weights" in str(predictor.report)
    evaluate.evaluate_weights(config, file)
    assert "config.data.image_size=(24, 24): that of the weights" in capsys.readouterr().err
    config.data.image_size = 16
    assert Predictor.load(file, config).image_shape == (16, 16, 3)


def test_weights_of_digits_start_a_grey_folder_and_a_coloured_one(tmp_path, capsys):
    """Grey to colour, another size, and other classes at once."""
    grey = micro_on(tmp_path / "birds")
    grey.data.update(name="digits", train_split="train[:32]", eval_split="test[:32]")
    grey.data.image_size = 16
    grey.loop.num_epochs = 1.0
    train.train_and_evaluate(grey, tmp_path / "digits")
    for channels in (1, 3):
        config = micro_on(tmp_path / "birds", "finetune,micro")
        config.data.channels = channels
        config.init_from = str(tmp_path / "digits")
        config.loop.num_epochs = 2.0
        capsys.readouterr()
        train.train_and_evaluate(config, tmp_path / f"birds_{channels}")
        out = capsys.readouterr().out
        assert ("patch_embedding/kernel (2, 2, 1, 64) -> (2, 2, 3, 64)" in out) == (channels == 3)
        assert "head/kernel (64, 10) -> (64, 2)" in out
