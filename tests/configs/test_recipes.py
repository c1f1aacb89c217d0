"""Every recipe builds, is what its golden file says, and runs in its debug form."""

import dataclasses
import importlib
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

import train
from configs import common
from data import datasets
from data.pixel_statistics import default_statistics
from harness.errors import ConfigError
from tasks.by_images import open_keys
from tasks.optimizers import create_optimizer
from tasks.parameter_masks import decay_mask, parameter_paths
from tasks.table import TASKS
from training import experiment
from workdirs.comparison import flatten
from zoo.load import parameter_shapes
from zoo.registry import create_model

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden" / "configs"

TRANSFER = ("cifar10", "cifar100", "flowers", "pets", "inat2019")
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
    "digits_detr": ["nest", "tnt", "deit", "debug", "tnt,debug", "deit,debug"],
    "coco_tnt_detr": ["", "debug"],
    "digits_segment": ["nest", "tnt", "deit", "debug", "tnt,debug", "deit,debug"],
    "ade20k_tnt": ["", "debug"],
    "imagenet_pyramid_tnt": ["s", "ti", "m", "b", "debug"],
    "cifar_deit": [
        f"{size},{data}" for size in ("ti", "s", "b") for data in ("cifar10", "cifar100")
    ]
    + ["debug"],
    "imagenet_deit": ["ti", "s", "b", "debug"],
    "imagenet_resnet50": ["", "debug"],
    "cifar_wrn": ["cifar10", "cifar100", "cifar10,wrn_paper", "debug", "wrn_paper,debug"],
    "digits_mosaic": ["nest", "tnt", "deit", "debug", "tnt,debug", "deit,debug"],
    "digits_nest_gan": ["", "debug"],
    "cifar_nest_gan": ["small", "base", "debug"],
    "imagenet64_nest_gan": ["base", "small", "debug"],
    "digits_transfer": ["pretrain", "finetune", "scratch", "finetune,debug", "debug"],
    "folder_nest": ["", "small", "base", "micro", "scratch", "scratch,micro", "debug"],
    "folder_tnt": ["", "b", "ti", "micro", "scratch", "scratch,micro", "debug"],
    "transfer_tnt": [*TRANSFER, "flowers,b", "debug"],
    "transfer_nest": [*TRANSFER, "flowers,tiny", "debug"],
}
ALL = [(name, argument) for name, arguments in RECIPES.items() for argument in arguments]
NUM_CLASSES = {  # of the data sets that have to be prepared
    "cifar10": 10,
    "cifar100": 100,
    "imagenet2012": 1000,
    "downsampled_imagenet/64x64": 1,
    "oxford_flowers102": 102,
    "oxford_iiit_pet": 37,
    "inat:": 1010,
    "folder:": 5,
    "masks:": 150,
    "coco/2017": 80,
}


def get_config(name, argument):
    return importlib.import_module(f"configs.{name}").get_config(argument)


def catalogue(config):
    return TASKS[config.task.name].data.catalogue


def checked_config(name, argument):
    """Returns the config with the defaults of what the recipe leaves out."""
    return experiment.check_config(get_config(name, argument), needs_data=False)


def flat(config):
    """Returns {"data.batch_size": "96", ...}, values as JSON, of the keys that are no sections."""
    flattened = flatten(json.loads(json.dumps(config)))
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
            patch.setitem(catalogue(config).built_in, config.data.name, lambda **_: data)
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
    recipe = get_config(name, argument).to_dict()
    values, listed = flat(config), set(flat(recipe))
    values |= dict.fromkeys(open_keys(recipe), "null")  # by the images, of which there are none
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
    if config.data.name in catalogue(config).built_in:
        experiment.check_config(config)
        return
    config.data.data_dir = str(tmp_path)
    if config.data.name in ("inat:", "folder:", "masks:"):
        message = f"'{config.data.name}': there is no folder ''; give its path, --con"
        with pytest.raises(ConfigError, match=message):
            experiment.check_config(config)
        return
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


# Official docstring: batch per device; README: devices. Official rate: 2.5e-4 * batch / 256.
@pytest.mark.parametrize(
    ("size", "batch", "rate"),
    [("tiny", 192, 1.875e-4), ("small", 64 * 2, 1.25e-4), ("base", 32 * 2, 6.25e-5)],
)
def test_cifar_nest_has_the_batch_of_all_devices_and_its_rate(size, batch, rate):
    config = get_config("cifar_nest", size)
    assert config.data.batch_size == batch
    assert peak_rate(config) == pytest.approx(rate)
    config.data.batch_size = 1024
    assert peak_rate(config) == pytest.approx(1e-3)


