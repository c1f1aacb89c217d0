"""TNT weights of the official code and of timm: logits, names there and back, damaged files."""

import contextlib
import pickle
import sys
import types
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nest.model import Nest
from tnt.convert import fields_of, from_pytorch, to_official, to_timm
from tnt.model import Tnt
from zoo.load import check_tree, load_weights, parameter_shapes
from zoo.registry import MODELS, create_model

HEADS = {"num_inner_heads": 2, "num_outer_heads": 4}
RELEASED = Tnt(num_classes=10, inner_dim=8, outer_dim=32, depth=2, **HEADS)
LEGACY = RELEASED.clone(stem="conv7_image", fusion="legacy")
GATED = RELEASED.clone(squeeze_excite=True)

FILES = {
    "tnt_official_se": ("tnt_official_se.safetensors", GATED),
    "tnt_timm": ("tnt_timm.safetensors", RELEASED),
    "tnt_timm_legacy": ("tnt_timm_legacy.safetensors", LEGACY),
}
TORCH_FILE = "tnt_official.pth.tar"


def random_params(model, size=32, seed=0):
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(model, size)
    return jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)


def difference(model, params, known):
    """Largest difference of logits, in units of the largest logit."""
    # Compiling is most of the work, so the compiler does not optimise.
    apply = jax.jit(model.apply, compiler_options={"xla_backend_optimization_level": 0})
    logits = apply({"params": params}, known["images"])
    return np.abs(logits - known["logits"]).max() / np.abs(known["logits"]).max()


# A stand-in for torch, which is not among the requirements: reads its files without it.


class Tensor:
    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    def float(self):
        return self

    def numpy(self):
        return self.array


class TorchUnpickler(pickle.Unpickler):
    """Reads float32 tensors from the archive that torch.save writes."""

    def __init__(self, archive):
        (self.pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        super().__init__(archive.open(self.pickled))
        self.archive = archive

    def find_class(self, module, name):
        if name == "_rebuild_tensor_v2":
            return self.tensor
        return {"OrderedDict": dict, "FloatStorage": np.dtype("float32")}[name]

    def persistent_load(self, saved):
        _, dtype, key, _, _ = saved
        return np.frombuffer(self.archive.read(f"{self.pickled[:-8]}data/{key}"), dtype)

    def tensor(self, storage, offset, shape, strides, *_):
        strides = [4 * stride for stride in strides]
        return Tensor(np.lib.stride_tricks.as_strided(storage[offset:], shape, strides).copy())


def stand_in(content=None):
    """A module that takes the place of torch; it reads files, or returns `content`."""

    def load(file, *, map_location, weights_only):
        assert map_location == "cpu" and weights_only
        if content is not None:
            return content
        with zipfile.ZipFile(file) as archive:
            return TorchUnpickler(archive).load()

    return types.SimpleNamespace(
        __version__="2.6.0",
        load=load,
        is_tensor=lambda value: isinstance(value, Tensor),
        serialization=types.SimpleNamespace(safe_globals=lambda _: contextlib.nullcontext()),
    )


# Against the official code and timm


@pytest.mark.parametrize("name", FILES)
def test_logits_are_those_of_the_reference(fixtures, name):
    file, model = FILES[name]
    params = load_weights(fixtures / file, model, image_size=32)
    assert {(type(a), a.dtype) for a in jax.tree.leaves(params)} == {
        (np.ndarray, np.dtype("float32"))
    }
    assert difference(model, params, np.load(fixtures / f"{name}.npz")) <= 1e-5


def test_logits_of_the_official_torch_file_without_torch(fixtures, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", stand_in())
    params = load_weights(fixtures / TORCH_FILE, RELEASED, image_size=32)
    assert difference(RELEASED, params, np.load(fixtures / "tnt_official.npz")) <= 1e-5


@pytest.mark.torch
def test_logits_of_the_official_torch_file_with_torch(fixtures):
    pytest.importorskip("torch")
    params = load_weights(fixtures / TORCH_FILE, RELEASED, image_size=32)
    assert difference(RELEASED, params, np.load(fixtures / "tnt_official.npz")) <= 1e-5


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("tnt_timm", {"gelu": "tanh"}),
        ("tnt_timm", {"stem": "conv7_image"}),
        ("tnt_timm", {"pooling": "average"}),
        ("tnt_timm_legacy", {"stem": "conv7"}),
    ],
)
def test_logits_tell_the_details_apart(fixtures, name, fields):
    file, model = FILES[name]
    params = load_weights(fixtures / file, model, image_size=32)
    known = np.load(fixtures / f"{name}.npz")
    assert difference(model.clone(**fields), params, known) > 1e-4


