"""TNT: words and sentences, the whole model, its costs and its errors.

The golden files hold parameter names and shapes, which are a public format. To rewrite them
after an intended change: UPDATE_GOLDEN=1 python -m pytest tests/tnt/test_model.py
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.model_inputs import check_golden, lines_of, random_array, random_params
from tnt.block import TransformerBlock
from tnt.fusion import FUSIONS
from tnt.model import Tnt
from tnt.stem import STEMS, patches
from zoo.load import parameter_shapes

# Compiling is most of the work of these tests, so the compiler does not optimise.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SMALL = {
    "num_classes": 10,
    "inner_dim": 6,
    "outer_dim": 16,
    "num_inner_heads": 2,
    "num_outer_heads": 4,
    "depth": 3,
    "patch_size": 4,
    "word_size": 2,
    "inner_layers": (1, 3),
}

# The released form, the paper's and that of timm's first port.
FORMS = {
    "released": {},
    "legacy": {"stem": "conv7_image", "fusion": "legacy"},
    "paper": {"stem": "linear", "fusion": "paper"},
}


def small(**overrides):
    return Tnt(**(SMALL | overrides))


@partial(jit, static_argnums=0)
def run(model, params, images):
    """Logits and intermediates of a forward pass."""
    return model.apply({"params": params}, images, mutable=["intermediates"])


def features(model, params, images):
    """Intermediates of a forward pass: name -> array."""
    found = run(model, params, images)[1]["intermediates"]
    return {name: np.asarray(value) for name, (value,) in found.items()}


def logits_of(model, params, images):
    return np.asarray(run(model, params, images)[0])


# Words


@pytest.mark.parametrize(("size", "stride"), [(4, 4), (4, 2), (3, 1), (6, 4)])
def test_patches_against_their_index_formula(size, stride):
    h, w = size + 2 * stride, size + 3 * stride
    x = random_array(2, h, w, 3)
    found = patches(x, size, stride)
    assert found.shape == (2, 12, size, size, 3)
    for i in range(3):
        for j in range(4):
            top, left = i * stride, j * stride
            expected = x[:, top : top + size, left : left + size]
            np.testing.assert_array_equal(found[:, i * 4 + j], expected)


def stem_of(name, **overrides):
    fields = {"dim": 5, "patch_size": 4, "patch_stride": 4, "word_size": 2}
    return STEMS[name](**(fields | overrides))


def conv_at(image, kernel, bias, row, column):
    """A 7x7 convolution around one pixel of [h, w, channels], zeros outside."""
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
    return np.einsum("ijk,ijkc->c", padded[row : row + 7, column : column + 7], kernel) + bias


@pytest.mark.parametrize("stride", [4, 2])
@pytest.mark.parametrize("name", sorted(STEMS))
def test_words_of_every_stem_equal_numpy(name, stride):
    images = random_array(1, 8, 12, 3)
    stem = stem_of(name, patch_stride=stride)
    params = random_params(stem, images)
    kernel, bias = params["projection"]["kernel"], params["projection"]["bias"]
    found = stem.apply({"params": params}, images)
    gh, gw = (8 - 4) // stride + 1, (12 - 4) // stride + 1
    assert found.shape == (1, gh * gw, 4, 5)
    for n in range(gh * gw):
        top, left = n // gw * stride, n % gw * stride
        patch = images[0, top : top + 4, left : left + 4]
        for m in range(4):
            row, column = m // 2 * 2, m % 2 * 2
            if name == "linear":
                pixels = patch[row : row + 2, column : column + 2].reshape(-1)
                expected = pixels @ kernel + bias
            elif name == "conv7":
                expected = conv_at(patch, kernel, bias, row, column)
            else:
                expected = conv_at(images[0], kernel, bias, top + row, left + column)
            np.testing.assert_allclose(found[0, n, m], expected, atol=1e-4)


def test_words_share_one_position_table():
    """Without a stem's share (zero weights), the words of all sentences are the table."""
    model, images = small(depth=1, inner_layers=()), random_array(2, 8, 12, 3)
    params = random_params(model, images)
    params["word_embedding"] = jax.tree.map(np.zeros_like, params["word_embedding"])
    table = params["word_position"]["embedding"]
    assert table.shape == (4, 6)
    words = features(model, params, images)["layer1_words"]
    np.testing.assert_allclose(words, np.broadcast_to(table, (2, 6, 4, 6)), atol=1e-6)


