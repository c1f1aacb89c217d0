"""The config of a run, changed on the command line beside --workdir; weights of a run half done."""

import json
from pathlib import Path

import pytest

import nest_tnt
import train
from harness.errors import ConfigError
from workdirs.config_file import read_record


@pytest.fixture
def workdir(compiled_once, small_config, tmp_path):
    small_config.loop.num_epochs = 1.0
    small_config.optimizer.warmup_epochs = 0.0
    train.train_and_evaluate(small_config, tmp_path / "run")
    return tmp_path / "run"


def test_evaluation_with_other_data(workdir, run_script):
    command = ("evaluate.py", f"--workdir={workdir}")
    code, out, err = run_script(*command, "--config.data.eval_split=test[:37]")
    assert code == 0 and json.loads(out)["num_examples"] == 37 and "not as trained" not in err
    code, out, err = run_script(*command, "--config.data.name=npz:nowhere.npz")
    assert code == 2 and "nowhere.npz" in err
    code, out, err = run_script(*command, "--config.data.nme=digits")
    assert code == 2 and "config.data.nme: unknown; did you mean 'name'" in err
    code, out, err = run_script(*command, "--config.model.dims=(8,32)")
    assert code == 2 and "(16, 64) instead of (8, 32)" in err
    # The next call has forgotten them, and the stored config is as it was.
    code, out, err = run_script(*command)
    assert code == 0 and json.loads(out)["num_examples"] == 101
    # Elsewhere they need a recipe.
    code, _, err = run_script("evaluate.py", "--weights=x", "--config.data.eval_split=test")
    assert code == 2 and "--config.data.eval_split needs --config=FILE.py before it" in err
    code, _, err = run_script("train.py", f"--workdir={workdir}", "--config.seed=3")
    assert code == 2 and "--config.seed needs --config=FILE.py before it" in err


def test_prediction_with_another_crop(workdir, run_script, tmp_path):
    from PIL import Image

    Image.new("L", (9, 9), 100).save(tmp_path / "a.png")
    command = ("tools/predict.py", f"--workdir={workdir}", str(tmp_path / "a.png"), "--json")
    code, _, err = run_script(*command, "--config.data.eval_crop_ratio=0.5")
    assert code == 0 and "not as trained" not in err
    code, _, err = run_script(*command, "--config.data.eval_crop_ratio=5")
    assert code == 2 and "config.data.eval_crop_ratio" in err


SCRIPTS = {  # whose --config may be the run's own, and what else each needs
    "evaluate.py": [],
    "tools/explain.py": ["gradcat", "--examples=0"],
    "tools/export.py": ["--output={}/mine.jax"],
    "tools/predict.py": ["{}"],
    "tools/visualize.py": ["batch", "--output={}/batch.png"],
}


def test_each_script_reads_what_is_changed(workdir, run_script, tmp_path):
    root = Path(__file__).parents[2]
    files = [*root.glob("*.py"), *root.glob("tools/*.py")]
    names = {path.relative_to(root).as_posix(): path.read_text() for path in files}
    takes = ("define_recipe_flags()", "define_predictor_flags()", "define_config_flag(or_stored=")
    assert {name for name, text in names.items() if any(t in text for t in takes)} == set(SCRIPTS)
    for name, more in SCRIPTS.items():
        given = [each.format(tmp_path) for each in more]
        code, _, err = run_script(name, *given, f"--workdir={workdir}", "--config.data.nme=digits")
        assert code == 2 and "config.data.nme: unknown; did you mean 'name'" in err, name


def test_a_config_by_its_name_from_python(workdir):
    name = f"{workdir}/config.json"
    metrics = nest_tnt.train_and_evaluate(name, workdir)
    found = nest_tnt.evaluate_workdir(Path(name), workdir)
    assert found["top1_accuracy"] == metrics["top1_accuracy"]
    of_weights = nest_tnt.evaluate_weights(name, workdir)
    assert of_weights["top1_accuracy"] == metrics["top1_accuracy"]
    assert nest_tnt.Predictor.load(workdir, name).num_channels == 1
    assert nest_tnt.load_config(name).data.eval_split == "test[:101]"


def test_wrong_arguments_from_python(workdir):
    name = f"{workdir}/config.json"
    calls = {
        "train_and_evaluate": lambda config: nest_tnt.train_and_evaluate(config, workdir),
        "evaluate_workdir": lambda config: nest_tnt.evaluate_workdir(config, workdir),
        "evaluate_weights": lambda config: nest_tnt.evaluate_weights(config, workdir),
        "Predictor": lambda config: nest_tnt.Predictor.load(workdir, config),
        "load_config": nest_tnt.load_config,
    }
    for call in calls.values():
        for config in ({"a": 1}, 3):
            with pytest.raises(ConfigError, match="config is of type (dict|int); allowed: a "):
                call(config)
        with pytest.raises(ConfigError, match="did you mean configs/digits_nest.py"):
            call("configs/digits_nst.py")
    with pytest.raises(ConfigError, match="'bst': unknown; did you mean 'best'"):
        nest_tnt.evaluate_workdir(name, workdir, checkpoint="bst")
    for call in (nest_tnt.Predictor.load, lambda *a, **k: nest_tnt.evaluate_workdir(name, *a, **k)):
        with pytest.raises(ConfigError, match="^--classes=/nowhere.txt: No such file"):
            call(workdir, classes_file="/nowhere.txt")


def test_weights_of_an_unfinished_run_are_said_twice(workdir, small_config, tmp_path, capsys):
    small_config.init_from = str(workdir)
    note = "is not finished (it has no DONE): step 5 of 5"
    train.train_and_evaluate(small_config, tmp_path / "of_finished")
    assert note not in capsys.readouterr().out
    (workdir / "DONE").unlink()
    train.train_and_evaluate(small_config, tmp_path / "of_unfinished")
    said = capsys.readouterr().out
    assert said.count(note) == 2 and said.rstrip().splitlines()[-1].endswith(note)
    assert note in read_record(tmp_path / "of_unfinished")["notes"][0]
    with pytest.raises(ConfigError, match="init_from"):
        small_config.init_from = None
        train.train_and_evaluate(small_config, tmp_path / "of_unfinished")
