"""Weights as training scripts and wrappers write them: prefixes, nested dicts, heads, averages.

The right values are the logits that the fixtures' own code gave, see tests/fixtures/README.md.
"""

import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nest.model import Nest
from tnt.model import Tnt
from zoo import torch_files
from zoo.load import load_variables

NEST = Nest(
    num_classes=10,
    patch_size=4,
    dims=(8, 16, 32),
    num_heads=(2, 4, 8),
    depths=(1, 1, 2),
    gelu="exact",
)
TNT = Tnt(num_classes=10, inner_dim=8, outer_dim=32, depth=2, num_inner_heads=2, num_outer_heads=4)
LEGACY = TNT.clone(stem="conv7_image", fusion="legacy")
FILES = {
    "nest_timm_jx": NEST,
    "nest_timm": NEST.clone(aggregation_padding="torch"),
    "tnt_official_se": TNT.clone(squeeze_excite=True),
    "tnt_timm": TNT,
    "tnt_timm_legacy": LEGACY,
}
OTHER = {"step": np.ones(()), "loss.weight": np.ones(7), "optimizer.state.0.exp_avg": np.ones(3)}


def prefixed(state, *prefixes):
    return {f"{prefix}{name}": array for prefix in prefixes for name, array in state.items()}


def head_beside(state, prefix, head):
    """Moves the head out of the model: mmpretrain's, and many a Lightning module's."""
    inside = {name: a for name, a in state.items() if not name.startswith("head.")}
    outside = {f"{head}{leaf}": state[f"head.{leaf}"] for leaf in ("weight", "bias")}
    return prefixed(inside, prefix) | outside


def between(state, word):
    """Puts a word between all parts of the names that lead to modules, as FSDP does."""
    return {
        f"{word}." + re.sub(r"\.(?=[a-z_]+\d*\.)", f".{word}.", name): a
        for name, a in state.items()
    }


WRAPPERS = {
    "bare": lambda state: state,
    "distributed": lambda state: prefixed(state, "module."),
    "twice": lambda state: prefixed(state, "module.module."),
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "compiled, then distributed": lambda state: prefixed(state, "module._orig_mod."),
    "distributed, then compiled": lambda state: prefixed(state, "_orig_mod.module."),
    "lightning": lambda state: prefixed(state, "model.") | OTHER,
    "lightning, net": lambda state: prefixed(state, "net._orig_mod.") | OTHER,
    "averaged": lambda state: prefixed(state, "module.") | {"n_averaged": np.array([3.0])},
    "anybody's": lambda state: prefixed(state, "a.b_1.0.c."),
    "mmpretrain": lambda state: head_beside(state, "backbone.", "head.fc."),
    "head elsewhere": lambda state: head_beside(state, "model.encoder.", "model.classifier."),
    "fsdp": lambda state: between(state, "_fsdp_wrapped_module"),
}


def check_logits(fixtures, name, variables, model):
    known = np.load(fixtures / f"{name}.npz")
    apply = jax.jit(model.apply, compiler_options={"xla_backend_optimization_level": 0})
    error = np.abs(apply(variables, known["images"]) - known["logits"]).max()
    assert error <= 1e-5 * np.abs(known["logits"]).max()


@pytest.fixture(scope="module")
def bare(fixtures):
    """Returns name -> (state dict, the variables that it gives, with the right logits)."""
    found = {}
    for name, model in FILES.items():
        file = fixtures / f"{name}.safetensors"
        variables, _ = load_variables(file, model, image_size=32)
        check_logits(fixtures, name, variables, model)
        found[name] = load_file(file), variables
    return found


def load(tmp_path, state, model, **options):
    file = tmp_path / "wrapped.safetensors"
    save_file({name: np.ascontiguousarray(a, np.float32) for name, a in state.items()}, file)
    return load_variables(file, model, image_size=32, **options)


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_weights_are_the_same(tmp_path, bare, name, wrapper):
    state, expected = bare[name]
    found, report = load(tmp_path, WRAPPERS[wrapper](state), FILES[name])
    assert_equal(found, expected)
    if "head" in wrapper or wrapper == "mmpretrain":
        head = "head.fc" if wrapper == "mmpretrain" else "model.classifier"
        assert f"the head is {head}.weight and {head}.bias" in report.notes
    if "lightning" in wrapper:
        assert {"step", "loss", "optimizer"} <= set(report.skipped)


