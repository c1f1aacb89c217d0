"""Two processes restore the same step, whatever is damaged, and save the same checksums."""

import shutil

import pytest

from saving.verification import verify_checkpoints
from tests.saving.test_damaged_checkpoints import DAMAGES, largest
from tests.training import test_processes
from tests.training.test_processes import records, start
from workdirs.step_files import steps_in

CHANGES = ("--config.loop.save_every_epochs=0.5", "--config.loop.num_epochs=2.0")


def finish(processes):
    codes, outputs = test_processes.finish(processes)
    return codes, "".join(outputs)


@pytest.mark.slow
def test_two_processes_agree(tmp_path):
    codes, output = finish(start(tmp_path / "first", 2, *CHANGES))
    assert codes == [0, 0], output
    first = {f.path.name: f.state for f in verify_checkpoints(tmp_path / "first")}
    assert set(first.values()) == {"sound"} and len(first) == 2
    expected = records(tmp_path / "first")
    newest = steps_in(tmp_path / "first" / "checkpoints" / "latest")[-1]
    for kind in ("deleted", "flipped"):
        workdir = tmp_path / kind
        shutil.copytree(tmp_path / "first", workdir)
        (workdir / "DONE").unlink()
        DAMAGES[kind](largest(workdir / "checkpoints" / "latest" / str(newest)))
        codes, output = finish(start(workdir, 2, *CHANGES))
        assert codes == [0, 0], output
        assert output.count("is damaged (state/") == 1, output
        assert f"resuming at step {newest - 1}" in output
        assert {f.state for f in verify_checkpoints(workdir)} == {"sound"}
        for ours, theirs in zip(records(workdir), expected, strict=True):
            assert (ours["kind"], ours["step"], ours["loss"]) == (
                *(theirs["kind"], theirs["step"]),
                pytest.approx(theirs["loss"], abs=1e-5),
            )
    # Nothing is readable: all say so and end.
    workdir = tmp_path / "none"
    shutil.copytree(tmp_path / "first", workdir)
    (workdir / "DONE").unlink()
    for step in steps_in(workdir / "checkpoints" / "latest"):
        (workdir / "checkpoints" / "latest" / str(step) / "state" / "_METADATA").write_bytes(b"")
    for text in ("is readable", "--restart starts over"):
        codes, output = finish(start(workdir, 2, *CHANGES))
        assert codes == [2, 2] and output.count(text) == 2, output
