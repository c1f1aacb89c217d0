"""timm's NesT: logits of the fixtures, names there and back, and how the padding is found."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nest.convert_timm import from_timm, to_timm
from nest.model import Nest
from zoo.load import check_tree, load_variables, load_weights, parameter_shapes
from zoo.registry import MODELS, create_model

SAME = Nest(
    num_classes=10,
    patch_size=4,
    dims=(8, 16, 32),
    num_heads=(2, 4, 8),
    depths=(1, 1, 2),
    gelu="exact",
)
TORCH = SAME.clone(aggregation_padding="torch")
FILES = {"nest_timm_jx": SAME, "nest_timm": TORCH}


def random_params(model, size=32, seed=0):
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(model, size)
    return jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)


def difference(model, params, known):
    logits = jax.jit(model.apply)({"params": params}, known["images"])
    return np.abs(logits - known["logits"]).max() / np.abs(known["logits"]).max()


def refused(file, model, *parts):
    with pytest.raises(ValueError) as error:
        load_weights(file, model, image_size=32)
    message = str(error.value)
    assert str(file) in message and "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("name", FILES)
def test_logits_are_those_of_timm(fixtures, name):
    params = load_weights(fixtures / f"{name}.safetensors", FILES[name], image_size=32)
    assert difference(FILES[name], params, np.load(fixtures / f"{name}.npz")) <= 1e-5


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("field", ["gelu", "aggregation_padding"])
def test_the_variant_is_asked_for(fixtures, tmp_path, name, field):
    architecture, right = name.replace("timm", "tiny"), FILES[name]
    file = tmp_path / f"{architecture}.safetensors"
    shutil.copy(fixtures / f"{name}.safetensors", file)
    (other,) = {"gelu": {"tanh", "exact"}, "aggregation_padding": {"same", "torch"}}[field] - {
        getattr(right, field)
    }
    wrong = right.clone(**{field: other})
    need = f"needs a model with {field}={getattr(right, field)!r}; set"
    refused(file, wrong, f"timm {architecture} {need}")
    params = load_weights(file, wrong, image_size=32, ignore_fields=[field])
    known = np.load(fixtures / f"{name}.npz")
    assert difference(wrong, params, known) > 1e-4
    assert difference(right, params, known) <= 1e-5


@pytest.mark.parametrize("name", FILES)
def test_names_lead_back_to_the_file(fixtures, name):
    state = load_file(fixtures / f"{name}.safetensors")
    again = to_timm(from_timm(state, FILES[name]), FILES[name])
    assert again.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(again[key], array, err_msg=key)


@pytest.mark.parametrize("depths", [(1,), (3, 1), (1, 2, 3, 4)])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_names_there_and_back(depths, qkv_bias):
    levels = len(depths)
    model = Nest(
        *(10, (8, 16, 32, 64)[:levels], depths, (2, 4, 2, 4)[:levels]),
        patch_size=1,
        gelu="exact",
        qkv_bias=qkv_bias,
    )
    params = random_params(model)
    again = from_timm(to_timm(params, model), model)
    check_tree(params, again, "again")
    jax.tree.map(np.testing.assert_array_equal, params, again)


IN_TIMM = [
    name
    for name, (model_class, fields) in MODELS.items()
    if model_class is Nest and fields["attention"] == "multi_head"
]


@pytest.mark.parametrize("name", IN_TIMM)
def test_every_variant_there_and_back(name):
    """Shapes and numbers only: 2^24 whole numbers are distinct in float32."""
    model = create_model(name, num_classes=10, gelu="exact")
    shapes = parameter_shapes(model, int(name.rpartition("_")[2]))
    count = iter(range(10**6))
    params = jax.tree.map(
        lambda s: np.arange(np.prod(s.shape), dtype=np.float32).reshape(s.shape) + next(count),
        shapes,
    )
    again = from_timm(to_timm(params, model), model)
    check_tree(params, again, name)
    jax.tree.map(np.testing.assert_array_equal, params, again)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gelu": "tanh"}, "timm has no NesT with gelu='tanh'; it has .*gelu='exact'"),
        ({"attention": "multi_query"}, "timm has no NesT with attention='multi_query'"),
        ({"aggregation": "maxpool"}, "timm has no NesT with aggregation='maxpool'"),
        ({"block_size": (2, 4)}, r"timm has no NesT with block_size=\(2, 4\)"),
    ],
)
def test_models_that_timm_does_not_have(fields, message):
    model = SAME.clone(**fields)
    with pytest.raises(ValueError, match=message):
        to_timm(random_params(model, (32, 64) if "block_size" in fields else 32), model)


def test_parameters_of_another_model():
    with pytest.raises(ValueError, match="no timm name for level1_layer2/attention/out/bias"):
        to_timm(random_params(SAME.clone(depths=(2, 1, 2))), SAME)


@pytest.fixture
def saved(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(to_timm(random_params(SAME), SAME), file)
    return file


def test_what_tells_the_padding(saved):
    _, report = load_variables(saved, TORCH, image_size=32)
    assert "does not say how timm's model pads" in str(report)

    for name in ("nest_tiny", "nest_tiny_jx", "jx_nest_tiny-8bc41011"):
        right, wrong = (SAME, TORCH) if "jx" in name else (TORCH, SAME)
        copy = shutil.copy(saved, saved.with_name(f"{name}.safetensors"))
        load_weights(copy, right, image_size=32)
        refused(
            copy, wrong, f"needs a model with aggregation_padding={right.aggregation_padding!r}"
        )

    for name in ("nest_mine", "nest_jx", "nest_tiny_mine", "my_nest_tiny", "nest_tiny-mine_jx"):
        copy = shutil.copy(saved, saved.with_name(f"{name}.safetensors"))
        for model in (SAME, TORCH):
            _, report = load_variables(copy, model, image_size=32)
            assert "does not say how timm's model pads" in str(report)

    for architecture, right, wrong in (
        ("nest_tiny_jx", SAME, TORCH),
        ("nest_tiny", TORCH, SAME),
        ("nest_base_jx.goog_in1k", SAME, TORCH),
    ):
        (saved.parent / "config.json").write_text(json.dumps({"architecture": architecture}))
        load_weights(saved.parent, right, image_size=32)
        refused(saved, wrong, f"timm {architecture.split('.')[0]} needs a model with aggregation_")

    (saved.parent / "config.json").write_text(json.dumps({"architecture": "resnet50"}))
    beside = shutil.copy(saved, saved.with_name("nest_tiny.safetensors"))
    _, report = load_variables(beside, SAME, image_size=32)
    assert "does not say how timm's model pads" in str(report)
    (saved.parent / "config.json").unlink()
    save_file(load_file(saved), saved, {"architecture": "nest_tiny_jx"})
    refused(saved, TORCH, "aggregation_padding='same'")


def test_missing_extra_and_mis_shaped(saved):
    state = load_file(saved)
    del state["levels.2.transformer_encoder.1.mlp.fc1.bias"]
    state["levels.0.transformer_encoder.0.attn.qkv.weight"] = np.ones((23, 8), np.float32)
    state["levels.1.pool.norm.weight"] = np.ones(3, np.float32)
    state["running_mean"] = np.ones(3, np.float32)
    save_file(state, saved)
    refused(
        saved,
        SAME,
        "2 missing: level1_layer1/attention/qkv/kernel, level3_layer2/mlp/dense1/bias",
        "2 extra: levels.0.transformer_encoder.0.attn.qkv.weight, running_mean",
        "level1_aggregation/norm/scale (3,) instead of (16,)",
    )
    save_file({"weight": np.ones(3, np.float32)}, saved)
    refused(saved, SAME, "parameter names are not those of a NesT")
