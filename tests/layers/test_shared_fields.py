"""Which fields a model passes on to its layers."""

import pytest
from flax import linen as nn

from layers.shared_fields import shared_fields


class Layer(nn.Module):
    width: int
    rate: float
    bias: bool = True


class Model(nn.Module):
    width: int
    depth: int
    rate: float


def test_fields_of_the_same_name_are_passed_on():
    model = Model(width=3, depth=2, rate=0.5, name="model")
    assert shared_fields(model, Layer) == {"width": 3, "rate": 0.5}
    assert shared_fields(model, Layer, but=("rate",)) == {"width": 3}


def test_a_field_that_a_layer_gets_twice_or_not_at_all_is_an_error():
    model = Model(width=3, depth=2, rate=0.5)
    with pytest.raises(TypeError, match="multiple values for keyword argument 'rate'"):
        Layer(**shared_fields(model, Layer), rate=0.1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'rate'"):
        Layer(**shared_fields(model, Layer, but=("rate",)))
