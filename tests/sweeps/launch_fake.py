"""Launches a sweep of fake runs in a process of its own, which a test can kill.

python launch_fake.py FOLDER PARALLEL NUM_RUNS STEPS [search]
"""

import sys
from pathlib import Path

import sweeps.runs
import sweeps.start
from sweeps.launchers.local import Local
from sweeps.search import search
from sweeps.specification import Search
from tests.sweeps.fake_job import fake

RANGES = {"optimizer.base_lr": "log:1e-6:1e-1"}
sweeps.runs.Run.command = fake
sweeps.start.check_runs = lambda runs: None

if __name__ == "__main__":
    folder, parallel, num_runs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    fixed = {"steps": sys.argv[4]}
    runs = sweeps.runs.name_runs("r.py", fixed, [{"seed": str(i)} for i in range(num_runs)])
    try:
        if sys.argv[5:]:
            wanted = Search("r.py", fixed, RANGES, "top1_accuracy", True, True)
            search(folder, wanted, num_runs, Local(parallel=parallel))
        else:
            sweeps.start.start(folder, runs, Local(parallel=parallel))
    except sweeps.start.RunError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
