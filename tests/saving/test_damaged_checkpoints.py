"""Damage to a checkpoint, of any kind, is found, said and survived."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from harness.errors import ConfigError, NonFiniteError, StorageError
from saving.checkpoints import Checkpoints
from saving.verification import verify_checkpoints
from tools import verify
from workdirs import step_files
from workdirs.checksums import array_checksums, file_checksums, files_in
from workdirs.progress import read_saved
from zoo.run_checkpoints import read_parts


def state_of(step):
    """A state with arrays of all sizes and types, which depends on the step."""
    draw = np.random.default_rng(step).normal
    return {
        "params": {
            "kernel": jnp.asarray(draw(size=(40, 30)), jnp.float32),
            "half": jnp.asarray(draw(size=(8, 4)), jnp.bfloat16),
        },
        "opt_state": [jnp.asarray(draw(size=(40, 30)), jnp.float32), jnp.int32(step)],
        "step": jnp.int32(step),
    }


def loop_of(step):
    return {"data": {"batches": step}, "window": [{"loss": step / 7}]}


SHAPES = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state_of(1)
)


def write_run(workdir, steps=(1, 2, 3)):
    with Checkpoints(workdir=workdir) as saved:
        for step in steps:
            saved.save(step, state_of(step), loop_of(step))
            saved.save_best(step, state_of(step), loop_of(step), {"top1_accuracy": step / 10})


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    write_run(workdir)
    return workdir


@pytest.fixture
def run(template, tmp_path, monkeypatch):
    """A run with checkpoints of steps 2 and 3, the best of step 3; nothing is waited for."""
    monkeypatch.setattr(step_files, "WAITS", (0.0, 0.0))
    return Path(shutil.copytree(template, tmp_path / "run"))


def restored(workdir, which="latest", **options):
    with Checkpoints(workdir=workdir, **options) as saved:
        return saved.restore(SHAPES, which)


def assert_is(found, step):
    assert found[0] == step and found[2]["data"] == {"batches": step}
    chex.assert_trees_all_equal(found[1], state_of(step))


def states(workdir):
    return {f"{f.path.parent.name}/{f.path.name}": f.state for f in verify_checkpoints(workdir)}


SOUND = {"latest/2": "sound", "latest/3": "sound", "best/3": "sound"}


def make_folder(path):
    path.unlink()
    path.mkdir()


def flip(path, bit=None):
    content = bytearray(path.read_bytes())
    bit = len(content) * 4 if bit is None else bit
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


DAMAGES = {
    "deleted": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": flip,
    "a folder": make_folder,
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe{}"),
    "of another shape": lambda path: path.write_bytes(b"[1, 2]"),
}


SMALL = ("state/_METADATA", "state/manifest.ocdbt", "loop/metadata", "checksums/metadata")


def largest(step):
    """The file that holds most of the arrays."""
    return max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_a_sound_run(run):
    assert states(run) == SOUND
    assert_is(restored(run), 3)
    assert_is(restored(run, "best", read_only=True), 3)
    assert read_saved(run) == 3
    assert files_in(run / "checkpoints" / "latest" / "3").count("files.json") == 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, "largest") for kind in DAMAGES),
        *(("flipped", name) for name in SMALL),
        *(
            pytest.param(kind, name, marks=pytest.mark.faults)
            for kind in DAMAGES
            for name in SMALL
            if kind != "flipped"
        ),
    ],
)
def test_the_one_before_is_used(run, kind, name):
    step = run / "checkpoints" / "latest" / "3"
    name = str(largest(step).relative_to(step)) if name == "largest" else name
    DAMAGES[kind](step / name)
    assert states(run) == SOUND | {"latest/3": "damaged"}
    with pytest.raises(ConfigError, match=f"latest/3 is damaged: {name} is "):
        restored(run, read_only=True)
    assert sorted(p.name for p in step.parent.iterdir()) == ["2", "3"]  # a reader moves nothing
    with pytest.raises(ValueError, match="latest/3: truncated or damaged"):
        read_parts(step, "params", "weights")
    assert_is(restored(run), 2)
    (aside,) = (run / "checkpoints" / "unreadable").iterdir()
    assert aside.name.startswith("latest_3_")
    assert states(run) == dict.fromkeys(("latest/2", "best/3"), "sound")


@pytest.mark.parametrize("item", ["state", "loop", "checksums", "", "state/ocdbt.process_0"])
def test_missing_and_misplaced_items(run, item):
    step = run / "checkpoints" / "latest" / "3"
    shutil.rmtree(step / item)
    if item != "loop":
        (step / item).write_text("a file")
    assert states(run)["latest/3"] == "damaged"
    assert_is(restored(run), 2)


def test_arrays_of_another_step(run):
    """All files are sound, but the arrays are not those that were saved."""
    step = run / "checkpoints" / "latest" / "3"
    shutil.rmtree(step / "state")
    shutil.copytree(step.parent / "2" / "state", step / "state")
    (step / "files.json").unlink()
    found = {f.path.name: f for f in verify_checkpoints(run) if f.path.parent.name == "latest"}
    assert found["3"].text.startswith("5 arrays are not as saved: opt_state/0, opt_state/1, params")
    with pytest.raises(ValueError, match="2 arrays are not as saved: params/half, params/kernel"):
        read_parts(step, "params", "weights")
    assert_is(restored(run), 2)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"window": []}, "the record of the loop is not as saved"),
        ({"data": {"batches": 4}}, "the record of the loop is not as saved"),
    ],
)
def test_another_loop_record(run, change, text):
    step = run / "checkpoints" / "latest" / "3"
    (step / "loop" / "metadata").write_text(json.dumps(loop_of(3) | change))
    (step / "files.json").unlink()
    assert text in verify_checkpoints(run)[1].text
    assert_is(restored(run), 2)


def without_checksums(step):
    shutil.rmtree(step / "checksums")
    (step / "files.json").unlink()


def test_earlier_versions_wrote_no_checksums(run, capsys):
    for step in (run / "checkpoints").glob("*/*"):
        without_checksums(step)
    (run / "saved.json").unlink()
    assert states(run) == dict.fromkeys(SOUND, "unknown")
    assert_is(restored(run), 3)
    assert capsys.readouterr().err.count("was saved without checksums") == 1
    state, _, notes = read_parts(run / "checkpoints" / "best" / "3", "params", "weights")
    chex.assert_trees_all_equal(state["params"], state_of(3)["params"])
    assert "without checksums" in notes[0]
    # What shows without them: numbers that contradict each other, and broken files.
    step = run / "checkpoints" / "latest" / "3"
    (step / "loop" / "metadata").write_text(json.dumps(loop_of(4)))
    assert verify_checkpoints(run)[1].text == "the state is of step 3, the data is of step 4"
    (step / "loop" / "metadata").write_text(json.dumps(loop_of(3)))
    largest(step).write_bytes(b"")
    assert states(run)["latest/3"] == "damaged"
    assert_is(restored(run), 2)


def test_values_that_are_not_finite(tmp_path):
    """Of an earlier version too, which did not look as closely."""
    write_run(tmp_path)
    bad = state_of(3)
    bad["params"]["kernel"] = bad["params"]["kernel"].at[3, 4].set(jnp.nan)
    with Checkpoints(workdir=tmp_path) as saved:
        with pytest.raises(NonFiniteError):
            saved.save(4, bad, loop_of(4))
        sums = array_checksums(bad)
        saved._latest.write(3, bad, loop_of(3), sums)  # as if it did not look at all
    assert "not finite" in verify_checkpoints(tmp_path)[-2].text
    assert_is(restored(tmp_path), 2)


@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_renamed_folder_is_refused(run, has_checksums):
    latest = run / "checkpoints" / "latest"
    if not has_checksums:
        without_checksums(latest / "3")
    (latest / "3").rename(latest / "30")
    for options in ({}, {"read_only": True}):
        with pytest.raises(ConfigError, match="latest/30 is that of step 3 under another name"):
            restored(run, **options)
    assert states(run)["latest/30"] == "damaged"
    if has_checksums:
        with pytest.raises(ValueError, match="latest/30: that of step 3 under another name"):
            read_parts(latest / "30", "params", "weights")
    (latest / "30").rename(latest / "3")
    assert_is(restored(run), 3)


@pytest.mark.parametrize("name", ["03", "٣", "0٣", "²", "9" * 200])
def test_names_that_no_run_gives(run, name):
    latest = run / "checkpoints" / "latest"
    (latest / "3").rename(latest / name)
    with pytest.raises(ConfigError, match="no run gives a checkpoint this name"):
        restored(run)
    assert "damaged" in states(run).values()


def test_strangers_do_not_matter(run):
    latest = run / "checkpoints" / "latest"
    (latest / "lost+found").mkdir()
    (latest / "3" / ".DS_Store").write_text("x")
    assert states(run) == SOUND
    assert_is(restored(run), 3)


def refuse(monkeypatch, number, times):
    """Lets the operating system refuse to read the files of a checkpoint, for a while."""
    left = [times]

    def read(folder, names):
        if left[0]:
            left[0] -= 1
            raise OSError(number, "no")
        return file_checksums(folder, names)

    monkeypatch.setattr(step_files, "file_checksums", read)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_reason_that_passes(run, monkeypatch, number):
    refuse(monkeypatch, number, 10**9)
    for options in ({}, {"read_only": True}):
        with pytest.raises(StorageError, match="cannot be read now: .*nothing was changed") as end:
            restored(run, **options)
        assert end.value.exit_code == 74
    with pytest.raises(StorageError):
        verify_checkpoints(run)
    with pytest.raises(StorageError, match=r"\[Errno .*nothing was changed"):
        read_parts(run / "checkpoints" / "latest" / "3", "params", "weights")
    assert not (run / "checkpoints" / "unreadable").exists()
    refuse(monkeypatch, number, 2)
    assert_is(restored(run), 3)


def test_what_orbax_raises_is_not_damage(run, monkeypatch):
    """The files are as written: another version of the library, no memory, who knows."""

    def restore(*_, **__):
        raise Exception("boom\nand more")

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", restore)
    with pytest.raises(StorageError, match="latest/3 cannot be read now: boom and more; it is not"):
        restored(run)
    assert states(run) == SOUND


def test_orbax_is_not_asked_again_for_the_same(run, monkeypatch):
    """Nothing says that the reason may pass; without a list of the files it is damage."""
    asked = []

    def restore(*_, **__):
        asked.append(1)
        raise Exception("boom")

    (run / "checkpoints" / "latest" / "3" / "files.json").unlink()
    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", restore)
    with pytest.raises(
        ConfigError, match="latest/3 is damaged: it cannot be read: Exception: boom"
    ):
        restored(run, read_only=True)
    assert len(asked) == 1


_READ = """
import logging, sys, threading
from tests.saving.test_damaged_checkpoints import *
for read in (
    lambda: restored(Path(sys.argv[1]), read_only=True),
    lambda: read_parts(Path(sys.argv[1]) / "checkpoints" / "latest" / "3", "params", "weights"),
    lambda: verify_checkpoints(Path(sys.argv[1])),
):
    for _ in range(5):
        try:
            read()
        except (ConfigError, ValueError) as error:
            print(error)
