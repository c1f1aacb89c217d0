"""Runs on rented machines: a managed job of SkyPilot for each, written to be started."""

import json
import re
import shlex
from pathlib import Path

from harness.arguments import problem
from harness.errors import ConfigError, Interrupted
from harness.files import write_text
from harness.recipes import recipe_from_root
from sweeps.runs import ROOT, Run

_MOUNT = Path("/sweep")  # of the bucket, on the machine of a run


class SkyPilot:
    """Writes FOLDER/skypilot/NAME.yaml for each run; `sky jobs launch` starts it.

    A run's workdir is in a bucket, so that a run whose machine is taken away goes on elsewhere.
    This needs no SkyPilot; starting the jobs does.

    Args:
        bucket: where workdirs go: "s3://mine/sweeps/width", "gs://..."; it exists.
        accelerators: of a run's machine: "H100:1", "tpu-v5litepod-8".
        spot: whether the machine may be one that can be taken away at any time.
        setup: shell commands that install what a run needs.
    """

    def __init__(
        self,
        *,
        bucket: str = "",
        accelerators: str = "H100:1",
        spot: bool = True,
        setup: str = 'pip install -r requirements.txt "jax[cuda13]"',
    ):
        if not re.fullmatch(r"[a-z0-9]+://\S+", bucket):
            allowed = "where the runs' folders go, such as s3://mine/sweeps/width"
            raise ConfigError(problem("--launch.bucket", bucket, "not a bucket", allowed))
        self._bucket, self._setup = bucket.rstrip("/"), setup
        self._accelerators, self._spot = accelerators, spot

    def launch(self, folder: Path, runs: list[Run]) -> None:
        """Writes the jobs of these runs, in place of those of an earlier call."""
        files = {folder / "skypilot" / f"{run.name}.yaml": self._job(folder, run) for run in runs}
        (folder / "skypilot").mkdir(exist_ok=True)
        for path in (folder / "skypilot").glob("*.yaml"):
            path.unlink()
        for path, text in files.items():
            write_text(path, text)
        print(f"{len(runs)} managed jobs are written; this starts them:")
        pattern = f"{shlex.quote(str(folder / 'skypilot'))}/*.yaml"
        print(f'for job in {pattern}; do sky jobs launch --yes --detach-run "$job"; done')
        print(f"Their results come to {self._bucket}; copied to {folder}, `collect` shows them.")

    def _job(self, folder: Path, run: Run) -> str:
        config = recipe_from_root(run.config)
        if config.startswith("/"):
            raise ConfigError(f"--launch=skypilot: {config} is not in {ROOT}, which jobs get")
        command = ["python", "train.py", f"--config={config}", *run.command(_MOUNT)[2:]]
        name = re.sub(r"[^A-Za-z0-9]+", "-", f"{folder.name}-{run.name}").strip("-")
        # JSON's texts and numbers are YAML's, whatever is in them.
        return f"""\
# sky jobs launch {json.dumps(f"{run.name}.yaml")}
name: {json.dumps(name)}
workdir: {json.dumps(str(ROOT))}
resources:
  accelerators: {json.dumps(self._accelerators)}
  use_spot: {json.dumps(self._spot)}
  job_recovery:
    recover_on_exit_codes: [{Interrupted.exit_code}]  # interrupted after saving
file_mounts:
  {_MOUNT}:
    source: {json.dumps(self._bucket)}
    mode: MOUNT_CACHED
setup: {json.dumps(self._setup)}
run: {json.dumps(shlex.join(command))}
"""
