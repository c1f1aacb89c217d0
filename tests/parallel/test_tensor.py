"""A tensor axis changes where arrays live and nothing else, for each of the three transformers."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from configs import digits_deit, digits_tnt
from harness.errors import ConfigError
from parallel.sharding import create_mesh, left_whole, state_shardings
from training import experiment

# The mesh, and the most of the state that a device then holds: norms, biases and position
# embeddings stay whole, and with a tensor axis alone all but the kernels of attention and MLP.
MESHES = {(8, 1, 1): 1.0, (4, 2, 1): 0.6, (2, 2, 2): 0.45, (1, 1, 8): 0.5}


def small(recipe, small_config):
    config = recipe.get_config("debug") if recipe else small_config
    if recipe:
        config.model.update(depth=2)
        config.data = small_config.data
        config.loop, config.task = small_config.loop, small_config.task
        config.model.update(patch_size=2)
    if recipe is digits_tnt:
        config.model.update(word_size=1, inner_dim=16, outer_dim=64)
    elif recipe is digits_deit:
        config.model.update(dim=64)
    else:
        config.model.update(dims=(32, 64))
    # At a large rate any two float32 programs drift apart, see test_sharding.py.
    config.optimizer.update(base_lr=3e-4, warmup_epochs=1.0)
    return config


def losses_and_bytes(config, steps=10):
    run = experiment.build(config)
    state, batches, losses = run.init(), run.data.train_batches(), []
    for _ in range(steps):
        state, scalars = run.train_step(state, next(batches), run.key, run.hyperparameters)
        losses.append(scalars["loss"])
    batches.close()
    return run, np.asarray(jax.device_get(losses)), bytes_per_device(state), state


def bytes_per_device(state):
    leaves = jax.tree.leaves(state)
    return sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [None, digits_tnt, digits_deit], ids=["nest", "tnt", "vit"])
def test_each_mesh_equals_one_device(small_config, recipe):
    config = small(recipe, small_config)
    config.mesh.update(data=1)
    _, expected, whole, _ = losses_and_bytes(config)
    assert np.ptp(expected) > 0.01
    for (data, fsdp, tensor), most in MESHES.items():
        config.mesh.update(data=data, fsdp=fsdp, tensor=tensor)
        run, losses, part, state = losses_and_bytes(config)
        print(f"{data} x {fsdp} x {tensor}: {abs(losses - expected).max():.1e}, {part / whole:.3f}")
        np.testing.assert_allclose(losses, expected, atol=1e-5, rtol=0)
        assert part <= whole * most
        assert (part == whole) == (fsdp * tensor == 1)
        assert run.mesh.shape["data"] == data
        for tree in (state.ema, state.opt_state[1][0].mu, state.opt_state[1][0].nu):
            same = jax.tree.map(lambda x, y: x.sharding.spec == y.sharding.spec, state.params, tree)
            assert all(jax.tree.leaves(same))


def specs(shapes, mesh, rules=None):
    """Returns name -> partition of arrays under a name that a state's leaves have."""
    shapes = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    placed = state_shardings({"opt_state": {"mu": shapes}}, mesh, rules=rules)
    return {name: place.spec for name, place in placed["opt_state"]["mu"].items()}


def test_default_rules():
    shapes = {
        "level1_layer1/attention/qkv/kernel": (64, 3, 4, 16),
        "level1_layer2/attention/qkv/kernel": (64, 3, 3, 16),  # 2 does not divide the heads
        "level1_layer1/attention/qkv/bias": (3, 4, 16),
        "level2_layer1/attention/query/kernel": (64, 4, 16),
        "level2_layer1/attention/key_value/kernel": (256, 2, 16),  # its heads share it
        "layer1/outer/attention/out/kernel": (4, 16, 64),
        "block1/mlp/dense1/kernel": (64, 256),
        "block1/mlp/dense1/bias": (256,),
        "block1/mlp/dense2/kernel": (256, 64),
        "block1/norm_mlp/scale": (64,),
        "head/kernel": (64, 100),
    }
    mesh = create_mesh(data=2, fsdp=2, tensor=2)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert specs(shapes, mesh) == {
        "level1_layer1/attention/qkv/kernel": P("fsdp", None, "tensor", None),
        "level1_layer2/attention/qkv/kernel": P("fsdp", None, None, "tensor"),
        "level1_layer1/attention/qkv/bias": P(None, "tensor", None),
        "level2_layer1/attention/query/kernel": P("fsdp", "tensor", None),
        "level2_layer1/attention/key_value/kernel": P("fsdp"),
        "layer1/outer/attention/out/kernel": P("tensor", None, "fsdp"),
        "block1/mlp/dense1/kernel": P("fsdp", "tensor"),
        "block1/mlp/dense1/bias": P("tensor"),
        "block1/mlp/dense2/kernel": P("tensor", "fsdp"),
        "block1/norm_mlp/scale": P(),
        "head/kernel": P(None, "fsdp"),
    }