@pytest.mark.parametrize(
    ("raw", "ema"),
    [
        ("", "ema.module."),
        ("model.", "ema_model."),
        ("module.", "module_ema."),
        ("module._orig_mod.", "model_ema.module."),
        ("net.", "averaged_model.module."),
    ],
)
def test_averages_beside_the_weights(tmp_path, bare, raw, ema):
    """Which is read is said; "raw" and "ema" name them."""
    state, expected = bare["tnt_timm"]
    half = {name: array / 2 for name, array in state.items()}
    wrapped = prefixed(state, raw) | prefixed(half, ema)
    found, report = load(tmp_path, wrapped, TNT)
    assert_equal(found, expected)
    assert report.notes == (f"of the copies in this file {raw!r} is read, not {ema!r}",)
    found, report = load(tmp_path, wrapped, TNT, weights="ema")
    assert_equal(found, jax.tree.map(lambda a: a / 2, expected))
    assert report.notes == (f"of the copies in this file {ema!r} is read, not {raw!r}",)


def test_no_copy_is_guessed(tmp_path, bare):
    state, _ = bare["tnt_timm"]
    with pytest.raises(ValueError, match="several copies .*'student.', 'teacher.'; save one"):
        load(tmp_path, prefixed(state, "student.", "teacher."), TNT)
    with pytest.raises(ValueError, match="only a moving average .*: weights='ema' reads 'ema.'"):
        load(tmp_path, prefixed(state, "ema."), TNT)
    with pytest.raises(ValueError, match="there is no moving average in this file"):
        load(tmp_path, prefixed(state, "model."), TNT, weights="ema")
    two = head_beside(state, "backbone.", "head.fc.") | head_beside(state, "backbone.", "aux.")
    with pytest.raises(ValueError, match="missing: head/bias, head/kernel"):
        load(tmp_path, two, TNT)
    with pytest.raises(ValueError, match="extra: .*running_mean"):
        load(tmp_path, prefixed(state | {"running_mean": np.ones(3)}, "module."), TNT)
    for two in (("base_encoder.", "momentum_encoder."), ("grad_cam.model.", "model.")):
        with pytest.raises(ValueError, match="several copies") as error:
            load(tmp_path, prefixed(state, *two), TNT)
        assert all(repr(prefix) in str(error.value) for prefix in two)


@pytest.mark.parametrize(
    "prefix",
    [
        *("EMA.", "modelEMA.", "EMAModel.", "ModelEma.module.", "model-ema.", "ema2.", "SWA."),
        *("AveragedModel.module.", "moving_average.", "model_AVG."),
    ],
)
def test_words_of_an_average(tmp_path, bare, prefix):
    state, expected = bare["tnt_timm"]
    half = {name: array / 2 for name, array in state.items()}
    wrapped = prefixed(state, "model.") | prefixed(half, prefix)
    for weights, factor in (("raw", 1), ("ema", 2), ("ema_or_raw", 2)):
        found, _ = load(tmp_path, wrapped, TNT, weights=weights)
        assert_equal(found, jax.tree.map(lambda a, f=factor: a / f, expected))


