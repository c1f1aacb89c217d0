import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.model_inputs import fill, random_array
from tnt.pyramid import PyramidTnt, has_words
from tnt.pyramid_layer import resize_relative
from zoo.load import load_variables
from zoo.registry import create_model

FIELDS = {
    "depths": (2, 7, 1, 1),
    "inner_dims": (2, 4, 6, 6),
    "outer_dims": (8, 12, 16, 16),
    "num_inner_heads": (1, 2, 3, 3),
    "num_outer_heads": (2, 3, 4, 4),
}
SMALL = PyramidTnt(num_classes=10, **FIELDS)
WEIGHTS = "pyramid_tnt_official.safetensors"


@pytest.fixture(scope="module")
def variables(fixtures):
    return load_variables(fixtures / WEIGHTS, SMALL, image_size=64)[0]


def test_logits_are_those_of_the_official_code(fixtures, variables):
    with np.load(fixtures / "pyramid_tnt_official.npz") as known:
        images, expected = known["images"].astype(np.float32), known["logits"]
    logits = jax.jit(SMALL.apply)(variables, images)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


def test_every_array_has_a_place(fixtures):
    report = load_variables(fixtures / WEIGHTS, SMALL, image_size=64)[1]
    shapes = jax.eval_shape(SMALL.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    wanted = {name: tree for name, tree in shapes.items() if name != "intermediates"}
    assert len(report.loaded) == len(jax.tree.leaves(wanted))
    assert not report.skipped
    wider = SMALL.clone(outer_dims=(8, 16, 16, 16), num_outer_heads=(2, 4, 4, 4))
    with pytest.raises(ValueError, match="does not fit the model"):
        load_variables(fixtures / WEIGHTS, wider, image_size=64)


def test_tables_are_resized_for_other_images(fixtures, variables):
    other, report = load_variables(fixtures / WEIGHTS, SMALL, image_size=(64, 128))
    changed = {"sentence_position/embedding", *(f"stage{n}_relative_position" for n in range(1, 5))}
    assert set(report.resized) == changed
    logits = jax.jit(SMALL.apply)(other, random_array(1, 64, 128, 3))
    assert np.isfinite(logits).all()


def test_a_relative_table_is_resized_along_each_of_its_four_axes():
    """A product of four curves becomes the product of the resized curves."""
    curves = [random_array(3, side) for side in (4, 8, 2, 4)]  # h, w, h / r, w / r
    resized = [
        np.asarray(jax.image.resize(curve, (3, side), "bicubic"))
        for curve, side in zip(curves, (6, 12, 3, 6), strict=True)
    ]
    before, after = (np.einsum("ka,kb,kc,kd->kabcd", *c) for c in (curves, resized))
    found = resize_relative(before.reshape(3, 32, 8), (4, 8), (6, 12), reduction=2)
    np.testing.assert_allclose(found, after.reshape(3, 72, 18), atol=1e-5)
    assert resize_relative(before.reshape(3, 32, 8), (4, 8), (6, 12), reduction=1) is None


def test_words_are_in_the_first_layer_and_in_the_second_of_a_deep_stage():
    counts = [sum(has_words(layer, depth) for layer in range(1, depth + 1)) for depth in (2, 6, 7)]
    assert counts == [1, 1, 2]
    for size, inner in (("ti_patch16_192", 4), ("s_patch16_256", 5)):
        depths = create_model(f"ptnt_{size}", num_classes=1).depths
        assert sum(has_words(n, depth) for depth in depths for n in range(1, depth + 1)) == inner


def test_every_weight_has_a_gradient_and_paths_are_dropped():
    images = random_array(2, 64, 64, 3)
    shapes = jax.eval_shape(SMALL.init, jax.random.key(0), images)
    params = fill(shapes["params"])
    statistics = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes["batch_stats"])
    model = SMALL.clone(drop_path_rate=0.5)

    @jax.jit
    def loss_and_gradient(params, key):
        def loss(params):
            logits, _ = model.apply(
                {"params": params, "batch_stats": statistics},
                images,
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
            return jnp.square(logits).sum()

        return jax.value_and_grad(loss)(params)

    losses, gradients = zip(
        *(loss_and_gradient(params, jax.random.key(n)) for n in (0, 0, 1, 2)), strict=True
    )
    assert losses[0] == losses[1] and losses[0] != losses[2]
    total = jax.tree.map(lambda *each: sum(np.abs(x).max() for x in each), *gradients)
    zero = {name for name, size in flatten_dict(total, sep="/").items() if size == 0}
    # The one sentence of the last stage attends to itself alone.
    alone = ("relative_position", "attention/query/kernel")
    assert all(name.startswith("stage4") and name.endswith(alone) for name in zero), zero


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": (1, 1, 1)}, "depths="),
        ({"num_outer_heads": (3, 3, 4, 4)}, r"num_outer_heads=3: does not divide outer_dims=8"),
        ({"remat": "attention"}, "remat='attention'"),
    ],
)
def test_wrong_fields_are_one_clear_error(fields, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        PyramidTnt(num_classes=2, **{**FIELDS, **fields})


def test_wrong_sizes_are_one_clear_error():
    with pytest.raises(ValueError, match=r"^image_size=\(64, 96\).*multiples of 64"):
        jax.eval_shape(SMALL.init, jax.random.key(0), jnp.zeros((1, 64, 96, 3)))
