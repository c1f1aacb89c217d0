"""Weights & Biases and MLflow, through their own clients, which are imported when asked for.

Their environment variables hold (WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI, ...); what they
leave open is set here so that everything lies in, or next to, the workdir.
"""

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from harness.errors import ConfigError, Interrupted, one_line
from harness.lease_files import in_bucket
from harness.locks import locked
from workdirs.plain_path import plain_path

PROJECT = "nest-tnt-jax"
# Of a run's last uploads; wandb keeps the rest on disk.
WANDB_FINISH_SECONDS = 30.0


class ServiceLog(Protocol):
    """The run at a service. Any method may raise what the service's client raises.

    Args:
        run_id: of the run that an earlier attempt began, None for a new one.
        workdir: of the run.
        config: checked and flattened: {"optimizer.base_lr": 0.001}.
    """

    id: str
    where: str  # to look
    buffers: bool  # whether a crash loses what the methods below have taken
    found: dict[str, int]  # the last steps, "train" and "eval", that the service says it has

    def __init__(self, run_id: str | None, workdir: Path, config: dict[str, Any]): ...

    @staticmethod
    def check() -> None:
        """Raises an ImportError if the client is not installed, a ConfigError if not set up."""

    @staticmethod
    def place(workdir: Path) -> str:
        """Returns where runs go: a server, a project, a file."""

    def scalars(self, kind: str, step: int, metrics: dict[str, float]) -> None:
        """Takes the numbers of a step; see MetricLog in training/metric_logs.py for all three."""

    def image(self, name: str, step: int, picture: np.ndarray) -> None:
        """Takes a picture."""

    def finish(self, metrics: dict[str, float] | None, error: BaseException | None) -> None:
        """Closes the run."""


class WandbLog:
    """A run of Weights & Biases; its files are in workdir/wandb.

    Steps are metrics of their own, "train/step" and "eval/step", the x axes of the others: wandb's
    own counter takes no row for a step that it has passed.
    """

    buffers = True

    def __init__(self, run_id: str | None, workdir: Path, config: dict[str, Any]):
        import wandb

        given = {
            "project": ("WANDB_PROJECT", PROJECT),
            "name": ("WANDB_NAME", workdir.name),
            "group": ("WANDB_RUN_GROUP", sweep_of(workdir)),
            "dir": ("WANDB_DIR", tempfile.mkdtemp() if in_bucket(workdir) else str(workdir)),
        }
        self._run = wandb.init(
            **{key: value for key, (name, value) in given.items() if not os.environ.get(name)},
            id=run_id,
            resume="allow" if run_id else None,
            job_type="train",
            settings=wandb.Settings(finish_timeout=WANDB_FINISH_SECONDS),
        )
        self.id = self._run.id
        self.where = f"offline, {self._run.dir}" if self._run.offline else self._run.url
        self._run.config.update(config | {"workdir": str(workdir)}, allow_val_change=True)
        steps = {kind: f"{kind}/step" for kind in ("train", "eval", "pictures")}
        for kind, step in steps.items():
            self._run.define_metric(step)
            self._run.define_metric(f"{kind}/*", step_metric=step)
        # Of a run that is resumed online, the summary has what the server got.
        values = {kind: self._run.summary.get(step) for kind, step in steps.items()}
        self.found = {kind: int(step) for kind, step in values.items() if step is not None}

    @staticmethod
    def check() -> None:
        import wandb

        try:
            if wandb.setup().settings.mode == "online":
                wandb.login(verify=False)  # asks for the key where there is somebody to ask
        except wandb.Error as error:
            hint = "WANDB_MODE=offline logs without"
            raise ConfigError(f"--log_to=wandb: {one_line(error)} {hint}") from None

    @staticmethod
    def place(workdir: Path) -> str:
        return os.environ.get("WANDB_PROJECT") or PROJECT

    def scalars(self, kind, step, metrics):
        self._run.log(
            {f"{kind}/{name}": value for name, value in (metrics | {"step": step}).items()}
        )

    def image(self, name, step, picture):
        import wandb

        self._run.log({f"pictures/{name}": wandb.Image(picture), "pictures/step": step})

    def finish(self, metrics, error):
        if metrics:
            self._run.summary.update({f"final/{name}": value for name, value in metrics.items()})
        if isinstance(error, Interrupted):
            self._run.mark_preempting()  # "preempted", rather than "failed"
        self._run.finish(exit_code=getattr(error, "exit_code", 1) if error else 0)


class MlflowLog:
    """A run of MLflow, by default in the file mlflow.db next to the workdir.

    Runs that are to be compared share that file, and `mlflow ui` shows them.
    """

    buffers = False
    found: ClassVar[dict[str, int]] = {}

    def __init__(self, run_id: str | None, workdir: Path, config: dict[str, Any]):
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        place = self.place(workdir)
        # In a URI, some characters of a path mean something else.
        uri = place if self._is_given() else _sqlite(plain_path(workdir.parent))
        # The runs of a sweep start together, and each would make the tables of a new file.
        with contextlib.nullcontext() if in_bucket(workdir) else locked(workdir.parent):
            self._client = MlflowClient(tracking_uri=uri)
            experiment = self._experiment(workdir)
        self.where = place
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
            self.id = run_id
            return
        tags = {"workdir": str(workdir), "sweep": sweep_of(workdir)}
        tags = {name: value for name, value in tags.items() if value}
        self.id = self._client.create_run(experiment, tags=tags, run_name=workdir.name).info.run_id
        params = [Param(key, str(value)) for key, value in config.items()]
        for first in range(0, len(params), 100):  # as many as a request may have
            self._client.log_batch(self.id, params=params[first : first + 100])

    def _experiment(self, workdir: Path) -> str:
        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        if (experiment := self._client.get_experiment_by_name(name)) is not None:
            return experiment.experiment_id
        # The server's own place for files, or next to the file that is the store.
        files = None if self._is_given() else (workdir.parent / "mlflow_files").as_uri()
        return self._client.create_experiment(name, artifact_location=files)

    @staticmethod
    def _is_given() -> bool:
        import mlflow

        return mlflow.is_tracking_uri_set()

    @staticmethod
    def check() -> None:
        import mlflow

        if not mlflow.is_tracking_uri_set():
            import sqlalchemy  # noqa: F401  # what mlflow needs for a store in a file

    @staticmethod
    def place(workdir: Path) -> str:
        import mlflow

        if MlflowLog._is_given():
            return mlflow.get_tracking_uri()
        return _sqlite(workdir.parent)

    def scalars(self, kind, step, metrics):
        self._log({f"{kind}/{name}": value for name, value in metrics.items()}, step)

    def _log(self, metrics: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        values = [Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self.id, metrics=values)

    def image(self, name, step, picture):
        self._client.log_image(self.id, picture, key=name, step=step, synchronous=True)

    def finish(self, metrics, error):
        if metrics:
            self._log({f"final/{name}": value for name, value in metrics.items()}, 0)
        status = "KILLED" if isinstance(error, Interrupted) else "FAILED"
        self._client.set_terminated(self.id, status if error else "FINISHED")


SERVICES: dict[str, type[ServiceLog]] = {"wandb": WandbLog, "mlflow": MlflowLog}


def _sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def sweep_of(workdir: Path) -> str | None:
    """Returns the name of the sweep that a workdir belongs to, None for a run of its own."""
    return workdir.parent.name if (workdir.parent / "runs.jsonl").exists() else None
