"""Trans2Seg: against the official code, and on the maps of any classifier."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from configs import ade20k_tnt, digits_segment
from features.backbone import Backbone
from layers.dense import Dense
from segmentation.decoder import ClassDecoder
from segmentation.mask_head import MaskHead, resize
from segmentation.model import Segmenter, create_segmenter
from tests.model_inputs import fill, random_array
from zoo.registry import create_model, variable_shapes

SMALL = {
    "nest_tiny_s16_32": {
        **{"patch_size": 2, "dims": (8, 16, 16), "depths": (1, 1, 1), "num_heads": (2, 2, 2)},
    },
    "tnt_s_patch16_224": {
        **{"patch_size": 4, "word_size": 2, "inner_dim": 4, "outer_dim": 16, "depth": 2},
        **{"num_inner_heads": 2, "num_outer_heads": 2},
    },
    "deit_s_patch16_224": {"patch_size": 4, "dim": 16, "depth": 2, "num_heads": 2},
    "resnet50": {"dims": (4, 4, 4, 4), "depths": (1, 1, 1, 1)},
}
DECODER = {"dim": 16, "num_layers": 2, "num_heads": 4, "mask_dim": 8}


def small_segmenter(name, **fields):
    classifier = create_model(name, num_classes=1, **SMALL[name])
    return create_segmenter(classifier, 5, **DECODER | fields)


@pytest.fixture(scope="module")
def official(fixtures):
    with np.load(fixtures / "trans2seg_official.npz") as file:
        known = {name: file[name].astype(np.float32) for name in file.files}
    weights = {n.removeprefix("weights/"): x for n, x in known.items() if n.startswith("weights/")}
    of = {n: x for n, x in weights.items() if not n.startswith("batch_stats/")}
    statistics = {n: x for n, x in weights.items() if n.startswith("batch_stats/")}
    return known, unflatten_dict(of, sep="/"), unflatten_dict(statistics, sep="/")


def test_scores_and_masks_are_those_of_the_official_code(official):
    known, params, state = official
    coarse = Dense(16).apply({"params": params["projection"]}, known["coarse"])  # [b, h, w, c]
    decoder = ClassDecoder(num_classes=12, num_layers=3, num_heads=2, mlp_ratio=3, dtype="float32")
    tokens = coarse.reshape(2, 16, 16)
    scores = jax.jit(decoder.apply)({"params": params["decoder"]}, tokens)
    largest = np.abs(known["scores"]).max()
    np.testing.assert_allclose(scores, known["scores"], atol=1e-5 * largest)

    variables = {"params": params["masks"], "batch_stats": state["batch_stats"]["masks"]}
    head = MaskHead(6, "float32")
    masks = jax.jit(partial(head.apply, train=False))(variables, scores, coarse, known["fine"])
    largest = np.abs(known["masks"]).max()
    np.testing.assert_allclose(masks, known["masks"], atol=1e-5 * largest)
    np.testing.assert_allclose(resize(masks, (13, 15)), known["resized"], atol=1e-5 * largest)


@pytest.mark.parametrize("name", SMALL)
def test_every_classifier_can_segment(name):
    """Its own maps, and those of a neck; every weight below the masks has a gradient."""
    one_stride = name in ("tnt_s_patch16_224", "deit_s_patch16_224")
    fields = {"maps": (1, 2), "strides": (2, 8)} if one_stride else {}
    model, images = small_segmenter(name, **fields), random_array(2, 32, 64, 3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = {collection: fill(tree) for collection, tree in shapes.items()}
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])

    def total(params):
        apply = partial(model.apply, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
        logits, _ = apply(variables | {"params": params}, images, train=True)
        assert logits.shape == (2, 32, 64, 5) and logits.dtype == jnp.float32
        return jnp.square(logits).sum()

    for path, leaf in jax.tree_util.tree_leaves_with_path(
        jax.jit(jax.grad(total))(variables["params"])
    ):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_without_a_finer_map_the_masks_are_as_coarse_as_the_map():
    model = small_segmenter("deit_s_patch16_224")
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert "fine" not in shapes["masks"] and "neck" not in shapes
    assert list(shapes["backbone"]) == list(
        jax.eval_shape(Backbone(model.backbone.model).init, jax.random.key(0), images)["params"]
    )


def test_corners_stay_in_place():
    x = random_array(1, 3, 4, 2)
    y = resize(jnp.asarray(x), (7, 10))
    np.testing.assert_allclose(y[:, ::3, ::3], x[:, ::1], rtol=1e-5)
    np.testing.assert_array_equal(resize(jnp.asarray(x), (3, 4)), x)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 3}, "num_heads=3: does not divide dim=16"),
        ({"strides": (8, 2)}, r"strides=\(8, 2\)"),
        ({"maps": (4,)}, r"maps=\(4,\)"),
        ({"maps": (1, 2, 3)}, r"maps=\(1, 2, 3\): leaves maps unused"),
        ({"strides": (2, 4, 8)}, r"strides=\(2, 4, 8\): leaves maps unused"),
        ({"dim": 0}, "dim=0"),
    ],
)
def test_wrong_fields_are_one_clear_error(fields, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        small_segmenter("nest_tiny_s16_32", **fields)


def test_the_defaults_are_the_released_ones():
    model = create_segmenter(create_model("tnt_s_patch16_224", num_classes=1), 150)
    assert isinstance(model, Segmenter)
    released = {"dim": 256, "num_layers": 4, "num_heads": 8, "mlp_ratio": 3, "mask_dim": 64}
    assert {name: getattr(model, name) for name in released} == released


def test_number_of_parameters_of_the_recipe_for_ade20k():
    """As docs/segmentation.md has them; the paper says 32.1 M."""
    config = ade20k_tnt.get_config()
    classifier = create_model(**config.model.to_dict(), num_classes=1)
    shapes = variable_shapes(create_segmenter(classifier, 150, **config.decoder), 512)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 33_456_825
    over_places = shapes["decoder"]["scores_mlp"]
    assert sum(leaf.size for leaf in jax.tree.leaves(over_places)) == 6_295_552


@pytest.mark.parametrize(
    ("argument", "expected"), [("nest", 491_465), ("tnt", 482_985), ("deit", 484_405)]
)
def test_numbers_of_parameters_of_the_recipe_for_digits(argument, expected):
    """As docs/segmentation.md has them."""
    config = digits_segment.get_config(argument)
    classifier = create_model(**config.model.to_dict(), num_classes=1)
    shapes = variable_shapes(create_segmenter(classifier, 11, **config.decoder), (64, 64, 1))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == expected