def test_own_rules_and_their_mistakes():
    shapes = {"mlp/dense1/kernel": (64, 256), "head/kernel": (64, 100)}
    mesh = create_mesh(data=1, fsdp=4, tensor=2)
    rules = (("head/kernel$", ("tensor", "fsdp")),)
    assert specs(shapes, mesh, rules) == {
        "mlp/dense1/kernel": P("fsdp", "tensor"),  # the default rules come after
        "head/kernel": P("tensor", "fsdp"),
    }
    without_tensor = create_mesh(data=2, fsdp=4)
    assert specs(shapes, without_tensor, rules)["head/kernel"] == P(None, "fsdp")
    # What names only axes that are not there says nothing; None says that it stays whole.
    for axes, expected in [(("tensor", None), P(None, "fsdp")), ((None, None), P(None, None))]:
        rules = (("head/kernel$", axes),)
        assert specs(shapes, without_tensor, rules)["head/kernel"] == expected
    own = (("dense1/kernel$", (None, "tensor")), ("head", ("fsdp", "tensor")))
    assert specs(shapes, mesh, own) == {
        "mlp/dense1/kernel": P(None, "tensor"),
        "head/kernel": P("fsdp", "tensor"),
    }
    for wrong, message in [
        (
            (("kernel", ("fsdp",)), ("head/kernel", (None, "fsdp"))),
            "config.sharding.rules='head/kernel': never applied: a rule before it",
        ),
        ((("haed", ("tensor",)),), "config.sharding.rules='haed': no array of the state has"),
        ((("head/kernel", (None, "data")),), "wrong axes; allowed: fsdp and tensor"),
        ((("head/kernel", ("fsdp", "fsdp")),), "wrong axes"),
        ((("(", ("fsdp",)),), "config.sharding.rules='(': missing )"),
        ((("head/kernel", ("fsdp", None, None)),), "head/kernel (64, 100)"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(message)):
            specs(shapes, mesh, wrong)
    # 8 does not divide 100.
    with pytest.raises(ConfigError, match="does not divide opt_state/mu/head/kernel"):
        specs(shapes, create_mesh(data=1, fsdp=8), (("head/kernel", (None, "fsdp")),))
    with pytest.raises(ConfigError, match="config.mesh.tensor=2: no array of this model"):
        specs({"stage1/conv/kernel": (3, 3, 64, 64)}, mesh)


def test_a_note_names_what_a_default_rule_leaves_whole():
    mesh = create_mesh(data=2, tensor=4)
    shapes = {f"block{i}/mlp/dense1/kernel": jax.ShapeDtypeStruct((30, 90), "f4") for i in (1, 2)}
    (note,) = left_whole(shapes, mesh)
    assert "tensor=4) does not divide block1/mlp/dense1/kernel (30, 90) (and 1 more)" in note
    assert left_whole(shapes, create_mesh(data=4, tensor=2)) == []
    assert left_whole(shapes, create_mesh()) == []


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (dict(tensor=3), "config.mesh.tensor=3: .*divisors of the number of devices, 8"),
        (dict(tensor=0), "config.mesh.tensor=0"),
        (dict(fsdp=4, tensor=4), "config.mesh.fsdp=4: .*8 / tensor=4"),
        (dict(data=4, tensor=4), "config.mesh.data=4: data x fsdp=1 x tensor=4 is 16 devices"),
    ],
)
def test_impossible_meshes(axes, message):
    with pytest.raises(ConfigError, match=message):
        create_mesh(**axes)


def test_without_a_tensor_axis_nothing_is_new():
    assert create_mesh(data=4, fsdp=2).axis_names == ("data", "fsdp")
    shapes = {"a/mlp/dense1/kernel": (64, 256), "a/attention/qkv/kernel": (64, 3, 4, 16)}
    assert specs(shapes, create_mesh(data=4, fsdp=2)) == {
        "a/mlp/dense1/kernel": P(None, "fsdp"),
        "a/attention/qkv/kernel": P("fsdp"),
    }
