"""Kernels and models, compiled for a slice of TPUs by a process that has none (needs libtpu)."""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kernels import tpu_attention
from kernels.target import compiling_for
from tnt.block import TransformerBlock

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def batch():
    """The sharding of a batch over a v5e:4x4 slice."""
    pytest.importorskip("libtpu")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4").devices
    axis_types = (AxisType.Auto,) * 2
    mesh = Mesh(np.array(devices).reshape(8, 2), ("data", "fsdp"), axis_types=axis_types)
    return NamedSharding(mesh, P(("data", "fsdp")))


def compiled(function, *arrays):
    with compiling_for("tpu"):
        lowered = jax.jit(function).lower(*arrays)
    text = lowered.compile().as_text()
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
    return text


def with_gradient(function):
    def run(d_out, *operands):
        out, vjp = jax.vjp(function, *operands)
        return out, vjp(d_out)

    return run


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    "shape",
    [(16, 196, 3, 32), (1, 196, 12, 32), (1, 576, 6, 64), (4, 49, 5, 40), (2, 16, 4, 6)],
    ids=str,
)
def test_attention(shape, dtype, batch):
    blocks, n, h, d = shape
    q, qkv = (
        jax.ShapeDtypeStruct((32, blocks, n, *axes), dtype, sharding=batch)
        for axes in ((h, d), (3, h, d))
    )
    assert "attention_backward" in compiled(with_gradient(tpu_attention.self_attention), q, qkv)
    assert "attention_backward" in compiled(with_gradient(tpu_attention.attention), q, q, q, q)


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.1])
@pytest.mark.parametrize("dim", [24, 40])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_words(dim, dtype, drop_path_rate, batch):
    model = TransformerBlock(
        num_heads=4,
        mlp_ratio=4,
        qkv_bias=False,
        gelu="exact",
        drop_path_rate=drop_path_rate,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        dtype=jnp.dtype(dtype),
    )
    x = jax.ShapeDtypeStruct((32, 196, 16, dim), dtype, sharding=batch)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), x)

    def run(variables, x):
        return model.apply(variables, x, True, rngs={"dropout": jax.random.key(0)})

    assert "block_backward" in compiled(with_gradient(run), x, variables, x)