threading.Thread(target=lambda: 1 / 0).start()
logging.getLogger("asyncio").error("another")
raise RuntimeError("of our own")
"""


def test_nothing_that_orbax_leaves_behind_is_shown(run):
    """Five arrays, five reads: none of its tracebacks; other errors still are shown."""
    step = run / "checkpoints" / "latest" / "3"
    without_checksums(step)
    for file in (step / "state").glob("ocdbt.process_0/d/*"):
        DAMAGES["zeroed"](file)
    command = [sys.executable, "-c", _READ, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.count("cannot be read") >= 5, done
    assert done.stderr.count("Traceback") == 2, done.stderr
    assert "ZeroDivisionError" in done.stderr and "of our own" in done.stderr
    assert "another" in done.stderr and "Event loop" not in done.stderr


def test_what_is_damaged_is_said_once(run, capsys, caplog):
    """In a line of its own with the first cause, not what is wrapped around it."""
    step = run / "checkpoints" / "latest" / "3"
    without_checksums(step)
    for file in (step / "state").glob("ocdbt.process_0/d/*"):
        content = file.read_bytes()
        file.write_bytes(content[:-3000] + bytes(3000))
    assert_is(restored(run), 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: checkpoint {step} is damaged (it cannot be read: ")
    assert "bound method" not in line and "moved to" in line and not caplog.records


def test_a_reader_beside_a_run_that_goes_on(run, monkeypatch):
    """The checkpoint that it found is deleted before it is read."""
    look = step_files.find_damage
    latest = run / "checkpoints" / "latest"

    def find_damage(step):
        if step == latest / "3" and step.exists():
            step.rename(latest / "4.deleted")
            write_run(run, [4])
        return look(step)

    monkeypatch.setattr(step_files, "find_damage", find_damage)
    assert_is(restored(run, read_only=True), 4)


def test_only_damaged_ones(run):
    for step in (2, 3):
        (run / "checkpoints" / "latest" / str(step) / "state" / "_METADATA").unlink()
    with pytest.raises(ConfigError, match="no checkpoint in .*latest is readable"):
        restored(run)
    assert len(list((run / "checkpoints" / "unreadable").iterdir())) == 2


def test_the_newest_is_gone(run, capsys):
    shutil.rmtree(run / "checkpoints" / "latest" / "3")
    assert states(run)["latest/3"] == "damaged"
    assert_is(restored(run), 2)
    assert "step 3 was saved too, and is gone; going on from 2" in capsys.readouterr().err


def test_killed_before_the_files_were_listed(run):
    (run / "checkpoints" / "latest" / "3" / "files.json").unlink()
    assert states(run) == SOUND | {"latest/3": "unknown"}
    assert_is(restored(run), 3)
    assert states(run) == SOUND


def test_a_save_that_fails_costs_nothing(run, monkeypatch):
    def seal(step):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(step_files, "seal", seal)
        saved = Checkpoints(workdir=run)
        with pytest.raises(StorageError, match="of step 4 cannot be written: .*No space"):
            saved.save(4, state_of(4), loop_of(4), wait=True)
        saved.__exit__()
    assert read_saved(run) == 3
    assert {name: states(run)[name] for name in SOUND} == SOUND  # none was deleted for it


def test_what_is_read_back_must_be_what_was_saved(run, monkeypatch):
    """As when the path has characters that Orbax takes for a pattern."""
    original = ocp.StandardCheckpointHandler.metadata

    def metadata(self, folder):
        found = original(self, folder)
        del found.tree["params"]["half"]
        return found

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "metadata", metadata)
    with pytest.raises(StorageError, match="read back .* 1 missing: params/half"):
        with Checkpoints(workdir=run) as saved:
            saved.save(4, state_of(4), loop_of(4))
    assert read_saved(run) == 3


def test_what_a_killed_run_leaves_is_removed(run):
    latest = run / "checkpoints" / "latest"
    (latest / "4.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (latest / "1.deleted").mkdir()
    restored(run, read_only=True)
    assert len(list(latest.iterdir())) == 4
    restored(run)
    assert sorted(path.name for path in latest.iterdir()) == ["2", "3"]


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (2, 4), (8, 1)])
def test_other_devices_read_the_same(tmp_path, shape):
    """Saved on 4 x 2 devices, restored to others, with the same checksums."""

    def on(state, mesh, spec):
        place = NamedSharding(mesh, PartitionSpec(*spec))
        whole = NamedSharding(mesh, PartitionSpec())
        # One after the other: CPUs may hang where several programs with collectives run at once.
        return jax.tree.map(
            lambda x: jax.block_until_ready(jax.device_put(x, place if x.ndim == 2 else whole)),
            state,
        )

    with Checkpoints(workdir=tmp_path) as saved:
        mesh = jax.make_mesh((4, 2), ("data", "fsdp"))
        state = on({"a": jnp.ones((8, 8)), "step": jnp.int32(5)}, mesh, ("data", "fsdp"))
        saved.save(5, state, loop_of(5), wait=True)
        other = on(state, jax.make_mesh(shape, ("data", "fsdp")), ("fsdp", "data"))
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), other
        )
        chex.assert_trees_all_equal(saved.restore(shapes)[1], other)


def test_the_tool(run, run_script, tmp_path):
    code, out, err = run_script("tools/verify.py", str(run))
    assert code == 0, err
    assert out.count("sound ") == 4 and out.count("5 arrays as saved, ") == 3
    flip(largest(run / "checkpoints" / "best" / "3"))
    code, out, err = run_script("tools/verify.py", str(run), str(run))
    assert (code, out.count("damaged")) == (2, 2) and err.endswith("2 of 8 damaged\n")
    (tmp_path / "sweep").mkdir()
    code, _, err = run_script("tools/verify.py", str(tmp_path / "sweep"))
    assert code == 2 and "is not the folder of a run" in err
    assert verify.__doc__.splitlines()[0].endswith("as it was written.")
