"""Official NesT weights: logits of the official code, names there and back, and damaged files."""

import shutil

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize
from flax.traverse_util import flatten_dict

from layers.mlp import Mlp
from nest.convert_official import from_official, to_official
from nest.model import Nest
from zoo.load import check_tree, find_weights_file, load_weights, parameter_shapes

MODELS = {
    "nest_official_mha": Nest(
        num_classes=10,
        patch_size=4,
        block_size=2,
        dims=(8, 16, 32),
        num_heads=(2, 4, 8),
        depths=(1, 1, 2),
        attention="multi_head",
    ),
    "nest_official_mqa": Nest(
        num_classes=10,
        patch_size=1,
        block_size=4,
        dims=(12, 12, 12, 12),
        num_heads=(3, 3, 3, 3),
        depths=(1, 1, 1, 1),
        attention="multi_query",
    ),
}


@pytest.fixture(params=sorted(MODELS))
def name(request):
    return request.param


def random_params(model, seed=0):
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(model, 32)
    return jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)


def write_official(file, model, params):
    file.parent.mkdir(parents=True, exist_ok=True)
    target = to_official(params, model.depths)
    file.write_bytes(msgpack_serialize({"step": 7, "optimizer": {"target": target}}))


def write_index(folder, newest):
    text = f'model_checkpoint_path: "{newest}"\nall_model_checkpoint_paths: "ckpt-1"\n'
    (folder / "checkpoint").write_text(text)


# Against the official code


def test_logits_are_those_of_the_official_code(fixtures, name):
    model, known = MODELS[name], np.load(fixtures / f"{name}.npz")
    params = load_weights(fixtures / name, model, image_size=32)
    assert {(type(a), a.dtype) for a in jax.tree.leaves(params)} == {
        (np.ndarray, np.dtype("float32"))
    }
    logits = jax.jit(model.apply)({"params": params}, known["images"])
    expected = known["logits"]
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("field", [{"gelu": "exact"}, {"aggregation_padding": "torch"}])
def test_logits_tell_the_official_details_apart(fixtures, name, field):
    model, known = MODELS[name].clone(**field), np.load(fixtures / f"{name}.npz")
    ((key, value),) = field.items()
    with pytest.raises(ValueError, match=f"needs a model with {key}=.*; set this.*{key}='{value}'"):
        load_weights(fixtures / name, model, image_size=32)
    params = load_weights(fixtures / name, model, image_size=32, ignore_fields=[key])
    logits = jax.jit(model.apply)({"params": params}, known["images"])
    expected = known["logits"]
    assert np.abs(logits - expected).max() > 1e-5 * np.abs(expected).max()


def test_names_lead_back_to_the_official_file(fixtures, name):
    depths = MODELS[name].depths
    content = (fixtures / name / "ckpt-2.flax").read_bytes()
    official = msgpack_restore(content)["optimizer"]["target"]
    again = to_official(from_official(official, depths), depths)
    assert flatten_dict(again).keys() == flatten_dict(official).keys()
    jax.tree.map(np.testing.assert_array_equal, again, official)


def test_official_folder_file_and_prefix_are_the_same_weights(fixtures):
    folder, model = fixtures / "nest_official_mha", MODELS["nest_official_mha"]
    newest, prefix, file, older = (
        load_weights(path, model, image_size=32)
        for path in (folder, folder / "ckpt-2", str(folder / "ckpt-2.flax"), folder / "ckpt-1")
    )
    jax.tree.map(np.testing.assert_array_equal, newest, prefix)
    jax.tree.map(np.testing.assert_array_equal, newest, file)
    assert not np.array_equal(newest["head"]["kernel"], older["head"]["kernel"])


def test_weights_of_the_other_model_are_refused(fixtures):
    with pytest.raises(ValueError) as error:
        load_weights(fixtures / "nest_official_mqa", MODELS["nest_official_mha"], image_size=32)
    message = str(error.value)
    assert "8 missing: level1_layer1/attention/qkv/bias" in message
    assert "21 extra: ConvPool_2/Conv_0/bias" in message and "and 11 more" in message
    assert "mis-shaped: head/kernel (12, 10) instead of (32, 10)" in message
    assert "\n" not in message


# Names, at any depth


@pytest.mark.parametrize("attention", ["multi_head", "multi_query"])
@pytest.mark.parametrize("depths", [(1,), (3, 1), (2, 2, 8), (1, 2, 3, 4)])
def test_names_there_and_back(attention, depths):
    levels = len(depths)
    model = Nest(10, (8,) * levels, depths, (2,) * levels, patch_size=1, attention=attention)
    params = random_params(model)
    official = to_official(params, depths)
    layers = [key for key in official if key.startswith("EncoderNDBlock_")]
    assert len(layers) == sum(depths)
    again = from_official(official, depths)
    check_tree(params, again, "again")
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_layers_are_counted_over_all_levels():
    model = Nest(10, (8, 8), (2, 3), (2, 2), patch_size=1)
    params = random_params(model)
    official = to_official(params, model.depths)
    np.testing.assert_array_equal(
        official["EncoderNDBlock_3"]["MlpBlock_0"]["Dense_1"]["kernel"],
        params["level2_layer2"]["mlp"]["dense2"]["kernel"],
    )