@pytest.mark.parametrize("name", ["sentence_position", "word_position"])
def test_position_embeddings_are_each_on_or_off(name):
    """An absent table is a table of zeros."""
    images = random_array(1, 8, 8, 3)
    whole, without = (small(depth=1, inner_layers=None, **{name: on}) for on in (True, False))
    assert set(parameter_shapes(whole, 8)) - set(parameter_shapes(without, 8)) == {name}
    params = random_params(whole, images)
    zeroed = params | {name: jax.tree.map(np.zeros_like, params[name])}
    del params[name]
    expected = logits_of(whole, zeroed, images)
    np.testing.assert_allclose(logits_of(without, params, images), expected, atol=1e-5)


# Sentences


def test_inner_blocks_keep_sentences_apart_and_outer_blocks_join_them():
    """A pixel changes its own sentence's words; the words of others never, the sentences all."""
    model, images = small(), random_array(1, 8, 12, 3)
    params = random_params(model, images)
    changed = images.copy()
    changed[:, 5, 9] += 1  # sentence (1, 2), number 5
    before, after = (features(model, params, x) for x in (images, changed))
    for layer in (1, 2, 3):
        words = np.any(before[f"layer{layer}_words"] != after[f"layer{layer}_words"], (0, 2, 3))
        assert words.tolist() == [False] * 5 + [True]
        name = f"layer{layer}_sentences"
        assert np.any(before[name] != after[name], (0, 2)).all()


@pytest.mark.parametrize("kind", sorted(FUSIONS))
def test_class_token_gets_no_word(kind):
    """Fusion alone: with the outer block's outputs zero, the class token is what it was."""
    model, images = small(depth=1, inner_layers=(1,), fusion=kind), random_array(2, 8, 8, 3)
    params = random_params(model, images)
    outer = params["layer1"]["outer"]
    for part in (outer["attention"]["out"], outer["mlp"]["dense2"]):
        part.update({leaf: np.zeros_like(array) for leaf, array in part.items()})
    table = params["sentence_position"]["embedding"]
    found = features(model, params, images)
    expected = np.broadcast_to(params["class_token"] + table[0], (2, 16))
    np.testing.assert_allclose(found["layer1_sentences"][:, 0], expected, atol=1e-6)
    if kind == "paper":  # sentences start as zeros
        words = found["layer1_words"].reshape(2, 4, -1)
        projection = params["layer1"]["fusion"]["projection"]
        expected = table[1:] + words @ projection["kernel"] + projection["bias"]
        np.testing.assert_allclose(found["layer1_sentences"][:, 1:], expected, atol=1e-5)


def test_layers_without_inner_block_leave_the_words_alone():
    model, images = small(), random_array(1, 8, 8, 3)
    params = random_params(model, images)
    assert [sorted(params[f"layer{i}"]) for i in (1, 2, 3)] == [
        ["fusion", "inner", "outer"],
        ["outer"],
        ["fusion", "inner", "outer"],
    ]
    found = features(model, params, images)
    np.testing.assert_array_equal(found["layer1_words"], found["layer2_words"])
    assert not np.allclose(found["layer2_words"], found["layer3_words"])


def test_all_layers_have_an_inner_block_by_default():
    default, named = (parameter_shapes(small(inner_layers=i), 8) for i in (None, (1, 2, 3)))
    assert default == named


