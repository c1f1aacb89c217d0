"""Mixing in groups, as the authors' devices did, and the order of mixing and erasing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs import (
    cifar_nest,
    imagenet_deit,
    imagenet_nest,
    imagenet_tnt,
    transfer_nest,
    transfer_tnt,
)
from data.augment import mixing
from data.augment.mixing import create_device_augment, mixup_cutmix
from data.pipeline import Data
from harness.errors import ConfigError
from parallel.sharding import create_mesh
from tasks.supervised import normalize
from training import experiment

BATCH, GROUPS = 24, 4
BOTH = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}
# Of row i, after the papers' samplers: PyTorch deals a batch out, JAX cuts it in pieces.
MEMBERS = {"timm": np.arange(BATCH) % GROUPS, "nest": np.arange(BATCH) // (BATCH // GROUPS)}


def mixed_ones(draw, num=1, seed=0, batch=BATCH, side=8, **options):
    """Mixes `num` batches in which the first half of every group is ones, the second zeros.

    Returns:
        Images [num, b, side, side], and targets [num, b]: the weight of ones.
    """
    groups = options["groups"]
    rank = np.arange(batch) // groups if draw == "timm" else np.arange(batch) % (batch // groups)
    first = jnp.asarray(rank < batch // groups / 2, jnp.float32)
    images = jnp.broadcast_to(first[:, None, None, None], (batch, side, side, 1))
    targets = jnp.stack([first, 1 - first], axis=1)
    mix = mixup_cutmix(draw=draw, **options)
    keys = jax.random.split(jax.random.key(seed), num)
    images, targets = jax.jit(jax.vmap(lambda key: mix(key, images, targets)))(keys)
    np.testing.assert_allclose(images.mean((2, 3, 4)), targets[..., 0], atol=1e-6)
    return np.asarray(images)[..., 0], np.asarray(targets)[..., 0]


@pytest.mark.parametrize("draw", ["nest", "timm"])
def test_each_group_draws_its_branch_over_10_000_draws(draw):
    options = {"probability": 0.8, "switch_probability": 0.3, "groups": GROUPS}
    images, weights = mixed_ones(draw, num=10_000, side=4, **BOTH, **options)
    plain = ((images == 0) | (images == 1)).all((2, 3))  # [n, b]: untouched, or pixels of cutmix
    untouched = np.isin(weights, (0, 1))
    members = [np.flatnonzero(MEMBERS[draw] == group) for group in range(GROUPS)]
    cut = np.stack([plain[:, rows].all(1) & ~untouched[:, rows].all(1) for rows in members], 1)
    left = np.stack([untouched[:, rows].all(1) for rows in members], 1)  # [n, g]
    mixed = np.stack([~plain[:, rows].any(1) for rows in members], 1)
    if draw == "timm":  # weights close to 0 or 1 leave nothing to see in images of 4 x 4
        assert (cut | left | mixed).mean() > 0.999
        for name, share in (("mixup", mixed), ("cutmix or none", cut | left)):
            expected = {"mixup": 0.8 * 0.7, "cutmix or none": 1 - 0.8 * 0.7}[name]
            np.testing.assert_allclose(share.mean(0), expected, atol=4 * 0.5 / 100)
        for rows in members:  # one weight a group, counted for the ones or for the zeros
            own = np.maximum(weights[:, rows], 1 - weights[:, rows])
            np.testing.assert_allclose(own, own[:, :1].repeat(len(rows), 1), atol=1e-6)
    else:
        assert (cut | left | mixed).all()  # a branch a group ...
        np.testing.assert_allclose(mixed.mean(0), 0.8 * 0.7, atol=4 * 0.5 / 100)
        first = members[0]
        assert (np.ptp(weights[mixed[:, 0]][:, first], axis=1) > 0).all()  # ... a weight an image
    # Groups are independent: two agree as often as chance has it.
    chance = 0.56**2 + 0.44**2
    for other in range(1, GROUPS):
        assert (mixed[:, 0] == mixed[:, other]).mean() == pytest.approx(chance, abs=0.02)


@pytest.mark.parametrize("draw", ["nest", "timm"])
@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_partners_are_of_the_same_group_in_reverse(draw, kind):
    options = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, kind: 1.0, "groups": GROUPS}
    mix = jax.jit(mixup_cutmix(draw=draw, **options))
    images = jnp.zeros((BATCH, 4, 4, 1))
    met = np.zeros((BATCH, BATCH))
    for seed in range(20):
        met += np.asarray(mix(jax.random.key(seed), images, jnp.eye(BATCH))[1]) > 0
    for row in range(BATCH):
        rows = np.flatnonzero(MEMBERS[draw] == MEMBERS[draw][row])
        partner = rows[::-1][rows == row][0]
        assert set(np.flatnonzero(met[row])) == {row, partner}


@pytest.mark.parametrize("draw", ["nest", "timm"])
@pytest.mark.parametrize("groups", [2, 4, 8])
def test_eight_devices_give_the_batch_of_one_whatever_the_groups(draw, groups):
    section = {"random_erasing": {}, "mixup_cutmix": BOTH | {"draw": draw, "groups": groups}}
    augment = create_device_augment(section)
    images, targets = jax.random.normal(jax.random.key(5), (64, 8, 8, 3)), jnp.eye(64)
    mesh = create_mesh(data=8, fsdp=1)
    split, whole = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P())
    sharded = jax.jit(augment, in_shardings=(whole, split, split), out_shardings=(split, split))
    one = jax.jit(augment)
    for seed in range(3):
        key = jax.random.key(seed)
        for x, y in zip(sharded(key, images, targets), one(key, images, targets), strict=True):
            assert len(x.sharding.device_set) == 8
            np.testing.assert_allclose(x, y, atol=1e-6)
    # No device needs the whole batch; runs of neighbours, one a device, need no other at all.
    program = sharded.lower(jax.random.key(0), images, targets).compile().as_text()
    assert "all-gather" not in program
    assert ("collective-permute" in program) == (draw == "timm" or groups < 8)


def test_copies_of_repeated_augmentation_get_draws_of_their_own():
    """RASampler gives the copies of an image to different GPUs (official TNT, datasets.py)."""
    data = Data(
        name="digits", image_size=8, batch_size=48, eval_batch_size=8, repeats=3, num_threads=0
    ).open()
    batches = data.train_batches()
    pixels = np.asarray(next(batches)["image"])
    batches.close()
    copies = [(pixels[i] == pixels[i + 1]).all() for i in range(0, 48, 3)]
    assert all(copies)  # without augmentation: the batch has an image three times in a row
    _, weights = mixed_ones("timm", batch=48, mixup_alpha=0.8, cutmix_alpha=0.0, groups=8)
    own = np.maximum(weights, 1 - weights)[0].reshape(16, 3)  # [image, copy]
    assert all(len(set(np.round(row, 6))) == 3 for row in own)
    assert len(set(np.round(own.ravel(), 6))) == 8


@pytest.mark.parametrize("draw", ["nest", "timm"])
def test_mixing_first_rounds_pixels_and_erases_the_mixture(draw):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 16, 16, 3), np.uint8)
    options = {"mixup_alpha": 0.8, "cutmix_alpha": 0.0, "draw": draw}
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)

    def run(order, erase):
        section = {
            "random_erasing": {"probability": 1.0, "area": (0.2, 0.3)} if erase else None,
            "mixup_cutmix": options | {"order": order},
        }
        return create_device_augment(section)(
            jax.random.key(4), jnp.asarray(pixels), jnp.eye(8), lambda x: normalize(x, mean, std)
        )

    (mixed, targets), (erased, _) = run("mix_first", False), run("mix_first", True)
    weights = np.asarray(targets)[np.arange(8), np.arange(8)][:, None, None, None]
    own = pixels.astype(np.float32)
    expected = np.rint(own * weights + own[::-1] * (1 - weights))
    expected = (expected / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(mixed, expected, atol=1e-5)
    changed = np.asarray(mixed != erased).any(-1)
    assert 0.15 < changed.mean() < 0.35
    assert np.asarray(erased)[changed].std() == pytest.approx(1, abs=0.05)  # noise, not mixed
    # Erased first, the box shows in the partner too, and noise is weighed.
    (other, other_targets), (plain, _) = run("erase_first", True), run("erase_first", False)
    assert (other_targets == targets).all()
    assert np.asarray(other != plain).any(-1).mean() > 1.5 * changed.mean()


@pytest.mark.parametrize(
    ("groups", "batch", "allowed"),
    [(8, 100, "1, 2, 4, 5, 10, 20, 25, 50"), (64, 64, "1, 2, 4, 8, 16, 32"), (2, 3, "1")],
)
def test_groups_that_do_not_fit_are_refused_before_anything_is_compiled(
    small_config, groups, batch, allowed
):
    small_config.data.batch_size = batch
    small_config.data.train_split = "train"
    small_config.device_augment = {"mixup_cutmix": BOTH | {"groups": groups}}
    message = rf"mixup_cutmix.groups={groups}: .*batch_size={batch} .*allowed: {allowed}$"
    with pytest.raises(ConfigError, match=message):
        experiment.build(small_config)
    with pytest.raises(ValueError, match="out of range"):
        mixup_cutmix(**BOTH, groups=0)


@pytest.mark.parametrize(
    ("recipe", "argument", "groups", "rows", "order"),
    [
        (imagenet_tnt, "s", 8, 128, "mix_first"),  # 8 x 128: the command
        (imagenet_tnt, "s,384", 16, 32, "mix_first"),
        (imagenet_deit, "s", 4, 256, "erase_first"),  # README_deit.md
        (imagenet_deit, "b", 16, 64, "erase_first"),  # "2 nodes with 8 gpus each", main.py's 64
        (imagenet_nest, "tiny", 16, 64, "erase_first"),
        (imagenet_nest, "small", 16, 64, "erase_first"),
        (imagenet_nest, "base", 64, 16, "erase_first"),  # 8 x 8 cores of 16: the config's comment
        (transfer_tnt, "pets", 8, 16, "mix_first"),  # --b 16
        (transfer_nest, "pets", 8, 16, "erase_first"),
        (cifar_nest, "tiny", 1, 192, "erase_first"),  # one GPU: the README
        (cifar_nest, "small", 2, 64, "erase_first"),  # "recommend to train on 2 GPUs"
        (cifar_nest, "base", 2, 32, "erase_first"),
    ],
)
def test_recipes_mix_as_the_authors_devices_did(recipe, argument, groups, rows, order):
    config = experiment.check_config(recipe.get_config(argument), needs_data=False)
    section = config["device_augment"]["mixup_cutmix"]
    assert (section["groups"], section["order"]) == (groups, order)
    assert config["data"]["batch_size"] == groups * rows


# Against timm itself


@pytest.mark.torch
@pytest.mark.parametrize("use_cutmix", [False, True])
def test_timm_loaders_of_two_processes_mix_and_erase_alike(timm, torch, monkeypatch, use_cutmix):
    """TNT's loader, of two processes: what they drew, given to our groups, makes their batches."""
    from timm.data import loader, mixup

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 3, 20, 24), np.uint8)
    drawn = []

    def theirs(rank, erase):
        records = [(pixels[i], i) for i in range(rank, 16, 2)]  # as a DistributedSampler deals
        alphas = (0.0, 1.0) if use_cutmix else (0.8, 0.0)
        collate = mixup.FastCollateMixup(*alphas, label_smoothing=0.0, num_classes=16)
        batches = torch.utils.data.DataLoader(records, batch_size=8, collate_fn=collate)
        options = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "device": torch.device("cpu")}
        if erase:
            options |= {"re_prob": 1.0, "re_mode": "pixel"}
        np.random.seed(rank)
        images, targets = next(iter(loader.PrefetchLoader(batches, **options)))
        if not erase:
            np.random.seed(rank)  # the same draws once more, to hand them on
            weight, _ = collate._params_per_batch()
            own = np.ones((20, 24), bool)
            if use_cutmix:
                (top, bottom, left, right), _ = mixup.cutmix_bbox_and_lam((8, 3, 20, 24), weight)
                own[top:bottom, left:right] = False
            drawn.append((weight, own))
        return images.numpy().transpose(0, 2, 3, 1), targets.numpy()

    plain = [theirs(rank, erase=False) for rank in range(2)]
    weights, own = (jnp.asarray(np.stack(x)) for x in zip(*drawn, strict=True))
    monkeypatch.setitem(mixing.DRAWS, "timm", lambda *_: (weights.astype(jnp.float32), own))
    options = {"mixup_alpha": 1.0 - use_cutmix, "cutmix_alpha": 1.0 * use_cutmix, "draw": "timm"}

    def ours(erase):
        section = {
            "random_erasing": {"probability": 1.0} if erase else None,
            "mixup_cutmix": options | {"groups": 2, "order": "mix_first"},
        }
        images, targets = create_device_augment(section)(
            jax.random.key(0),
            jnp.asarray(pixels.transpose(0, 2, 3, 1)),
            jnp.eye(16),
            lambda x: normalize(x, (0.5,) * 3, (0.5,) * 3),
        )
        return np.asarray(images), np.asarray(targets)

    images, targets = ours(erase=False)
    for rank, (their_images, their_targets) in enumerate(plain):
        np.testing.assert_allclose(images[rank::2], their_images, atol=1e-6)
        np.testing.assert_allclose(targets[rank::2], their_targets, atol=1e-6)
    # Erased, the rest of the mixture stays, and the box is noise of unit deviation: not mixed.
    for before, after in [(images, ours(erase=True)[0])] + [
        (plain[rank][0], theirs(rank, erase=True)[0]) for rank in range(2)
    ]:
        box = (before != after).any(-1)
        assert 0.02 < box.mean() < 1 / 3
        assert after[box].std() == pytest.approx(1, abs=0.1)
