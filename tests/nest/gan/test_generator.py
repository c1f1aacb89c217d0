"""The transposed NesT: de-aggregations against their definitions, and the whole generator.

The golden file holds parameter names and shapes, which are a public format. To rewrite it after
an intended change: UPDATE_GOLDEN=1 python -m pytest tests/nest/gan/test_generator.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy.signal import correlate2d

from nest.blocks import block, unblock
from nest.gan.deaggregation import DEAGGREGATIONS, pixel_shuffle
from nest.gan.generator import NestGenerator, generator_shapes, latent_shape
from tests.model_inputs import check_golden, fill, lines_of, random_array
from zoo.registry import create_generator

SMALL = {
    "image_size": 16,
    "dims": (16, 12, 8),
    "depths": (1, 2, 1),
    "num_heads": (2, 3, 2),
    "num_channels": 3,
    "latent_dim": 6,
}
TWO_LEVELS = {"image_size": 8, "dims": (16, 8), "depths": (1, 1), "num_heads": (2, 2)}


def small(**overrides):
    return NestGenerator(**(SMALL | overrides))


def run(model, params, noise, labels=None, **options):
    return jax.jit(lambda p, z, y: model.apply({"params": p}, z, y, **options))(
        params, noise, labels
    )


# De-aggregation


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_pixel_shuffle_against_its_index_formula(factor):
    x = random_array(2, 3, 5, 4 * factor**2)
    out = np.zeros((2, 3 * factor, 5 * factor, 4), np.float32)
    for row in range(3 * factor):
        for column in range(5 * factor):
            first = (row % factor * factor + column % factor) * 4
            out[:, row, column] = x[:, row // factor, column // factor, first : first + 4]
    np.testing.assert_array_equal(pixel_shuffle(x, factor), out)


def test_pixel_shuffle_undoes_the_reshape_of_patch_merging():
    planes = random_array(2, 4, 6, 3)
    merged = np.zeros((2, 2, 3, 12), np.float32)
    for row in range(2):
        for column in range(3):
            four = [planes[:, 2 * row + i, 2 * column + j] for i in range(2) for j in range(2)]
            merged[:, row, column] = np.concatenate(four, axis=-1)
    np.testing.assert_array_equal(pixel_shuffle(merged, 2), planes)


def conv_reference(x, params):
    """3x3 correlation with zeros around, by SciPy, one pair of channels at a time."""
    out = np.zeros((*x.shape[:3], params["bias"].size)) + params["bias"]
    for image, row in zip(x, out, strict=True):
        for i in range(x.shape[-1]):
            for j in range(out.shape[-1]):
                row[..., j] += correlate2d(image[..., i], params["kernel"][..., i, j], "same")
    return out


def transposed_reference(x, params):
    """Each token adds the kernel, turned by half a turn and weighted, to the 4x4 around it."""
    b, h, w, _ = x.shape
    out = np.zeros((b, 2 * h + 2, 2 * w + 2, params["bias"].size))  # a border of 1
    kernel = params["kernel"][::-1, ::-1]
    for i in range(h):
        for j in range(w):
            square = np.einsum("bc,klcd->bkld", x[:, i, j], kernel)
            out[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += square
    return out[:, 1:-1, 1:-1] + params["bias"]


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("kind", sorted(DEAGGREGATIONS))
def test_deaggregation_against_its_definition(kind, dim):
    x = random_array(2, 3, 4, 8)
    module = DEAGGREGATIONS[kind](dim=dim)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x).get("params", {})
    params = fill(shapes)
    if kind == "pixel_shuffle":
        expected = np.asarray(pixel_shuffle(x, 2))
        assert ("projection" in params) == (dim != 2)
        if dim != 2:
            projection = params["projection"]
            expected = expected @ projection["kernel"] + projection["bias"]
    elif kind == "conv_pixel_shuffle":
        expected = pixel_shuffle(conv_reference(x, params["conv"]), 2)
    elif kind == "nearest_conv":
        expected = conv_reference(np.kron(x, np.ones((1, 2, 2, 1))), params["conv"])
    else:
        expected = transposed_reference(x, params["conv"])
    found = jax.jit(module.apply)({"params": params}, x)
    assert found.shape == (2, 6, 8, dim)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_block_becomes_the_four_in_its_place():
    """Blocks of 2x4 tokens; each token carries the number of its block, then of itself."""
    grid, side = (2, 3), (2, 4)
    blocks = np.broadcast_to(np.arange(6)[:, None], (6, 8))[None, ..., None].astype(np.float32)
    plane = unblock(np.repeat(blocks, 4, axis=-1), side, grid)
    children = block(pixel_shuffle(plane, 2), side)[0, ..., 0]  # [24, 8]
    assert children.shape == (24, 8)
    for child, tokens in enumerate(np.asarray(children)):
        row, column = divmod(child, 6)
        np.testing.assert_array_equal(tokens, row // 2 * 3 + column // 2)
    # Back to four times fewer blocks: the first of each four tokens.
    back = np.asarray(unblock(children[None, ..., None], side, (4, 6)))[:, ::2, ::2]
    np.testing.assert_array_equal(block(back, side), blocks)


# The model


@pytest.mark.parametrize("patch_size", [1, 2])
@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_shapes_at_every_level(size, patch_size):
    """(b, 1, n, d) -> (b, 4, n, d') -> ... -> (b, blocks, n, pixels), as the mission says."""
    levels = {16: 3, 32: 3, 64: 4, 128: 5}[size] - (patch_size == 2)
    dims = (64, 32, 24, 16, 8)[:levels]
    model = NestGenerator(
        size, dims, (1,) * levels, (2,) * levels, latent_dim=10, patch_size=patch_size
    )
    side = {16: 4, 32: 8, 64: 8, 128: 8}[size]
    images, state = jax.eval_shape(
        lambda p, z: model.apply({"params": p}, z, mutable=["intermediates"]),
        generator_shapes(model),
        jax.ShapeDtypeStruct(latent_shape(model, 3), jnp.float32),
    )
    maps = state["intermediates"]
    assert len(maps) == levels + 1
    for level, dim in enumerate(dims, start=1):
        assert maps[f"level{level}"][0].shape == (3, 4 ** (level - 1), side**2, dim)
    assert maps["pixels"][0].shape == (3, 4 ** (levels - 1), side**2, 3 * patch_size**2)
    assert images.shape == (3, size, size, 3) and images.dtype == jnp.float32


def test_parameter_names_are_the_golden_ones():
    model = small(num_classes=10, deaggregation="nearest_conv")
    check_golden("nest_generator.txt", lines_of(generator_shapes(model)))


def test_pixels_of_a_token_are_its_square_of_the_image():
    one_layer = {"dims": (16, 8, 8), "depths": (1, 1, 1), "num_heads": (2, 2, 2)}
    model = small(**one_layer, image_size=32, patch_size=2, num_channels=2)  # blocks of 4x4 tokens
    params, noise = fill(generator_shapes(model)), random_array(2, 6)
    images, state = run(model, params, noise, mutable=["intermediates"])
    images, pixels = (np.asarray(x) for x in (images, state["intermediates"]["pixels"][0]))
    for row in range(32):
        for column in range(32):
            t = row // 8 * 4 + column // 8
            n = row % 8 // 2 * 4 + column % 8 // 2
            first = (row % 2 * 2 + column % 2) * 2
            np.testing.assert_array_equal(
                images[:, row, column], pixels[:, t, n, first : first + 2]
            )
    bounded = run(model.clone(output_activation="tanh"), params, noise)
    np.testing.assert_allclose(bounded, np.tanh(images), atol=1e-6)


@pytest.mark.parametrize("kind", sorted(DEAGGREGATIONS))
def test_blocks_meet_in_convolutions_only(kind):
    """Which pixels change with one token of block (0, 1) of level 2."""
    model = small(deaggregation=kind)
    params, noise = fill(generator_shapes(model)), random_array(1, 6)
    before = np.asarray(run(model, params, noise))  # finished before the parameters change
    params["level2_position"]["embedding"][1, 0, :3] += 1
    changed = np.any(np.asarray(run(model, params, noise) != before), axis=(0, -1))
    inside = np.zeros((16, 16), bool)
    inside[:8, 8:] = True
    assert changed[inside].all()
    assert changed[~inside].any() == (kind != "pixel_shuffle")


def test_samples_differ_from_the_start():
    """Nearly all that varies in untrained images comes from the noise, none from the positions."""
    model = NestGenerator(8, (32, 16), (1, 1), (2, 2), latent_dim=8)
    noise = random_array(64, 8)
    params = jax.jit(model.init)(jax.random.key(0), noise)["params"]
    images = np.asarray(run(model, params, noise))
    assert images.var(axis=0, ddof=1).mean() > 0.9 * images.var()


@pytest.mark.parametrize("conditioning", ["concatenate", "add"])
def test_classes_change_the_image(conditioning):
    model = small(**TWO_LEVELS, num_classes=4, class_conditioning=conditioning)
    params, noise = fill(generator_shapes(model)), np.repeat(random_array(1, 6), 4, 0)
    width = {"concatenate": 12, "add": 6}[conditioning]
    assert params["latent_projection"]["kernel"].shape == (width, 16 * 16)
    images = np.asarray(run(model, params, noise, np.array([0, 1, 2, 1])))
    np.testing.assert_allclose(images[1], images[3], atol=1e-5)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(images[first] - images[second]).max() > 1e-2
    # The table's row takes the place of the label.
    table = params["class_embedding"]["embedding"]
    plain = small(**TWO_LEVELS, latent_dim=width)
    latent = noise + table[2] if conditioning == "add" else np.append(noise[0], table[2])[None]
    rest = {name: leaf for name, leaf in params.items() if name != "class_embedding"}
    np.testing.assert_allclose(run(plain, rest, latent[:1])[0], images[2], atol=1e-5)


def test_every_parameter_gets_a_finite_gradient():
    model = small(**TWO_LEVELS, num_classes=2)
    noise, labels = random_array(2, 6), np.array([0, 1])
    params = fill(generator_shapes(model))

    def loss(params):
        return (model.apply({"params": params}, noise, labels, train=True) ** 2).sum()

    for path, leaf in jax.tree_util.tree_flatten_with_path(jax.jit(jax.grad(loss))(params))[0]:
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_eight_devices_make_the_images_of_one():
    model = small(deaggregation="nearest_conv")
    params, noise = fill(generator_shapes(model)), random_array(16, 6)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(noise, NamedSharding(mesh, PartitionSpec("data")))
    images = run(model, jax.device_put(params, NamedSharding(mesh, PartitionSpec())), spread)
    assert len(images.sharding.device_set) == 8
    np.testing.assert_allclose(images, run(model, params, noise), atol=1e-5)


def test_bfloat16_computes_in_half_and_keeps_the_rest():
    exact = small(**TWO_LEVELS, num_classes=2)
    model, noise, labels = exact.clone(dtype=jnp.bfloat16), random_array(4, 6), np.arange(4) % 2
    shapes = generator_shapes(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    params = fill(shapes)
    images, state = run(model, params, noise, labels, mutable=["intermediates"])
    assert images.dtype == jnp.float32
    assert state["intermediates"]["level1"][0].dtype == jnp.bfloat16
    assert state["intermediates"]["level2"][0].dtype == jnp.bfloat16
    expected = np.asarray(run(exact, params, noise, labels))
    assert np.abs(images - expected).max() < 0.05 * np.abs(expected).max()


def test_remat_changes_neither_names_nor_numbers_and_drop_path_draws():
    plain = NestGenerator(4, (8,), (2,), (2,), latent_dim=6, drop_path_rate=0.5)
    remat, noise = plain.clone(remat="block"), random_array(8, 6)
    assert generator_shapes(plain) == generator_shapes(remat)
    params = fill(generator_shapes(plain))

    def loss(params, model, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return (model.apply({"params": params}, noise, train=True, rngs=rngs) ** 2).mean()

    assert "remat" in str(jax.make_jaxpr(lambda p: loss(p, remat, 0))(params))
    step = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    first, second = step(params, plain, 0), step(params, remat, 0)
    np.testing.assert_allclose(first[0], second[0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), first[1], second[1]
    )
    assert abs(step(params, plain, 1)[0] - first[0]) > 1e-4
    np.testing.assert_array_equal(  # evaluation draws nothing
        run(plain, params, noise), run(plain.clone(drop_path_rate=0.0), params, noise)
    )


# Errors


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"image_size": 18}, "image_size=18: does not fit .*multiples of 4; nearest: 16 or 20"),
        ({"image_size": 3}, "image_size=3: does not fit .*nearest: 4$"),
        ({"image_size": 0}, "image_size=0: wrong; allowed: a positive integer"),
        ({"image_size": (16, 16)}, r"image_size=\(16, 16\): wrong; allowed: a positive integer"),
        ({"block_size": 8}, "image_size=16: does not fit block_size=8, .*allowed: 32"),
        ({"block_size": 0}, "block_size=0: wrong; allowed: a positive integer"),
        ({"patch_size": 3}, "image_size=16: does not fit patch_size=3 .*12 or 24"),
        ({"dims": (16, 12)}, r"dims=\(16, 12\): .* one entry per level"),
        (
            {"dims": (18, 12, 8)},
            "dims=18: at level 1, .*'pixel_shuffle' makes .*; allowed: multiples of 4",
        ),
        ({"num_heads": (2, 5, 2)}, "num_heads=5: does not divide dims=12 at level 2"),
        (
            {"depths": (1, 0, 1)},
            "depths=.*: wrong; allowed: a tuple of positive integers, one per level",
        ),
        ({"latent_dim": 0}, "latent_dim=0: wrong; allowed: a positive integer"),
        ({"num_channels": None}, "num_channels=None: wrong; allowed: a positive integer"),
        ({"num_classes": 0}, "num_classes=0: wrong; allowed: a positive integer"),
        (
            {"class_conditioning": "mix"},
            "class_conditioning='mix': unknown; allowed: concatenate, add",
        ),
        (
            {"deaggregation": "conv"},
            "deaggregation='conv': unknown; .*allowed: pixel_shuffle, conv_pixel_",
        ),
        ({"output_activation": "relu"}, "output_activation='relu': unknown; allowed: none, tanh"),
        ({"attention": "local"}, "attention='local': unknown"),
        ({"gelu": "erf"}, "gelu='erf': unknown"),
        (
            {"drop_path_rate": 1.0},
            "drop_path_rate=1.0: wrong; allowed: a number, at least 0 and below 1",
        ),
        ({"mlp_ratio": 0}, "mlp_ratio=0: wrong; allowed: a finite number above 0"),
    ],
)
def test_wrong_fields(overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        small(**overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (None, np.zeros(2, int), "labels are given, but .*num_classes=None"),
        (3, None, "labels are missing, but .*num_classes=3"),
    ],
)
def test_wrong_labels(classes, labels, message):
    model = small(num_classes=classes)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), random_array(2, 6), labels)


