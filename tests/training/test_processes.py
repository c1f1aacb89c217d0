"""Several processes of one run equal one, stop together, and go on as if nothing had happened."""

import json
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.parallel import processes
from tests.parallel.processes import finish, wait_for
from workdirs.results import read_metrics

RECIPE = [
    "--config=configs/digits_nest.py:debug",
    "--config.model.depths=(1,1,1)",
    "--config.data.batch_size=32",
    "--config.data.train_split=train[:64]",
    "--config.data.eval_split=test[:101]",
    "--config.optimizer.base_lr=5e-4",
    "--config.mesh.fsdp=2",
]


def start(workdir, num_processes, *changes, **options):
    """Starts processes that together hold 4 devices."""
    arguments = [f"--workdir={workdir}", *RECIPE, *changes]
    return processes.start("train.py", arguments, num_processes, **options)


def records(workdir):
    return read_metrics(workdir).sound


def has_step(workdir, step):
    return lambda: any(record["step"] >= step for record in records(workdir))


def what_counts(workdir):
    """Returns the records without the times."""
    times = ("images_per_second", "input_wait")
    return [{k: v for k, v in r.items() if k not in times} for r in records(workdir)]


def newest_state(workdir):
    """Returns the step of the newest checkpoint and its arrays, by path, as they are on disk."""
    folder = max((workdir / "checkpoints" / "latest").iterdir(), key=lambda p: int(p.name))
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    found = reader.metadata(folder / "state")
    found = getattr(found, "item_metadata", None) or found
    tree = getattr(found, "tree", found)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    arguments = ocp.args.PyTreeRestore(restore_args=as_numpy)
    leaves = jax.tree_util.tree_leaves_with_path(reader.restore(folder / "state", args=arguments))
    return folder.name, {jax.tree_util.keystr(path): np.asarray(array) for path, array in leaves}


def assert_same_state(one, other):
    (step, arrays), (other_step, others) = newest_state(one), newest_state(other)
    assert step == other_step
    assert arrays.keys() == others.keys() and len(arrays) > 100
    assert [key for key in arrays if arrays[key].tobytes() != others[key].tobytes()] == []


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    codes, outputs = finish(start(one, 1))
    assert codes == [0], outputs
    codes, outputs = finish(start(two, 2))
    assert codes == [0, 0], outputs
    assert "2 process(es), mesh data 2 x fsdp 2" in outputs[0]
    assert "loss" not in outputs[1]  # one of them reports
    for ours, theirs in zip(records(two), records(one), strict=True):
        assert (ours["kind"], ours["step"]) == (theirs["kind"], theirs["step"])
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert ours["num_examples"] == 101
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())


LONGER = [
    "--config.loop.num_epochs=20.0",
    "--config.loop.save_every_epochs=2.0",
    "--config.loop.evaluate_every_epochs=5.0",
    "--config.checkpoint.keep_last=2",
]


