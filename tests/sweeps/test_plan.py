import re

import pytest

from harness.errors import ConfigError
from harness.recipes import ROOT, recipe_config
from sweeps.check import check_runs
from sweeps.launchers.printing import Print
from sweeps.plan import plan
from sweeps.runs import Run, name_runs, read_runs, write_manifest
from sweeps.start import start
from sweeps.values import parse_recipes, parse_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("maxpool,avgpool", ["maxpool", "avgpool"]),
        ("0:3", ["0", "1", "2"]),
        ("0:10:5,7", ["0", "5", "7"]),
        ("3:0:-1", ["3", "2", "1"]),
        ("(64,64),(96,96)", ["(64,64)", "(96,96)"]),
        ("train[:10%],train[5:9]", ["train[:10%]", "train[5:9]"]),
        ("folder:/a,folder:/b", ["folder:/a", "folder:/b"]),
        ("'a,b', None", ["'a,b'", "None"]),
        ("''", ["''"]),
        ("1e-3", ["1e-3"]),
    ],
)
def test_values_are_listed_as_one_writes_them(text, values):
    assert parse_values("key", text) == values


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("5:5", "5:5 is an empty range"),
        ("5:2", "5:2 is an empty range"),
        ("0:5:0", "0:5:0 is an empty range"),
        ("1,,2", "an empty value"),
        ("", "an empty value"),
        ("1,2,", "an empty value"),
        ("(1,2", "a bracket or quote is open"),
        ("1,2,1", "1 comes twice"),
        ("0:3,2", "2 comes twice"),
        ("0.1,1e-1", "1e-1 comes twice"),
    ],
)
def test_values_that_make_no_sense_are_refused(text, problem):
    with pytest.raises(ConfigError, match=f"--sweep.model.depth=.*{problem}"):
        parse_values("model.depth", text)


def test_recipes_share_the_file_and_keep_arguments_of_several_words():
    assert parse_recipes(["a.py:tiny,:small"]) == ["a.py:tiny", "a.py:small"]
    assert parse_recipes(["a.py:tiny,c100,:small,c100,b.py"]) == [
        "a.py:tiny,c100",
        "a.py:small,c100",
        "b.py",
    ]
    with pytest.raises(ConfigError, match="an argument without a recipe"):
        parse_recipes([":tiny"])
    with pytest.raises(ConfigError, match=r"--config=FILE\.py is missing"):
        parse_recipes([])


def swept(*pairs, **more):
    return plan(**{"recipes": ["configs/r.py"], "swept": pairs, **more})


def test_a_product_runs_every_combination_and_the_last_key_changes_fastest():
    runs = swept(("model.depth", "1,2"), ("seed", "0:2"), fixed=[("data.batch_size", "8")])
    assert [run.name for run in runs] == [
        "depth=1,seed=0",
        "depth=1,seed=1",
        "depth=2,seed=0",
        "depth=2,seed=1",
    ]
    assert runs[1].overrides == {"data.batch_size": "8", "model.depth": "1", "seed": "1"}
    assert runs[1].values == {"model.depth": "1", "seed": "1"}


def test_zip_takes_values_together():
    runs = swept(("model.dim", "64,96"), ("model.depth", "2,3"), is_zip=True)
    assert [dict(run.values) for run in runs] == [
        {"model.dim": "64", "model.depth": "2"},
        {"model.dim": "96", "model.depth": "3"},
    ]
    with pytest.raises(ConfigError, match=r"model\.dim has 2, seed has 3"):
        swept(("model.dim", "64,96"), ("seed", "0:3"), is_zip=True)


def test_the_recipe_and_its_argument_can_be_swept():
    by_argument = swept(("config", ":tiny,cifar100,:small,cifar100"))
    assert [run.config for run in by_argument] == [
        "configs/r.py:tiny,cifar100",
        "configs/r.py:small,cifar100",
    ]
    assert [run.name for run in by_argument] == ["config=tiny-cifar100", "config=small-cifar100"]
    assert all(run.overrides == {} for run in by_argument)
    by_file = swept(("seed", "0:2"), recipes=["configs/a.py:debug,configs/b.py"])
    assert [run.name for run in by_file][::2] == ["config=a-debug,seed=0", "config=b,seed=0"]
    assert swept(("seed", "1"), recipes=["configs/r.py:a,:b"])[1].config == "configs/r.py:b"