@pytest.mark.parametrize("shape", [(2, 5), (6,), (2, 1, 6)])
def test_wrong_noise(shape):
    with pytest.raises(AssertionError, match=r"expected \(None, 6\).*noise: \[b, latent_dim\]"):
        jax.eval_shape(small().init, jax.random.key(0), random_array(*shape))


def test_given_block_size_is_the_derived_one():
    assert generator_shapes(small(block_size=4)) == generator_shapes(small())


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("nest_generator_base_s64_46", {}, "did you mean 'nest_generator_base_s64_64'"),
        ("nest_tiny_s16_32", {}, "name='nest_tiny_s16_32': unknown.*nest_generator_base"),
        ("nest_generator_base_s64_64", {"dim": 8}, "^dim: unknown; did you mean 'dims'"),
        ("nest_generator_base_s64_64", {"latent_dim": "8"}, "latent_dim='8': of type str"),
        ("nest_generator_base_s64_64", {"dtype": "float8"}, "dtype='float8'.*float32"),
        ("nest_generator_base_s64_64", {"depths": [1]}, "one entry per level"),
    ],
)
def test_wrong_names_and_overrides(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        create_generator(name, image_size=64, num_channels=3, num_classes=None, **overrides)


def test_overrides_and_given_fields():
    model = create_generator(
        "nest_generator_tiny_s16_16",
        image_size=32,
        num_channels=1,
        num_classes=10,
        dims=[32, 16, 8],
        latent_dim=None,
        dtype="bfloat16",
    )
    assert (model.image_size, model.num_channels, model.num_classes) == (32, 1, 10)
    assert model.dims == (32, 16, 8) and model.latent_dim == 64 and model.dtype == jnp.bfloat16
