"""The recipes of TNT: they build, and say what the paper says."""

import jax
import pytest

from configs import digits_tnt, imagenet_tnt
from harness.errors import ConfigError
from tasks.parameter_masks import decay_mask, parameter_paths
from training import experiment


@pytest.mark.parametrize("argument", [None, "debug"])
def test_digits_recipe_builds(argument):
    run = experiment.build(digits_tnt.get_config(argument))
    assert 225_000 < sum(leaf.size for leaf in jax.tree.leaves(run.shapes.params)) < 275_000


@pytest.mark.parametrize("size", ["ti", "s", "b"])
def test_imagenet_recipe_builds_in_debug(size):
    run = experiment.build(imagenet_tnt.get_config(f"{size},debug"))
    assert run.task.model.drop_path_rate == 0.1 and run.task.model.depth == 2
    assert run.shapes.ema is not None


@pytest.mark.parametrize("size", ["ti", "s", "b"])
def test_imagenet_recipe_lacks_data_only(size, tmp_path):
    config = imagenet_tnt.get_config(size)
    assert config.model.name == f"tnt_{size}_patch16_224"
    config.data.data_dir = str(tmp_path)
    with pytest.raises(ConfigError, match="imagenet2012' is not prepared"):
        experiment.check_config(config)


def test_decay_is_for_matrices_only():
    """Official no_weight_decay() and timm: positions, class token and every vector are exempt."""
    config = imagenet_tnt.get_config("ti,debug")
    params = experiment.build(config).shapes.params
    decayed = parameter_paths(decay_mask(params, config.optimizer.decay_exclude))
    for path, leaf in parameter_paths(params).items():
        matrix = path.endswith("/kernel")
        assert decayed[path] == matrix, path
        assert matrix == (leaf.ndim >= 2 and "position" not in path and "bias" not in path), path


@pytest.mark.parametrize("argument", ["tiny", "ti,s", "debug,xl"])
def test_unknown_arguments(argument):
    with pytest.raises(ValueError, match="recipe argument"):
        imagenet_tnt.get_config(argument)
