"""Weights of colour images for grey ones, and the reverse."""

import numpy as np
import pytest

from baselines.resnet import ResNet
from baselines.vit import Vit
from baselines.wide_resnet import WideResNet
from nest.model import Nest
from tests.model_inputs import fill
from tnt.model import Tnt
from tnt.variants import VARIANTS as TNT_VARIANTS
from zoo.fit import with_channels
from zoo.load import load_variables, variable_shapes
from zoo.save import write_weights

_TNT = {"inner_dim": 8, "outer_dim": 32, "num_inner_heads": 2, "num_outer_heads": 4, "depth": 1}
MODELS = {
    "nest": (Nest(10, (8, 16), (1, 1), (2, 4), patch_size=4), "patch_embedding/kernel"),
    "vit": (Vit(10, dim=24, depth=1, num_heads=4, patch_size=4), "patch_embedding/kernel"),
    "tnt": (Tnt(10, **_TNT), "word_embedding/projection/kernel"),
    "tnt_linear": (Tnt(10, **_TNT, stem="linear"), "word_embedding/projection/kernel"),
    "tnt_legacy": (
        Tnt(10, **(TNT_VARIANTS["tnt_s_legacy_patch16_224"] | _TNT)),
        "word_embedding/projection/kernel",
    ),
    "resnet": (ResNet(10, depths=(1,), dims=(8,)), "stem_conv/kernel"),
    "wide_resnet": (WideResNet(10, depth=10, width=1), "stem/kernel"),
}


@pytest.mark.parametrize(("stored", "wanted"), [(3, 1), (1, 3)])
@pytest.mark.parametrize("name", MODELS)
def test_a_grey_image_gives_the_same_in_grey_and_in_three_equal_colours(
    name, stored, wanted, tmp_path
):
    model, kernel = MODELS[name]
    variables = fill(variable_shapes(model, (32, 32, stored)))
    if "batch_stats" in variables:  # variances are positive
        variables["batch_stats"] = fill_positive(variables["batch_stats"])
    file = tmp_path / "weights.npz"
    write_weights(file, variables, model, (32, 32))
    found, report = load_variables(file, model, image_size=(32, 32, wanted))
    assert list(report.rechannelled) == [kernel] and kernel not in report.loaded
    assert f"channels          1  {kernel}" in str(report)
    grey = np.random.default_rng(1).normal(size=(2, 32, 32, 1)).astype(np.float32)
    images = {1: grey, 3: np.repeat(grey, 3, axis=3)}
    expected = np.asarray(model.apply(variables, images[stored]))
    tolerance = 2e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model.apply(found, images[wanted]), expected, atol=tolerance)


def fill_positive(tree):
    return {
        name: fill_positive(value) if isinstance(value, dict) else np.abs(value) + 0.5
        for name, value in tree.items()
    }


def test_other_numbers_of_channels_do_not_fit(tmp_path):
    model, kernel = MODELS["nest"]
    file = tmp_path / "weights.npz"
    write_weights(file, fill(variable_shapes(model, (32, 32, 2))), model, (32, 32))
    with pytest.raises(ValueError, match=f"mis-shaped: {kernel}"):
        load_variables(file, model, image_size=(32, 32, 3))


def test_the_same_channels_change_nothing(tmp_path):
    model, _ = MODELS["nest"]
    variables, file = fill(variable_shapes(model, (32, 32, 3))), tmp_path / "weights.npz"
    write_weights(file, variables, model, (32, 32))
    found, report = load_variables(file, model, image_size=(32, 32, 3))
    assert not report.rechannelled
    np.testing.assert_array_equal(
        found["params"]["patch_embedding"]["kernel"],
        variables["params"]["patch_embedding"]["kernel"],
    )


@pytest.mark.torch
def test_from_colour_to_grey_as_timms_in_chans(torch, timm):
    from timm.models import adapt_input_conv

    kernel = np.random.default_rng(0).normal(size=(4, 4, 3, 8)).astype(np.float32)
    theirs = adapt_input_conv(1, torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
    ours = with_channels(kernel, (4, 4, 1, 8))
    np.testing.assert_allclose(ours.transpose(3, 2, 0, 1), theirs.numpy(), rtol=1e-6, atol=1e-6)
