from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from features.backbone import Backbone, without_head
from features.map_infos import OFFERS, map_infos
from features.neck import Pyramid
from features.padding import fitting_size, map_mask, pad_images, with_positions_for
from kernels.layer_norm import layer_norm
from tests.model_inputs import fill, random_array, random_params
from zoo.registry import MODELS, create_model, variable_shapes

SMALL = {
    "nest_tiny_s196_224": {"dims": (4, 8, 16), "depths": (1, 1, 1), "num_heads": (1, 2, 2)},
    "tnt_s_patch16_224": {
        **{"inner_dim": 4, "outer_dim": 12, "num_inner_heads": 2, "num_outer_heads": 2},
        **{"depth": 3, "drop_path_rate": 0.3},
    },
    "deit_s_patch16_224": {"dim": 12, "depth": 3, "num_heads": 2},
    "resnet50": {"dims": (2, 3, 4, 5), "depths": (1, 1, 1, 1)},
    "wrn28_10": {"depth": 10, "width": 1},
}


def small_model(name, **fields):
    return create_model(name, num_classes=7, **SMALL[name] | fields)


def filled(module, *inputs):
    """Variables of random numbers; variances are positive."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    variables = {name: fill(tree) for name, tree in shapes.items() if name != "intermediates"}
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    return variables


@pytest.mark.parametrize("name", SMALL)
def test_maps_are_those_of_the_classifier(name):
    """Planes of the infos' channels and strides; the variables are the classifier's."""
    model, images = small_model(name), random_array(2, 64, 128, 3)
    backbone = Backbone(model)
    variables = filled(backbone, images)
    maps = jax.jit(backbone.apply)(variables, images)
    assert [x.shape for x in maps] == [
        (2, 64 // info.stride, 128 // info.stride, info.channels) for info in backbone.infos
    ]
    assert [x.shape[1:3] for x in maps] == backbone.sides((64, 128))
    own = without_head(variable_shapes(model, (64, 128)))
    norms = {f"map{n}_norm" for n in range(1, 9)}
    for collection, tree in own.items():
        found = {k: leaf for k, leaf in variables[collection].items() if k not in norms}
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(lambda leaf: leaf.shape, tree)

    # As the classifier sows them: its head is any.
    full = filled(model, images)
    full = {collection: tree | variables[collection] for collection, tree in full.items()}
    full = {c: {k: leaf for k, leaf in t.items() if k not in norms} for c, t in full.items()}
    sown = jax.jit(partial(model.apply, mutable=["intermediates"]))(full, images)[1]
    for number, (info, x) in enumerate(zip(backbone.infos, maps, strict=True), start=1):
        expected = sown["intermediates"][info.name][0]
        if expected.ndim == 3:  # tokens, the class token first
            expected = expected[:, 1:].reshape(x.shape)
        if norm := variables["params"].get(f"map{number}_norm"):
            expected = layer_norm(expected, norm["scale"], norm["bias"], 1e-6, False, "plain")[0]
        np.testing.assert_allclose(x, expected, atol=2e-5)


def test_every_registered_model_offers_maps():
    assert {model_class for model_class, _ in MODELS.values()} == set(OFFERS)
    for name in MODELS:
        assert map_infos(create_model(name, num_classes=1))
    infos = map_infos(create_model("nest_tiny_s196_224", num_classes=1))
    assert [info.stride for info in infos] == [4, 8, 16]
    infos = map_infos(create_model("resnet50", num_classes=1))
    assert [(info.channels, info.stride) for info in infos] == [
        *((256, 4), (512, 8), (1024, 16), (2048, 32))
    ]
    infos = map_infos(create_model("tnt_s_patch16_224", num_classes=1), (3, 6, 9, 12))
    assert {(info.channels, info.stride) for info in infos} == {(384, 16)}


@pytest.mark.parametrize("maps", [(), (0,), (2, 1), (1, 1), (4,), [1], (1.0,)])
def test_wrong_maps_are_one_clear_error(maps):
    with pytest.raises(ValueError, match=r"^maps="):
        Backbone(small_model("tnt_s_patch16_224"), maps)


def test_a_rectangular_patch_is_refused():
    with pytest.raises(ValueError, match=r"^patch_size=\(8, 16\)"):
        Backbone(small_model("deit_s_patch16_224", patch_size=(8, 16)))


def test_training_drops_paths_and_updates_batch_statistics():
    images = random_array(4, 32, 32, 3)
    backbone = Backbone(small_model("resnet50"))
    variables = filled(backbone, images)
    apply = jax.jit(partial(backbone.apply, train=True, mutable=["batch_stats"]))
    _, new = apply(variables, images)
    mean = new["batch_stats"]["stem_norm"]["mean"]
    assert not np.allclose(mean, variables["batch_stats"]["stem_norm"]["mean"])
    assert "head" not in new["batch_stats"]

    backbone = Backbone(small_model("tnt_s_patch16_224"))
    variables = filled(backbone, images)
    apply = jax.jit(partial(backbone.apply, train=True))
    runs = [apply(variables, images, rngs={"dropout": jax.random.key(k)})[0] for k in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.allclose(runs[0], runs[2])


def test_every_weight_below_a_map_has_a_gradient():
    images = random_array(1, 32, 32, 3)
    backbone = Backbone(small_model("tnt_s_patch16_224"), (1, 3))
    params = random_params(backbone, images)

    def total(params):
        return sum((x**3).sum() for x in backbone.apply({"params": params}, images))

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total))(params)):
        assert np.abs(leaf).max() > 0, path


def test_any_size_is_padded_to_one_that_fits():
    sizes = {
        "nest_tiny_s196_224": ((33, 64), (48, 64)),
        "tnt_s_patch16_224": ((5, 17), (16, 32)),
        "deit_s_patch16_224": ((16, 40), (16, 48)),
        "resnet50": ((100, 32), (128, 32)),
        "wrn28_10": ((7, 9), (8, 12)),
    }
    for name, (size, fitting) in sizes.items():
        assert fitting_size(small_model(name), size) == fitting
    overlapping = small_model("tnt_s_patch16_224", patch_stride=8)
    assert fitting_size(overlapping, (17, 33)) == (24, 40)
    tokens, _ = jax.eval_shape(
        Backbone(overlapping).init_with_output, jax.random.key(0), jnp.ones((1, 24, 40, 3))
    )
    assert tokens[0].shape[1:3] == (2, 4)
    assert Backbone(overlapping).sides((24, 40)) == [(2, 4)]
    images, mask = pad_images(jnp.ones((2, 5, 7, 3)), (8, 16))
    assert images.shape == (2, 8, 16, 3) and mask.shape == (2, 8, 16)
    assert mask.sum() == 2 * 5 * 7 and images.sum() == 3 * 2 * 5 * 7
    np.testing.assert_array_equal(map_mask(mask, (2, 4))[0], [[1, 1, 0, 0], [1, 1, 0, 0]])
    assert map_mask(jnp.zeros((1, 64, 64), bool).at[0, 0, 0].set(True), (2, 2)).sum() == 1


@pytest.mark.parametrize("name", ["nest_tiny_s196_224", "tnt_s_patch16_224", "deit_s_patch16_224"])
def test_positions_are_interpolated_for_other_sizes(name):
    backbone = Backbone(small_model(name))
    images = random_array(1, 32, 48, 3)
    params = filled(backbone, random_array(1, 64, 64, 3))["params"]
    sizes = {"image_size": (32, 48), "stored_size": (64, 64)}
    other = with_positions_for(params, backbone.model, **sizes)
    shapes = jax.eval_shape(backbone.init, jax.random.key(0), images)["params"]
    assert jax.tree.map(jnp.shape, other) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    same = with_positions_for(other, backbone.model, image_size=(32, 48), stored_size=(32, 48))
    jax.tree.map(np.testing.assert_array_equal, same, other)


@pytest.mark.parametrize("name", ["nest_tiny_s196_224", "tnt_s_patch16_224", "resnet50"])
def test_the_neck_makes_a_pyramid(name):
    maps = (1, 2, 3) if name == "nest_tiny_s196_224" else None
    backbone = Backbone(small_model(name), maps)
    given = [
        jnp.asarray(random_array(1, 64 // i.stride, 64 // i.stride, i.channels))
        for i in backbone.infos
    ]
    neck = Pyramid(backbone.infos, dim=6)
    results, _ = jax.eval_shape(neck.init_with_output, jax.random.key(0), given)
    shapes = [x.shape for x in results]
    assert shapes == [(1, side, side, 6) for side in (16, 8, 4, 2)]


def test_the_neck_takes_one_map_for_each_stride_or_the_nearest():
    infos = Backbone(small_model("tnt_s_patch16_224"), (1, 2, 3)).infos
    neck = Pyramid(infos, dim=4, strides=(8, 16, 32))
    maps = [jnp.asarray(random_array(1, 2, 2, 12)) * n for n in (1, 2, 3)]
    params = neck.init(jax.random.key(0), maps)

    def used(n):
        gradient = jax.grad(
            lambda x: neck.apply(params, [*maps[:n], x, *maps[n + 1 :]])[n][0, 0, 0, 0]
        )
        return np.abs(gradient(maps[n])).max() > 0

    assert all(used(n) for n in range(3))
    with pytest.raises(ValueError, match=r"^strides=\(4, 12\): 12 is no power of two"):
        Pyramid(infos, dim=4, strides=(4, 12))
    with pytest.raises(ValueError, match=r"^strides=\(8, 4\)"):
        Pyramid(infos, dim=4, strides=(8, 4))
