"""The arrays that pictures draw are where they say on the image, and the pieces of the style."""

import numpy as np
import pytest

from inference.pictures import maps, positions, style, subjects, tsne
from inference.pictures.attention_maps import class_token_attention, patch_attention, word_attention
from inference.pictures.features import choose_channels
from inference.pictures.images import join
from layers.intermediates import ATTENTION_WEIGHTS
from tests.model_inputs import fill
from zoo.registry import create_model


def subject_of(name, size, **fields):
    model = create_model(name, num_classes=10, **fields)
    data = subjects.Data(image_size=size, **subjects._PLAIN_DATA)
    subject = subjects._random(lambda _: model, data, name, 10, 3, None)
    subject.predictor.variables["params"] = fill(subject.predictor.variables["params"])
    return subject


@pytest.fixture(scope="module")
def tnt():
    sizes = dict(inner_dim=4, outer_dim=8, num_inner_heads=2, num_outer_heads=2, depth=3)
    return subject_of("tnt_s_patch16_224", (8, 16), **sizes, patch_size=4, word_size=2)


@pytest.fixture(scope="module")
def nest():
    sizes = dict(dims=(8, 12), depths=(1, 2), num_heads=(2, 2), patch_size=2)
    return subject_of("nest_tiny_s64_32", (8, 16), **sizes)


@pytest.fixture(scope="module")
def vit():
    sizes = dict(dim=8, depth=2, num_heads=2, patch_size=4)
    return subject_of("deit_ti_patch16_224", (8, 16), **sizes)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 8, 16, 3), np.uint8)


def apply(subject, images, collection):
    predictor = subject.predictor
    given = subject.normalized(images)
    return predictor.model.apply(predictor.variables, given, mutable=[collection])[1][collection]


def test_words_lie_sentence_by_sentence(tnt, images):
    sown = apply(tnt, images, "intermediates")["layer2_words"][0]  # [b, n, m, c]
    ((title, plane),) = maps.word_maps(tnt, images, [2]).items()
    assert title == "block 2" and plane.shape == (2, 4, 8, 4)
    for row, column in np.ndindex(4, 8):
        sentence, word = row // 2 * 4 + column // 2, row % 2 * 2 + column % 2
        np.testing.assert_allclose(plane[:, row, column], sown[:, sentence, word], atol=1e-5)


def test_features_are_without_class_token(tnt, vit, nest, images):
    for subject, name in ((tnt, "layer3_sentences"), (vit, "block2_tokens")):
        sown = np.asarray(apply(subject, images, "intermediates")[name][0])[:, 1:]
        plane = list(maps.feature_maps(subject, images, None).values())[-1]
        np.testing.assert_allclose(plane, sown.reshape(2, 2, 4, -1), atol=1e-5)
    found = maps.feature_maps(nest, images, None)
    assert [plane.shape for plane in found.values()] == [(2, 4, 8, 8), (2, 2, 4, 12)]
    assert list(found) == ["level 1", "level 2"]


def test_attention_of_patches(tnt, vit, nest, images):
    queries = [(0.1, 0.1), (0.9, 0.6)]  # patches 0, 0 and 1, 2
    for subject, path in ((tnt, ("layer3", "outer")), (vit, ("block2",))):
        weights = apply(subject, images, ATTENTION_WEIGHTS)
        for name in (*path, "attention", "weights"):
            weights = weights[name]
        weights = np.asarray(weights[0]).mean(axis=(1, 2))  # [b, 1 + n, 1 + n]
        drawn = list(patch_attention(subject, images, None, queries).values())[-1]
        for place, token in enumerate((1, 1 + 4 + 2)):
            expected = weights[:, token, 1:].reshape(2, 2, 4)
            np.testing.assert_allclose(drawn[:, place], expected, atol=1e-5)
        token = list(class_token_attention(subject, images, None).values())[-1]
        np.testing.assert_allclose(token, weights[:, 0, 1:].reshape(2, 2, 4), atol=1e-5)
    drawn = patch_attention(nest, images, [1, 3], queries)
    assert list(drawn) == ["level 1, layer 1", "level 2, layer 2"]
    low, top = drawn.values()
    assert low.shape == (2, 2, 4, 8) and top.shape == (2, 2, 2, 4)
    np.testing.assert_allclose(np.nansum(low, axis=(2, 3)), 1, rtol=1e-5)
    np.testing.assert_allclose(top.sum(axis=(2, 3)), 1, rtol=1e-5)
    seen = ~np.isnan(low[0])  # a query sees its own block alone, of 2 x 4 tokens
    assert seen[0, :2, :4].all() and seen[1, 2:, 4:].all() and seen.sum() == 16