@pytest.mark.faults
def test_interrupted_equals_uninterrupted_bit_for_bit(tmp_path):
    """A SIGTERM to one of two, then kill -9 to both, then to one: the others end with 75."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    codes, outputs = finish(start(whole, 2, *LONGER))
    assert codes == [0, 0], outputs

    running = start(broken, 2, *LONGER)
    wait_for(has_step(broken, 6), running)
    running[1].send_signal(signal.SIGTERM)
    codes, outputs = finish(running)
    assert codes == [75, 75], outputs
    for victims, expected in (((0, 1), [-9, -9]), ((1,), [75, -9]), ((0,), [-9, 75])):
        before = max(record["step"] for record in records(broken))
        running = start(broken, 2, *LONGER)
        wait_for(has_step(broken, before + 4), running)
        for victim in victims:
            running[victim].kill()
        killed = time.monotonic()
        codes, outputs = finish(running)
        assert codes == expected, outputs
        assert time.monotonic() - killed < 60  # the heartbeat; it takes less than a second
        assert not any("Traceback" in output or "***" in output for output in outputs), outputs
    codes, outputs = finish(start(broken, 2, *LONGER))
    assert codes == [0, 0], outputs
    assert "resuming at step" in outputs[0]
    assert what_counts(broken) == what_counts(whole)
    assert_same_state(broken, whole)


@pytest.mark.slow
def test_a_signal_to_one_stops_both_and_one_process_takes_over(tmp_path):
    changes = ["--config.loop.num_epochs=300.0"]
    running = start(tmp_path, 2, *changes)
    wait_for(has_step(tmp_path, 1), running)
    running[1].send_signal(signal.SIGTERM)
    codes, outputs = finish(running)
    assert codes == [75, 75], outputs
    # One process with the same devices takes the run over.
    (process,) = start(tmp_path, 1, *changes)
    line = ""
    while "resuming at step" not in line and process.poll() is None:
        line = process.stdout.readline()
    assert "resuming at step" in line
    process.send_signal(signal.SIGINT)
    codes, outputs = finish([process])
    assert codes == [75], outputs


@pytest.mark.faults
def test_one_two_and_four_processes_agree_over_50_steps(tmp_path):
    """2 x 4 = 1 x 8 = 4 x 2, also where each goes on with a run of another."""
    changes = ["--config.loop.num_epochs=25.0", "--config.loop.log_every_steps=1"]
    changes += ["--config.optimizer.base_lr=1e-4", "--config.loop.save_every_epochs=1.0"]
    losses = {}
    for count in (1, 2, 4):
        codes, outputs = finish(start(tmp_path / str(count), count, *changes, num_devices=8))
        assert codes == [0] * count, outputs
        losses[count] = [r["loss"] for r in records(tmp_path / str(count)) if r["kind"] == "train"]
    # 8 devices in two processes, 4 in one, 2 in two, 1: the same run, handed on.
    handed = tmp_path / "handed on"
    for count, num_devices, until in ((2, 8, 12), (1, 4, 24), (2, 2, 36), (1, 1, 99)):
        mesh = "--config.mesh.fsdp=1" if num_devices < 4 else "--config.mesh.fsdp=2"
        running = start(handed, count, *changes, mesh, num_devices=num_devices)
        if until < 50:
            wait_for(has_step(handed, until), running)
            running[0].send_signal(signal.SIGTERM)
        codes, outputs = finish(running)
        assert codes == [75 if until < 50 else 0] * count, outputs
    losses["handed on"] = [r["loss"] for r in records(handed) if r["kind"] == "train"]
    for who, ours in losses.items():
        assert len(ours) == 50
        largest = np.abs(np.subtract(ours, losses[1])).max()
        print(f"{who}: largest difference {largest:.1e}")
        np.testing.assert_allclose(ours, losses[1], atol=1e-5, rtol=0)
    assert np.ptp(losses[1]) > 0.05


@pytest.mark.faults
def test_a_stopped_process_ends_the_others_by_the_watchdog(tmp_path):
    changes = ["--config.loop.num_epochs=3000.0", "--watchdog_seconds=20"]
    running = start(tmp_path, 2, *changes)
    wait_for(has_step(tmp_path, 4), running)
    running[1].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    codes, outputs = finish(running[:1], seconds=90)
    assert codes == [70], outputs
    assert 15 < time.monotonic() - stopped < 45
    assert "nothing has moved for 2" in outputs[0] and "in train_and_evaluate" in outputs[0]
    assert "in train_and_evaluate" in (tmp_path / "stacks_0.txt").read_text()
    running[1].send_signal(signal.SIGCONT)
    codes, outputs = finish(running[1:], seconds=60)
    assert codes == [70], outputs


@pytest.mark.slow
def test_processes_with_another_config_do_not_begin(tmp_path):
    of_each = [[], ["--config.optimizer.base_lr=6e-4"]]
    codes, outputs = finish(start(tmp_path, 2, of_each=of_each), seconds=90)
    assert codes == [2, 2]
    for output in outputs:
        (line,) = [line for line in output.splitlines() if "differs" in line]
        expected = "process 1 differs from process 0: config.optimizer.base_lr is 0.0006 there and"
        assert f"{expected} 0.0005 in 0" in line
        assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


def bad_images(folder, classes=4, of_each=24, bad=9):
    """Writes a folder of images of which some are none; returns it."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(classes):
            place = folder / split / str(label)
            place.mkdir(parents=True)
            for i in range(of_each):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    paths = sorted((folder / "train").rglob("*.png"))
    for path in paths[3 :: len(paths) // bad][:bad]:
        path.write_bytes(b"no image")
    return folder


@pytest.mark.faults
def test_bad_images_count_over_all_processes(tmp_path):
    """Both end at the ninth, although one has not met all; the run goes on from its save."""
    images = bad_images(tmp_path / "images")
    workdir = tmp_path / "run"
    changes = [f"--config.data.name=folder:{images}", "--config.data.image_size=32"]
    changes += ["--config.data.train_split=train", "--config.data.eval_split=test"]
    changes += ["--config.loop.num_epochs=40.0"]
    codes, outputs = finish(start(workdir, 2, *changes, "--config.data.max_bad=8"))
    assert codes == [2, 2], outputs
    listed = {i: lines(workdir / f"bad_images{f'_{i}' if i else ''}.jsonl") for i in (0, 1)}
    assert len(listed[0] | listed[1]) == 9
    assert min(map(len, listed.values())) < 9
    for output in outputs:
        (line,) = [line for line in output.splitlines() if "max_bad=8: " in line]
        assert "9 images cannot be read" in line
    steps = [int(path.name) for path in (workdir / "checkpoints" / "latest").iterdir()]
    assert steps and max(steps) > 0
    codes, outputs = finish(
        start(workdir, 2, *changes[:-1], "--config.loop.num_epochs=40.0", "--config.data.max_bad=9")
    )
    assert codes == [0, 0], outputs
    assert f"resuming at step {max(steps)}" in outputs[0]


def lines(path):
    return {json.loads(line)["name"] for line in path.open()} if path.exists() else set()