def test_what_has_no_place_is_reported(tmp_path):
    deeper = Nest(10, (8, 8), (1, 2), (2, 2), patch_size=1)
    write_official(tmp_path / "ckpt-1.flax", deeper, random_params(deeper))
    with pytest.raises(ValueError, match=r"14 extra: EncoderNDBlock_2/LayerNorm_0/bias"):
        load_weights(tmp_path, deeper.clone(depths=(1, 1)), image_size=32)
    with pytest.raises(ValueError, match=r"12 missing: level2_layer3/attention/out/bias"):
        load_weights(tmp_path, deeper.clone(depths=(1, 3)), image_size=32)
    with pytest.raises(ValueError, match="no official name for level1_aggregation/projection"):
        to_official({"level1_aggregation": {"projection": {"kernel": np.ones(2)}}}, (1, 1))


# Which file a path means


@pytest.fixture
def folder(tmp_path):
    for number in (2, 9, 10):
        (tmp_path / f"ckpt-{number}.flax").touch()
    return tmp_path


@pytest.mark.parametrize("newest", ["ckpt-9", "/home/someone/run/ckpt-9"])
def test_newest_by_the_checkpoint_file(folder, newest):
    write_index(folder, newest)
    assert find_weights_file(folder).name == "ckpt-9.flax"


@pytest.mark.parametrize("damaged", [False, True])
def test_newest_by_number_without_a_usable_checkpoint_file(folder, damaged):
    if damaged:
        (folder / "checkpoint").write_bytes(b"\x00\xff\xfe")
    assert find_weights_file(folder).name == "ckpt-10.flax"


def test_prefix_of_one_checkpoint(folder):
    assert find_weights_file(folder / "ckpt-2").name == "ckpt-2.flax"


def test_missing_weights(folder):
    with pytest.raises(
        FileNotFoundError, match=r"ckpt-3: no such file.* has ckpt-2, ckpt-9, ckpt-10"
    ):
        find_weights_file(folder / "ckpt-3")
    write_index(folder, "ckpt-11")
    with pytest.raises(FileNotFoundError, match=r"ckpt-11\.flax: named by .*, but not there"):
        find_weights_file(folder)
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint \(ckpt-N.flax\) in this folder"):
        find_weights_file(folder / "empty")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        find_weights_file(folder / "a" / "b" / "c")
    for path in ("", "  "):
        with pytest.raises(ValueError, match="empty; allowed: a path"):
            find_weights_file(path)
    with pytest.raises(ValueError, match="copy remote files to this machine"):
        find_weights_file("s3://gresearch/nest-checkpoints/nest-b_imagenet")


# Damaged files


@pytest.fixture
def saved(tmp_path):
    model = MODELS["nest_official_mqa"]
    file = tmp_path / "run" / "ckpt-1.flax"
    write_official(file, model, random_params(model))
    return model, file


def refused(saved, message):
    model, file = saved
    with pytest.raises(ValueError, match=message) as error:
        load_weights(file, model, image_size=32)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_what_was_written_is_read(saved):
    model, file = saved
    expected = random_params(model)
    jax.tree.map(np.testing.assert_array_equal, load_weights(file, model, image_size=32), expected)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_file(saved, share):
    content = saved[1].read_bytes()
    saved[1].write_bytes(content[: int(share * len(content))])
    refused(saved, "the file is empty" if share == 0 else "truncated or damaged file")


@pytest.mark.parametrize("content", [b"not weights\n" * 50, b"\xc1" * 100, b"\x93\x01\x02"])
def test_other_bytes(saved, content):
    saved[1].write_bytes(content)
    refused(saved, "truncated or damaged file")


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"optimizer": {}},
        {"optimizer": {"target": 3}},
        {"optimizer": {"target": {"Dense_0": {"kernel": "text"}}}},
        {"optimizer": None},
    ],
)
def test_file_without_parameters(saved, state):
    saved[1].write_bytes(msgpack_serialize(state))
    refused(saved, "no parameters under optimizer/target")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(saved, value):
    model, file = saved
    params = random_params(model)
    params["level3_layer1"]["mlp"]["dense1"]["bias"][5] = value
    write_official(file, model, params)
    refused(saved, "not finite in level3_layer1/mlp/dense1/bias")


def test_missing_and_mis_shaped_parameters(saved):
    model, file = saved
    params = random_params(model)
    del params["level2_layer1"]["attention"]["query"]
    params["head"]["bias"] = np.zeros(7, np.float32)
    write_official(file, model, params | {})
    refused(saved, "2 missing: level2_layer1/attention/query/bias.*1 mis-shaped: head/bias")


def test_unknown_format(saved):
    other = saved[1].with_suffix(".h5")
    shutil.copy(saved[1], other)
    refused((saved[0], other), r"unknown format; files that can be read: \*.flax")


def test_official_weights_are_of_nest_only(saved):
    refused((Mlp(hidden_dim=3), saved[1]), "of NesT models only")


def test_check_tree_names_paths_of_any_kind():
    expected = {"a": [np.ones((2, 3)), np.ones(())], "b": {"c": np.ones(4)}}
    check_tree(expected, jax.eval_shape(lambda: expected), "state")
    found = {"a": [np.ones((3, 2)), np.ones(())], "b": {"d": np.ones(4)}}
    with pytest.raises(ValueError) as error:
        check_tree(expected, found, "state")
    assert str(error.value) == (
        "state does not fit the model; 1 missing: b/c; 1 extra: b/d; "
        "1 mis-shaped: a/0 (3, 2) instead of (2, 3)"
    )
