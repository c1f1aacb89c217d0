"""The table of models: exact parameter counts of every variant, and what create_model refuses."""

import itertools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines.full_attention_generator import FullAttentionGenerator
from kernels.gelu import SHARES, Gelu
from layers.attention import ATTENTIONS, Attention
from layers.mlp import Mlp
from layers.transformer_layer import TransformerLayer
from nest.aggregation import AGGREGATIONS, PADDINGS, Aggregation, AggregationName, Padding
from nest.gan.deaggregation import DEAGGREGATIONS, DeaggregationName
from nest.gan.generator import (
    CLASS_CONDITIONINGS,
    OUTPUT_ACTIVATIONS,
    ClassConditioning,
    OutputActivation,
    generator_shapes,
)
from nest.gan.stylegan import DESIGNS, DesignName
from tnt.block import TransformerBlock
from tnt.fusion import FUSIONS, FusionName
from tnt.model import POOLINGS, Pooling, TntLayer
from tnt.stem import STEMS, StemName
from zoo.load import parameter_shapes
from zoo.registry import (
    DISCRIMINATORS,
    GENERATORS,
    MODELS,
    create_discriminator,
    create_generator,
    create_model,
    model_fields,
)

# name -> (classes, image size, parameters). The first six are those of the official code
# (papers' 17/38/68M; CIFAR as in its own printout), the last three are computed by `count` below
# and rounded in the notes on the paper: 6.26, 24.47, 96.72M.
COUNTS = {
    "nest_tiny_s196_224": (1000, 224, 17_057_608),
    "nest_small_s196_224": (1000, 224, 38_351_176),
    "nest_base_s196_224": (1000, 224, 67_723_368),
    "nest_tiny_s16_32": (10, 32, 6_006_730),
    "nest_small_s16_32": (10, 32, 22_849_930),
    "nest_base_s16_32": (10, 32, 89_050_378),
    "nest_tiny_s64_32": (10, 32, 6_264_202),
    "nest_small_s64_32": (10, 32, 24_472_330),
    "nest_base_s64_32": (10, 32, 96_720_394),
    # timm's deit_*_patch16_224, torchvision's resnet50, the Wide ResNet paper's 36.5M.
    "deit_ti_patch16_224": (1000, 224, 5_717_416),
    "deit_s_patch16_224": (1000, 224, 22_050_664),
    "deit_b_patch16_224": (1000, 224, 86_567_656),
    "resnet50": (1000, 224, 25_557_032),
    "wrn28_10": (10, 32, 36_479_194),
    # Issue and notes on the paper: the official code without its unused `outer_tokens`, timm's
    # first port; the ablations by `count_tnt`, and rounded in the notes.
    "tnt_ti_patch16_224": (1000, 224, 6_076_408),
    "tnt_s_patch16_224": (1000, 224, 23_768_584),
    "tnt_b_patch16_224": (1000, 224, 65_428_680),
    "tnt_s_legacy_patch16_224": (1000, 224, 23_755_336),
    "tnt_s1": (1000, 224, 22_519_432),
    "tnt_s2": (1000, 224, 22_363_288),
    "tnt_s3": (1000, 224, 22_207_144),
    "tnt_s4": (1000, 224, 22_051_000),
    "tnt_s_se": (1000, 224, 24_668_296),
    "tnt_s_words64": (1000, 224, 23_686_000),
    "tnt_s_words16": (1000, 224, 23_768_584),
    "tnt_s_words4": (1000, 224, 25_032_040),
    "tnt_s_heads1": (1000, 224, 23_768_584),
    "tnt_s_heads2": (1000, 224, 23_768_584),
    "tnt_s_heads4": (1000, 224, 23_768_584),
    "tnt_s_heads6": (1000, 224, 23_768_584),
    "tnt_s_heads8": (1000, 224, 23_768_584),
    # The official code, which agrees with the paper's 10.6, 32.0, 85.0 and 157.0M.
    "ptnt_ti_patch16_192": (1000, 192, 10_578_529),
    "ptnt_s_patch16_256": (1000, 256, 31_953_200),
    "ptnt_m_patch16_256": (1000, 256, 84_943_572),
    "ptnt_b_patch16_256": (1000, 256, 156_990_072),
}