def test_a_key_is_called_by_its_last_word_unless_two_share_it():
    runs = swept(("model.depth", "1"), ("generator.depth", "2"), ("task.ema_decay", "None"))
    assert runs[0].name == "model.depth=1,generator.depth=2,ema_decay=None"


def test_names_are_safe_on_every_file_system_and_stay_apart():
    hostile = "train[:10%],../../x,a/b,a b,a*b,ä,''"
    names = [run.name for run in swept(("data.train_split", hostile))]
    assert len(set(names)) == 7 and names[0] == "train_split=train-10"
    for name in names:
        assert not set(name) & set("/[]*? %'\"\\\n") and name not in (".", "..")
    long = swept(("model.dims", ",".join(f"({'64,' * 60}{i})" for i in range(2))))
    assert len({run.name for run in long}) == 2 and all(len(run.name) < 200 for run in long)
    again = swept(("data.train_split", hostile))
    assert [run.name for run in again] == names  # the same in every process


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "nothing is swept"),
        ({"swept": [("seed", "0:2"), ("seed", "3")]}, "given twice"),
        ({"swept": [("seed", "0:2")], "fixed": [("seed", "3")]}, "given twice"),
        ({"swept": [("model..depth", "1,2")]}, "not a key"),
        ({"recipes": [], "swept": [("seed", "0:2")]}, "is missing"),
    ],
)
def test_sweeps_without_sense_are_refused(options, problem):
    with pytest.raises(ConfigError, match=problem):
        plan(**{"recipes": ["configs/r.py"], **options})


def test_a_sweep_that_the_recipe_names(tmp_path):
    recipe = tmp_path / "r.py"
    recipe.write_text(
        "def get_config(): ...\n"
        "def sweep(name):\n"
        "    if name == 'none': return\n"
        "    if name != 'width': raise ValueError(f'unknown sweep {name!r}; allowed: width')\n"
        "    for dim in (64, 96): yield {'model.dims': (dim, dim), 'task.name': 'a'}\n"
    )
    runs = plan(recipes=[str(recipe)], names=["width"], swept=[("seed", "0:2")])
    assert [dict(run.overrides) for run in runs][:2] == [
        {"seed": "0", "model.dims": "(64, 64)", "task.name": "a"},
        {"seed": "0", "model.dims": "(96, 96)", "task.name": "a"},
    ]
    for name, problem in (("depth", "allowed: width"), ("none", "yields no runs")):
        with pytest.raises(ConfigError, match=problem):
            plan(recipes=[str(recipe)], names=[name])


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("    yield ['a']", "is not a dict of overrides"),
        ("    yield None", "is not a dict of overrides"),
        ("    yield {1: 2}", "is not a dict of overrides"),
        ("    return None", "TypeError"),
        ("    yield {'seed': nothing}", r"NameError.*\.py:3\)"),
        ("    yield {'data.batch_size': 4}", "sets data.batch_size, and so does --config"),
    ],
)
def test_named_sweeps_that_make_no_sense_are_one_line(tmp_path, body, problem):
    recipe = tmp_path / "r.py"
    recipe.write_text(f"def get_config(): ...\ndef sweep(name):\n{body}\n")
    with pytest.raises(ConfigError, match=problem):
        plan(recipes=[str(recipe)], names=["x"], fixed=[("data.batch_size", "8")])


def test_signs_stay_in_names():
    names = [run.name for run in swept(("optimizer.weight_decay", "-1,1,-0.5"))]
    assert names == ["weight_decay=-1", "weight_decay=1", "weight_decay=-0.5"]


def test_a_range_without_a_search_says_what_it_needs():
    for text in ("log:1e-4:1e-2", "1e-3,uniform:0:1"):
        with pytest.raises(ConfigError, match="it needs --search=optuna"):
            parse_values("optimizer.base_lr", text)


