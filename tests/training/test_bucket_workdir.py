"""A run whose workdir is on a storage server: the same result as on a disk, through kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests import storage
from training.curves import TIMINGS
from workdirs.results import parse_metrics

pytestmark = pytest.mark.buckets

ROOT = Path(__file__).parents[2]
RECIPE = (
    "--config=configs/digits_nest.py:debug",
    "--config.loop.num_epochs=20.0",
    "--config.loop.evaluate_every_epochs=4.0",
    "--config.loop.save_every_epochs=2.0",
    "--config.model.depths=(1,1,1)",
    "--config.model.dims=(16,16,16)",
    "--config.data.batch_size=32",
    "--config.data.train_split=train[:64]",
    "--config.data.eval_split=test[:101]",
    "--config.mesh.data=1",
)
LONG = "--config.loop.num_epochs=2000.0"
# Of the process's own requests; gcsfs and TensorStore have their minute.
IMPATIENT = "from harness import buckets; buckets.RETRY_SECONDS = 3.0"


@pytest.fixture(scope="module")
def server():
    with storage.server() as url, storage.Proxy(url) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def quiet(server):
    yield
    server.set("ok")


def start(server, script, *flags, before=""):
    code = f"import runpy, sys; {before or 'pass'}; sys.argv = sys.argv[1:]; sys.path[0] = '.'; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.Popen(
        [sys.executable, "-c", code, script, *flags],
        cwd=ROOT,
        env=os.environ | storage.variables(server.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(server, script, *flags, code=0, **options):
    process = start(server, script, *flags, **options)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == code, stderr
    return stdout, stderr


def wait_for(server, name, process):
    deadline = time.monotonic() + 200
    while name not in storage.names(server.url, name):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def read(server, name):
    quoted = urllib.parse.quote(name, safe="")
    url = f"{server.url}/storage/v1/b/{storage.BUCKET}/o/{quoted}?alt=media"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def result(lines, done):
    """Returns everything that a run logged but its speed, and its final metrics."""
    records = parse_metrics(lines)
    return [{k: v for k, v in r.items() if k not in TIMINGS} for r in records], json.loads(done)


@pytest.fixture(scope="module")
def expected(server, tmp_path_factory):
    """The result of a run on a disk that nothing interrupted."""
    folder = tmp_path_factory.mktemp("local")
    run(server, "train.py", *RECIPE, f"--workdir={folder}")
    return result(*((folder / name).read_text() for name in ("metrics.jsonl", "DONE")))


def in_bucket(server, name):
    return result(*(read(server, f"{name}/{file}") for file in ("metrics.jsonl", "DONE")))


def test_killed_and_resumed_as_on_a_disk(server, expected):
    """Twice with -9; then it is evaluated, used and left alone."""
    flags = (*RECIPE, "--workdir=gs://bucket/runs/killed")
    for step in (4, 12):
        process = start(server, "train.py", *flags)
        wait_for(server, f"runs/killed/checkpoints/latest/{step}/commit_success.txt", process)
        time.sleep(random.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
    stdout, _ = run(server, "train.py", *flags)
    assert "resuming at step" in stdout
    assert in_bucket(server, "runs/killed") == expected
    there = storage.names(server.url, "runs/killed/")
    files = {name.split("/")[2] for name in there}
    assert {"config.json", "metrics.jsonl", "DONE", "curves.png", "checkpoints"} <= files
    assert "tensorboard" in files and ".lock" not in files
    stdout, _ = run(server, "train.py", *flags)
    assert "gs://bucket/runs/killed is finished" in stdout
    assert storage.names(server.url, "runs/killed/") == there

    workdir = "--workdir=gs://bucket/runs/killed"
    stdout, _ = run(server, "evaluate.py", workdir)
    accuracy = expected[1]["top1_accuracy"]
    assert json.loads(stdout)["top1_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert storage.names(server.url, "runs/killed/evaluation_latest")
    stdout, _ = run(server, "tools/predict.py", workdir, "docs/images/gradcat.png")
    assert "gradcat.png" in stdout
    stdout, _ = run(server, "tools/verify.py", "gs://bucket/runs/killed")
    assert "sound" in stdout and "damaged" not in stdout and "unknown" not in stdout
    run(server, "tools/report.py", "gs://bucket/runs/killed", "--explain=none")
    assert "runs/killed/report.html" in storage.names(server.url, "runs/killed/")
    # Another run starts from its weights.
    flags = (*RECIPE, "--config.loop.num_epochs=2.0", "--workdir=gs://bucket/runs/next")
    stdout, _ = run(server, "train.py", *flags, "--config.init_from=gs://bucket/runs/killed")
    assert "weights gs://bucket/runs/killed" in stdout


def test_sigterm_saves(server, expected):
    flags = (*RECIPE, "--workdir=gs://bucket/runs/term")
    process = start(server, "train.py", *flags)
    wait_for(server, "runs/term/metrics.jsonl", process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 75 and "the same command resumes" in stderr, stderr
    run(server, "train.py", *flags)
    assert in_bucket(server, "runs/term") == expected


def test_storage_that_fails_now_and_then(server, expected):
    """Requests are tried again. Of an upload whose answer got lost the emulator forgets all, where
    Google's says that it is done: that ends the run with 74, and what starts it starts it again.
    """
    flags, broken = (*RECIPE, "--workdir=gs://bucket/runs/flaky"), server.broken
    for _ in range(4):
        process = start(server, "train.py", *flags)
        for number in range(10**6):
            if process.poll() is not None:
                break
            server.set(("503", "reset", "429")[number % 3], every=5)
            time.sleep(1.0)
        _, stderr = process.communicate()
        if process.returncode != 74:
            break
    assert process.returncode == 0, stderr
    assert server.broken > broken + 10
    server.set("ok")
    assert in_bucket(server, "runs/flaky") == expected


def test_one_trainer_a_workdir(server):
    flags = (*RECIPE, LONG, "--workdir=gs://bucket/runs/two")
    process = start(server, "train.py", *flags)
    wait_for(server, "runs/two/metrics.jsonl", process)
    _, stderr = run(server, "train.py", *flags, code=2)
    assert stderr.splitlines()[-1].endswith("another process is training in gs://bucket/runs/two")
    # Another machine takes it: this one stops before it writes again.
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.0)
    away = (
        "from harness import leases; leases.EXPIRY = 2.0; leases.HEARTBEAT = 0.2; "
        "leases.machine = lambda: 'other'"
    )
    other = start(server, "train.py", *flags, before=away)
    before = read(server, "runs/two/.lock")
    deadline = time.monotonic() + 100
    while json.loads(read(server, "runs/two/.lock"))["token"] == json.loads(before)["token"]:
        assert other.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGCONT)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 2 and "runs/two/.lock is no longer this process's" in stderr
    other.send_signal(signal.SIGTERM)
    _, stderr = other.communicate(timeout=100)
    assert other.returncode == 75, stderr


def test_storage_that_goes_away_ends_the_run_for_now(server):
    flags = (*RECIPE, LONG, "--workdir=gs://bucket/runs/away")
    process = start(server, "train.py", *flags, before=IMPATIENT)
    wait_for(server, "runs/away/checkpoints/latest/4/commit_success.txt", process)
    server.set("reset")
    _, stderr = process.communicate(timeout=400)
    assert process.returncode == 75, stderr
    assert "the same command resumes from the last checkpoint" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr, stderr
    server.set("ok")
    process = start(server, "train.py", *flags)
    wait_for(server, "runs/away/checkpoints/latest/8/commit_success.txt", process)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=100)
    assert process.returncode == 75 and "resuming at step" in stdout


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("train.py", (*RECIPE, "--workdir=gs://no-such/run")),
        ("evaluate.py", ("--workdir=gs://no-such/run",)),
        ("tools/predict.py", ("--workdir=gs://no-such/run", "x.png")),
        ("tools/report.py", ("gs://no-such/run",)),
    ],
)
def test_no_such_bucket(server, script, flags):
    _, stderr = run(server, script, *flags, code=2)
    assert stderr.splitlines()[-1].startswith(f"{script}: gs://no-such: there is no such bucket")
    assert "Traceback" not in stderr


def test_traces_are_refused_in_a_bucket(server):
    flags = (*RECIPE, "--workdir=gs://bucket/runs/traces", "--profile_steps=2:3")
    _, stderr = run(server, "train.py", *flags, code=2)
    assert "where --profile_steps cannot write" in stderr
    assert storage.names(server.url, "runs/traces/") == []
