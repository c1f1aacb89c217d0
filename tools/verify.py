"""Says whether what a run has stored is as it was written.

    python tools/verify.py runs/digits_nest
    python tools/verify.py runs/*

One line for each file of the run and each checkpoint in latest/ and best/: "sound"; "damaged", and
what differs; "unknown" for what has no checksum, as in runs of earlier versions; "empty" for a run
that has no checkpoint yet. Of a sweep, all of its runs. Nothing is changed. Exit codes: 0 nothing
is damaged; 2 something is, or a folder is not that of a run; 74 something cannot be read, for a
reason that may pass.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

from absl import flags

from harness import commandline
from harness.errors import ConfigError, printable
from harness.files import run_path
from saving.verification import verify_checkpoints
from sweeps.runs import MANIFEST, read_runs
from workdirs.step_files import patiently
from workdirs.verification import verify_files

SIGNS = ("config.json", "checkpoints", "saved.json")  # of a run


def define_flags() -> None:
    pass


def main(args: flags.FlagValues, folders: list[str]) -> None:
    workdirs = []
    for folder in (run_path("WORKDIR", folder) for folder in folders):
        if patiently((folder / MANIFEST).is_file):
            runs = (folder / run.name for run in read_runs(folder))
            workdirs += [run for run in runs if run.is_dir()]  # others have not begun
        elif any((folder / name).exists() for name in SIGNS):
            workdirs.append(folder)
        else:
            raise ConfigError(f"{folder} is not the folder of a run")
    findings = []
    for workdir in workdirs:
        checkpoints = verify_checkpoints(workdir)
        found = verify_files(workdir) + checkpoints
        for finding in found:
            print(printable(f"{finding.state:<8} {finding.path}  {finding.text}"), flush=True)
        if not checkpoints:
            print(printable(f"{'empty':<8} {workdir / 'checkpoints'}  no checkpoint yet"))
        findings += found
    if damaged := sum(finding.state == "damaged" for finding in findings):
        raise ConfigError(f"{damaged} of {len(findings)} damaged")


if __name__ == "__main__":
    commandline.run(define_flags, main, ("workdir...",))
