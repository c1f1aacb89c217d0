"""Detection and segmentation in several processes."""

import pytest

from tests.parallel import processes
from workdirs.results import read_metrics

SMALL = {
    "digits_detr": [
        "--config.data.scene_digits=(1,3)",
        "--config.data.max_objects=3",
        "--config.detector.num_queries=8",
        "--config.detector.num_decoder_layers=1",
        "--config.optimizer.name=sgd",
    ],
    "digits_segment": ["--config.decoder.dim=16", "--config.decoder.mask_dim=8"],
}


@pytest.mark.faults
@pytest.mark.parametrize("recipe", SMALL)
def test_two_processes_equal_one(tmp_path, recipe):
    """Every image of the evaluation counts once, the last batch of each process is filled up."""
    found = []
    for count in (1, 2):
        workdir = tmp_path / str(count)
        arguments = [f"--workdir={workdir}", f"--config=configs/{recipe}.py:debug"]
        arguments += ["--config.data.image_size=32", "--config.data.scene_pixels=(8,12)"]
        arguments += ["--config.data.batch_size=8", "--config.data.eval_batch_size=8"]
        arguments += ["--config.data.train_split=train[:32]", "--config.data.eval_split=test[:11]"]
        started = processes.start("train.py", arguments + SMALL[recipe], count, num_devices=2)
        codes, outputs = processes.finish(started, 400)
        assert codes == [0] * count, outputs
        found.append(read_metrics(workdir).sound)
    for ours, theirs in zip(*found, strict=True):
        assert (ours["kind"], ours["step"]) == (theirs["kind"], theirs["step"])
        if "loss" in ours:
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
    assert ours["num_examples"] == theirs["num_examples"] == 11
    measure = {"digits_detr": "ap", "digits_segment": "pixel_accuracy"}[recipe]
    assert ours[measure] == pytest.approx(theirs[measure], abs=0.01)
