"""The comparison with the official input pipeline; its code is not among the tests' files."""

import pytest

from benchmarks.official_input import official_batches
from harness.errors import ConfigError


def test_no_checkout(tmp_path):
    with pytest.raises(ConfigError, match=r"libml/preprocess.py; clone https://github.com/"):
        official_batches(tmp_path, [])


@pytest.mark.tensorflow
def test_stand_ins_for_the_addons():
    tf = pytest.importorskip("tensorflow")
    from benchmarks.official_input import _addons

    image = tf.reshape(tf.range(27, dtype=tf.uint8), [3, 3, 3])
    ops = _addons(tf)["tensorflow_addons"].image
    moved = ops.translate(image, [-1, 0]).numpy()  # to the left, zeros come in
    assert (moved[:, :2] == image.numpy()[:, 1:]).all() and (moved[:, 2] == 0).all()
    turned = ops.rotate(image, 3.14159265 / 2).numpy()  # against the clock
    assert (turned == image.numpy().transpose(1, 0, 2)[::-1]).all()
