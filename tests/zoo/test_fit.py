"""Weights for another image size or other classes: against SciPy, Pillow and the official rule."""

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from scipy import ndimage

from baselines.vit import Vit
from nest.model import Nest
from tnt.convert import to_timm
from tnt.model import Tnt
from zoo.fit import PositionTable, position_tables, resize_table
from zoo.load import load_variables, load_weights, parameter_shapes
from zoo.registry import create_model
from zoo.save import write_weights

NEST = Nest(10, (8, 16, 32), (1, 1, 2), (2, 4, 8), patch_size=4)
TNT = Tnt(10, inner_dim=8, outer_dim=32, depth=2, num_inner_heads=2, num_outer_heads=4)
VIT = Vit(10, dim=24, depth=1, num_heads=4, patch_size=4)


def random_params(model, size, seed=0):
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(model, size)
    return jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)


def save(folder, model, size):
    params, file = random_params(model, size), folder / "weights.npz"
    sides = (size, size) if isinstance(size, int) else size
    write_weights(file, {"params": params}, model, sides)
    return params, file


def plane_of(table, grid):
    """The plane as a person would lay the blocks of [t, n, c] out, one token after the other."""
    t, n, c = table.shape
    side = round(n**0.5)
    plane = np.zeros((grid * side, grid * side, c), np.float32)
    for block in range(t):
        for token in range(n):
            row = block // grid * side + token // side
            column = block % grid * side + token % side
            plane[row, column] = table[block, token]
    return plane


def assert_rest_is_the_same(old, new, but):
    for path, array in jax.tree_util.tree_leaves_with_path(old):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name not in but:
            other = new
            for key in path:
                other = other[key.key]
            np.testing.assert_array_equal(array, other, err_msg=name)


# Position tables


def test_nest_at_384_is_the_linear_zoom_of_the_plane(tmp_path):
    model = NEST.clone(dims=(12, 24, 48), num_heads=(3, 6, 12))
    old, file = save(tmp_path, model, 224)
    variables, report = load_variables(file, model, image_size=384)
    new = variables["params"]
    for level, grid in ((1, 4), (2, 2), (3, 1)):
        name = f"level{level}_position"
        assert report.resized[f"{name}/embedding"][1] == (
            grid**2,
            576,
            old[name]["embedding"].shape[-1],
        )
        plane = plane_of(old[name]["embedding"], grid)  # 14 tokens a block
        expected = ndimage.zoom(plane, (24 / 14, 24 / 14, 1), order=1)
        np.testing.assert_allclose(plane_of(new[name]["embedding"], grid), expected, atol=1e-5)
    assert_rest_is_the_same(old, new, but=report.resized)
    logits = jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((2, 384, 384, 3), "f4"))
    assert logits.shape == (2, 10)


def test_nest_in_blocks_is_the_official_rule(tmp_path):
    """libml/utils.py zooms [1, t, h, w, c] with factors (1, 1, ratio, ratio, 1) and order 1."""
    old, file = save(tmp_path, NEST, 64)
    new = load_weights(file, NEST, image_size=96, resize="linear_in_blocks")
    for level in (1, 2, 3):
        table = old[f"level{level}_position"]["embedding"]
        t, _, c = table.shape
        blocks = table.reshape(1, t, 4, 4, c)
        expected = ndimage.zoom(blocks, (1, 1, 6 / 4, 6 / 4, 1), order=1).reshape(t, 36, c)
        found = new[f"level{level}_position"]["embedding"]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        plane = load_weights(file, NEST, image_size=96)[f"level{level}_position"]["embedding"]
        assert (level == 3) == np.allclose(found, plane)  # one block is the plane


