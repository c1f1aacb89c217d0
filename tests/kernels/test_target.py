"""kernels/target.py: which kind of device programs are traced for."""

import jax

from kernels.target import compiling_for, platform


def test_the_platform_is_that_of_the_default_device():
    assert platform() == jax.default_backend() == "cpu"
    with jax.default_device(jax.devices("cpu")[0]):
        assert platform() == "cpu"
    with jax.default_device("cpu"):
        assert platform() == "cpu"


def test_compiling_for_another_kind_ends_with_its_block():
    with compiling_for("tpu"):
        assert platform() == "tpu"
        with compiling_for("any"):
            assert platform() == "any"
        assert platform() == "tpu"
    assert platform() == "cpu"
