"""Searches with fake runs in a process of its own, which a test can kill.

python search_fake.py FOLDER PARALLEL TRIALS [KEY=TEXT...], which are the same for all trials
"""

import sys
from pathlib import Path

import sweeps.runs
import sweeps.search
from harness.errors import RunError
from sweeps.launchers.local import Local
from sweeps.search_plan import Plan
from tests.sweeps.fake_job import fake

SPACES = {"lr": "log:1e-5:1e-1", "width": "8,16"}


def plan(**fixed):
    return Plan("r.py", fixed, SPACES, "top1_accuracy", True)


if __name__ == "__main__":
    sweeps.runs.Run.command = fake
    sweeps.search.check_runs = lambda runs: None
    folder, parallel, trials = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    fixed = dict(text.split("=") for text in sys.argv[4:])
    try:
        sweeps.search.search(folder, plan(**fixed), Local(parallel=parallel), num_trials=trials)
    except RunError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