# name -> (image size, channels, parameters without and with 10 classes), all by `count_generator`
# and `count_discriminator`. The paper's generator at 64x64 has 74.4M, as one remembers: unverified.
GENERATOR_COUNTS = {
    "nest_generator_base_s64_64": (64, 3, 73_990_787, 90_770_563),
    "nest_generator_base_s64_32": (32, 3, 73_426_947, 90_206_723),
    "nest_generator_small_s64_64": (64, 3, 8_392_035, 11_539_043),
    "nest_generator_small_s64_32": (32, 3, 8_028_483, 11_175_491),
    "nest_generator_tiny_s16_16": (16, 1, 761_729, 893_441),
}
DISCRIMINATOR_COUNTS = {
    "conv_discriminator_tiny_16": (16, 1, 559_969, 561_249),
    "conv_discriminator_small_32": (32, 3, 3_481_921, 3_484_481),
    "conv_discriminator_small_64": (64, 3, 4_727_617, 4_730_177),
    "conv_discriminator_base_32": (32, 3, 21_507_073, 21_512_193),
    "conv_discriminator_base_64": (64, 3, 23_407_361, 23_412_481),
    "conv_discriminator_base_128": (128, 3, 23_882_369, 23_887_489),
    "nest_discriminator_tiny_s16_16": (16, 1, 368_481, 369_771),
    "nest_discriminator_small_s64_32": (32, 3, 6_262_465, 6_264_395),
    "nest_discriminator_small_s64_64": (64, 3, 6_264_193, 6_266_123),
}

# aggregation -> parameters of nest_tiny_s196_224 with it, by `count_aggregation`; the first is the
# official code's.
AGGREGATION_COUNTS = {
    "conv_norm_maxpool": 17_057_608,
    "conv_norm_maxpool_in_block": 17_057_608,
    "conv_in_block_conv_norm_maxpool": 17_472_616,
    "maxpool": 16_319_176,
    "avgpool": 16_319_176,
    "strided_conv": 17_057_608,
    "patch_merging": 16_597_384,
}

# (name, attention, classes, image size, millions of parameters): not variants of their own.
OTHER_COUNTS = [
    ("nest_tiny_s16_32", "multi_head", 10, 32, 6.60),
    ("nest_small_s16_32", "multi_head", 10, 32, 25.81),
    ("nest_base_s16_32", "multi_head", 10, 32, 102.04),
    ("nest_tiny_s64_32", "multi_query", 10, 32, 5.67),
    ("nest_small_s64_32", "multi_query", 10, 32, 21.52),
    ("nest_base_s64_32", "multi_query", 10, 32, 83.73),
    ("nest_tiny_s196_224", "multi_head", 1000, 384, 18.08),
    ("nest_small_s196_224", "multi_head", 1000, 384, 39.37),
    ("nest_base_s196_224", "multi_head", 1000, 384, 69.09),
]


def num_parameters(model, image_size):
    return sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(model, image_size)))