def test_a_sweep_is_the_same_from_wherever_one_starts_it(tmp_path, monkeypatch):
    here = plan(recipes=["configs/digits_nest.py:debug"], swept=[("seed", "0:2")])
    command = here[0].command(tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = f"{ROOT}/configs/digits_nest.py:debug"
    for name in ("configs/digits_nest.py:debug", recipe):
        assert plan(recipes=[name], swept=[("seed", "0:2")]) == here
    assert here[0].command(tmp_path)[:2] == [f"{ROOT}/train.py", f"--config={recipe}"]
    assert command[:2] == ["train.py", "--config=configs/digits_nest.py:debug"]


def test_the_help_shows_a_sweep_that_builds():
    text = (ROOT / "tools" / "sweep.py").read_text().split('"""')[1]
    keys = re.findall(r"--sweep\.([\w.]+)=([\w,:.-]+)", text)
    listed = [
        (key, texts) for key, texts in keys if key not in ("KEY", "config") and "log" not in texts
    ]
    assert len(listed) >= 2
    check_runs(plan(recipes=["configs/digits_nest.py:debug"], swept=listed))


def test_the_manifest_keeps_the_runs(tmp_path):
    runs = name_runs("r.py", {"data.name": "folder:/ä"}, [{"seed": "0"}, {"seed": "1"}])
    write_manifest(tmp_path, runs)
    assert read_runs(tmp_path) == runs


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        '{"name": "a"}',
        '{"name": "../a", "config": "r.py", "overrides": {}, "values": {}}',
        '{"name": "a", "config": "r.py", "overrides": {"seed": 0}, "values": {}}',
        '{"name": 3, "config": "r.py", "overrides": {}, "values": {}}',
        "[]",
        "",
    ],
)
def test_a_damaged_manifest_is_one_clear_error(tmp_path, line):
    good = '{"name": "a", "config": "r.py", "overrides": {}, "values": {}}'
    (tmp_path / "runs.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(ConfigError, match=r"runs\.jsonl, line 2"):
        read_runs(tmp_path)
    (tmp_path / "runs.jsonl").write_text("")
    with pytest.raises(ConfigError, match="is empty"):
        read_runs(tmp_path)
    with pytest.raises(ConfigError, match="not the folder of a sweep"):
        read_runs(tmp_path / "nowhere")


def test_the_command_is_what_one_types(tmp_path, monkeypatch):
    run = Run("seed=0", "configs/r.py:debug", {"data.train_split": "train[:10%]"}, {})
    line = run.command_line(tmp_path)
    assert f"--workdir={tmp_path}/seed=0" in line
    assert "'--config.data.train_split=train[:10%]'" in line


@pytest.mark.parametrize(("name", "number"), [("learning_rate", 5), ("width", 3)])
def test_the_sweeps_of_digits_build(name, number):
    runs = plan(recipes=["configs/digits_nest.py:debug"], names=[name])
    assert len(runs) == number
    check_runs(runs)


@pytest.mark.parametrize(
    ("config", "overrides", "problem"),
    [
        ("configs/digits_nest.py", {"model.aggregaton": "maxpool"}, "did you mean 'aggregation'"),
        ("configs/digits_nest.py", {"optimiser.base_lr": "1"}, "did you mean 'optimizer'"),
        ("configs/digits_nest.py", {"optimizer.base_lr": "fast"}, "of type str"),
        ("configs/digits_nest.py", {"model.patch_size": "3"}, "patch_size"),
        ("configs/digits_nest.py", {"data.name": "folder:/nowhere"}, "nowhere"),
        ("configs/digits_nest.py:tny", {}, "'tny' is unknown"),
        ("configs/digits_nset.py", {}, "no such file"),
    ],
)
def test_every_run_is_checked_before_the_first_one_starts(config, overrides, problem, tmp_path):
    good = Run("good", "configs/digits_nest.py:debug", {}, {})
    runs = [good, Run("bad", config, overrides, {}), Run("worse", config, overrides, {})]
    with pytest.raises(ConfigError, match=f"nothing is started: bad and 1 more: .*{problem}"):
        start(tmp_path / "sweep", runs, Print())
    assert not (tmp_path / "sweep").exists()


def test_recipes_that_fail_say_where(tmp_path):
    for text, problem in (
        ("def get_config():\n    return nothing\n", r"NameError.*recipe\.py:2\)"),
        ("import nowhere_at_all\n", r"ModuleNotFoundError.*recipe\.py:1\)"),
        ("def get_config(:\n", r"SyntaxError.*recipe\.py:1\)"),
        ("x = 1\n", "has no function get_config"),
        ("def get_config(a=None):\n    raise ValueError('allowed: tiny')\n", "allowed: tiny"),
    ):
        recipe = tmp_path / "recipe.py"
        recipe.write_text(text)
        with pytest.raises(ConfigError, match=problem):
            recipe_config(f"{recipe}:small" if "tiny" in text else str(recipe))