def test_the_gelu_of_the_weights_is_asked_for(fixtures):
    file, model = FILES["tnt_timm"]
    refused(fixtures / file, model.clone(gelu="tanh"), "needs a model with gelu='exact'; set this")
    load_weights(fixtures / file, model.clone(pooling="average"), image_size=32)
    averaged = GATED.clone(pooling="average")
    refused(fixtures / FILES["tnt_official_se"][0], averaged, "pooling='class_token'")


@pytest.mark.parametrize("name", FILES)
def test_names_lead_back_to_the_file(fixtures, name):
    file, model = FILES[name]
    state = load_file(fixtures / file)
    back = to_official if "official" in name else to_timm
    again = back(from_pytorch(state, model), model)
    assert again.keys() == state.keys()
    state |= {"outer_tokens": np.zeros((1, 4, 32), np.float32)} if "official" in name else {}
    for key, array in state.items():
        np.testing.assert_array_equal(again[key], array, err_msg=key)


# Names, of any model


@pytest.mark.parametrize(
    ("there", "fields"),
    [
        (to_official, {"squeeze_excite": True, "inner_layers": (1, 3)}),
        (to_official, {"qkv_bias": True, "word_size": 8}),
        (to_timm, {"qkv_bias": True, "word_size": 2}),
        (to_timm, {"stem": "conv7_image", "fusion": "legacy"}),
    ],
)
def test_names_there_and_back(there, fields):
    model = RELEASED.clone(depth=3, **fields)
    params = random_params(model)
    again = from_pytorch(there(params, model), model)
    check_tree(params, again, "again")
    jax.tree.map(np.testing.assert_array_equal, params, again)


@pytest.mark.parametrize(
    ("convert", "fields", "message"),
    [
        (to_official, {"fusion": "legacy"}, r"fusion, stem\)=\('legacy', 'conv7'\)"),
        (to_official, {"fusion": "paper"}, "official code has no TNT with"),
        (to_official, {"pooling": "average"}, "no TNT with pooling='average'; it has pooling='cl"),
        (to_official, {"patch_stride": 8}, "no TNT with patch_stride=8"),
        (to_timm, {"fusion": "legacy"}, r"fusion, stem\)=\('legacy', 'conv7'\); it has .*conv7_im"),
        (to_timm, {"stem": "conv7_image"}, r"\('released', 'conv7_image'\)"),
        (to_timm, {"stem": "linear"}, r"\('released', 'linear'\)"),
        (to_timm, {"gelu": "tanh"}, "no TNT with gelu='tanh'; it has gelu='exact'"),
        (to_timm, {"mlp_ratio": 2}, "no TNT with mlp_ratio=2"),
        (to_timm, {"word_position": False}, "timm code has no TNT with word_position=False"),
        (to_timm, {"inner_layers": (2,)}, r"timm code has no TNT with inner_layers=\(2,\)"),
        (to_timm, {"squeeze_excite": True}, "timm code has no TNT with squeeze_excite=True"),
    ],
)
def test_models_that_the_others_do_not_have(convert, fields, message):
    model = RELEASED.clone(**fields)
    with pytest.raises(ValueError, match=message):
        convert(random_params(model), model)


EVERY = [name for name, (model_class, _) in MODELS.items() if model_class is Tnt]


@pytest.mark.parametrize("name", EVERY)
def test_every_variant_there_and_back(name):
    """Distinct numbers in each table, to timm and to the official code where they have it."""
    model = create_model(name, num_classes=10)
    if name != "tnt_s_patch16_224":  # once as large as it is
        inner_layers = model.inner_layers and tuple(n for n in model.inner_layers if n <= 6)
        model = model.clone(depth=6, inner_layers=inner_layers)
    count = iter(range(10**6))
    params = jax.tree.map(
        lambda s: np.arange(np.prod(s.shape), dtype=np.float32).reshape(s.shape) + next(count),
        parameter_shapes(model, 224),
    )
    converted = 0
    for there in (to_timm, to_official):
        try:
            state = there(params, model)
        except ValueError:
            continue
        converted += 1
        again = from_pytorch(state, model)
        check_tree(params, again, name)
        jax.tree.map(np.testing.assert_array_equal, params, again)
    one = {"tnt_s_legacy_patch16_224", "tnt_s1", "tnt_s2", "tnt_s3", "tnt_s4", "tnt_s_se"}
    assert converted == (1 if name in one else 2)


def test_parameters_of_another_model_have_no_names():
    with pytest.raises(ValueError, match="no timm name for layer1/outer/squeeze_excite/dense1"):
        to_timm(random_params(GATED), RELEASED)


def test_fields_that_parameters_tell():
    for model in (LEGACY, GATED, RELEASED.clone(depth=4, inner_layers=(1, 4), stem="linear")):
        shown = fields_of(random_params(model))
        layers = model.inner_layers or tuple(range(1, model.depth + 1))
        expected = {field: getattr(model, field) for field in shown} | {"inner_layers": layers}
        assert shown == expected