def test_pooling_takes_the_class_token_or_the_mean_of_the_sentences():
    images = random_array(2, 8, 8, 3)
    token = small(depth=1, inner_layers=None)
    average = token.clone(pooling="average")
    assert parameter_shapes(token, 8) == parameter_shapes(average, 8)
    params = random_params(token, images)
    x = features(token, params, images)["layer1_sentences"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * params["norm"]["scale"] + params["norm"]["bias"]
    for model, pooled in ((token, x[:, 0]), (average, x[:, 1:].mean(1))):
        expected = pooled @ params["head"]["kernel"] + params["head"]["bias"]
        np.testing.assert_allclose(logits_of(model, params, images), expected, atol=1e-4)


# Drop path


def test_inner_drop_path_is_per_patch_and_outer_per_image():
    """With an attention that adds 0 and a perceptron that adds 1, sums show what was dropped."""
    block = TransformerBlock(
        num_heads=2,
        mlp_ratio=2,
        qkv_bias=False,
        gelu="exact",
        drop_path_rate=0.4,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        dtype=jnp.float32,
    )

    def added(*shape):
        x = np.zeros(shape, np.float32)
        shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, False))["params"]
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        params["mlp"]["dense2"]["bias"] += 1
        rngs = {"dropout": jax.random.key(3)}
        return np.asarray(block.apply({"params": params}, x, True, rngs=rngs))

    words = added(40, 50, 3, 4)  # [b, n, m, c]
    kept = words[:, :, 0, 0] > 0
    np.testing.assert_allclose(
        words, np.where(kept, 1 / 0.6, 0)[:, :, None, None] * np.ones((3, 4))
    )
    assert abs(kept.mean() - 0.6) < 0.05
    assert np.all((kept.mean(1) > 0.2) & (kept.mean(1) < 0.95))  # differs inside each image
    sentences = added(2000, 3, 4)  # [b, 1 + n, d]
    kept = sentences[:, 0, 0] > 0
    np.testing.assert_allclose(
        sentences, np.where(kept, 1 / 0.6, 0)[:, None, None] * np.ones((3, 4))
    )
    assert abs(kept.mean() - 0.6) < 0.05


def test_drop_path_grows_from_nothing_at_the_first_layer():
    """With one layer in all, the rate is that of the first: 0."""
    model, images = small(depth=1, inner_layers=None, drop_path_rate=0.9), random_array(4, 8, 8, 3)
    params = random_params(model, images)
    rngs = {"dropout": jax.random.key(0)}
    trained = jit(lambda: model.apply({"params": params}, images, train=True, rngs=rngs))()
    np.testing.assert_allclose(trained, logits_of(model, params, images), atol=1e-5)


def test_train_draws_and_evaluation_does_not():
    model = small(depth=2, inner_layers=(2,), drop_path_rate=0.5)
    images = random_array(16, 8, 8, 3)
    variables = {"params": random_params(model, images)}
    apply = jit(model.apply, static_argnames="train")
    evaluated = apply(variables, images)
    np.testing.assert_array_equal(apply(variables, images, train=False), evaluated)
    first, second = (
        apply(variables, images, train=True, rngs={"dropout": jax.random.key(k)}) for k in (0, 1)
    )
    assert not np.allclose(first, evaluated) and not np.allclose(first, second)


# The model


@pytest.mark.parametrize("form", FORMS)
def test_parameter_names_are_the_golden_ones(form):
    model = small(**FORMS[form], squeeze_excite=form == "released")
    check_golden(f"tnt_{form}.txt", lines_of(parameter_shapes(model, 12)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("size", "stride", "grid"),
    [((8, 8), None, (2, 2)), ((4, 20), None, (1, 5)), ((12, 8), 2, (5, 3)), ((6, 4), 2, (2, 1))],
)
def test_any_size_that_the_patches_cover(form, size, stride, grid):
    model = small(**FORMS[form], patch_stride=stride)
    params, n = parameter_shapes(model, size), grid[0] * grid[1]
    assert params["sentence_position"]["embedding"].shape == (1 + n, 16)
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits, state = jax.eval_shape(
        lambda p, x: model.apply({"params": p}, x, mutable=["intermediates"]), params, images
    )
    assert logits.shape == (2, 10) and logits.dtype == jnp.float32
    assert len(state["intermediates"]) == 2 * 3 + 1  # and the input of the head
    for layer in (1, 2, 3):
        (words,) = state["intermediates"][f"layer{layer}_words"]
        (sentences,) = state["intermediates"][f"layer{layer}_sentences"]
        assert words.shape == (2, n, 4, 6) and sentences.shape == (2, 1 + n, 16)


def test_gradients_with_respect_to_words_and_sentences():
    """The perturbations of a layer give the derivative along any direction of its maps."""
    model, images = small(depth=2, inner_layers=None), random_array(2, 8, 8, 3)
    params = random_params(model, images)
    shapes = jax.eval_shape(
        lambda: model.apply({"params": params}, images, mutable=["perturbations"])[1]
    )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes["perturbations"])
    assert sorted(zeros) == [f"layer{i}_{part}" for i in (1, 2) for part in ("sentences", "words")]

    def logit_of(maps):
        return model.apply({"params": params, "perturbations": maps}, images)[:, 3].sum()

    logit, gradient = jit(logit_of), jit(jax.grad(logit_of))(zeros)
    assert not gradient["layer2_words"].any()  # nothing reads the last words
    for name in ("layer1_words", "layer1_sentences", "layer2_sentences"):
        step = 1e-2 * random_array(*zeros[name].shape)
        difference = logit(zeros | {name: step}) - logit(zeros | {name: -step})
        slope = 2 * float((gradient[name] * step).sum())
        assert float(difference) == pytest.approx(slope, rel=0.05, abs=1e-3)