def test_attention_of_words(tnt, images):
    weights = apply(tnt, images, ATTENTION_WEIGHTS)["layer1"]["inner"]["attention"]["weights"][0]
    drawn, box = word_attention(tnt, images[1], [1], (0.9, 0.6), [0, 3])
    assert box == (4, 8, 8, 12)
    expected = np.asarray(weights).mean(axis=(2, 3))[1, 4 + 2, [0, 3]].reshape(2, 2, 2)
    np.testing.assert_allclose(drawn["block 1"], expected, atol=1e-5)
    few = subject_of("tnt_s_patch16_224", 16, depth=3, inner_layers=(1, 3))
    with pytest.raises(ValueError, match=r"--blocks=2: has no attention of words; allowed: 1, 3"):
        word_attention(few, images[0], [2], (0, 0), [0])


def test_position_planes(nest, tnt):
    table = nest.predictor.variables["params"]["level1_position"]["embedding"]  # [t, n, c]
    plane = maps.position_planes(nest)["level 1"]
    assert plane.shape == (4, 8, 8)
    np.testing.assert_array_equal(plane[3, 5], table[3, 4 + 1])  # block 1, 1; token 1, 1 in it
    table = tnt.predictor.variables["params"]["sentence_position"]["embedding"]
    np.testing.assert_array_equal(maps.position_planes(tnt)["sentences"][1, 2], table[1 + 4 + 2])
    cosines, rows, columns = positions.similarity(plane)
    assert (rows, columns) == ([0, 1, 2, 3], [0, 1, 2, 4, 5, 6, 7])
    for index, (row, column) in enumerate(np.ndindex(4, 7)):
        assert cosines[index, rows[row], columns[column]] == pytest.approx(1)
    assert np.abs(cosines).max() <= 1 + 1e-6


def test_filters_of_every_stem():
    sizes = dict(inner_dim=4, outer_dim=8, num_inner_heads=2, num_outer_heads=2, depth=1)
    linear = subject_of("tnt_s_patch16_224", 16, **sizes, stem="linear", fusion="paper")
    kernel = linear.predictor.variables["params"]["word_embedding"]["projection"]["kernel"]
    filters = maps.stem_filters(linear)
    assert filters.shape == (4, 4, 4, 3)
    assert filters[2, 1, 3, 0] == kernel[(1 * 4 + 3) * 3, 2]
    conv = subject_of("tnt_s_patch16_224", 16, **sizes)
    assert maps.stem_filters(conv).shape == (4, 7, 7, 3)
    assert maps.stem_filters(subject_of("wrn28_10", 32, depth=10, width=1)).shape == (16, 3, 3, 3)


def test_tiles():
    planes = np.arange(3 * 16 * 20).reshape(3, 16, 20)
    sheet, (rows, columns) = style.tile(planes, 2)
    assert sheet.shape == (16 * 2 + 2, 20 * 2 + 2)
    np.testing.assert_array_equal(sheet[18:, :20], planes[2])
    assert np.isnan(sheet[16:18]).all() and np.isnan(sheet[18:, 20:]).all()
    assert (list(rows), list(columns)) == ([7.5, 25.5], [9.5, 31.5])
    unit = style.to_unit(np.stack([planes[0], np.ones((16, 20))]))
    assert unit[0].min() == 0 and unit[0].max() == 1 and (unit[1] == 0).all()


def test_channels():
    drawn = choose_channels(12, 384, seed=3)
    assert drawn == choose_channels(12, 384, seed=3) != choose_channels(12, 384, seed=4)
    assert len(set(drawn)) == 12 and drawn == sorted(drawn)
    assert choose_channels(12, 5, seed=0) == [0, 1, 2, 3, 4]
    assert maps.three_depths(12) == (1, 6, 12) and maps.three_depths(1) == (1,)


def test_like_channels_are_neighbours():
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(2, 1, 16))
    channels = kinds * rng.uniform(1, 5, (2, 20, 1)) + rng.normal(scale=0.1, size=(2, 20, 16))
    named = {name: one.T.reshape(4, 4, 20) for name, one in zip("ab", channels, strict=True)}
    places = tsne.embed(named)
    centres = {name: one.mean(axis=0) for name, one in places.items()}
    between = np.linalg.norm(centres["a"] - centres["b"])
    for name, one in places.items():
        assert np.linalg.norm(one - centres[name], axis=1).max() < between / 2
    with pytest.raises(ValueError, match="not 2 x 2 and 4 x 4"):
        tsne.embed({"a": named["a"], "b": np.zeros((2, 2, 20))})


def test_joined_quadrants():
    parts = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(3, 2)
    assert join(parts)[..., 0].tolist() == [[0] * 3 + [1] * 3] * 2 + [[2] * 3 + [3] * 3] * 2