def test_tnt_at_384_keeps_class_token_and_words(tmp_path):
    old, file = save(tmp_path, TNT, 224)
    variables, report = load_variables(file, TNT, image_size=384)
    assert report.resized == {"sentence_position/embedding": ((197, 32), (577, 32))}
    old_table = old["sentence_position"]["embedding"]
    table = variables["params"]["sentence_position"]["embedding"]
    np.testing.assert_array_equal(table[0], old_table[0])
    expected = pillow_resized(old_table[1:].reshape(14, 14, 32), (24, 24))
    np.testing.assert_allclose(table[1:].reshape(24, 24, 32), expected, atol=1e-4)
    assert_rest_is_the_same(old, variables["params"], but=report.resized)

    linear = load_weights(file, TNT, image_size=384, resize="linear")
    linear = linear["sentence_position"]["embedding"]
    expected = ndimage.zoom(old_table[1:].reshape(14, 14, 32), (24 / 14, 24 / 14, 1), order=1)
    np.testing.assert_allclose(linear[1:].reshape(24, 24, 32), expected, atol=1e-5)
    np.testing.assert_array_equal(linear[0], old_table[0])


def pillow_resized(plane, sides):
    """Pillow's bicubic filter, which anti-aliases and takes a pixel as a square."""
    channels = [
        np.asarray(Image.fromarray(channel).resize(sides[::-1], Image.Resampling.BICUBIC))
        for channel in plane.transpose(2, 0, 1)
    ]
    return np.stack(channels, axis=-1)


@pytest.mark.parametrize("sides", [(5, 5), (12, 20)])
def test_bicubic_is_that_of_pillow_both_ways(sides):
    old = np.random.default_rng(3).normal(size=(1 + 81, 6)).astype(np.float32)
    table = PositionTable(sides, None, 1, "bicubic")
    new = resize_table(old, table, None)
    expected = pillow_resized(old[1:].reshape(9, 9, 6), sides)
    np.testing.assert_allclose(new[1:].reshape(*sides, 6), expected, atol=1e-5)


def test_a_rectangle(tmp_path):
    for model in (NEST, TNT, VIT, VIT.clone(pooling="average")):
        _, file = save(tmp_path, model, 64)
        variables, report = load_variables(file, model, image_size=(96, 32))
        assert len(report.resized) == len(position_tables(model, (96, 32)))
        jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((1, 96, 32, 3), "f4"))


