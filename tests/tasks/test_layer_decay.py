"""Groups and factors of small models against lists written by hand, and the update they make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tasks.layer_decay import layer_groups, layer_multipliers
from tasks.optimizers import create_optimizer
from tasks.parameter_masks import parameter_paths
from zoo.load import parameter_shapes
from zoo.registry import create_model

NEST = create_model(
    "nest_tiny_s16_32",
    num_classes=3,
    dims=(8, 8, 8),
    depths=(1, 2, 3),
    num_heads=(2, 2, 2),
    patch_size=1,
)
TNT = create_model(
    "tnt_s_patch16_224",
    num_classes=3,
    inner_dim=4,
    outer_dim=8,
    num_inner_heads=2,
    num_outer_heads=2,
    depth=3,
    inner_layers=(1, 3),
    patch_size=8,
)
VIT = create_model("deit_ti_patch16_224", num_classes=3, dim=8, depth=3, num_heads=2, patch_size=8)

# Top-level name -> group, read off the forward passes.
NEST_GROUPS = {
    "patch_embedding": 0,
    "level1_position": 0,
    "level1_layer1": 1,
    "level1_aggregation": 2,
    "level2_position": 2,
    "level2_layer1": 2,
    "level2_layer2": 3,
    "level2_aggregation": 4,
    "level3_position": 4,
    "level3_layer1": 4,
    "level3_layer2": 5,
    "level3_layer3": 6,
    "norm": 7,
    "head": 7,
}
TNT_GROUPS = {
    "word_embedding": 0,
    "word_position": 0,
    "sentence_embedding": 0,
    "sentence_position": 0,
    "class_token": 0,
    "layer1": 1,
    "layer2": 2,
    "layer3": 3,
    "norm": 4,
    "head": 4,
}
VIT_GROUPS = {
    "patch_embedding": 0,
    "position": 0,
    "class_token": 0,
    "block1": 1,
    "block2": 2,
    "block3": 3,
    "norm": 4,
    "head": 4,
}


@pytest.mark.parametrize(
    ("model", "expected"), [(NEST, NEST_GROUPS), (TNT, TNT_GROUPS), (VIT, VIT_GROUPS)]
)
def test_groups_by_hand(model, expected):
    params = parameter_shapes(model, 16)
    found = {
        (path.split("/")[0], group)
        for path, group in parameter_paths(layer_groups(model, params)).items()
    }
    assert found == set(expected.items())


@pytest.mark.parametrize(
    "name",
    [
        "nest_base_s196_224",
        "nest_tiny_s16_32",
        "tnt_b_patch16_224",
        "tnt_s_legacy_patch16_224",
        "tnt_s_se",
        "tnt_s4",
        "deit_s_patch16_224",
    ],
)
def test_every_parameter_of_the_real_models_has_a_group(name):
    model = create_model(name, num_classes=10)
    groups = parameter_paths(layer_groups(model, parameter_shapes(model, 64)))
    layers = sum(model.depths) if "nest" in name else model.depth
    assert set(groups.values()) == set(range(layers + 2))


def test_factors():
    factors = parameter_paths(layer_multipliers(NEST, parameter_shapes(NEST, 16), 0.5))
    assert factors["head/kernel"] == factors["norm/scale"] == 1
    assert factors["level3_layer3/mlp/dense1/kernel"] == 0.5
    assert factors["level1_aggregation/conv/kernel"] == 0.5**5
    assert factors["patch_embedding/bias"] == 0.5**7


def updates_of(**options):
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), parameter_shapes(VIT, 16))
    grads = jax.tree.map(lambda leaf: 0.3 * leaf, params)
    optimizer = create_optimizer(
        base_lr=1e-2,
        schedule="constant",
        weight_decay=0.1,
        model=VIT,
        batch_size=8,
        steps_per_epoch=10.0,
        total_steps=100,
        **options,
    )
    return parameter_paths(optimizer.update(grads, optimizer.init(params), params)[0])


def test_update_is_scaled_with_its_weight_decay():
    plain, scaled = updates_of(), updates_of(layer_decay=0.5)
    factors = {"head": 1, "norm": 1, "block3": 0.5, "block2": 0.25, "block1": 0.125}
    for path, update in scaled.items():
        factor = factors.get(path.split("/")[0], 0.0625)
        np.testing.assert_allclose(update, factor * plain[path], rtol=1e-6, err_msg=path)


def test_of_the_parameters_that_are_not_frozen():
    scaled = updates_of(layer_decay=0.5, decay_exclude=("^position/",))
    frozen = updates_of(layer_decay=0.5, decay_exclude=("^position/",), freeze=("^position/",))
    for path, update in frozen.items():
        expected = np.zeros_like(update) if path.startswith("position/") else scaled[path]
        np.testing.assert_array_equal(update, expected, err_msg=path)


def test_off():
    plain = updates_of()
    for value in (None, 0.0):
        updates = updates_of(layer_decay=value)
        for path, update in updates.items():
            np.testing.assert_array_equal(update, plain[path], err_msg=path)
    assert any(
        np.any(update != plain[path]) for path, update in updates_of(layer_decay=0.9).items()
    )


class Stranger(nn.Module):
    pass


def test_errors():
    with pytest.raises(ValueError, match="layer_decay=0.5: .*no rule for Stranger, only for Nest,"):
        layer_multipliers(Stranger(), {"head": {"kernel": 0}}, 0.5)
    with pytest.raises(ValueError, match="in which layer of Vit 'neck' is"):
        layer_groups(VIT, {"neck": {"kernel": 0}})
    for value in (-0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match="layer_decay=.*: out of range; allowed: above 0 and"):
            updates_of(layer_decay=value)
