"""Random erasing, mixup and cutmix: statistics, labels, shapes, devices, and the training step."""

import importlib.util
import math
import random
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import stats

from configs import imagenet_nest, imagenet_tnt
from data.augment.erasing import random_erasing
from data.augment.mixing import DEVICE_AUGMENTS, create_device_augment, mixup_cutmix
from harness.errors import ConfigError
from harness.strict_config import check_subsections
from parallel.sharding import create_mesh
from tasks.classification import Classification
from tasks.optimizers import create_optimizer
from training import experiment

NUM = 10_000  # draws
SIDE = 32
EVERYTHING = {
    "random_erasing": {"probability": 0.5},
    "mixup_cutmix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
}


def same(drawn, expected):
    """Two samples of one distribution: a fixed seed passes or fails for good."""
    assert stats.ks_2samp(drawn, expected).pvalue > 1e-3


def extent(mask):
    """First index and number of the set positions along the last axis."""
    return mask.argmax(-1), mask.sum(-1)


# Random erasing


def official_box(rng):
    """Rows and columns erased by augment/augment_ops.py, after its text: sizes by area and aspect,
    a centre anywhere, and what is strictly less than half a side away from it.
    """
    area, aspect = rng.uniform(0.02, 1 / 3), math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
    pixels = np.arange(SIDE)
    return [
        abs(pixels - rng.random() * SIDE) < SIDE * math.sqrt(area * ratio) / 2
        for ratio in (aspect, 1 / aspect)
    ]


def timm_box(rng):
    """The same after timm/data/random_erasing.py: drawn again until it fits."""
    pixels = np.arange(SIDE)
    for _ in range(10):
        area = rng.uniform(0.02, 1 / 3) * SIDE**2
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < SIDE and width < SIDE:
            top, left = rng.integers(0, SIDE - height + 1), rng.integers(0, SIDE - width + 1)
            return [
                (pixels >= top) & (pixels < top + height),
                (pixels >= left) & (pixels < left + width),
            ]
    return [pixels < 0, pixels < 0]


@pytest.fixture(scope="module", params=["inside", "clipped"])
def erased(request):
    """Placement, and which pixels of 10,000 images were erased."""
    erase = jax.jit(random_erasing(probability=1.0, placement=request.param))
    images = np.asarray(erase(jax.random.key(3), jnp.full((NUM, SIDE, SIDE, 1), jnp.inf)))
    return request.param, images[..., 0]


def test_erased_boxes_have_the_distribution_of_the_codes(erased):
    placement, images = erased
    masks = np.isfinite(images)
    rows, columns = masks.any(2), masks.any(1)
    assert (masks == rows[:, :, None] & columns[:, None, :]).all()  # one filled box each
    for side in (rows, columns):
        assert (np.abs(np.diff(side.astype(int), axis=1)).sum(1) <= 2).all()
    rng = np.random.default_rng(0)
    box = {"inside": timm_box, "clipped": official_box}[placement]
    expected = np.array([box(rng) for _ in range(NUM)])  # [draws, 2, side]
    for ours, theirs in ((rows, expected[:, 0]), (columns, expected[:, 1])):
        for drawn, reference in zip(extent(ours), extent(theirs), strict=True):
            same(drawn, reference)
    same(masks.mean((1, 2)), expected.sum(2).prod(1) / SIDE**2)
    heights, widths = rows.sum(1), columns.sum(1)
    filled, theirs = heights > 0, expected[expected.any(2).all(1)].sum(2)
    same(heights[filled] / widths[filled], theirs[:, 0] / theirs[:, 1])