@pytest.mark.parametrize("sides", [(128, 128), (192, 192), (256, 64), (64, 128)])
def test_of_a_rectangle_to_as_many_tokens_and_others(tmp_path, sides):
    """4 x 16 patches of TNT: as many as 8 x 8, and a square number, but no square."""
    old, file = save(tmp_path, TNT, (64, 256))
    variables, report = load_variables(file, TNT, image_size=sides)
    assert set(report.resized) == {"sentence_position/embedding"}
    table = old["sentence_position"]["embedding"]
    new = variables["params"]["sentence_position"]["embedding"]
    patches = (sides[0] // 16, sides[1] // 16)
    expected = pillow_resized(table[1:].reshape(4, 16, 32), patches)
    np.testing.assert_allclose(new[1:].reshape(*patches, 32), expected, atol=1e-4)
    same, report = load_variables(file, TNT, image_size=(64, 256))
    assert not report.resized
    np.testing.assert_array_equal(same["params"]["sentence_position"]["embedding"], table)


def test_a_file_that_tells_no_size_is_of_a_square(tmp_path):
    """4 x 16 patches of an official TNT, all of which are for squares: 8 x 8 there."""
    params, file = random_params(TNT, 128), tmp_path / "model.safetensors"
    save_file(to_timm(params, TNT), file)
    variables, report = load_variables(file, TNT, image_size=(64, 256))
    assert set(report.resized) == {"sentence_position/embedding"}
    table = params["sentence_position"]["embedding"]
    expected = pillow_resized(table[1:].reshape(8, 8, 32), (4, 16))
    new = variables["params"]["sentence_position"]["embedding"]
    np.testing.assert_allclose(new[1:].reshape(4, 16, 32), expected, atol=1e-4)
    assert not load_variables(file, TNT, image_size=128)[1].resized


@pytest.mark.parametrize("how", ["linear", "linear_in_blocks"])
def test_a_rectangle_of_nest_turned(tmp_path, how):
    model = NEST.clone(dims=(8, 16), num_heads=(2, 4), depths=(1, 1))
    old, file = save(tmp_path, model.clone(block_size=(4, 8)), (32, 64))
    model = model.clone(block_size=(8, 4))
    variables, report = load_variables(file, model, image_size=(64, 32), resize=how)
    assert set(report.resized) == {"level1_position/embedding", "level2_position/embedding"}
    table = old["level1_position"]["embedding"]  # four blocks of 4 x 8
    new = variables["params"]["level1_position"]["embedding"].reshape(2, 2, 8, 4, 8)
    blocks = table.reshape(2, 2, 4, 8, 8)
    if how == "linear_in_blocks":
        expected = ndimage.zoom(blocks, (1, 1, 2, 0.5, 1), order=1)
    else:
        rows = [np.concatenate(row, axis=1) for row in blocks]
        expected = ndimage.zoom(np.concatenate(rows), (2, 0.5, 1), order=1)
        rows = [np.concatenate(row, axis=1) for row in new]
        new = np.concatenate(rows)
    np.testing.assert_allclose(new, expected, atol=1e-5)


def test_tables_know_every_parameter_that_depends_on_the_image():
    for name in ("nest_tiny_s196_224", "nest_tiny_s16_32", "tnt_s_patch16_224"):
        model = create_model(name, num_classes=10)
        small, large = (parameter_shapes(model, size) for size in (64, 128))
        differing = jax.tree.map(lambda a, b: a.shape != b.shape, small, large)
        leaves = jax.tree_util.tree_leaves_with_path(differing)
        names = {
            jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if leaf
        }
        assert names == position_tables(model, (128, 128)).keys()


def test_what_cannot_be_resized_is_mis_shaped(tmp_path):
    _, file = save(tmp_path, TNT, 64)
    with pytest.raises(
        ValueError, match=r"mis-shaped: .*word_position/embedding \(16, 8\) instead"
    ):
        load_weights(file, TNT.clone(patch_size=32), image_size=64, ignore_fields=["patch_size"])
    with pytest.raises(ValueError, match="resize='cubic': unknown; did you mean 'bicubic'.*linear"):
        load_weights(file, TNT, image_size=64, resize="cubic")


# The head


@pytest.mark.parametrize("how", ["zeros", "noise"])
def test_another_number_of_classes(tmp_path, how):
    old, file = save(tmp_path, NEST, 32)
    model = NEST.clone(num_classes=7)
    variables, report = load_variables(file, model, image_size=32, reinit_head=how)
    head = variables["params"]["head"]
    assert report.reinitialized == {"head/kernel": ((32, 10), (32, 7)), "head/bias": ((10,), (7,))}
    assert not head["bias"].any() and head["bias"].shape == (7,)
    assert head["kernel"].shape == (32, 7)
    if how == "zeros":
        assert not head["kernel"].any()
    else:
        assert 0.012 < head["kernel"].std() < 0.023 and abs(head["kernel"]).max() <= 0.04
        other = load_weights(file, model, image_size=32, reinit_head="noise", seed=1)
        assert not np.array_equal(other["head"]["kernel"], head["kernel"])
    assert_rest_is_the_same(old, variables["params"], but=report.reinitialized)


def test_the_head_stays_otherwise(tmp_path):
    old, file = save(tmp_path, NEST, 32)
    for how in ("zeros", "noise", "never"):
        new = load_weights(file, NEST, image_size=32, reinit_head=how)
        np.testing.assert_array_equal(new["head"]["kernel"], old["head"]["kernel"])
    message = r"2 mis-shaped: head/bias \(10,\) instead of \(7,\), head/kernel \(32, 10\)"
    with pytest.raises(ValueError, match=message):
        load_weights(file, NEST.clone(num_classes=7), image_size=32, reinit_head="never")
    with pytest.raises(
        ValueError, match="reinit_head='ones': unknown; allowed: zeros, noise, never"
    ):
        load_weights(file, NEST, image_size=32, reinit_head="ones")


def test_a_head_of_another_width_is_mis_shaped(tmp_path):
    _, file = save(tmp_path, NEST, 32)
    model = NEST.clone(dims=(8, 16, 16), num_classes=7)
    with pytest.raises(ValueError, match=r"head/kernel \(32, 10\) instead of \(16, 7\)"):
        load_weights(file, model, image_size=32, ignore_fields=["dims"])
