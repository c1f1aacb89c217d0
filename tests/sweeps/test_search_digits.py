import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.runs import MANIFEST, read_runs
from sweeps.search_results import results
from sweeps.states import state_of
from tests.sweeps.test_launching import kill_everything, wait_for
from workdirs.results import read_done

ROOT = Path(__file__).parents[2]
RECIPE = [
    *("--config=configs/digits_nest.py", "--config.loop.num_epochs=15"),
    *("--config.loop.evaluate_every_epochs=3", "--config.optimizer.warmup_epochs=2"),
]
SEARCH = ["--search=optuna", "--trials=20", "--sweep.optimizer.base_lr=log:1e-5:1e-1"]


def over(folder):
    """Trials that have ended, early or not."""
    runs = read_runs(folder) if (folder / MANIFEST).exists() else []
    return [run for run in runs if state_of(folder, run).status in ("done", "pruned")]


@pytest.mark.slow
def test_twenty_trials_killed_in_the_middle_find_a_learning_rate(tmp_path, one_device):
    """As good, within half a point, as the recipe's own after as many epochs."""
    environment = {**one_device, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}

    def begin(script, folder, *more):
        command = [sys.executable, script, *RECIPE, f"--workdir={folder}", *more]
        return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)

    folder, own = tmp_path / "search", tmp_path / "own"
    process = begin("tools/sweep.py", folder, *SEARCH, "--launch.parallel=2")
    wait_for(lambda: len(over(folder)) >= 8, 3600.0)
    kill_everything(folder, process)
    assert len(over(folder)) < 20
    assert begin("tools/sweep.py", folder, *SEARCH, "--launch.parallel=2").wait() == 0
    assert begin("train.py", own).wait() == 0
    runs = read_runs(folder)
    assert len(runs) == 20
    assert {state_of(folder, run).status for run in runs} <= {"done", "pruned"}
    found, accuracy = results(folder).best, read_done(own)["top1_accuracy"]
    print(f"found {dict(found.run.values)}: {found.value:.4f}; the recipe's own: {accuracy:.4f}")
    assert found.value >= accuracy - 0.005
