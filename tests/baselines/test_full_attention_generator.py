"""The full-attention generator against NesT's, of which it is the case of one block."""

import jax
import numpy as np
import pytest

from baselines.full_attention_generator import FullAttentionGenerator
from nest.gan.generator import NestGenerator, generator_shapes

FIELDS = {
    "image_size": 8,
    "dims": (16,),
    "depths": (1,),
    "num_heads": (4,),
    "latent_dim": 6,
    "patch_size": 2,
}


@pytest.mark.parametrize("overrides", [{}, {"qkv_bias": False, "gelu": "exact"}])
def test_with_one_block_it_is_the_nest_generator(overrides):
    model = NestGenerator(**FIELDS, **overrides)
    noise = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    params = jax.tree.map(
        lambda s: np.random.default_rng(1).normal(0, 0.3, s.shape).astype(np.float32),
        generator_shapes(model),
    )
    expected = jax.jit(model.apply)({"params": params}, noise)
    params["level1_position"]["embedding"] = params["level1_position"]["embedding"][0]
    found = jax.jit(FullAttentionGenerator(**FIELDS, **overrides).apply)({"params": params}, noise)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"image_size": 9}, "image_size=9: does not fit .*multiples of 2; nearest: 8 or 10"),
        ({"num_heads": (3,)}, "num_heads=3: does not divide dims=16 at level 1"),
        ({"gelu": "erf"}, "gelu='erf': unknown; .*allowed: tanh, exact"),
    ],
)
def test_wrong_fields(overrides, message):
    with pytest.raises(ValueError, match=message):
        FullAttentionGenerator(**(FIELDS | overrides))
