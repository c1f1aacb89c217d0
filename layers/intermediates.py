"""Maps inside a model that others read and differentiate."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

ATTENTION_WEIGHTS = "attention_weights"  # collection, see `layers.attention.SelfAttention`


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


def is_asked_for(module: nn.Module, collection: str) -> bool:
    """Returns whether the model is applied with this collection mutable; init does not count."""
    return module.is_mutable_collection(collection) and not module.is_initializing()


def as_classes(classes: Any, num_images: int, num_classes: int) -> Array | None:
    """Returns the classes that are asked for, one for each image, as int32 [b]; None stays None.

    Raises:
        ValueError: they are no integers, not one for each image, or out of range. The range is
            checked only where the numbers are known: not inside a function that JAX traces.
    """
    if classes is None:
        return None
    if not isinstance(classes, jax.core.Tracer):
        classes = np.asarray(classes)
    if classes.ndim != 1 or not jnp.issubdtype(classes.dtype, jnp.integer):
        raise ValueError(
            f"classes are {classes.dtype} {classes.shape}; they must be integers, one for each of "
            f"{num_images} images"
        )
    if len(classes) != num_images:
        counts = f"the number of classes is {len(classes)}, of images {num_images}"
        raise ValueError(f"{counts}: give one class for each image")
    if isinstance(classes, np.ndarray):
        wrong = classes[(classes < 0) | (classes >= num_classes)]
        if len(wrong):
            raise ValueError(f"there is no class {wrong[0]}; allowed: 0 to {num_classes - 1}")
    return jnp.asarray(classes, jnp.int32)


def differentiate(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Array,
    classes: Array | None,
    names: Sequence[str],
) -> tuple[Array, Array, dict[str, Array], dict[str, Array]]:
    """Computes maps inside a classifier, and the gradients of a logit with respect to them.

    Costs a forward pass, and a backward pass down to the lowest of the maps, without gradients of
    parameters.

    Args:
        model: a classifier of this repository.
        variables: its variables.
        images: [b, h, w, channels], normalised.
        classes: [b], integers, whose logits are differentiated; None: the largest of each image.
        names: of the maps, as the model sows them.

    Returns:
        logits: [b, num_classes].
        classes: [b], int32.
        maps: name -> map.
        gradients: name -> gradient, of the map's shape.

    Raises:
        ValueError: the model has no map of a name, or no such class.
    """
    classes = as_classes(classes, len(images), model.num_classes)
    shapes = jax.eval_shape(lambda: model.apply(variables, images, mutable=["perturbations"])[1])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.get("perturbations", {}))
    if missing := [name for name in names if name not in zeros]:
        raise ValueError(f"there is no map {missing[0]!r}; there are {', '.join(zeros)}")

    def score(moved):
        taken = {**variables, "perturbations": {**zeros, **moved}}
        logits, state = model.apply(taken, images, mutable=["intermediates"])
        chosen = jnp.argmax(logits, axis=-1) if classes is None else classes
        own = jnp.take_along_axis(logits, chosen[:, None], axis=-1)  # [b, 1]
        maps = {name: state["intermediates"][name][0] for name in names}
        return own.sum(), (logits, chosen.astype(jnp.int32), maps)

    gradients, (logits, chosen, maps) = jax.grad(score, has_aux=True)(
        {name: zeros[name] for name in names}
    )
    return logits, chosen, maps, gradients
