"""Starting from weights, freezing, linear probing: what moves, what stays, what is an error."""

import json
import re
import shutil

import chex
import jax
import numpy as np
import optax
import pytest

import evaluate
import train
from configs import imagenet_resnet50
from harness.errors import ConfigError, Interrupted
from saving.checkpoints import Checkpoints
from tasks.parameter_masks import parameter_paths
from training import experiment
from training.interrupts import Interrupts
from zoo.load import load_weights
from zoo.save import write_weights


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Trains once on the digits 0 to 4; returns the workdir."""
    cache = {}

    def get(config):
        if not cache:
            cache["workdir"] = tmp_path_factory.mktemp("pretrained")
            config.data.update(classes=(0, 1, 2, 3, 4), train_split="train[:96]")
            config.loop.num_epochs = 2.0
            train.train_and_evaluate(config, cache["workdir"])
        return cache["workdir"]

    return get


@pytest.fixture
def finetune_config(small_config, pretrained):
    """The small run on the digits 5 to 7, from the weights of that on 0 to 4, at 16 x 16."""
    workdir = pretrained(small_config.copy_and_resolve_references())
    small_config.data.update(classes=(5, 6, 7), image_size=16, train_split="train[:96]")
    small_config.loop.num_epochs = 4.0
    small_config.init_from = str(workdir)
    return small_config


def last_state(config, workdir):
    run = experiment.build(config)
    with Checkpoints(workdir=workdir, read_only=True, **config.checkpoint.to_dict()) as saved:
        return saved.restore(run.shapes)[1]


def arrays(tree):
    return {path: np.asarray(leaf) for path, leaf in parameter_paths(tree).items()}


@pytest.mark.parametrize("weights", ["raw", "ema", "ema_or_raw"])
@pytest.mark.parametrize("devices", [(1, 1), (2, 4)])
def test_starts_from_what_load_weights_gives(finetune_config, weights, devices):
    finetune_config.init.weights = weights
    finetune_config.mesh.update(data=devices[0], fsdp=devices[1])
    run = experiment.build(finetune_config)
    variables, report = run.read_weights()
    state = run.init((variables, report))
    expected = load_weights(
        finetune_config.init_from, run.task.model, image_size=(16, 16, 1), weights=weights
    )
    chex.assert_trees_all_equal(arrays(state.params), arrays(expected))
    chex.assert_trees_all_equal(arrays(state.ema), arrays(expected))
    assert state.step == 0
    means = arrays(optax.tree.get(state.opt_state, "mu"))
    assert means.keys() == arrays(state.params).keys()
    assert not any(map(np.any, means.values()))
    assert jax.tree.map(lambda x: x.sharding, state) == run.shardings
    assert set(report.reinitialized) == {"head/kernel", "head/bias"}
    assert set(report.resized) == {"level1_position/embedding", "level2_position/embedding"}


def test_batch_statistics_come_along(tmp_path):
    config = imagenet_resnet50.get_config("debug")
    config.mesh.data = 1
    config.data.update(image_size=32, train_split="train[:64]")
    config.loop.num_epochs = 0.5
    train.train_and_evaluate(config, tmp_path)
    trained = last_state(config, tmp_path)
    config.init_from = str(tmp_path)
    run = experiment.build(config)
    state = run.init(run.read_weights())
    chex.assert_trees_all_equal(arrays(state.model_state), arrays(trained.model_state))
    assert np.any(arrays(state.model_state)["batch_stats/stem_norm/mean"])

    # The same through evaluate.py, which gave such models fresh statistics once.
    result = evaluate.evaluate_weights(config, tmp_path)
    assert result["loss"] == json.loads((tmp_path / "DONE").read_text())["loss"]

    # A linear probe uses the stored statistics and leaves them.
    config.task.linear_probe = True
    config.data.train_split = "train[:32]"
    train.train_and_evaluate(config, tmp_path / "probe")
    probed = last_state(config, tmp_path / "probe")
    chex.assert_trees_all_equal(arrays(probed.model_state), arrays(trained.model_state))


@pytest.mark.parametrize("other", [None, True, False])
def test_as_many_classes_but_others(finetune_config, other):
    """The head of 0 to 4 would name the digits 5 to 9 wrongly from the start."""
    finetune_config.data.classes = (5, 6, 7, 8, 9)
    finetune_config.init.other_classes = other
    run = experiment.build(finetune_config)
    variables, report = run.read_weights()
    kept = load_weights(finetune_config.init_from, run.task.model, image_size=(16, 16, 1))
    head = variables["params"].pop("head")
    if other is False:
        chex.assert_trees_all_equal(arrays(head), arrays(kept["head"]))
    else:
        assert not np.any(head["kernel"]) and not np.any(head["bias"])
        assert set(report.reinitialized) == {"head/kernel", "head/bias"}
        assert "as many classes, but different ones" in str(report)
    del kept["head"]
    chex.assert_trees_all_equal(arrays(variables["params"]), arrays(kept))
    finetune_config.init.update(reinit_head="never")
    if other is not False:
        with pytest.raises(ConfigError, match="reinit_head='never': .*made for other classes"):
            experiment.build(finetune_config).read_weights()
    finetune_config.init.update(reinit_head="noise", other_classes=True)
    noise = experiment.build(finetune_config).read_weights()[0]["params"]["head"]["kernel"]
    assert 0.01 < noise.std() < 0.03
    finetune_config.data.classes = (0, 1, 2, 3, 4)
    finetune_config.init.other_classes = None
    assert not experiment.build(finetune_config).read_weights()[1].reinitialized


@pytest.mark.slow
def test_report_is_shown_once_and_resume_needs_no_file(
    compiled_once, finetune_config, tmp_path, monkeypatch, capsys
):
    source = tmp_path / "source"
    shutil.copytree(finetune_config.init_from, source)
    finetune_config.init_from = str(source)
    train.train_and_evaluate(finetune_config, tmp_path / "whole")
    shown = "".join(capsys.readouterr())
    assert "checkpoint of a run" in shown
    assert re.search(
        r"resized +2  level1_position/embedding .*\n +re-initialised +2 .*head/", shown
    )
    total = sum(x.size for x in jax.tree.leaves(experiment.build(finetune_config).shapes.params))
    assert f"{total:,} of {total:,} parameters are trained" in shown

    original = experiment.Experiment.init
    requests = iter([False] * 7 + [True] * 9)
    with monkeypatch.context() as patch:
        patch.setattr(Interrupts, "requested", lambda self: next(requests))
        with pytest.raises(Interrupted):
            train.train_and_evaluate(finetune_config, tmp_path / "parts")
    capsys.readouterr()
    shutil.rmtree(source)
    monkeypatch.setattr(experiment.Experiment, "init", lambda *_: pytest.fail("fresh state"))
    train.train_and_evaluate(finetune_config, tmp_path / "parts")
    assert "checkpoint of a run" not in "".join(capsys.readouterr())
    monkeypatch.setattr(experiment.Experiment, "init", original)

    states = [last_state(finetune_config, tmp_path / name) for name in ("whole", "parts")]
    chex.assert_trees_all_equal(*states)
    metrics = json.loads((tmp_path / "parts" / "DONE").read_text())
    result = evaluate.evaluate_workdir(finetune_config, tmp_path / "parts")
    assert result["loss"] == metrics["loss"]

    finetune_config.init_from = "elsewhere"
    with pytest.raises(ConfigError, match="init_from: '.*source' there, '.*elsewhere' now"):
        train.train_and_evaluate(finetune_config, tmp_path / "parts")


def test_frozen_arrays_stay_bit_for_bit(finetune_config, tmp_path):
    finetune_config.optimizer.freeze = ("^patch_embedding/", "^level1_", "norm.*/bias$")
    finetune_config.optimizer.decay_exclude = ("^level1_position/",)  # matches frozen ones alone
    finetune_config.optimizer.layer_decay = 0.8
    run = experiment.build(finetune_config)
    start = arrays(run.init(run.read_weights()).params)
    train.train_and_evaluate(finetune_config, tmp_path)
    state = last_state(finetune_config, tmp_path)
    params, ema = arrays(state.params), arrays(state.ema)
    frozen = {
        path
        for path in params
        if path.startswith(("patch_embedding/", "level1_"))
        or (path.endswith("/bias") and "norm" in path)
    }
    for path in params:
        assert (params[path].tobytes() == start[path].tobytes()) == (path in frozen), path
        assert (ema[path].tobytes() == start[path].tobytes()) == (path in frozen), path
    for moment in ("mu", "nu"):
        moments = optax.tree.get(state.opt_state, moment)
        kept = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(moments)]
        assert len(kept) == len(params) - len(frozen)
    count = sum(array.size for path, array in params.items() if path not in frozen)
    assert f"{count:,} of " in run.notes(None)[0]


def test_linear_probe_moves_the_head_alone_on_features_of_evaluation(finetune_config, tmp_path):
    finetune_config.task.linear_probe = True
    finetune_config.optimizer.decay_exclude = ("_position/embedding$",)  # all of it is frozen
    run = experiment.build(finetune_config)
    start = run.init(run.read_weights())
    before = arrays(start.params)
    batch = next(run.data.train_batches())
    norms = []
    for key in (1, 2):  # dropout and drop path would make them differ
        state = jax.tree.map(lambda x: x.copy(), start)
        _, metrics = run.train_step(state, batch, jax.random.key(key), run.hyperparameters)
        norms.append(float(metrics["grad_norm"]))
    assert norms[0] == norms[1]

    # The norm is that of the head's gradient, by hand from the features: a head of zeros.
    features = run.task.model.clone(num_classes=32).apply(
        {"params": {**start.params, "head": {"kernel": np.eye(32), "bias": np.zeros(32)}}},
        run.task._normalize(batch["image"]),
        train=False,
    )
    targets = 0.9 * jax.nn.one_hot(batch["label"], 3) + 0.1 / 3
    error = (1 / 3 - targets) / len(targets)
    expected = np.sqrt(np.sum((features.T @ error) ** 2) + np.sum(error.sum(0) ** 2))
    assert norms[0] == pytest.approx(float(expected), rel=1e-4)

    train.train_and_evaluate(finetune_config, tmp_path)
    after = arrays(last_state(finetune_config, tmp_path).params)
    moved = {path for path in after if after[path].tobytes() != before[path].tobytes()}
    assert moved == {"head/kernel", "head/bias"}


def test_probing_compiles_no_backward_pass(finetune_config):
    """Gradients of what is frozen are not only thrown away: they are not computed."""

    def cost(config):
        run = experiment.build(config)
        batch = next(run.data.train_batches())
        return run.train_step.lower(
            run.shapes, batch, run.key, run.hyperparameters
        ).cost_analysis()["flops"]

    whole = cost(finetune_config)
    finetune_config.task.linear_probe = True
    assert cost(finetune_config) < 0.5 * whole


def test_files_know_their_classes(finetune_config, tmp_path):
    """As a workdir does: other classes of the same number re-initialise the head."""
    finetune_config.data.classes = (5, 6, 7, 8, 9)
    run = experiment.build(finetune_config)
    variables = run.read_weights()[0]
    finetune_config.init_from = str(tmp_path / "w.safetensors")
    for names, anew in (("01234", True), ("56789", False), (None, False)):
        write_weights(tmp_path / "w.safetensors", variables, run.task.model, (16, 16), names)
        report = experiment.build(finetune_config).read_weights()[1]
        assert report.class_names == (None if names is None else tuple(names))
        assert bool(report.reinitialized) == anew


def test_finetuning_recipe_without_weights(finetune_config, tmp_path):
    finetune_config.init_from = ""
    with pytest.raises(
        ConfigError, match="config.init_from='': .*--config.init_from=PATH.*--config.init_from=none"
    ):
        train.train_and_evaluate(finetune_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    finetune_config.init_from = "none"
    finetune_config.loop.num_epochs = 2.0
    train.train_and_evaluate(finetune_config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(init_from="nowhere.npz"), "nowhere.npz: no such file"),
        (dict(init_from=3), "init_from=3: not a path"),
        ({"model.gelu": "exact"}, "needs a model with gelu='tanh'"),
        ({"model.dims": (16, 16)}, r"needs a model with dims=\(16, 32\)"),
        ({"init.reinit_head": "never"}, "head/bias .5,. instead of .3,."),
        ({"init.other_classes": True, "init.reinit_head": "never"}, "head/bias"),
        ({"init.reinit_head": "ones"}, "config.init.reinit_head='ones': unknown; allowed: zeros"),
        ({"init.weight": "raw"}, "config.init.weight: unknown; did you mean 'weights'"),
        ({"init.image_size": 8}, "config.init.image_size: unknown"),
        ({"optimizer.freeze": ("^level7_",)}, r"freeze='\^level7_': matches no parameter"),
        ({"optimizer.freeze": ("^level1_", "(")}, "freeze=.*: no regular expression: "),
        ({"optimizer.freeze": (".",)}, "leaves no parameter to train"),
        ({"optimizer.layer_decay": 2.0}, "layer_decay=2.0"),
    ],
)
def test_wrong_values_leave_nothing_behind(finetune_config, tmp_path, changes, message):
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = finetune_config
        for part in sections:
            section = section[part]
        with section.ignore_type(), section.unlocked():
            section[name] = value
    with pytest.raises(ConfigError, match=message):
        train.train_and_evaluate(finetune_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_init_from_a_relative_path(small_config, tmp_path, monkeypatch):
    """Kept as an absolute one: a run may be resumed from another folder."""
    run = experiment.build(small_config)
    state = run.init()
    variables = {"params": jax.device_get(run.task.parameters(state))}
    write_weights(tmp_path / "w.npz", variables, run.task.model, image_size=run.data.image_shape)
    monkeypatch.chdir(tmp_path)
    small_config.init_from = "w.npz"
    assert experiment.check_config(small_config)["init_from"] == str(tmp_path / "w.npz")
    read, _ = experiment.build(small_config).read_weights()
    chex.assert_trees_all_equal(read["params"], variables["params"])