@pytest.mark.parametrize(
    "prefix", ["average_pool_model.", "model.avg_pooling.", "non_ema.", "schema.", "momentum_net."]
)
def test_words_of_no_average(tmp_path, bare, prefix):
    state, expected = bare["tnt_timm"]
    wrapped = prefixed(state, prefix)
    for weights in ("raw", "ema_or_raw"):
        found, report = load(tmp_path, wrapped, TNT, weights=weights)
        assert_equal(found, expected)
    assert "no moving average" in report.notes[-1]
    with pytest.raises(ValueError, match="there is no moving average in this file"):
        load(tmp_path, wrapped, TNT, weights="ema")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("name", "array", "leaves"),
    [
        ("tnt_official_se", "blocks.0.inner_attn.proj.weight", ["original"]),
        ("tnt_official_se", "blocks.1.outer_mlp.fc1.bias", ["original"]),
        ("tnt_official_se", "outer_pos", ["original"]),  # by which a TNT is known
        ("tnt_timm", "head.weight", ["original0", "original1"]),  # weight_norm
        ("nest_timm", "levels.1.transformer_encoder.0.attn.qkv.weight", ["original", "0._u"]),
    ],
)
def test_parametrized_weights_are_refused(tmp_path, bare, prefix, name, array, leaves):
    """The arrays are not the weights: those are computed from them."""
    state = dict(bare[name][0])
    *module, parameter = array.split(".")
    weight = state.pop(array)
    for leaf in leaves:
        state[".".join([*module, "parametrizations", parameter, leaf])] = 3 * weight
    with pytest.raises(ValueError, match="parametrizations.*computes.*remove_parametrizations"):
        load(tmp_path, prefixed(state, prefix), FILES[name])


@pytest.mark.parametrize("leaf", ["lora_A", "weight_g", "default.0", "scale"])
def test_words_below_a_weight_are_not_dropped(tmp_path, bare, leaf):
    state = dict(bare["tnt_timm"][0])
    state[f"head.weight.{leaf}"] = state.pop("head.weight")
    with pytest.raises(ValueError, match="missing: head/kernel.*extra: "):
        load(tmp_path, state, TNT)


# mmpretrain's names of timm's first port, module by module in the order of its code
# (mmpretrain/models/backbones/tnt.py), with mmcv's MultiheadAttention and FFN inside.
IN_MMPRETRAIN = {
    r"proj\.": "projection.",
    r"blocks\.(\d+)\.norm1_proj\.": r"layers.\1.norm_proj.",
    r"blocks\.(\d+)\.proj\.": r"layers.\1.projection.",
    r"blocks\.(\d+)\.norm_in\.": r"layers.\1.inner_block.norm_attn.",
    r"blocks\.(\d+)\.attn_in\.proj\.": r"layers.\1.inner_block.attn.attn.out_proj.",
    r"blocks\.(\d+)\.norm_mlp_in\.": r"layers.\1.inner_block.norm_ffn.",
    r"blocks\.(\d+)\.mlp_in\.fc1\.": r"layers.\1.inner_block.ffn.layers.0.0.",
    r"blocks\.(\d+)\.mlp_in\.fc2\.": r"layers.\1.inner_block.ffn.layers.1.",
    r"blocks\.(\d+)\.norm_out\.": r"layers.\1.outer_block.norm_attn.",
    r"blocks\.(\d+)\.attn_out\.proj\.": r"layers.\1.outer_block.attn.attn.out_proj.",
    r"blocks\.(\d+)\.norm_mlp\.": r"layers.\1.outer_block.norm_ffn.",
    r"blocks\.(\d+)\.mlp\.fc1\.": r"layers.\1.outer_block.ffn.layers.0.0.",
    r"blocks\.(\d+)\.mlp\.fc2\.": r"layers.\1.outer_block.ffn.layers.1.",
}


def as_mmpretrain(state):
    renamed = {}
    for name, array in state.items():
        for pattern, new in IN_MMPRETRAIN.items():
            if re.match(pattern, name):
                name = re.sub(f"^{pattern}", new, name)
                break
        if attention := re.fullmatch(r"blocks\.(\d)\.attn_(in|out)\.qk\.weight", name):
            value = state[name.replace(".qk.", ".v.")]
            block = {"in": "inner", "out": "outer"}[attention[2]]
            name = f"layers.{attention[1]}.{block}_block.attn.attn.in_proj_weight"
            array = np.concatenate([array, value])
        if ".v." not in name:
            renamed[name] = array
    return head_beside(renamed, "backbone.", "head.fc.")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_mmpretrains_tnt(tmp_path, bare, prefix):
    state, expected = bare["tnt_timm_legacy"]
    found, report = load(tmp_path, prefixed(as_mmpretrain(state), prefix), LEGACY)
    assert_equal(found, expected)
    assert report.kind == "mmpretrain TNT" and not report.skipped
    with pytest.raises(ValueError, match="of a TNT with fusion='legacy', stem='conv7_image'; set"):
        load(tmp_path, as_mmpretrain(state), TNT)


