"""kernels/shards.py: on a mesh, every device computes its own part of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from kernels import tpu_attention
from kernels.shards import over_shards


@pytest.fixture(params=[(8, 1), (1, 8), (2, 4), (1, 1)], ids=str)
def mesh(request):
    return jax.make_mesh(
        request.param,
        ("data", "fsdp"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[: request.param[0] * request.param[1]],
    )


def scaled_and_summed(x, weight):
    """A batched result, and one that is a sum over the batch."""
    return x * weight, (x * weight).sum(axis=0)


@pytest.mark.parametrize("batch", [16, 3])
def test_results_are_those_of_one_device(mesh, batch):
    x, weight = jax.random.normal(jax.random.key(0), (batch, 5)), jnp.arange(5.0)
    spec = P(("data", "fsdp")) if batch == 16 else P()
    placed = jax.device_put(x, NamedSharding(mesh, spec))
    run = jax.jit(lambda x, w: over_shards(scaled_and_summed, (x, w), (True, False), (True, False)))
    for ours, theirs in zip(run(placed, weight), scaled_and_summed(x, weight), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_no_device_gathers_the_batch(mesh):
    qkv = jax.random.normal(jax.random.key(0), (16, 8, 3, 2, 8))
    place = NamedSharding(mesh, P(("data", "fsdp")))

    def loss(qkv):
        # The kernel is in the middle of a program, as in a model.
        return jnp.square(tpu_attention.self_attention(jnp.sin(qkv).reshape(qkv.shape))).sum()

    placed = jax.device_put(qkv, place)
    step = jax.jit(jax.grad(loss), in_shardings=place)
    compiled = step.lower(placed).compile()
    text = compiled.as_text()
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
    np.testing.assert_allclose(compiled(placed), jax.grad(loss)(qkv), atol=1e-4)
    if mesh.size > 1:
        assert compiled(placed).sharding.spec[0] == ("data", "fsdp")