def count(dims, depths, heads, patch, attention, side, classes, channels=3):
    """Counts the parameters of NesT by hand, for MLP ratio 4 and biases everywhere.

    A layer of width d and head width e = d / heads has
        norms        2 * 2d
        multi-head   query, key, value 3 (d^2 + d)               out d^2 + d
        multi-query  query d^2 + d, shared key and value 2 (de + e), out d^2 + d
        mlp          4d^2 + 4d + 4d^2 + d
    A level adds one vector of width d per token (side^2 / patch^2 tokens at level 1, a quarter of
    them at the next); an aggregation from d to f 9df + f for its convolution and 2f for its norm;
    the patch embedding has 3 patch^2 d + d (3: the channels of the image), the top 2d for the norm
    and (d + 1) * classes.
    """
    total = channels * patch**2 * dims[0] + dims[0]
    for level, (d, depth, h) in enumerate(zip(dims, depths, heads, strict=True)):
        e = d // h
        query_key_value = 3 * (d * d + d)
        if attention == "multi_query":
            query_key_value = d * d + d + 2 * (d * e + e)
        layer = 4 * d + query_key_value + d * d + d + 8 * d * d + 5 * d
        tokens = (side // patch) ** 2 // 4**level
        total += tokens * d + depth * layer
        if level + 1 < len(dims):
            f = dims[level + 1]
            total += 9 * d * f + 3 * f
    return total + 2 * dims[-1] + (dims[-1] + 1) * classes


def count_aggregation(kind, d, f):
    """Counts the parameters of an aggregation from d to f > d channels by hand.

    A 3x3 convolution from d to f has 9df + f, a norm of width f 2f, a projection df + f; patch
    merging has a norm of width 4d and a projection 4df without bias.
    """
    conv_norm = 9 * d * f + 3 * f
    return {
        "conv_norm_maxpool": conv_norm,
        "conv_norm_maxpool_in_block": conv_norm,
        "conv_in_block_conv_norm_maxpool": 9 * d * d + d + conv_norm,
        "maxpool": d * f + f,
        "avgpool": d * f + f,
        "strided_conv": conv_norm,
        "patch_merging": 8 * d + 4 * d * f,
    }[kind]


def count_tnt(model, side, classes):
    """Counts the parameters of TNT by hand, for MLP ratio 4, no bias on query, key and value.

    A block of width w has norms 2 * 2w, attention 3w^2 + w^2 + w, mlp 4w^2 + 4w + 4w^2 + w, so
    12w^2 + 10w. With m words of width c and sentences of width d a layer has
        inner and outer  a block of width c, if it has one, and one of width d
        fusion           norm 2mc, projection mcd, norm 2d
                         (timm's first port: norm 2c, projection mcd + d)
        gate             norm 2d, d * d/4 + d/4, d/4 * d + d
    and the model a stem of (147 + 1)c (7x7 pixels of 3 channels), a fusion with bias, mc + (n + 1)d
    for positions, d for the class token, 2d for the norm and (d + 1) * classes.
    """
    c, d = model.inner_dim, model.outer_dim
    m, n = (model.patch_size // model.word_size) ** 2, (side // model.patch_size) ** 2
    inner_layers = range(model.depth) if model.inner_layers is None else model.inner_layers
    fusion = 2 * m * c + m * c * d + 2 * d
    layer_fusion = 2 * c + m * c * d + d if model.fusion == "legacy" else fusion
    gate = 2 * d + d * d // 4 + d // 4 + d // 4 * d + d
    outer = 12 * d * d + 10 * d + (gate if model.squeeze_excite else 0)
    layers = model.depth * outer + len(inner_layers) * (12 * c * c + 10 * c + layer_fusion)
    start = 148 * c + fusion + d + m * c + (n + 1) * d + d
    return start + layers + 2 * d + (d + 1) * classes


def count_generator(model):
    """Counts the parameters of a generator by hand, for multi-head attention and MLP ratio 4.

    The latent of z channels, 2z and a table of z a class with classes, goes to n tokens of width d:
    (z + 1) n d. A layer has 12d^2 + 13d (see `count`) and a level one vector of width d a token,
    four times as many tokens as the one before. From d to f, pixel shuffle has (d/4 + 1) f, or
    nothing if d/4 = f, and the convolution 9df + f. At the end 2d for the norm and, for k channels
    of pixels in patches of side p, (d + 1) p^2 k.
    """
    z, dims = model.latent_dim, model.dims
    n = (model.image_size // model.patch_size) ** 2 // 4 ** (len(dims) - 1)
    total = 0
    if model.num_classes is not None:
        total, z = model.num_classes * z, 2 * z
    total += (z + 1) * n * dims[0]
    for level, (d, depth) in enumerate(zip(dims, model.depths, strict=True)):
        total += n * 4**level * d + depth * (12 * d * d + 13 * d)
        if level + 1 < len(dims):
            f = dims[level + 1]
            shuffle = 0 if d // 4 == f else (d // 4 + 1) * f
            kinds = {"pixel_shuffle": shuffle, "nearest_conv": 9 * d * f + f}
            total += kinds[model.deaggregation]
    return total + 2 * d + (d + 1) * model.patch_size**2 * model.num_channels


def count_discriminator(dims, side, channels, classes):
    """Counts the parameters of the convolutional discriminator by hand.

    (k + 1) d from k channels of pixels; a block from d to f has 9d^2 + d, 9df + f and a skip of df;
    at the end, with one channel more, 9 (d + 1) d + d, then m^2 d^2 + d for the m x m places of the
    last map, d + 1 for the head and d for each class.
    """
    total = (channels + 1) * dims[0]
    for d, f in itertools.pairwise(dims):
        total += 9 * d * d + d + 9 * d * f + f + d * f
    d, m = dims[-1], side // 2 ** (len(dims) - 1)
    total += 9 * (d + 1) * d + d + m * m * d * d + d
    return total + d + 1 + classes * d


# Millions with the unused `outer_tokens` (n * d), as the official code's own count in the notes.
WITH_OUTER_TOKENS = {"tnt_s_se": 24.74, "tnt_s_words64": 23.76, "tnt_s_words4": 25.11}
# Millions without, for the paper's table 5.
WITHOUT_OUTER_TOKENS = {"tnt_s1": 22.52, "tnt_s2": 22.36, "tnt_s3": 22.21, "tnt_s4": 22.05}


def test_ablations_of_tnt_have_the_sizes_of_the_notes():
    for name, millions in WITH_OUTER_TOKENS.items():
        assert round((COUNTS[name][2] + 196 * 384) / 1e6, 2) == millions
    for name, millions in WITHOUT_OUTER_TOKENS.items():
        assert round(COUNTS[name][2] / 1e6, 2) == millions


def test_every_model_has_a_count():
    assert set(COUNTS) == set(MODELS)
    assert set(GENERATOR_COUNTS) == set(GENERATORS)
    assert set(DISCRIMINATOR_COUNTS) == set(DISCRIMINATORS)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count(name):
    classes, side, expected = COUNTS[name]
    model = create_model(name, num_classes=classes)
    assert num_parameters(model, side) == expected


@pytest.mark.parametrize("name", [name for name in COUNTS if name.startswith("tnt_")])
def test_tnt_parameter_count_by_hand(name):
    classes, side, expected = COUNTS[name]
    assert count_tnt(create_model(name, num_classes=classes), side, classes) == expected


@pytest.mark.parametrize("name", [name for name in COUNTS if name.startswith("nest_")])
def test_nest_parameter_count_by_hand(name):
    classes, side, expected = COUNTS[name]
    model = create_model(name, num_classes=classes)
    by_hand = count(
        model.dims,
        model.depths,
        model.num_heads,
        model.patch_size,
        model.attention,
        side,
        classes,
    )
    assert by_hand == expected


@pytest.mark.parametrize("kind", AGGREGATION_COUNTS)
def test_aggregation_parameter_count(kind):
    assert set(AGGREGATION_COUNTS) == set(AGGREGATIONS)
    model = create_model("nest_tiny_s196_224", num_classes=1000, aggregation=kind)
    by_hand = 17_057_608 + sum(
        count_aggregation(kind, d, f) - count_aggregation("conv_norm_maxpool", d, f)
        for d, f in itertools.pairwise(model.dims)
    )
    assert num_parameters(model, 224) == by_hand == AGGREGATION_COUNTS[kind]


@pytest.mark.parametrize("name", GENERATOR_COUNTS)
def test_generator_parameter_count(name):
    side, channels, *expected = GENERATOR_COUNTS[name]
    for classes, number in zip((None, 10), expected, strict=True):
        model = create_generator(name, image_size=side, num_channels=channels, num_classes=classes)
        found = sum(leaf.size for leaf in jax.tree.leaves(generator_shapes(model)))
        assert found == count_generator(model) == number


@pytest.mark.parametrize("name", DISCRIMINATOR_COUNTS)
def test_discriminator_parameter_count(name):
    side, channels, *expected = DISCRIMINATOR_COUNTS[name]
    images = np.zeros((1, side, side, channels), np.float32)
    for classes, number in zip((None, 10), expected, strict=True):
        model = create_discriminator(name, num_classes=classes)
        labels = None if classes is None else np.zeros(1, int)
        shapes = jax.eval_shape(model.init, jax.random.key(0), images, labels)
        if name.startswith("conv_"):
            by_hand = count_discriminator(model.dims, side, channels, classes or 0)
        else:
            fields = (model.dims, model.depths, model.num_heads, model.patch_size, model.attention)
            by_hand = count(*fields, side, 1 + (classes or 0), channels)
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == by_hand == number


@pytest.mark.parametrize(("name", "attention", "classes", "side", "millions"), OTHER_COUNTS)
def test_parameter_count_of_other_shapes(name, attention, classes, side, millions):
    model = create_model(name, num_classes=classes, attention=attention)
    assert round(num_parameters(model, side) / 1e6, 2) == millions


@pytest.mark.parametrize(("name", "rate"), [("tiny", 0.2), ("small", 0.3), ("base", 0.5)])
def test_official_drop_path(name, rate):
    assert create_model(f"nest_{name}_s196_224", num_classes=2).drop_path_rate == rate
    assert create_model(f"nest_{name}_s16_32", num_classes=2).drop_path_rate == 0.1


def test_none_keeps_the_variants_value():
    name = "nest_tiny_s16_32"
    nones = dict.fromkeys(("dims", "depths", "attention", "block_size", "dtype", "remat", "gelu"))
    assert create_model(name, num_classes=10, **nones) == create_model(name, num_classes=10)


def test_overrides_become_plain_values():
    model = create_model(
        "nest_tiny_s16_32",
        num_classes=10,
        dims=[8, 8],
        depths=[1, 1],
        num_heads=[2, 2],
        drop_path_rate=np.float64(0.25),
        dtype="bfloat16",
    )
    assert model.dims == (8, 8) and hash(model) is not None
    assert type(model.drop_path_rate) is float
    assert model.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("nest_tiny_s16_23", {}, r"did you mean 'nest_tiny_s16_32'.*nest_base_s64_32"),
        ("inception", {}, r"'inception': unknown; allowed: .*nest_tiny_s196_224, "),
        ("nest_tiny_s16_32", {"dim": 8}, "^dim: unknown; did you mean 'dims'.*patch_size"),
        ({}, {}, "^name={}: unknown; allowed: .*nest_tiny_s16_32"),
        ([3], {}, r"^name=\[3\]: unknown; allowed: "),
        (None, {}, "^name=None: unknown; allowed: "),
        ("nest_tiny_s16_32", {"dtype": {}}, "^dtype={}: unknown; allowed: float32"),
        ("nest_tiny_s16_32", {"dtype": "bfloat6"}, "^dtype='bfloat6': .*mean 'bfloat16'"),
        (
            "nest_tiny_s16_32",
            {"gelu": "exct"},
            "^gelu='exct': unknown; did you mean 'exact'. allowed: tanh, exact$",
        ),
        ("nest_tiny_s16_32", {"parent": None}, "^parent: unknown"),
        ("nest_tiny_s16_32", {"zzz": None}, "^zzz: unknown; allowed: dims, "),
        (
            "nest_tiny_s16_32",
            {"dtype": "float8"},
            "dtype='float8': unknown; .*allowed: float32, bfloat16",
        ),
        (
            "nest_tiny_s16_32",
            {"dims": [8, 8]},
            r"dims=\(8, 8\): .* from depths=.*one entry per level",
        ),
    ],
)
def test_wrong_names_and_fields(name, overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        create_model(name, num_classes=10, **overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (SHARES, Gelu),
        (ATTENTIONS, Attention),
        (AGGREGATIONS, AggregationName),
        (PADDINGS, Padding),
        (DEAGGREGATIONS, DeaggregationName),
        (CLASS_CONDITIONINGS, ClassConditioning),
        (OUTPUT_ACTIVATIONS, OutputActivation),
        (DESIGNS, DesignName),
        (STEMS, StemName),
        (FUSIONS, FusionName),
        (POOLINGS, Pooling),
    ],
)
def test_literals_are_the_keys_of_their_tables(table, names):
    assert tuple(table) == typing.get_args(names)


def test_every_name_in_a_field_is_a_literal():
    """A field annotated as str would take any name without a check."""
    entries = MODELS | GENERATORS | DISCRIMINATORS
    classes = {model_class for model_class, _ in entries.values()} | {FullAttentionGenerator}
    for model_class in classes | {TransformerLayer, Mlp, TntLayer, TransformerBlock, Aggregation}:
        hints = typing.get_type_hints(model_class)
        assert not [name for name in model_fields(model_class) if hints[name] is str], model_class
