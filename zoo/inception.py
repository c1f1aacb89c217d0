"""Inception-v3's weights from the PyTorch state dicts that FID is usually computed with."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from baselines.inception import InceptionV3
from harness.trees import check_tree, listed
from zoo.formats import read_safetensors
from zoo.torch_files import SUFFIXES as TORCH_SUFFIXES
from zoo.torch_files import read_torch_state

SUFFIXES = (".safetensors", *TORCH_SUFFIXES)

# Rows of the last layer -> whose network it is, and whether it has FID's pools.
NETWORKS = {
    1008: ("pytorch-fid's, the TensorFlow graph of 2015-12-05", True),
    1000: ("torchvision's", False),
}

# Name here -> PyTorch's, for each kind of array; layers have the same names in both.
_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def read_inception(file: Path) -> tuple[InceptionV3, dict, str]:
    """Reads the weights of FID's network or torchvision's, told apart by the number of classes.

    Args:
        file: pt_inception-2015-12-05-*.pth of pytorch-fid, inception_v3_google-*.pth of
            torchvision, or the same arrays as .safetensors.

    Returns:
        The model, its variables, and whose network it is, in words.

    Raises:
        ValueError: the file is missing, damaged or of another network, or holds values that no
            trained network has.
    """
    if not file.is_file():
        raise ValueError(f"weights {file}: no such file")
    if file.suffix not in SUFFIXES:
        known = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        raise ValueError(f"weights {file}: Inception-v3 is read from {known}")
    if file.suffix == ".safetensors":
        state, _ = read_safetensors(file)
    else:
        state = read_torch_state(file)
    rows = len(state["fc.bias"]) if np.ndim(state.get("fc.bias")) == 1 else None
    if rows not in NETWORKS:
        counts = " or ".join(map(str, NETWORKS))
        found = "no fc.bias" if rows is None else f"one of {rows}"
        raise ValueError(f"weights {file}: not Inception-v3: {found}; it has fc.bias of {counts}")
    source, fid_pools = NETWORKS[rows]
    model = InceptionV3(num_classes=rows, fid_pools=fid_pools)
    # The auxiliary classifier and the counts of batches are for training only.
    state = {
        name: array
        for name, array in state.items()
        if not name.startswith("AuxLogits.") and not name.endswith(".num_batches_tracked")
    }
    check_tree(state_shapes(model), state, f"weights {file}: not Inception-v3: the file")
    for what, wrong in (
        ("values that are not finite", lambda name, array: not np.isfinite(array).all()),
        ("negative variances", lambda name, array: name.endswith("_var") and array.min() < 0),
    ):
        if names := [name for name, array in state.items() if wrong(name, array)]:
            raise ValueError(f"weights {file}: {what} in {listed(names)}")
    return model, from_state_dict(state, model), source


def state_shapes(model: InceptionV3) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns PyTorch's name -> PyTorch's shape of every array of the network."""
    return {
        _foreign_name(path): jax.ShapeDtypeStruct(
            tuple(leaf.shape[axis] for axis in _foreign_axes(leaf.ndim)), leaf.dtype
        )
        for path, leaf in _leaves(model).items()
    }


def from_state_dict(state: dict[str, np.ndarray], model: InceptionV3) -> dict:
    """Returns {"params": tree, "batch_stats": tree} in float32, of a complete state dict."""
    leaves = {}
    for path, leaf in _leaves(model).items():
        array = np.asarray(state[_foreign_name(path)], np.float32)
        # Back to the order here: where each of these axes is among PyTorch's.
        leaves[path] = np.ascontiguousarray(array.transpose(np.argsort(_foreign_axes(leaf.ndim))))
    return unflatten_dict(leaves)


def _leaves(model: InceptionV3) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    images = jnp.zeros((1, 75, 75, 3))  # the smallest
    return flatten_dict(jax.eval_shape(model.init, jax.random.key(0), images))


def _foreign_name(path: tuple[str, ...]) -> str:
    """Returns "Mixed_5b.branch1x1.bn.running_mean" of (batch_stats, Mixed_5b, ..., mean)."""
    return ".".join((*path[1:-1], _NAMES[path[-1]]))


def _foreign_axes(ndim: int) -> tuple[int, ...]:
    """Returns which axis here each of PyTorch's is: outputs, inputs, then rows and columns."""
    return {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[ndim]