def rates(config, steps_per_epoch):
    """Returns the learning rate of each step, [steps]."""
    checked = experiment.check_config(config, needs_data=False)
    optimizer = create_optimizer(
        **checked["optimizer"],
        batch_size=config.data.batch_size,
        steps_per_epoch=steps_per_epoch,
        total_steps=round(config.loop.num_epochs * steps_per_epoch),
    )
    return np.array(
        [
            float(optimizer.learning_rate(s))
            for s in range(round(config.loop.num_epochs) * steps_per_epoch)
        ]
    )


def peak_rate(config):
    return rates(config, 2).max()


def timm_rate(epoch, *, peak, epochs, final=1e-5, warmup_rate=1e-6, warmup_epochs=5):
    """Timm 0.3, scheduler/cosine_lr.py without warmup_prefix, cycle_limit 1, in words of ours."""
    if epoch < warmup_epochs:
        return warmup_rate + (peak - warmup_rate) / warmup_epochs * epoch
    if epoch >= epochs:
        return final  # and scheduler_factory.py: 10 epochs of it
    return final + (peak - final) * (1 + np.cos(np.pi * epoch / epochs)) / 2


@pytest.mark.parametrize(
    ("name", "argument", "peak", "epochs"),
    [
        ("imagenet_tnt", "s", 1e-3, 300),
        ("transfer_tnt", "cifar10", 5e-5, 64),
        ("transfer_tnt", "pets,b", 5e-5, 300),
        ("transfer_tnt", "inat2019", 5e-5, 300),
    ],
)
def test_tnt_has_timms_rate_in_every_epoch_and_its_cool_down(name, argument, peak, epochs):
    config = get_config(name, argument)
    assert config.loop.num_epochs == epochs + 10
    per_epoch = 4
    ours = rates(config, per_epoch)
    timm = np.array([timm_rate(e, peak=peak, epochs=epochs) for e in range(epochs + 10)])
    # Step k (from 1) has the rate of epoch k / per_epoch: the last step before an epoch has timm's.
    np.testing.assert_allclose(ours[per_epoch - 1 :: per_epoch][:-1], timm[1:], rtol=2e-5)
    np.testing.assert_allclose(ours[epochs * per_epoch - 1 :], 1e-5, rtol=1e-6)
    # timm keeps the rate for an epoch, ours goes on: apart by the most that an epoch changes.
    apart = np.abs(ours - np.repeat(timm, per_epoch)) / peak
    assert apart[: 5 * per_epoch].max() <= 1 / 5 and apart.max() <= 1 / 5
    assert apart[5 * per_epoch :].max() <= np.pi / 2 / epochs


def test_tnt_at_384_has_deits_schedule():
    config = get_config("imagenet_tnt", "s,384")
    ours = rates(config, 4)
    assert config.loop.num_epochs == 30 and len(ours) == 120  # its main.py has no cool-down
    np.testing.assert_allclose(ours[19:], 5e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "argument"), [("imagenet_tnt", "b,384"), ("transfer_tnt", "cifar100")]
)
def test_tnts_numbers_and_starts_are_the_averages(name, argument):
    config = get_config(name, argument)
    assert config.init.weights == "ema_or_raw"
    assert config.checkpoint.best_metric == "ema_top1_accuracy"


def test_wrn_paper():
    """scripts/train_cifar.sh: 0.1, times 0.2 at 60, 120 and 160 of 200 epochs, no warm-up."""
    config = get_config("cifar_wrn", "wrn_paper")
    ours = rates(config, 10)
    expected = np.repeat([0.1, 0.02, 0.004, 0.0008], [600, 600, 400, 400])
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    assert config.augment.random_crop.to_dict() == {"padding": 4, "border": "reflect"}
    assert config.optimizer.nesterov and config.optimizer.weight_decay == 5e-4


def test_patch_4_is_the_one_that_has_the_nest_papers_counts_of_deit():
    """5.3, 21.3 and 85.1 million (papers/nest.md, 2a), cut after one digit."""
    fitting = []
    for patch in (1, 2, 4, 8, 16):
        counts = []
        for size in ("ti", "s", "b"):
            section = get_config("cifar_deit", size).model.to_dict() | {"patch_size": patch}
            shapes = parameter_shapes(create_model(**section, num_classes=10), 32)
            counts.append(sum(leaf.size for leaf in jax.tree.leaves(shapes)) // 100_000 / 10)
        if counts == [5.3, 21.3, 85.1]:
            fitting.append(patch)
    assert fitting == [4] == [get_config("cifar_deit", "").model.patch_size]


def test_transfer_nest_sees_cifar_as_the_official_code():
    """libml/input_pipeline.py, 140-165: CIFAR's statistics; others: ImageNet's."""
    for dataset, std in (("cifar10", 0.2471), ("cifar100", 0.2675), ("flowers", 0.229)):
        config = get_config("transfer_nest", dataset)
        assert ("enlarge" in config.augment) == dataset.startswith("cifar")
        assert config.data.get("std") is None
        assert default_statistics(config.data.name, 3)[1][0] == std
