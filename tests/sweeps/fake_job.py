"""Makes the runs of this process fake ones; jobs that unpickle a FakeRunJob import it too."""

from pathlib import Path

import sweeps.runs
from sweeps.launchers.slurm import RunJob


def fake(self, folder):
    script = Path(__file__).with_name("fake_train.py")
    overrides = [f"--config.{key}={text}" for key, text in self.overrides.items()]
    return [str(script), f"--workdir={folder / self.name}", *overrides]


class FakeRunJob(RunJob):
    """What a task of a job array does, with a fake run."""

    def __call__(self, run):
        sweeps.runs.Run.command = fake
        super().__call__(run)
