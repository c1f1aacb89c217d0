import subprocess
import sys
from pathlib import Path

import pytest

import train
from harness.overrides import apply_overrides
from harness.recipes import load_config
from sweeps.runs import read_runs
from sweeps.search_results import results
from sweeps.states import state_of
from tests.sweeps.test_launching import finals, kill_everything, wait_for

ROOT = Path(__file__).parents[2]
RECIPE = "configs/digits_nest.py"
SHORT = {"loop.num_epochs": "15", "loop.evaluate_every_epochs": "3", "optimizer.warmup_epochs": "2"}


@pytest.mark.slow
def test_twenty_trials_killed_in_the_middle_find_a_learning_rate(tmp_path, one_device):
    """As good, within half a point, as the recipe's own after as many epochs."""
    environment = {**one_device, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    command = [
        *(
            sys.executable,
            "tools/sweep.py",
            f"--config={RECIPE}",
            f"--workdir={tmp_path / 'search'}",
        ),
        *("--search=optuna", "--trials=20", "--sweep.optimizer.base_lr=log:1e-5:1e-1"),
        *("--launch.parallel=2", *(f"--config.{key}={text}" for key, text in SHORT.items())),
    ]

    def start():
        return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)

    folder = tmp_path / "search"
    process = start()
    wait_for(lambda: len(finals(folder)) >= 7, 3600.0)
    kill_everything(folder, process)
    assert len(finals(folder)) < 20
    assert start().wait() == 0
    runs = read_runs(folder)
    assert len(runs) == 20
    assert {state_of(folder, run).status for run in runs} <= {"done", "pruned"}
    config = load_config(RECIPE)
    apply_overrides(config, SHORT.items())
    own = train.train_and_evaluate(config, tmp_path / "own")
    found = results(folder).best
    print(
        f"found {found.run.values} {found.value:.4f}, the recipe's own {own['top1_accuracy']:.4f}"
    )
    assert found.value >= own["top1_accuracy"] - 0.005