# Files of torch.save: nested dicts


class Tensor(SimpleNamespace):
    """What the reader needs of a tensor, for torch is not among the requirements."""

    shape = property(lambda self: self.array.shape)

    def detach(self):
        return self

    def float(self):
        return self

    def numpy(self):
        return self.array


def tensors(state):
    return {name: Tensor(array=array) for name, array in state.items()}


@pytest.mark.parametrize(
    ("raw_keys", "ema_keys"),
    [
        (("state_dict",), ("state_dict_ema",)),  # timm
        (("model",), ("model_ema",)),  # DeiT
        (("model", "module"), ("model_ema", "module")),
        (("state", "model", "state_dict"), ("state", "ema", "state_dict")),
        (("net",), ("ema",)),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_nested_dicts_of_torch(tmp_path, monkeypatch, bare, raw_keys, ema_keys, prefix):
    state, expected = bare["tnt_official_se"]
    model, file = FILES["tnt_official_se"], tmp_path / "run.pth.tar"
    file.write_bytes(b"anything")
    content = {"epoch": 3, "args": {}, "optimizer": {"state": {0: tensors({"m": np.ones(3)})}}}
    for keys, factor in ((raw_keys, 1), (ema_keys, 2)):
        place = content
        for key in keys:
            place = place.setdefault(key, {})
        place |= tensors(prefixed({name: a / factor for name, a in state.items()}, prefix))
    monkeypatch.setattr(torch_files, "_load", lambda file: content)
    for weights, keys, factor in (("raw", raw_keys, 1), ("ema", ema_keys, 2)):
        found, report = load_variables(file, model, image_size=32, weights=weights)
        assert_equal(found, jax.tree.map(lambda a, f=factor: a / f, expected))
        assert report.kind == f"official TNT, {'.'.join(keys)}"
        assert {"epoch", "args", "optimizer"} <= set(report.skipped)


def half(state):
    return {name: array / 2 for name, array in state.items()}


def moments(state, *names):
    """Returns an optimizer's state by parameter, as torch.distributed.checkpoint keeps it."""
    return {name: tensors(dict.fromkeys(names, a / 4)) for name, a in state.items()}


def load_torch(tmp_path, monkeypatch, content, model=TNT, **options):
    file = tmp_path / "run.pth"
    file.write_bytes(b"anything")
    monkeypatch.setattr(torch_files, "_load", lambda file: content)
    return load_variables(file, model, image_size=32, **options)


# what is beside the weights -> a function of them
BESIDE = {
    "optim.state by name": lambda s: {
        "optim": {"state": moments(s, "step", "exp_avg", "exp_avg_sq")}
    },
    "momentum by name": lambda s: {"state": moments(s, "momentum_buffer")},
    "moments": lambda s: {"optimizer": {"exp_avg": tensors(s), "exp_avg_sq": tensors(s)}},
    "one moment": lambda s: {"optimizer": {"exp_avg": tensors(s)}},
    "state": lambda s: {"optimizer_state_dict": {"state": {"max_exp_avg_sq": tensors(s)}}},
    "wrapped": lambda s: {"optimizers": [], "modelOptimizer": tensors(prefixed(s, "module."))},
    "lightning": lambda s: {"optimizer_states": [{"state": moments(s, "exp_avg")}]},
    "lightning by name": lambda s: {"optimizer_states": {"0": {"square_avg": tensors(s)}}},
    "square_avg": lambda s: {"square_avg": tensors(s)},
    "momentum": lambda s: {"momentum_buffers": tensors(s), "momentum": tensors(s)},
    "gradients": lambda s: {"grads": tensors(s), "gradients": tensors(s), "ema_grad": tensors(s)},
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("key", ["model", "state_dict", "net"])
def test_state_of_an_optimizer_is_no_copy(tmp_path, monkeypatch, bare, beside, key):
    state, expected = bare["tnt_timm"]
    content = {key: tensors(state)} | BESIDE[beside](half(state))
    found, report = load_torch(tmp_path, monkeypatch, content)
    assert_equal(found, expected)
    assert report.notes == () and set(report.skipped) == content.keys() - {key}
    found, report = load_torch(tmp_path, monkeypatch, content, weights="ema_or_raw")
    assert_equal(found, expected)
    assert "no moving average" in report.notes[-1]
    with pytest.raises(ValueError, match="there is no moving average in this file"):
        load_torch(tmp_path, monkeypatch, content, weights="ema")
    del content[key]
    if beside != "lightning":  # a list of them is not looked into
        with pytest.raises(ValueError, match="only the state of an optimizer in this file"):
            load_torch(tmp_path, monkeypatch, content)


def test_state_under_an_unknown_name_is_refused(tmp_path, monkeypatch, bare):
    content = {"state": moments(bare["tnt_timm"][0], "sum")}  # Adagrad's
    with pytest.raises(ValueError, match="parameter names are not those of a TNT"):
        load_torch(tmp_path, monkeypatch, content)


@pytest.mark.parametrize(
    ("weights", "chosen", "other"),
    [
        ("raw", "state_dict", "model"),
        ("raw", "state_dict", "best"),
        ("raw", "model", "best"),
        ("raw", "model", "teacher"),
        ("ema", "state_dict_ema", "model_ema"),
        ("ema", "model_ema", "ema_best"),
    ],
)
def test_usual_keys_come_first(tmp_path, monkeypatch, bare, weights, chosen, other):
    state, expected = bare["tnt_timm"]
    content = {other: tensors(half(state)), chosen: tensors(state)}
    found, report = load_torch(tmp_path, monkeypatch, content, weights=weights)
    assert_equal(found, expected)
    assert report.notes == (f"of the copies in this file '{chosen}.' is read, not '{other}.'",)
    assert report.kind == f"timm TNT, {chosen}"


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_student_and_teacher_are_not_told_apart(tmp_path, monkeypatch, bare, key):
    content = {name: tensors(bare["tnt_timm"][0]) for name in ("student", "teacher")}
    above = f"{key}." if key else ""
    message = f"several copies .*'{above}student.', '{above}teacher.'; save one"
    with pytest.raises(ValueError, match=message):
        load_torch(tmp_path, monkeypatch, {key: content} if key else content)


@pytest.mark.parametrize(
    ("raw", "beside"),
    [
        ("current_model_state", {"averaging_state": {"n_averaged": np.ones(())}}),  # Lightning's
        ("ema_state_dict", {"ema_state_dict": {"steps": np.ones(())}}),  # mmengine's
    ],
)
def test_averages_in_the_place_of_the_weights(tmp_path, monkeypatch, bare, raw, beside):
    """Lightning's WeightAveraging and mmengine's EMAHook: on_ and before_save_checkpoint."""
    state, expected = bare["tnt_timm"]
    content = {key: tensors(arrays) for key, arrays in beside.items()}
    content["state_dict"] = tensors(prefixed(half(state), "model."))
    content[raw] = content.get(raw, {}) | tensors(prefixed(state, "module.model."))
    for weights, factor in (("raw", 1), ("ema", 2)):
        found, report = load_torch(tmp_path, monkeypatch, content, weights=weights)
        assert_equal(found, jax.tree.map(lambda a, f=factor: a / f, expected))
        assert report.notes[-1] == "the moving average of this file is under 'state_dict.model.'"


@pytest.mark.parametrize("beside", ["state_dict_ema", "optimizer"])
def test_heads_of_other_copies(tmp_path, monkeypatch, bare, beside):
    """They are dense layers of the same size."""
    state, expected = bare["tnt_timm"]
    content = {}
    for key, arrays in (("state_dict", state), (beside, half(state))):
        content[key] = tensors(head_beside(arrays, "backbone.", "head.fc."))
    found, report = load_torch(tmp_path, monkeypatch, content)
    assert_equal(found, expected)
    assert "the head is state_dict.head.fc.weight and state_dict.head.fc.bias" in report.notes
