"""The discriminators: their parts against SciPy and NumPy, and the whole networks.

The golden file holds parameter names and shapes, which are a public format. To rewrite it after
an intended change: UPDATE_GOLDEN=1 python -m pytest tests/nest/gan/test_discriminator.py
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy.ndimage import correlate1d
from scipy.signal import correlate2d

from nest.gan.discriminator import ConvDiscriminator, NestDiscriminator
from nest.gan.stylegan import DESIGNS, ResidualBlock, blur_pool, minibatch_deviation
from nest.model import Nest
from tasks.gan.losses import r1_penalty
from tests.model_inputs import check_golden, fill, lines_of, random_array
from zoo.registry import create_discriminator


def conv(**overrides):
    return ConvDiscriminator(**({"dims": (6, 8, 10)} | overrides))


def nest(**overrides):
    fields = {"dims": (8, 16), "depths": (1, 1), "num_heads": (2, 2), "patch_size": 2}
    return NestDiscriminator(**(fields | overrides))


def shapes_of(model, images):
    labels = None if model.num_classes is None else np.zeros(len(images), int)
    return jax.eval_shape(model.init, jax.random.key(0), images, labels)["params"]


def run(model, params, images, labels=None, **options):
    return jax.jit(lambda p, x, y: model.apply({"params": p}, x, y, **options))(
        params, images, labels
    )


# Parts


def blur_reference(x):
    """The filter at every place with zeros around, by SciPy; then every other place."""
    for axis in (1, 2):
        # SciPy's window of four starts two before the place.
        x = correlate1d(x, [1 / 8, 3 / 8, 3 / 8, 1 / 8], axis=axis, mode="constant", origin=-1)
    return x[:, ::2, ::2]


@pytest.mark.parametrize("sides", [(2, 2), (8, 6), (4, 16)])
def test_blur_pool_against_scipy(sides):
    x = random_array(2, *sides, 3)
    np.testing.assert_allclose(blur_pool(x), blur_reference(x), atol=1e-6)


def test_blur_pool_places_the_filter_around_the_two_pixels_that_it_replaces():
    line = jnp.zeros((1, 8, 8, 1)).at[0, 4, :, 0].set(8.0)  # the first of rows 4 and 5
    np.testing.assert_allclose(blur_pool(line)[0, :, 1, 0], [0, 1, 3, 0])


def deviation_reference(x, group):
    """Loops over groups, features and places."""
    out = np.zeros((*x.shape[:3], 1), np.float32)
    for first in range(0, len(x), group):
        images = x[first : first + group]
        deviations = [
            np.sqrt(np.mean((values - values.mean()) ** 2) + 1e-8)
            for values in images.reshape(len(images), -1).T
        ]
        out[first : first + group] = np.mean(deviations)
    return out


@pytest.mark.parametrize(("batch", "group"), [(8, 4), (8, 2), (3, 4), (4, 1)])
def test_minibatch_deviation_against_numpy(batch, group):
    x = random_array(batch, 2, 3, 5)
    found = minibatch_deviation(x, group)
    np.testing.assert_array_equal(found[..., :5], x)
    expected = deviation_reference(x, min(group, batch))
    np.testing.assert_allclose(found[..., 5:], expected, rtol=1e-5)


def test_groups_must_divide_the_batch():
    with pytest.raises(
        ValueError, match="batch of 6 images is not a multiple of deviation_group=4"
    ):
        minibatch_deviation(random_array(6, 2, 2, 1), 4)


def conv_reference(x, params):
    out = np.zeros((*x.shape[:3], params["kernel"].shape[-1])) + params.get("bias", 0)
    for image, row in zip(x, out, strict=True):
        for i in range(x.shape[-1]):
            for j in range(out.shape[-1]):
                row[..., j] += correlate2d(image[..., i], params["kernel"][..., i, j], "same")
    return out


def lrelu_reference(x):
    return np.where(x > 0, x, 0.2 * x) * np.sqrt(2)


def test_residual_block_against_scipy():
    x, module = random_array(2, 6, 8, 3), ResidualBlock(4)
    params = fill(jax.eval_shape(module.init, jax.random.key(0), x)["params"])
    skip = conv_reference(blur_reference(x), params["skip"])
    y = blur_reference(lrelu_reference(conv_reference(x, params["conv1"])))
    y = lrelu_reference(conv_reference(y, params["conv2"]))
    found = jax.jit(module.apply)({"params": params}, x)
    np.testing.assert_allclose(found, (y + skip) / np.sqrt(2), atol=1e-5)


# HiT-GAN's


@pytest.fixture(scope="module")
def official(fixtures):
    """What the official HiT-GAN code found, and its weights as our parameters."""
    arrays = dict(np.load(fixtures / "hit_gan_discriminator.npz"))
    trees = {"weights": {}, "r1_gradient": {}}
    for path in [path for path in arrays if "/" in path]:
        tree, *folders, name = path.split("/")
        leaves = trees[tree]
        for folder in folders:
            leaves = leaves.setdefault(folder, {})
        leaves[name] = arrays.pop(path)
    return arrays | trees | {"images": arrays["images"].astype(np.float32)}


def hit_gan(**overrides):
    return conv(dims=(4, 8, 8, 8, 8), design="hit_gan", **overrides)


def test_hit_gan_design_equals_the_official_code(official):
    model = hit_gan()
    shapes = shapes_of(model, official["images"])
    assert lines_of(shapes) == lines_of(official["weights"])
    logits = run(model, official["weights"], official["images"])
    np.testing.assert_allclose(logits, official["logits"], rtol=1e-5)


def test_r1_of_the_hit_gan_design_equals_the_official_code(official):
    """Their weight of 10 is 20 of ours, which halves; also its gradient, of second order."""
    model = hit_gan()

    def penalty(params):
        return 20.0 * r1_penalty(lambda x: model.apply({"params": params}, x), official["images"])

    found, gradient = jax.jit(jax.value_and_grad(penalty))(official["weights"])
    assert float(found) == pytest.approx(float(official["r1"]), rel=1e-5)
    theirs = official["r1_gradient"]  # of the last bias they have None
    gradient["head"].pop("bias")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), gradient, theirs)


@pytest.mark.parametrize("size", [64, 128])
def test_hit_gan_design_counts_the_official_parameters(official, size):
    model = create_discriminator(
        f"conv_discriminator_base_{size}", num_classes=None, design="hit_gan"
    )
    leaves = jax.tree.leaves(shapes_of(model, np.zeros((1, size, size, 3))))
    expected = {64: 23_408_897, 128: 23_880_833}[size]  # count_params() of the official code
    assert sum(leaf.size for leaf in leaves) == expected == official[f"count_{size}"]


def test_hit_gan_design_starts_as_keras_does():
    """Glorot's uniform: within sqrt(6 / (fan in + fan out)), for convolutions times their area."""
    images = np.zeros((1, 32, 32, 3), np.float32)
    params = jax.jit(hit_gan().init)(jax.random.key(0), images)["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key == "bias":
            assert not np.any(leaf)
            continue
        area = np.prod(leaf.shape[:-2])
        bound = np.sqrt(6 / (area * sum(leaf.shape[-2:])))
        assert 0.8 * bound < np.abs(leaf).max() <= bound
        if leaf.size > 100:
            assert np.std(leaf) == pytest.approx(bound / np.sqrt(3), rel=0.15)


# The networks


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_shapes_at_every_resolution(size):
    dims = (4, 6, 8, 10, 12, 14)[: int(np.log2(size)) - 1]  # down to 4x4
    model, images = ConvDiscriminator(dims), np.zeros((4, size, size, 3), np.float32)
    logits, state = jax.eval_shape(
        lambda p: model.apply({"params": p}, images, mutable=["intermediates"]),
        shapes_of(model, images),
    )
    assert logits.shape == (4,) and logits.dtype == jnp.float32
    for level, dim in enumerate(dims, start=1):
        side = size // 2 ** (level - 1)
        assert state["intermediates"][f"level{level}"][0].shape == (4, side, side, dim)
    assert shapes_of(model, images)["last_conv"]["kernel"].shape == (3, 3, dim + 1, dim)


def test_parameter_names_are_the_golden_ones():
    lines = []
    for what, model in (("conv", conv(num_classes=3)), ("nest", nest(num_classes=3))):
        shapes = shapes_of(model, np.zeros((4, 16, 16, 3)))
        lines += [f"{what}: {line}" for line in lines_of(shapes)]
    check_golden("conv_discriminator.txt", lines)


def test_size_of_the_signal_is_kept_from_pixels_to_the_last_layer():
    model, images = ConvDiscriminator((32, 48, 64)), random_array(8, 32, 32, 3)
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    _, state = run(model, params, images, mutable=["intermediates"])
    for name, maps in state["intermediates"].items():
        size = np.sqrt(np.mean(np.square(maps[0])))
        assert 0.3 < size < 2, name  # white noise loses power in each blur; photographs less


def test_classes_of_the_convolutional_one_are_a_product_with_the_features():
    model, images, labels = conv(num_classes=3), random_array(4, 16, 16, 3), np.array([0, 1, 2, 1])
    params = fill(shapes_of(model, images))
    found = run(model, params, images, labels)
    table = params.pop("class_embedding")["embedding"]
    unconditional = conv()
    for label in range(3):
        # A head with the class's vector added to its kernel says the same.
        head = {"kernel": params["head"]["kernel"] + table[label][:, None]}
        changed = params | {"head": params["head"] | head}
        expected = np.asarray(run(unconditional, changed, images))
        chosen = labels == label
        np.testing.assert_allclose(found[chosen], expected[chosen], rtol=1e-4, atol=1e-5)


def test_nest_discriminator_is_the_classifier():
    images, labels = random_array(4, 16, 16, 3), np.array([2, 0, 1, 1])
    model = nest(num_classes=3)
    params = fill(shapes_of(model, images))
    classifier = Nest(4, (8, 16), (1, 1), (2, 2), 2)
    logits = np.asarray(jax.jit(classifier.apply)({"params": params["nest"]}, images))
    expected = logits[:, 0] + logits[np.arange(4), 1 + labels]
    np.testing.assert_allclose(run(model, params, images, labels), expected, rtol=1e-5)
    # Without classes, the first output alone.
    head = {name: leaf[..., :1] for name, leaf in params["nest"]["head"].items()}
    params = {"nest": params["nest"] | {"head": head}}
    np.testing.assert_allclose(run(nest(), params, images), logits[:, 0], rtol=1e-5)


@pytest.mark.parametrize("create", [conv, functools.partial(conv, design="hit_gan"), nest])
def test_gradient_of_the_gradient_penalty_is_finite(create):
    """R1 differentiates twice, also where all images are the same and the deviation is zero."""
    images, labels = random_array(4, 8, 8, 2), np.array([0, 1, 1, 0])
    smaller = {"dims": (8,), "depths": (1,), "num_heads": (2,)} if create is nest else {}
    model = create(num_classes=2, **smaller)
    params = fill(shapes_of(model, images))

    def penalty(params, images):
        def total(images):
            return model.apply({"params": params}, images, labels).sum()

        return (jax.grad(total)(images) ** 2).sum() + total(images)

    gradient = jax.jit(jax.grad(penalty))
    for given in (images, np.repeat(images[:1], 4, axis=0)):
        for path, leaf in jax.tree_util.tree_flatten_with_path(gradient(params, given))[0]:
            assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_eight_devices_judge_as_one():
    model, images = conv(deviation_group=2), random_array(32, 8, 8, 3)
    params = fill(shapes_of(model, images))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    spread = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    logits = run(model, everywhere, spread)
    assert len(logits.sharding.device_set) == 8
    np.testing.assert_allclose(logits, run(model, params, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("design", DESIGNS)
def test_bfloat16_computes_in_half_and_keeps_the_rest(design):
    images, labels = random_array(4, 8, 8, 3), np.array([0, 1, 1, 0])
    exact = conv(num_classes=2, design=design)
    model = exact.clone(dtype=jnp.bfloat16)
    shapes = shapes_of(model, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    params = fill(shapes)
    logits, state = run(model, params, images, labels, mutable=["intermediates"])
    assert logits.dtype == jnp.float32
    assert {m.dtype for m in jax.tree.leaves(state)} == {jnp.dtype("bfloat16")}
    expected = np.asarray(run(exact, params, images, labels))
    assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("design", DESIGNS)
def test_remat_changes_neither_names_nor_numbers(design):
    plain, images = conv(dims=(6, 8), design=design), random_array(4, 8, 8, 3)
    remat = plain.clone(remat="block")
    assert shapes_of(plain, images) == shapes_of(remat, images)
    params = fill(shapes_of(plain, images))

    def loss(params, model):
        return (model.apply({"params": params}, images, train=True) ** 2).sum()

    assert "remat" in str(jax.make_jaxpr(lambda p: loss(p, remat))(params))
    first, second = (jax.jit(jax.grad(loss), static_argnums=1)(params, m) for m in (plain, remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), first, second)


# Errors


@pytest.mark.parametrize(
    ("create", "overrides", "message"),
    [
        (
            conv,
            {"dims": ()},
            "dims=.*: wrong; allowed: a tuple of positive integers, one per resolution",
        ),
        (conv, {"dims": [8, 8]}, "dims=.*: wrong; allowed: a tuple of positive integers"),
        (conv, {"num_classes": 0}, "num_classes=0: wrong; allowed: a positive integer"),
        (conv, {"design": "hitgan"}, "design='hitgan': unknown; did you mean 'hit_gan'.*stylegan2"),
        (conv, {"deviation_group": 0}, "deviation_group=0: wrong; allowed: a positive integer"),
        (nest, {"num_classes": 0}, "num_classes=0: wrong; allowed: a positive integer"),
        (nest, {"dims": (8,)}, r"dims=\(8,\): .* one entry per level"),
        (nest, {"aggregation": "conv"}, "aggregation='conv': unknown"),
    ],
)
def test_wrong_fields(create, overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        create(**overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "shape", "labels", "message"),
    [
        (
            conv(),
            (4, 18, 16, 3),
            None,
            r"=\(18, 16\): does not fit; .*with 3 entries in dims.*16 or 20.*fits",
        ),
        (conv(), (6, 16, 16, 3), None, "batch of 6 images .*deviation_group=4"),
        (nest(), (4, 18, 16, 3), None, r"image_size=\(18, 16\): does not fit"),
        (conv(), (4, 16, 16, 3), np.zeros(4, int), "labels are given, but .*num_classes=None"),
        (nest(num_classes=2), (4, 16, 16, 3), None, "labels are missing, but .*num_classes=2"),
    ],
)
def test_wrong_inputs(model, shape, labels, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), np.zeros(shape, np.float32), labels)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("conv_discriminator_23", {}, "name='conv_discriminator_23': unknown; did you mean"),
        (
            "conv_discriminator_small_32",
            {"depths": (1,)},
            "^depths: unknown; allowed: dims, design, deviation_group",
        ),
        ("conv_discriminator_small_32", {"dims": 3.5}, "dims=3.5: of type float"),
        ("nest_discriminator_small_s64_32", {"dtype": "half"}, "dtype='half': unknown"),
    ],
)
def test_wrong_names_and_overrides(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        create_discriminator(name, num_classes=None, **overrides)