# Files


@pytest.fixture
def saved(tmp_path):
    file = tmp_path / "tnt.safetensors"
    save_file(to_timm(random_params(RELEASED), RELEASED), file)
    return file


def refused(file, model, *parts):
    with pytest.raises(ValueError) as error:
        load_weights(file, model, image_size=32)
    message = str(error.value)
    assert str(file) in message and "\n" not in message
    for part in parts:
        assert part in message, message


def test_what_was_written_is_read(saved):
    found = load_weights(saved, RELEASED, image_size=32)
    jax.tree.map(np.testing.assert_array_equal, found, random_params(RELEASED))


def test_prefix_of_distributed_training_is_taken_off(saved):
    save_file({f"module.{name}": array for name, array in load_file(saved).items()}, saved)
    found = load_weights(saved, RELEASED, image_size=32)
    jax.tree.map(np.testing.assert_array_equal, found, random_params(RELEASED))


@pytest.mark.parametrize(
    ("fields", "need", "have"),
    [
        (
            {"stem": "conv7_image", "fusion": "legacy"},
            "fusion='released', stem='conv7'",
            "fusion='legacy', stem='conv7_image'",
        ),
        ({"stem": "linear"}, "stem='conv7'", "stem='linear'"),
        ({"depth": 3}, "depth=2, inner_layers=(1, 2)", "depth=3, inner_layers=(1, 2, 3)"),
        ({"inner_layers": (2,)}, "inner_layers=(1, 2)", "inner_layers=(2,)"),
        ({"squeeze_excite": True}, "squeeze_excite=False", "squeeze_excite=True"),
        ({"outer_dim": 64}, "outer_dim=32", "outer_dim=64"),
        ({"word_position": False}, "word_position=True", "word_position=False"),
    ],
)
def test_weights_of_another_form_name_the_fields(saved, fields, need, have):
    refused(saved, RELEASED.clone(**fields), f"a TNT with {need}; ", f"the model has {have}")


def test_legacy_weights_in_a_released_model(tmp_path):
    file = tmp_path / "legacy.safetensors"
    save_file(to_timm(random_params(LEGACY), LEGACY), file)
    refused(file, RELEASED, "a TNT with fusion='legacy', stem='conv7_image'; set this")


def test_missing_extra_and_mis_shaped_parameters(saved):
    state = load_file(saved)
    del state["blocks.0.mlp.fc1.bias"]
    state["blocks.1.attn_in.qk.weight"] = np.ones((15, 8), np.float32)
    state["head.bias"] = np.ones(7, np.float32)
    state["running_mean"] = np.ones(3, np.float32)
    save_file(state, saved)
    refused(
        saved,
        RELEASED,
        "missing: layer1/outer/mlp/dense1/bias, layer2/inner/attention/qkv/kernel",
        "extra: ",
        "layer2/inner/attention/qk/kernel",
        "running_mean",
        "mis-shaped: head/bias (7,) instead of (10,)",
    )


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_safetensors(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    refused(saved, RELEASED, "the file is empty" if share == 0 else "truncated or damaged file")


def test_other_names_and_other_models(saved):
    save_file({"weight": np.ones(3, np.float32)}, saved)
    refused(saved, RELEASED, "parameter names are not those of a TNT")
    refused(saved, Nest(10, (8,), (1,), (2,), patch_size=4), "not those of a NesT")
    refused(saved, create_model("deit_ti_patch16_224", num_classes=10), "not for Vit")


# Files of torch


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".tar"])
def test_torch_files_say_that_torch_is_missing(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, "torch", None)
    file = tmp_path / f"tnt{suffix}"
    file.write_bytes(b"anything")
    refused(file, RELEASED, "needs torch, which is not installed: pip install torch")


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state}])
def test_state_dict_alone_or_inside(tmp_path, monkeypatch, wrap):
    expected = random_params(RELEASED)
    state = {name: Tensor(array) for name, array in to_official(expected, RELEASED).items()}
    monkeypatch.setitem(sys.modules, "torch", stand_in(wrap(state)))
    file = tmp_path / "tnt.pth"
    file.write_bytes(b"anything")
    found = load_weights(file, RELEASED, image_size=32)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("content", [3, [], {"state_dict": 3}, {"epoch": 7}])
def test_torch_file_without_tensors(tmp_path, monkeypatch, content):
    monkeypatch.setitem(sys.modules, "torch", stand_in(content))
    file = tmp_path / "tnt.pth"
    file.write_bytes(b"anything")
    refused(file, RELEASED, "no tensors by name, nor under state_dict")


def test_damaged_torch_file(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", stand_in())
    file = tmp_path / "tnt.pth.tar"
    file.write_bytes(b"not a zip file" * 9)
    refused(file, RELEASED, "truncated or damaged file")
