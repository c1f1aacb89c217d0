"""A recipe compiled for a slice of TPUs by libtpu, in this environment or TPU_AOT_PYTHON's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PARAMETERS = 255_562

pytestmark = pytest.mark.tpu_aot


def compiled(tmp_path, *flags):
    """Returns the record of the smallest NesT's step on four chips."""
    output = tmp_path / "records.jsonl"
    environment = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [
            *(os.environ.get("TPU_AOT_PYTHON", sys.executable), "tools/compile_for.py"),
            *("--topology=v5e:2x2", "--config=configs/digits_nest.py:debug", f"--output={output}"),
            *flags,
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = output.read_text().splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("alone"))


def test_a_small_recipe(alone):
    assert alone["fits"] and alone["device"] == "TPU v5 lite" and alone["num_devices"] == 4
    assert alone["parameters"] == PARAMETERS
    # What the compiler names: 15.75 GiB of the chip's 16.
    assert alone["memory"]["available"] == int(15.75 * 2**30)
    assert alone["memory"]["total"] < 1e9
    # Every gradient goes around once, in float32, with a few sums of the metrics.
    assert alone["collectives"].keys() == {"all-reduce"}
    moved = alone["collectives"]["all-reduce"]["bytes"]
    assert 4 * PARAMETERS <= moved <= 9 * PARAMETERS


def test_fsdp_shares_the_state_and_gathers_it(tmp_path, alone):
    shared = compiled(tmp_path, "--config.mesh.fsdp=4")
    assert shared["memory"]["arguments"] < 0.6 * alone["memory"]["arguments"]
    assert "all-gather" in shared["collectives"]