def test_init_returns_parameters_only():
    variables = jax.eval_shape(small().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert list(variables) == ["params"]


def test_initial_values():
    """Kernels, positions and class token are normal(0.02) cut at 0.04; biases 0, norm scales 1.

    The stem's convolution starts as PyTorch's: uniform within 1 / sqrt(7 * 7 * 3).
    """
    model = small(depth=1, inner_layers=None, squeeze_excite=True, outer_dim=32, inner_dim=12)
    params = jit(model.init)(jax.random.key(0), random_array(1, 8, 8, 3))["params"]
    conv = params.pop("word_embedding")["projection"]
    limit = 147**-0.5
    assert 0.9 * limit < np.abs(conv["kernel"]).max() <= limit
    assert abs(np.std(conv["kernel"]) / (limit / 3**0.5) - 1) < 0.05
    assert 0 < np.abs(conv["bias"]).max() <= limit
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        kind = path[-1].key
        if kind in ("kernel", "embedding", "class_token"):
            assert 0 < np.abs(leaf).max() <= 0.04 and 0.012 < np.std(leaf) < 0.023
        else:
            np.testing.assert_array_equal(leaf, {"bias": 0, "scale": 1}[kind])


def test_the_papers_class_token_starts_as_zeros():
    model = small(fusion="paper", depth=1, inner_layers=None)
    images = jnp.zeros((1, 4, 4, 3))
    init = jit(lambda: model.init(jax.random.key(0), images)["params"]["class_token"])
    assert not init().any()


@pytest.mark.parametrize("remat", ["attention", "dots", "block"])
def test_remat_changes_neither_names_nor_numbers(remat):
    images = random_array(4, 8, 8, 3)
    plain = small(depth=2, inner_layers=(1,), drop_path_rate=0.5)
    remat = plain.clone(remat=remat)
    assert parameter_shapes(plain, 8) == parameter_shapes(remat, 8)
    params = random_params(plain, images)

    def loss(params, model):
        rngs = {"dropout": jax.random.key(1)}
        return (model.apply({"params": params}, images, train=True, rngs=rngs) ** 2).sum()

    text = str(jax.make_jaxpr(lambda p: loss(p, remat))(params))
    assert "remat" in text or "checkpoint" in text
    step = jit(jax.value_and_grad(loss), static_argnums=1)
    first, second = step(params, plain), step(params, remat)
    np.testing.assert_allclose(first[0], second[0], rtol=1e-5)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(first[1]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), first[1], second[1]
    )


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_computes_in_half_and_keeps_the_rest(form):
    images = random_array(4, 8, 8, 3)
    exact = small(**FORMS[form], depth=1, inner_layers=None, squeeze_excite=True, dropout_rate=0.1)
    model = exact.clone(dtype=jnp.bfloat16)
    params = random_params(model, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}

    for train in (False, True):
        logits, state = jax.eval_shape(
            lambda key, train=train: model.apply(
                {"params": params},
                images,
                train=train,
                rngs={"dropout": key},
                mutable=["intermediates"],
            ),
            jax.random.key(0),
        )
        assert logits.dtype == jnp.float32
        state["intermediates"].pop("pre_logits")  # float32, as the logits
        assert {m.dtype for m in jax.tree.leaves(state)} == {jnp.dtype("bfloat16")}
    expected = logits_of(exact, params, images)
    found = logits_of(model, params, images)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("form", ["released", "paper"])
