"""Maps inside a model that others read and differentiate."""

from flax import linen as nn
from jax import Array


def expose(module: nn.Module, name: str, x: Array) -> Array:
    """Makes a map readable as an intermediate and open to gradients; free when unused.

    To read it, apply the model with mutable=["intermediates"]. For gradients with respect to it,
    pass zeros under the names of all maps in the collection "perturbations": docs/explain.md does.

    Args:
        module: the module whose compact method is running.
        name: of the map, in the collections "intermediates" and "perturbations".
        x: the map.

    Returns:
        The map, plus the zeros that "perturbations" holds under its name.
    """
    if not module.is_initializing():  # init would return the zeros along with the parameters
        x = module.perturb(name, x)
    module.sow("intermediates", name, x)
    return x
