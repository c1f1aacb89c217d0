"""Hundreds of faults in checkpoints: none is silent, none ends in a traceback."""

import json
import random
import shutil
from collections import Counter

import chex
import pytest

import train
from harness.errors import ConfigError, Interrupted
from saving.checkpoints import Checkpoints
from tests.saving.test_damaged_checkpoints import (
    DAMAGES,
    flip,
    loop_of,
    restored,
    state_of,
    states,
    write_run,
)
from tests.training.test_resume import kill_when
from training.interrupts import Interrupts
from workdirs import step_files
from zoo.run_checkpoints import read_parts

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(step_files, "WAITS", (0.0, 0.0))


def all_files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_no_flipped_bit_is_silent(tmp_path):
    """Each file of a checkpoint gets flips, those of one byte eight, the largest the most."""
    write_run(tmp_path)
    draw = random.Random(0)
    step = tmp_path / "checkpoints" / "latest" / "3"
    files = all_files(step)
    largest = max(files, key=lambda path: path.stat().st_size)
    counts = Counter()
    for path in files:
        num_bits = 8 * path.stat().st_size
        for bit in draw.sample(range(num_bits), min(num_bits, 100 if path == largest else 20)):
            flip(path, bit)
            assert states(tmp_path)["latest/3"] == "damaged", (path, bit)
            for read in (
                lambda: restored(tmp_path, read_only=True)[1]["params"],
                lambda: read_parts(step, "params", "weights")[0]["params"],
            ):
                try:
                    chex.assert_trees_all_equal(read(), state_of(3)["params"])
                    counts["as saved"] += 1
                except ValueError as error:  # of both: ConfigError is not one
                    assert "\n" not in str(error)
                    counts["refused"] += 1
                except ConfigError as error:
                    assert "\n" not in str(error)
                    counts["refused"] += 1
            flip(path, bit)
    assert states(tmp_path)["latest/3"] == "sound"
    print(dict(counts))
    assert counts.total() >= 600


def test_no_flipped_bit_is_silent_without_the_list_of_files(tmp_path):
    """As after a kill at that moment: arrays and loop record have checksums of their own."""
    write_run(tmp_path)
    draw = random.Random(1)
    step = tmp_path / "checkpoints" / "latest" / "3"
    (step / "files.json").unlink()
    counts = Counter()
    for path in all_files(step):
        num_bits = 8 * path.stat().st_size
        for bit in draw.sample(range(num_bits), min(num_bits, 20)):
            flip(path, bit)
            found = states(tmp_path)
            assert found.get("latest/3") != "sound"
            try:
                number, state, loop = restored(tmp_path, read_only=True)
                assert (number, loop) == (3, loop_of(3))
                chex.assert_trees_all_equal(state, state_of(3))
                counts["as saved"] += 1
            except ConfigError as error:
                assert "\n" not in str(error)
                counts["refused"] += 1
            flip(path, bit)
    print(dict(counts))
    assert counts.total() >= 250


def test_flips_in_earlier_versions_checkpoints_end_in_one_line(tmp_path):
    """Without checksums nobody can find them all; but nothing ends in a traceback."""
    write_run(tmp_path)
    draw = random.Random(2)
    step = tmp_path / "checkpoints" / "latest" / "3"
    shutil.rmtree(step / "checksums")
    (step / "files.json").unlink()
    for path in all_files(step):
        num_bits = 8 * path.stat().st_size
        for bit in draw.sample(range(num_bits), min(num_bits, 6)):
            flip(path, bit)
            states(tmp_path)
            try:
                restored(tmp_path, read_only=True)
            except ConfigError as error:
                assert "\n" not in str(error)
            flip(path, bit)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that was stopped at step 12, and has checkpoints of steps 7 and 12."""
    cache = {}

    def get(config):
        if not cache:
            cache["workdir"] = tmp_path_factory.mktemp("interrupted")
            with pytest.MonkeyPatch.context() as patch:
                kill_when(patch, "step", 12)
                with pytest.raises(Interrupted):
                    train.train_and_evaluate(config, cache["workdir"])
        return cache["workdir"]

    return get


@pytest.mark.usefixtures("compiled_once")
def test_no_damage_ends_in_a_traceback(small_config, interrupted, tmp_path, monkeypatch):
    """The run goes on from step 12 or 7, or ends in one line; it stops itself at once."""
    template = interrupted(small_config)
    monkeypatch.setattr(Interrupts, "requested", lambda self: True)
    draw = random.Random(3)
    latest = template / "checkpoints" / "latest"
    names = [str(path.relative_to(latest / "12")) for path in all_files(latest / "12")]
    counts = Counter()
    kinds = [kind for kind in DAMAGES if kind != "flipped"]
    for number in range(100):
        name, kind = names[number % len(names)], draw.choice(kinds)
        workdir = tmp_path / str(number)
        shutil.copytree(template, workdir)
        DAMAGES[kind](workdir / "checkpoints" / "latest" / "12" / name)
        assert states(workdir)["latest/12"] in ("damaged", "unknown"), (name, kind)
        with pytest.raises(Interrupted, match="the same command resumes"):
            train.train_and_evaluate(small_config, workdir)
        left = {path.name for path in (workdir / "checkpoints" / "latest").iterdir()}
        assert left in ({"7"}, {"7", "12"}), (name, kind)
        counts["12" if "12" in left else "7"] += 1
        assert json.loads((workdir / "saved.json").read_text())["step"] == int(max(left, key=int))
        shutil.rmtree(workdir)
    print(dict(counts))
    assert counts["7"] > 80


def test_kills_between_any_two_writes(tmp_path, monkeypatch):
    """Whatever a save has written when the run is killed, the run before it is still there."""
    write_run(tmp_path)
    step = 3
    for where in ("seal", "write_text", "delete", "sync"):

        class Killed(BaseException):
            pass

        def die(*_, **__):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(step_files, where, die)
            with pytest.raises(BaseException):  # noqa: B017
                with Checkpoints(workdir=tmp_path) as saved:
                    saved.save(step + 1, state_of(step + 1), loop_of(step + 1), wait=True)
        step, state, _ = restored(tmp_path)
        chex.assert_trees_all_equal(state, state_of(step))
        assert states(tmp_path)[f"latest/{step}"] == "sound"
