"""Launches a sweep of fake runs in a process of its own, which a test can kill.

python launch_fake.py FOLDER PARALLEL NUM_RUNS STEPS
"""

import sys
from pathlib import Path

import sweeps.runs
import sweeps.start
from sweeps.launchers.local import Local
from tests.sweeps.fake_job import fake

if __name__ == "__main__":
    sweeps.runs.Run.command = fake
    sweeps.start.check_runs = lambda runs: None
    folder, parallel, num_runs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    fixed = {"steps": sys.argv[4]}
    runs = sweeps.runs.name_runs("r.py", fixed, [{"seed": str(i)} for i in range(num_runs)])
    try:
        sweeps.start.start(folder, runs, Local(parallel=parallel))
    except sweeps.start.RunError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
