"""wandb and MLflow get what metrics.jsonl has, read back from their own files."""

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import train
from harness.errors import ConfigError, Interrupted
from tests.training.test_metric_logs import interrupt_at, lines
from training.metric_logs import check_services
from training.services import MlflowLog, WandbLog
from workdirs.comparison import flatten
from workdirs.config_file import read_record

pytestmark = [pytest.mark.loggers, pytest.mark.usefixtures("compiled_once", "no_account")]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def no_account(monkeypatch, tmp_path_factory):
    """Offline, and nothing of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # it reads its variables once


@pytest.fixture
def sweep(tmp_path):
    """The folder of a sweep with the workdir of a run in it."""
    (tmp_path / "my_sweep").mkdir()
    (tmp_path / "my_sweep/runs.jsonl").touch()
    return tmp_path / "my_sweep"


@pytest.fixture
def interrupted_run(small_config, sweep, monkeypatch):
    """Trains with --log_to, is interrupted at step 9, and goes on; returns workdir and metrics."""

    def run(service):
        workdir = sweep / "seed=0"
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            interrupt_at(patch, 9)
            train.train_and_evaluate(small_config, workdir, log_to=[service])
        return workdir, train.train_and_evaluate(small_config, workdir, log_to=[service])

    return run


# wandb's files


def read_wandb(path):
    """Yields the records of a .wandb file: a log as LevelDB has them, of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    position, block, parts = 7, 1 << 15, b""
    while position + 7 <= len(content):
        if block - position % block < 7:  # too little of the block is left for a header
            position += block - position % block
            continue
        checksum, length, kind = struct.unpack_from("<IHB", content, position)
        data = content[position + 7 : position + 7 + length]
        assert checksum == zlib.crc32(bytes([kind]) + data)
        position += 7 + length
        parts = data if kind in (1, 2) else parts + data  # 1 full, 2 first, 3 middle, 4 last
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            yield record


def item_key(item):
    return "/".join(item.nested_key) or item.key


def wandb_run(workdir):
    """Returns all attempts' records: ids, names, groups, config, rows of the history, summary."""
    found = {"ids": set(), "names": set(), "groups": set(), "projects": set()}
    found |= {"config": {}, "rows": [], "summary": {}, "exit_codes": [], "preempted": 0, "x": {}}
    for path in sorted(
        workdir.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime
    ):
        for record in read_wandb(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                found["ids"].add(record.run.run_id)
                found["names"].add(record.run.display_name)
                found["groups"].add(record.run.run_group)
                found["projects"].add(record.run.project)
            if kind in ("run", "config"):
                config = record.run.config if kind == "run" else record.config
                for item in config.update:
                    found["config"][item_key(item)] = json.loads(item.value_json)
            elif kind == "history":
                row = {item_key(item): json.loads(item.value_json) for item in record.history.item}
                found["rows"].append(row)
            elif kind == "summary":
                for item in record.summary.update:
                    found["summary"][item_key(item)] = json.loads(item.value_json)
            elif kind == "metric":
                name = record.metric.name or record.metric.glob_name
                found["x"][name] = record.metric.step_metric
            elif kind == "exit":
                found["exit_codes"].append(record.exit.exit_code)
            elif kind == "preempting":
                found["preempted"] += 1
    return found


def test_wandb(interrupted_run, tmp_path):
    workdir, metrics = interrupted_run("wandb")
    found = wandb_run(workdir)
    assert len(found["ids"]) == 1
    assert (found["names"], found["groups"]) == ({"seed=0"}, {"my_sweep"})
    assert found["projects"] == {"nest-tnt-jax"}
    config = json.loads(json.dumps(flatten(read_record(workdir)["config"])))
    assert found["config"].items() >= config.items()
    assert config["optimizer.base_lr"] == 1e-2
    rows = [
        {key: value for key, value in row.items() if not key.startswith("_")}
        for row in found["rows"]
    ]
    expected = [
        {f"{kind}/{name}": value for name, value in (metrics | {"step": step}).items()}
        for kind, step, metrics in lines(workdir)
    ]
    assert rows == expected
    assert found["x"].items() >= {"train/*": "train/step", "eval/*": "eval/step"}.items()
    finals = {f"final/{name}": value for name, value in metrics.items()}
    assert found["summary"].items() >= finals.items()
    assert (found["exit_codes"], found["preempted"]) == ([75, 0], 1)
    assert {path.name for path in tmp_path.rglob("wandb")} == {"wandb"}
    assert not (ROOT / "wandb").exists()


def test_wandb_pictures_and_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_NAME", "my name")
    log = WandbLog(None, tmp_path, {})
    log.image("samples", 5, np.full((4, 6, 3), 7, np.uint8))
    log.finish(None, ValueError("a bug"))
    found = wandb_run(tmp_path)
    assert (found["projects"], found["names"]) == ({"mine"}, {"my name"})
    assert found["exit_codes"] == [1]
    (picture,) = tmp_path.glob("wandb/offline-run-*/files/media/images/pictures/samples*.png")
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(picture)), 7)
    assert found["rows"][0]["pictures/step"] == 5


