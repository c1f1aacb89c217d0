"""Weight initialisation shared by all models."""

from flax import linen as nn

# Normal(0, 0.02) cut at two standard deviations. JAX does not rescale what the cut takes away, so
# the weights' own standard deviation is 0.0176, as in the official NesT code. TNT's and DeiT's
# official code cuts at +-2, which is 100 deviations: there it is 0.02. One initializer serves all.
truncated_normal = nn.initializers.truncated_normal(stddev=0.02, lower=-2.0, upper=2.0)

# Xavier's: DETR's transformer, and what PVT adds to a backbone.
glorot_uniform = nn.initializers.glorot_uniform()
# PyTorch's default of linear maps and convolutions: within 1 / sqrt(inputs).
fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