def test_small_areas_are_uniform_and_sides_keep_the_aspect():
    """What always fits is not drawn again: the stated distributions, up to whole pixels."""
    erase = jax.jit(random_erasing(probability=1.0, area=(0.05, 0.25), aspect=(0.5, 2.0)))
    images = erase(jax.random.key(0), jnp.full((NUM // 4, 128, 64, 1), jnp.inf))
    masks = np.isfinite(np.asarray(images))[..., 0]
    height, width = masks.any(2).sum(1), masks.any(1).sum(1)
    assert stats.kstest(height * width / (128 * 64), stats.uniform(0.05, 0.2).cdf).pvalue > 1e-3
    log_aspect = np.log(height / width)
    assert stats.kstest(log_aspect, stats.uniform(-math.log(2), math.log(4)).cdf).pvalue > 1e-3


def test_erased_pixels_are_standard_normal(erased):
    pixels = erased[1][np.isfinite(erased[1])][:200_000]
    assert stats.kstest(pixels, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(pixels[:-1], pixels[1:])[0, 1]) < 0.01


def test_channels_have_noise_of_their_own():
    images = random_erasing(probability=1.0)(jax.random.key(0), jnp.full((64, 16, 16, 3), 9.0))
    pixels = np.asarray(images).reshape(-1, 3)
    pixels = pixels[(pixels != 9).all(1)]
    assert (np.abs(np.corrcoef(pixels.T) - np.eye(3)) < 0.05).all()


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_erase_probability(probability):
    images = jnp.full((NUM, 8, 8, 1), 9.0)
    new = random_erasing(probability=probability)(jax.random.key(1), images)
    share = np.asarray((new != images).any((1, 2, 3))).mean()
    spread = 4 * math.sqrt(probability * (1 - probability) / NUM)
    assert abs(share - probability) <= spread


# Mixup and cutmix


def origins(batch, side=SIDE):
    """Images of ones for the first half, zeros for the second, targets that say which: mixed with
    its partner, an image's mean is its share of the first half, and so is its target.
    """
    first = jnp.arange(batch) < batch / 2
    images = jnp.broadcast_to(first[:, None, None, None], (batch, side, side, 1))
    return images.astype(jnp.float32), jax.nn.one_hot(1 - first, 2)


def many_batches(num=NUM, side=SIDE, **options):
    """Mixes `num` batches of two with a key each: images [num, side, side], targets [num, 2].

    Only the image of ones is returned: pixels and first target are the weight it has of itself.
    """
    mix = mixup_cutmix(**options)
    batch = origins(2, side)
    keys = jax.random.split(jax.random.key(7), num)
    images, targets = jax.jit(jax.vmap(lambda key: mix(key, *batch)))(keys)
    return np.asarray(images)[:, 0, ..., 0], np.asarray(targets)[:, 0]


def test_official_mixup_weights():
    mix = jax.jit(mixup_cutmix(mixup_alpha=0.8, cutmix_alpha=0.0, draw="nest"))
    images, targets = map(np.asarray, mix(jax.random.key(0), *origins(NUM, 2)))
    weights = np.concatenate([targets[: NUM // 2, 0], targets[NUM // 2 :, 1]])  # of the own class
    u = np.random.default_rng(0).random(NUM)
    half = u ** (1 / 0.8) / 2
    same(weights, np.maximum(half, 1 - half))
    np.testing.assert_allclose(images[..., 0], np.broadcast_to(targets[:, :1, None], (NUM, 2, 2)))
    assert len(np.unique(weights)) > NUM * 0.99  # a draw an image


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_official_cutmix_areas(alpha):
    mix = jax.jit(mixup_cutmix(mixup_alpha=0.0, cutmix_alpha=alpha, draw="nest"))
    images, targets = map(np.asarray, mix(jax.random.key(0), *origins(NUM)))
    np.testing.assert_array_equal(images.mean((1, 2, 3)), targets[:, 0])  # area = label weight
    own = np.concatenate([images[: NUM // 2], 1 - images[NUM // 2 :]])[..., 0] > 0.5
    rows, columns = own.any(2), own.any(1)
    assert (own == rows[:, :, None] & columns[:, None, :]).all()
    m = np.random.default_rng(0).random(NUM) ** (1 / alpha) / 2
    side = np.floor(np.sqrt(m) * SIDE)
    same(own.mean((1, 2)), side**2 / SIDE**2)
    assert 0 <= (m - side**2 / SIDE**2).max() < 0.042  # what the docstring says of its labels
    for axis in (rows, columns):  # anywhere inside, the last position included
        first, length = extent(axis)
        twelve = first[length == 12]
        assert len(twelve) > 100
        counts = np.bincount(twelve, minlength=SIDE - 12 + 1)
        assert len(counts) == SIDE - 12 + 1
        assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.8, 0.4, 4.0])
def test_beta_mixup_weights(alpha):
    images, targets = many_batches(side=2, mixup_alpha=alpha, cutmix_alpha=0.0, draw="timm")
    assert stats.kstest(targets[:, 0], stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    np.testing.assert_allclose(images, np.broadcast_to(targets[:, :1, None], images.shape))
    order = np.arange(1, 4)
    moments = [(targets[:, 0].astype(np.float64) ** k).mean() for k in order]
    expected = [stats.beta(alpha, alpha).moment(k) for k in order]
    np.testing.assert_allclose(moments, expected, atol=4 * 0.5 / math.sqrt(NUM))


def timm_cutmix_area(rng, alpha):
    """Share of the partner's pixels after timm/data/mixup.py, on square images."""
    cut = int(SIDE * math.sqrt(1 - rng.beta(alpha, alpha)))
    sides = [
        min(centre + cut // 2, SIDE) - max(centre - cut // 2, 0)
        for centre in rng.integers(0, SIDE, 2)
    ]
    return sides[0] * sides[1] / SIDE**2


def test_beta_cutmix_areas():
    images, targets = many_batches(mixup_alpha=0.0, cutmix_alpha=1.0, draw="timm")
    np.testing.assert_array_equal(images.mean((1, 2)), targets[:, 0])
    rng = np.random.default_rng(0)
    same(1 - targets[:, 0], [timm_cutmix_area(rng, 1.0) for _ in range(NUM)])
    partner = images == 0
    rows, columns = partner.any(2), partner.any(1)
    assert (partner == rows[:, :, None] & columns[:, None, :]).all()


@pytest.mark.parametrize("draw", ["nest", "timm"])
def test_one_kind_a_batch_with_the_stated_probabilities(draw):
    mix = mixup_cutmix(
        mixup_alpha=0.8, cutmix_alpha=1.0, probability=0.6, switch_probability=0.3, draw=draw
    )
    batch = origins(8)
    keys = jax.random.split(jax.random.key(1), 2000)
    images, targets = jax.jit(jax.vmap(lambda key: mix(key, *batch)))(keys)
    np.testing.assert_allclose(targets.sum(-1), 1.0, atol=1e-6)
    untouched = np.asarray((images == batch[0]).all((1, 2, 3, 4)))
    assert (np.asarray(targets)[untouched] == np.asarray(batch[1])).all()
    whole = np.asarray(((images == 0) | (images == 1)).all((2, 3, 4)))  # [batches, images]
    is_cutmix = whole.all(1)
    assert (is_cutmix | ~whole.any(1)).all()  # all images of a batch by the same
    assert abs(untouched.mean() - 0.4) < 4 * math.sqrt(0.24 / 2000)
    assert abs(is_cutmix[~untouched].mean() - 0.3) < 4 * math.sqrt(0.21 / 1200)


@pytest.mark.parametrize("draw", ["nest", "timm"])
@pytest.mark.parametrize("batch", [1, 5, 6])
def test_partner_is_the_reversed_batch(draw, batch):
    images = jnp.broadcast_to(2.0 ** jnp.arange(batch)[:, None, None, None], (batch, 8, 8, 2))
    targets = optax.smooth_labels(jnp.eye(batch, 7), 0.1)
    for kind in ({"mixup_alpha": 0.8, "cutmix_alpha": 0}, {"mixup_alpha": 0, "cutmix_alpha": 1.0}):
        new, mixed = mixup_cutmix(**kind, draw=draw)(jax.random.key(2), images, targets)
        np.testing.assert_allclose(mixed.sum(1), 1.0, atol=1e-6)
        for i in range(batch):
            own, other = targets[i], targets[batch - 1 - i]
            weight = 1.0 if i == batch - 1 - i else float((mixed[i, i] - other[i]) / 0.9)
            np.testing.assert_allclose(mixed[i], weight * own + (1 - weight) * other, atol=1e-6)
            expected = weight * 2.0**i + (1 - weight) * 2.0 ** (batch - 1 - i)
            assert float(new[i].mean()) == pytest.approx(expected, rel=1e-5)


# Both together


@pytest.mark.parametrize("draw", ["nest", "timm"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_keys_types_and_traces(draw, dtype):
    section = {k: dict(v) for k, v in EVERYTHING.items()}
    section["mixup_cutmix"]["draw"] = draw
    augment = jax.jit(create_device_augment(section))
    images = jax.random.normal(jax.random.key(5), (6, 16, 24, 3), dtype)  # not square
    targets = jnp.eye(6, 10)
    results = [augment(jax.random.key(k), images, targets) for k in (0, 1, 0)]
    assert augment._cache_size() == 1
    for new, mixed in results:
        assert (new.shape, new.dtype) == (images.shape, dtype)
        assert (mixed.shape, mixed.dtype) == ((6, 10), jnp.float32)
        assert np.isfinite(np.asarray(new, np.float32)).all()
    for x, y, z in zip(*results, strict=True):
        assert (x == z).all()
        assert (x != y).any()


@pytest.mark.parametrize("draw", ["nest", "timm"])
def test_eight_devices_give_the_batch_of_one(draw):
    assert jax.config.jax_threefry_partitionable  # else numbers would depend on the devices
    section = {k: dict(v) for k, v in EVERYTHING.items()}
    section["mixup_cutmix"]["draw"] = draw
    augment = create_device_augment(section)
    images, targets = jax.random.normal(jax.random.key(5), (16, 8, 8, 3)), jnp.eye(16)
    mesh = create_mesh(data=8, fsdp=1)
    split, whole = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P())
    sharded = jax.jit(augment, in_shardings=(whole, split, split), out_shardings=(split, split))
    one = jax.jit(augment)
    for seed in range(4):  # mixup and cutmix
        key = jax.random.key(seed)
        for x, y in zip(sharded(key, images, targets), one(key, images, targets), strict=True):
            assert len(x.sharding.device_set) == 8
            np.testing.assert_allclose(x, y, atol=1e-6)
    program = sharded.lower(key, images, targets).compile().as_text()
    assert "all-gather" not in program  # each device swaps its part with one other
    assert "collective-permute" in program


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"cutout": {}}, "cutout.*random_erasing, mixup_cutmix"),
        ({"random_erasing": 0.25}, "random_erasing=0.25: not a section"),
        ({"random_erasing": {"prob": 0.25}}, "random_erasing.prob: unknown; .*probability"),
        ({"random_erasing": {"probability": 1.5}}, "probability=1.5: out of range; .* 0 to 1"),
        ({"random_erasing": {"probability": True}}, "probability=True: of type bool"),
        ({"random_erasing": {"area": 0.3}}, r"area=0.3: of type float; allowed: tuple"),
        ({"random_erasing": {"area": (0.5, 0.1)}}, "the lower number first"),
        ({"random_erasing": {"aspect": (0.0, 1.0)}}, r"aspect=\(0.0, 1.0\): no interval"),
        (
            {"random_erasing": {"placement": "insidde"}},
            "config.device_augment.random_erasing.placement='insidde': unknown; "
            "did you mean 'inside'. allowed: inside, clipped",
        ),
        ({"mixup_cutmix": {"mixup_alpha": 0.8}}, "mixup_cutmix: missing cutmix_alpha"),
        ({"mixup_cutmix": {"mixup_alpha": -1.0, "cutmix_alpha": 1.0}}, "mixup_alpha=-1.0: "),
        ({"mixup_cutmix": {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}}, "is 0 as well; set one"),
        (
            {"mixup_cutmix": {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "draw": "beta"}},
            "draw='beta': unknown; allowed: nest, timm",
        ),
    ],
)
def test_errors(section, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        checked = check_subsections(section, DEVICE_AUGMENTS, "config.device_augment")
        create_device_augment(checked)


def test_nothing_to_do():
    for section in (None, {}, {"random_erasing": None, "mixup_cutmix": None}):
        assert create_device_augment(section) is None


# In the training step


class OneLayer(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(3, name="head")(images.reshape(len(images), -1))


def test_training_normalises_smooths_and_augments_and_evaluation_does_not():
    def augment(key, images, targets, normalize):  # a third of the partner, to follow by hand
        images = normalize(images)
        return images * 2 / 3 + images[::-1] / 3, targets * 2 / 3 + targets[::-1] / 3

    def task(**options):
        return Classification(
            model=OneLayer(),
            optimizer=create_optimizer(
                base_lr=1.0, batch_size=6, steps_per_epoch=1.0, total_steps=9
            ),
            image_shape=(2, 2, 1),
            num_classes=3,
            mean=(0.5,),
            std=(0.25,),
            label_smoothing=0.3,
            **options,
        )

    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (6, 2, 2, 1), np.uint8), np.array([0, 1, 2, 0, 0, 1])
    batch = {"image": pixels, "label": labels.astype(np.int32), "mask": np.ones(6, np.float32)}
    ours = task(device_augment=augment)
    state = ours.init(jax.random.key(0))

    images = (pixels.reshape(6, 4) / 255 - 0.5) / 0.25
    targets = np.eye(3)[labels] * 0.7 + 0.1
    images, targets = (x * 2 / 3 + x[::-1] / 3 for x in (images, targets))
    head = state.params["head"]
    logits = images @ np.asarray(head["kernel"], np.float64) + np.asarray(head["bias"])
    losses = np.log(np.exp(logits).sum(1)) - (targets * logits).sum(1)
    for parts in (1, 3):  # pairs do not depend on the parts
        accumulating = task(device_augment=augment, accumulation_steps=parts)
        _, metrics = jax.jit(accumulating.train_step)(
            state, batch, jax.random.key(1), accumulating.hyperparameters
        )
        assert float(metrics["loss"]) == pytest.approx(losses.mean(), rel=1e-5)
        right = logits.argmax(1) == targets.argmax(1)
        assert float(metrics["top1_accuracy"]) == pytest.approx(right.mean())
    chex.assert_trees_all_equal(*(t.eval_step(state, batch, None) for t in (ours, task())))


def test_run_in_parts_on_four_devices_equals_the_whole_on_one(small_config):
    small_config.device_augment = EVERYTHING
    small_config.model.update(dropout_rate=0.0, drop_path_rate=0.0)
    losses = []
    for data, fsdp, parts in ((1, 1, 1), (2, 2, 4)):
        small_config.mesh.update(data=data, fsdp=fsdp)
        small_config.task.accumulation_steps = parts
        run = experiment.build(small_config)
        state, batches, scalars = run.init(), run.data.train_batches(), []
        for _ in range(4):
            state, metrics = run.train_step(state, next(batches), run.key, run.hyperparameters)
            scalars.append(float(metrics["loss"]))
        assert run.train_step._cache_size() == 1
        losses.append(scalars)
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-5)


def test_config_section(small_config):
    """Defaults are filled in; a config from before the section existed is one without any."""
    without = small_config.copy_and_resolve_references()
    del without.device_augment
    assert experiment.check_config(without) == experiment.check_config(small_config)
    small_config.device_augment = {"random_erasing": {"probability": 0.1}, "mixup_cutmix": None}
    checked = experiment.check_config(small_config)["device_augment"]
    assert checked["random_erasing"]["area"] == (0.02, 1 / 3)
    assert checked["mixup_cutmix"] is None
    for section, message in (
        ({"random_erasin": {}}, "did you mean 'random_erasing'"),
        ({"random_erasing": {"probabilty": 1.0}}, "did you mean 'probability'"),
        ({"random_erasing": 1.0}, "config.device_augment.random_erasing=1.0: not a section"),
        ({"mixup_cutmix": {"mixup_alpha": "x", "cutmix_alpha": 1.0}}, "type str; allowed: float"),
        ({"random_erasing": {"area": (0.5, 2.0)}}, "area=.0.5, 2.0.: no interval"),
    ):
        small_config.device_augment = section
        with pytest.raises(ConfigError, match=message):
            experiment.check_config(small_config)


def test_recipes_draw_as_their_codes_do():
    for recipe, draw, placement in (
        (imagenet_nest, "nest", "clipped"),
        (imagenet_tnt, "timm", "inside"),
    ):
        config = experiment.check_config(recipe.get_config(), needs_data=False)
        section = config["device_augment"]
        assert section["mixup_cutmix"]["draw"] == draw
        assert section["random_erasing"]["placement"] == placement
        assert create_device_augment(section) is not None


# Against timm itself


@pytest.fixture(scope="module")
def timm_file():
    """Loads one of timm's files, which need torch but not the whole of timm."""
    torch = pytest.importorskip("torch")
    if (found := importlib.util.find_spec("timm")) is None:
        pytest.skip("needs timm")

    def load(name):
        path = Path(found.submodule_search_locations[0]) / "data" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"timm_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return torch, load


@pytest.mark.torch
def test_timm_erases_alike(timm_file):
    torch, load = timm_file
    random.seed(0)
    theirs = load("random_erasing").RandomErasing(
        probability=0.25, mode="pixel", min_aspect=0.3, device="cpu"
    )
    images = theirs(torch.full((NUM, 1, SIDE, SIDE), torch.inf)).numpy()[:, 0]
    ours = random_erasing()(jax.random.key(3), jnp.full((NUM, SIDE, SIDE, 1), jnp.inf))[..., 0]
    ours, theirs = np.isfinite(np.asarray(ours)), np.isfinite(images)
    same(ours.mean((1, 2)), theirs.mean((1, 2)))
    for axis in (1, 2):
        for x, y in zip(extent(ours.any(axis)), extent(theirs.any(axis)), strict=True):
            same(x, y)


@pytest.mark.torch
def test_timm_mixes_alike(timm_file):
    torch, load = timm_file
    np.random.seed(0)
    theirs = load("mixup").Mixup(
        mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.9, label_smoothing=0.0, num_classes=2
    )
    batch = torch.zeros(2, 1, SIDE, SIDE)
    batch[0] = 1
    results = [theirs(batch.clone(), torch.tensor([0, 1])) for _ in range(NUM)]
    weights = np.array([float(targets[0, 0]) for _, targets in results])
    cut = np.array([bool(((x == 0) | (x == 1)).all()) for x, _ in results])
    options = dict(mixup_alpha=0.8, cutmix_alpha=1.0, probability=0.9, draw="timm")
    images, targets = many_batches(**options)
    ours = ((images == 0) | (images == 1)).all((1, 2))
    assert abs(ours.mean() - cut.mean()) < 4 * math.sqrt(0.5 / NUM)
    same(targets[ours, 0], weights[cut])
    same(targets[~ours, 0], weights[~cut])
