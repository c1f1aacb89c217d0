"""Names of released weights wherever a path to weights is taken: load, train, predict, convert."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import train
from configs import digits_nest
from harness.errors import ConfigError
from tests.model_inputs import random_params
from tests.zoo.released.conftest import cached
from workdirs.config_file import read_config
from zoo.load import load_variables
from zoo.registry import create_model
from zoo.save import write_weights

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures"
SIZES = {"dims": (8, 16, 32), "depths": (1, 1, 2), "num_heads": (2, 4, 8)}


def small_nest(**fields):
    return create_model("nest_tiny_s196_224", num_classes=10, **SIZES, **fields)


@pytest.fixture
def timm_nest(release):
    """The file of timm's NesT under the name that it has in the table."""
    content = (FIXTURES / "nest_timm_jx.safetensors").read_bytes()
    return release("nest_tiny_s196_224.timm", {"nest_tiny_jx.goog_in1k.safetensors": content})


def test_timms_nest_is_the_one_that_pads_as_the_official(timm_nest):
    """What pads the aggregation shows in no array: the name in the cache says it."""
    model, expected = small_nest(gelu="exact"), np.load(FIXTURES / "nest_timm_jx.npz")
    variables, report = load_variables(timm_nest, model, image_size=32)
    assert report.kind == "timm nest_tiny_jx" and not report.notes
    logits = model.apply(variables, expected["images"])
    np.testing.assert_allclose(
        logits, expected["logits"], atol=1e-5 * abs(expected["logits"]).max()
    )
    with pytest.raises(ValueError, match="needs a model with aggregation_padding='same'"):
        padded = small_nest(gelu="exact", aggregation_padding="torch")
        load_variables(timm_nest, padded, image_size=32)


@pytest.fixture
def digits_weights(release, tmp_path, small_config):
    """Weights of small_config's model under a name."""
    small_config.loop.num_epochs = small_config.optimizer.warmup_epochs + 1.0
    section = small_config.model.to_dict()
    model = create_model(**section, num_classes=10)
    params = random_params(model, np.zeros((1, 8, 8, 1), np.float32))
    file = tmp_path / "digits.safetensors"
    write_weights(file, {"params": params}, model, (8, 8))
    return release("nest_tiny_s16_32.digits", {file.name: file.read_bytes()})


def test_a_run_starts_from_a_name_and_keeps_it(digits_weights, small_config, server, tmp_path):
    small_config.init_from = digits_weights
    train.train_and_evaluate(small_config, tmp_path / "run")
    assert read_config(tmp_path / "run").init_from == digits_weights
    assert len(server.asked) == 1
    # Finished or to be resumed, it does not need the file any more.
    shutil.rmtree(cached())
    server.files.clear()
    train.train_and_evaluate(small_config, tmp_path / "run")
    (tmp_path / "run" / "DONE").unlink()
    train.train_and_evaluate(small_config, tmp_path / "run")
    with pytest.raises(ConfigError, match="cannot be downloaded .the server answers 404"):
        train.train_and_evaluate(small_config, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_predict_and_convert_take_a_name(digits_weights, run_script, small_config, tmp_path):
    model = small_config.model.to_dict()
    flags = [
        f"--config.model.{key}={model[key]!r}".replace(" ", "")
        for key in ("patch_size", "dims", "depths", "num_heads")
    ]
    code, out, err = run_script(
        "evaluate.py",
        "--config=configs/digits_nest.py",
        *flags,
        "--config.data.image_size=8",
        "--config.mesh.data=1",
        f"--weights={digits_weights}",
    )
    assert code == 0, err
    assert f'"weights": "{digits_weights}"' in out
    assert cached(f"{digits_weights}.evaluation_test.json").read_text() == out
    assert not (ROOT / f"{digits_weights}.evaluation_test.json").exists()  # the current folder
    output = tmp_path / "converted.safetensors"
    fields = [flag.replace("--config.model.", "--fields=") for flag in flags]
    code, out, err = run_script(
        "tools/convert_weights.py",
        f"--model={digits_nest.get_config().model.name}",
        *fields,
        "--fields=attention=multi_query",
        "--image_size=8",
        "--channels=1",
        "--num_classes=10",
        f"--input={digits_weights}",
        f"--output={output}",
    )
    assert code == 0, err
    stored = load_file(cached(digits_weights, "digits.safetensors"))
    assert all((load_file(output)[name] == array).all() for name, array in stored.items())


def test_the_list_and_where_they_lie(timm_nest, run_script):
    code, out, _ = run_script("tools/weights.py", "list")
    assert code == 0 and "tnt_s_patch16_224.official" in out
    row = next(line for line in out.splitlines() if line.startswith(timm_nest))
    assert row.split()[-1] == "-"
    assert run_script("tools/weights.py", "path", timm_nest)[0] == 2
    code, out, _ = run_script("tools/weights.py", "get", timm_nest)
    path = cached(timm_nest, "nest_tiny_jx.goog_in1k.safetensors")
    assert (code, out.strip()) == (0, str(path)) and path.is_file()
    assert run_script("tools/weights.py", "path", timm_nest)[1].strip() == str(path)
    assert str(path) in run_script("tools/weights.py", "list", timm_nest)[1]
    code, _, err = run_script("tools/weights.py", "get", "nest_tiny_s196_224.tim")
    assert code == 2 and "did you mean 'nest_tiny_s196_224.timm'?" in err
    assert run_script("tools/weights.py", "get")[0] == 2