def test_every_parameter_gets_a_gradient(form):
    model = small(**FORMS[form], depth=1, inner_layers=None, squeeze_excite=True)
    images = random_array(16, 8, 8, 3)
    params = random_params(model, images)
    gradient = jit(jax.grad(lambda p: (model.apply({"params": p}, images) ** 2).sum()))(params)
    flat = jax.tree_util.tree_flatten_with_path(gradient)[0]
    dead = [jax.tree_util.keystr(path) for path, leaf in flat if not np.abs(leaf).max() > 0]
    assert not dead


# Errors


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_inner_heads": 4}, "num_inner_heads=4: does not divide inner_dim=6"),
        ({"num_outer_heads": 3}, "num_outer_heads=3: does not divide outer_dim=16"),
        ({"word_size": 3}, "word_size=3: does not divide patch_size=4; allowed: divisors of 4"),
        ({"word_size": 8}, "word_size=8: does not divide"),
        ({"inner_layers": (0, 1)}, r"inner_layers=\(0, 1\): wrong; .* counted from 1"),
        ({"inner_layers": [1]}, r"inner_layers=\[1\]: wrong; allowed: None or a tuple"),
        (
            {"inner_layers": (1, 4, 5)},
            r"inner_layers=\(1, 4, 5\): out of range; allowed: 1 to depth=3",
        ),
        ({"inner_layers": (2, 1)}, "each layer once, in increasing order"),
        ({"inner_layers": (1, 1)}, "each layer once"),
        (
            {"inner_layers": (), "fusion": "paper"},
            "inner_layers=..: nothing .* with fusion='paper'",
        ),
        (
            {"patch_stride": 5},
            "patch_stride=5: wrong; allowed: None or an integer from 1 to patch_size=4",
        ),
        ({"patch_stride": 0}, "patch_stride=0: wrong; allowed: None"),
        (
            {"patch_stride": 3, "stem": "conv7_image"},
            "patch_stride=3: not on .*stem='conv7_image'.*; allowed: multiples of word_size=2",
        ),
        ({"stem": "conv"}, "stem='conv': unknown; .*allowed: conv7, conv7_image, linear"),
        ({"fusion": "sum"}, "fusion='sum': unknown; .*allowed: released, legacy, paper"),
        ({"pooling": "max"}, "pooling='max': unknown; .*allowed: class_token, average"),
        ({"gelu": "erf"}, "gelu='erf': unknown; .*allowed: tanh, exact"),
        (
            {"drop_path_rate": 1.0},
            "drop_path_rate=1.0: wrong; allowed: a number, at least 0 and below 1",
        ),
        ({"dropout_rate": np.float64(0.1)}, "dropout_rate=.*: wrong; allowed: a number"),
        ({"attention_dropout_rate": "0.1"}, "attention_dropout_rate='0.1': wrong"),
        ({"mlp_ratio": 0}, "mlp_ratio=0: wrong; allowed: a finite number above 0"),
        ({"mlp_ratio": 0.1}, "leaves no hidden channel at width 6"),
        ({"depth": 0}, "depth=0: wrong; allowed: a positive integer"),
        ({"patch_size": 4.0}, "patch_size=4.0: wrong; allowed: a positive integer"),
        ({"num_classes": None}, "num_classes=None: wrong; allowed: a positive integer"),
        (
            {"outer_dim": 2, "num_outer_heads": 1, "squeeze_excite": True},
            "outer_dim=2: too narrow for squeeze_excite; allowed: at least 4",
        ),
    ],
)
def test_wrong_fields(overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        small(**overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "size", "message"),
    [
        (
            {},
            (10, 8),
            r"=\(10, 8\): .* multiples of patch_size=4; nearest height: 8 or 12, .*: 8 .fits",
        ),
        ({}, (3, 0), "nearest height: 4, nearest width: 4"),
        (
            {"patch_stride": 3},
            (12, 10),
            r"patch_size=4 plus multiples of patch_stride=3; nearest height: 10 or 13, .*10 .fits",
        ),
    ],
)
def test_wrong_image_sizes(overrides, size, message):
    with pytest.raises(ValueError, match=message) as error:
        parameter_shapes(small(**overrides), size)
    assert "\n" not in str(error.value)


def test_images_of_another_rank():
    with pytest.raises(AssertionError, match=r"rank 3 .*images: \[b, height, width, channels\]"):
        jax.eval_shape(small().init, jax.random.key(0), jnp.zeros((16, 16, 3)))