def test_wandb_without_an_account_is_an_error_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_MODE")
    code = "from training.metric_logs import check_services; check_services(['wandb'])"  # afresh
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("harness.errors.ConfigError: --log_to=wandb: No API key"), last
    assert last.endswith("WANDB_MODE=offline logs without")
    monkeypatch.setenv("WANDB_MODE", "offline")
    sys.modules["wandb"].teardown()
    check_services(["wandb", "mlflow"])


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_kill_9_loses_nothing(tmp_path, service):
    """A killed process, and one that goes on from its checkpoint of step 3."""
    code = (
        "import os, sys; from pathlib import Path; from training.metric_logs import Service\n"
        "records = [{'kind': 'train', 'step': step, 'loss': 1 / step} for step in range(1, 4)]\n"
        "with_all = records + [{'kind': 'train', 'step': 4, 'loss': 0.25}]\n"
        "killed = sys.argv[3] == 'killed'\n"
        "log = Service(sys.argv[1], Path(sys.argv[2]), {}, records=[] if killed else records,\n"
        "              say=print)\n"
        "for record in with_all if killed else with_all[3:] + [{'step': 5, 'loss': 0.2}]:\n"
        "    log.scalars('train', record['step'], {'loss': record['loss']})\n"
        "os.kill(os.getpid(), 9) if killed else log.finish(None, None)\n"
    )
    workdir = tmp_path / "run"
    workdir.mkdir()
    for what, expected in (("killed", -9), ("resumed", 0)):
        line = [sys.executable, "-c", code, service, str(workdir), what]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == expected, done.stderr
    if service == "wandb":
        found = wandb_run(workdir)
        assert len(found["ids"]) == 1
        points = {(row["train/step"], row["train/loss"]) for row in found["rows"]}
    else:
        client, _, run = mlflow_run(workdir, f"sqlite:///{tmp_path / 'mlflow.db'}")
        history = client.get_metric_history(run.info.run_id, "train/loss")
        points = [(metric.step, metric.value) for metric in history]
        assert len(points) == 5
    assert sorted(points) == [(step, 1 / step) for step in range(1, 6)]


# MLflow


def mlflow_run(workdir, place):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=place)
    (experiment,) = (e for e in client.search_experiments() if e.name != "Default")
    (run,) = client.search_runs([experiment.experiment_id])
    return client, experiment, run


def test_mlflow(interrupted_run, sweep):
    workdir, metrics = interrupted_run("mlflow")
    client, experiment, run = mlflow_run(workdir, f"sqlite:///{sweep / 'mlflow.db'}")
    assert experiment.name == "nest-tnt-jax"
    assert (run.info.run_name, run.info.status) == ("seed=0", "FINISHED")
    assert run.data.tags["sweep"] == "my_sweep"
    config = flatten(read_record(workdir)["config"])
    assert {key: str(value) for key, value in config.items()} == _as_json(run.data.params)
    history = {}
    for kind, step, values in lines(workdir):
        for name, value in values.items():
            history.setdefault(f"{kind}/{name}", []).append((step, value))
    for name, points in history.items():
        logged = client.get_metric_history(run.info.run_id, name)
        assert [(m.step, m.value) for m in logged] == points, name
    finals = {f"final/{name}": value for name, value in metrics.items()}
    assert run.data.metrics.items() >= finals.items()
    assert sorted(path.name for path in sweep.iterdir()) == [*("mlflow.db", "runs.jsonl", "seed=0")]
    assert not {"mlruns", "mlflow.db", "mlartifacts"} & {path.name for path in ROOT.iterdir()}


def _as_json(params):
    """Returns params whose tuples are lists, as config.json has them."""
    return {k: v if not v.startswith("(") else str(list(eval(v))) for k, v in params.items()}


@pytest.mark.parametrize(
    ("error", "status"), [(Interrupted("saved"), "KILLED"), (ValueError("a bug"), "FAILED")]
)
def test_mlflow_pictures_and_endings(tmp_path, error, status):
    workdir = tmp_path / "run"
    workdir.mkdir()
    log = MlflowLog(None, workdir, {"empty": "", "long": "x" * 5000, "none": None})
    log.image("samples", 5, np.full((4, 6, 3), 7, np.uint8))
    log.scalars("train", 6, {"loss": float("nan"), "steps": 3})
    log.finish(None, error)
    _, _, run = mlflow_run(workdir, f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert run.info.status == status
    assert run.data.params == {"empty": "", "long": "x" * 5000, "none": "None"}
    assert "sweep" not in run.data.tags
    folder = tmp_path / "mlflow_files" / run.info.run_id / "artifacts/images"
    (picture,) = folder.glob("samples*.png")
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(picture)), 7)


def test_mlflow_variables(tmp_path, monkeypatch):
    place = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    workdir = tmp_path / "a" / "run"
    workdir.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)  # where MLflow's own default puts files
    assert MlflowLog.place(workdir) == place
    MlflowLog(None, workdir, {}).finish({"loss": 1.0}, None)
    _, experiment, run = mlflow_run(workdir, place)
    assert experiment.name == "mine"
    assert run.data.metrics == {"final/loss": 1.0}
    assert [path.name for path in workdir.parent.iterdir()] == ["run"]


def test_mlflow_runs_that_start_together_share_a_new_file(tmp_path):
    code = (
        "import sys; from pathlib import Path; from training.services import MlflowLog\n"
        "log = MlflowLog(None, Path(sys.argv[1]), {'seed': 0})\n"
        "for step in range(50): log.scalars('train', step, {'loss': 1.0, 'accuracy': 0.5})\n"
        "log.finish({'loss': 1.0}, None)"
    )
    processes = []
    for name in "abcd":
        (tmp_path / name).mkdir()
        line = [sys.executable, "-c", code, str(tmp_path / name)]
        processes.append(subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("nest-tnt-jax").experiment_id])
    assert sorted(run.info.run_name for run in runs) == list("abcd")
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert [metric.step for metric in history] == list(range(50))


def test_not_installed_says_how(monkeypatch):
    """A store in a file needs more than MLflow's client."""
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ConfigError, match=r"--log_to=mlflow: .*sqlalchemy.*; pip install -r"):
        check_services(["mlflow"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    check_services(["mlflow"])
