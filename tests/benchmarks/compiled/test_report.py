"""Steps compiled for a target: here for the simulated devices of the CPU, slowly for others."""

import jax
import pytest

from benchmarks.compiled import report, steps, targets
from benchmarks.compiled.unread_data import SIZES, Sizes, UnreadData
from configs import digits_nest, imagenet_nest
from harness.errors import ConfigError

HERE = targets.Target("cpu", "cpu", tuple(jax.devices()), None, 2**40)
TINY = {"dims": (8,), "depths": (1,), "num_heads": (1,), "dtype": "float32"}
SHAPE = (16, 16, 3)


def tiny_step(images, target=HERE, **fields):
    return steps.model_step("nest_tiny_s196_224", TINY | fields, target, images, SHAPE, 10)


def test_a_recipe_without_its_data_set():
    config = imagenet_nest.get_config("tiny")
    config.model.update(dims=(8,), depths=(1,), num_heads=(1,))
    config.data.image_size = 16
    config.data.batch_size = 32
    config.device_augment.mixup_cutmix.groups = 1
    config.mesh.fsdp = 2
    step = steps.recipe_step(config, HERE, None, None, "recipe")
    assert step.batch_size == 32 and step.facts["mesh"] == {"data": 4, "fsdp": 2}
    assert step.facts["num_classes"] == 1000
    record = report.measure(step, HERE, top=3)
    assert record["fits"] and record["images_per_device"] == 4
    assert record["memory"]["total"] >= record["memory"]["temporaries"] > 0
    assert record["bytes_per_image"]["whole"] > record["bytes_per_image"]["moved"] > 0
    assert record["collectives"]["all-reduce"]["bytes"] > 0
    assert len(record["heaviest"]) == 3
    assert "all-reduce" in report.as_text(record) and "recipe: 8 x cpu" in report.as_text(record)


def test_the_same_number_twice():
    first, again = (report.measure(tiny_step(1), HERE, top=0) for _ in range(2))
    assert first["bytes_per_image"] == again["bytes_per_image"]


def test_a_batch_that_does_not_divide():
    config = digits_nest.get_config("debug")
    config.data.batch_size = 12
    with pytest.raises(ConfigError, match=r"config.data.batch_size=12: cannot .* multiples of 8"):
        steps.recipe_step(config, HERE, None, None, "digits")


def test_recomputation_shows_in_the_products():
    def products(remat):
        fields = TINY | {"remat": remat}
        step = steps.model_step("nest_tiny_s196_224", fields, HERE, 1, SHAPE, 10, products=True)
        return step.facts["products_per_image"] / (3 * step.facts["multiply_adds"])

    assert products("none") <= 1.0 < products("block") < 1.4


def test_sizes_of_data_sets():
    def data(**options):
        common = {"image_size": 32, "batch_size": 8, "eval_batch_size": 8}
        return UnreadData(**common | options)

    half = data(name="imagenet2012", train_split="train[:50%]", eval_split="validation")
    assert half.num_train_examples == round(SIZES["imagenet2012"].splits["train"] * 0.5)
    few = data(name="cifar10", classes=(3, 5), examples_per_class=7)
    assert (few.num_classes, few.num_train_examples) == (2, 14)
    assert data(name="digits").image_shape == (32, 32, 1)
    mine = data(name="folder:/nowhere", sizes=Sizes(7, 3, {"train": 70}))
    assert (mine.num_classes, mine.num_train_examples) == (7, 70)
    with pytest.raises(ConfigError, match="--num_classes and --num_examples"):
        _ = data(name="folder:/nowhere").num_classes


@pytest.mark.parametrize(
    ("limit", "slope", "first", "most"),
    [
        *((37, 1.0, None, 4), (1000, 1.3, None, 9), (8, 1.0, None, 2), (7, 1.0, None, 1)),
        *((1000, 1.0, 1000, 2), (1000, 1.1, 960, 4), (1000, 1.1, 1200, 5), (7, 1.0, 64, 2)),
        (1000, 1.0, 3, 5),
    ],
)
def test_the_largest_batch(monkeypatch, limit, slope, first, most):
    """With memory that grows a little faster than a line."""
    tried = []

    def measure(step, target, *, top):
        tried.append(step)
        total = 900.0 + 1000.0 * step**slope
        available = 900.0 + 1000.0 * limit**slope
        memory = {"total": total, "available": available, "arguments": 700, "code": 200}
        if total > available:  # as a compiler that refuses
            memory = {"total": total, "available": available, "arguments": None}
        return {"images": step, "fits": total <= available, "memory": memory}

    monkeypatch.setattr(report, "measure", measure)
    record = report.largest_batch(
        lambda n: n, HERE, granularity=8, first=first, say=lambda line: None
    )
    assert record["images"] == max(8, limit // 8 * 8) and record["fits"] == (limit >= 8)
    assert len(tried) <= most and len(set(tried)) == len(tried)


@pytest.mark.parametrize(
    "message",
    [
        "Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm.",
        "Ran out of memory on HBM, the total memory required for HLO temporaries (17.50G) exceeds "
        "available HBM (15.75G).",
    ],
)
def test_lack_of_memory_is_an_answer(message):
    error = jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {message}")

    class Lowered:
        def compile(self):
            raise error

    step = report.Step("big", Lowered, 64, 1, {})
    record = report.measure(step, HERE, top=0)
    assert not record["fits"]
    assert record["memory"]["total"] == int(17.5 * 2**30)
    assert record["memory"]["available"] == int(15.75 * 2**30)
    assert "18.79 GB of 16.91 GB: DOES NOT FIT" in report.as_text(record)


def test_unknown_topologies_are_told_what_is_allowed():
    for name in ("v9:2x2", "v5e", "v5e:4", "a100", ""):
        with pytest.raises(ConfigError, match=r"--topology=.*: unknown; allowed: h100"):
            targets.open_target(name)


def opened(topology):
    try:
        return targets.open_target(topology)
    except ConfigError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["h100", "v5e:2x2"])
def test_chips_that_are_not_here(topology):
    target = opened(topology)
    record = report.measure(tiny_step(2, target, dtype="bfloat16"), target, top=2)
    assert record["fits"] and record["images_per_second_at_most"]["memory"] > 0
    assert ("all-reduce" in record["collectives"]) == (record["num_devices"] > 1)
