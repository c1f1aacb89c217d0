"""Where the metrics of a run go besides metrics.jsonl: TensorBoard, Weights & Biases, MLflow.

A destination is a `MetricLog`. Services are slow and fail, and training must feel neither: each
destination runs in a thread of its own, and the first exception in it ends the destination with a
warning, not the run.
"""

import functools
import json
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from harness.arguments import unknown
from harness.errors import ConfigError, Interrupted, one_line
from harness.files import replacing
from harness.lease_files import in_bucket
from training.services import SERVICES
from workdirs.comparison import flatten
from workdirs.records import read_json, write_record

# How long the end of a run waits for what is still to be sent: a preempted machine has half a
# minute in all.
FINISH_SECONDS, INTERRUPTED_SECONDS = 60.0, 10.0
BUCKET_SECONDS = 60.0  # between two uploads of TensorBoard's file


class MetricLog(Protocol):
    """A place where people look at metrics. A method that raises ends it."""

    def scalars(self, kind: str, step: int, metrics: dict[str, float]) -> None:
        """Takes the numbers of a step, of the kind "train" or "eval"."""

    def image(self, name: str, step: int, picture: np.ndarray) -> None:
        """Takes a picture, uint8 (height, width, 3)."""

    def finish(self, metrics: dict[str, float] | None, error: BaseException | None) -> None:
        """Closes it.

        Args:
            metrics: of the finished run, as in DONE; None if it is not finished.
            error: what ended the run, if anything did.
        """


class TensorBoard:
    """Event files in workdir/tensorboard; those of a bucket are uploaded from a temporary folder.

    tensorboardX writes to buckets itself, but holds up the end of a process whose bucket is away.
    """

    def __init__(self, workdir: Path, first_step: int):
        from tensorboardX import SummaryWriter  # here, a broken one ends this log alone

        self._place = self._folder = workdir / "tensorboard"
        if in_bucket(workdir):
            self._folder = Path(tempfile.mkdtemp(prefix="tensorboard_"))
        self._writer, self._next = SummaryWriter(str(self._folder), purge_step=first_step + 1), 0.0

    def scalars(self, kind, step, metrics):
        for name, value in metrics.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        self._writer.flush()
        if self._place != self._folder and time.monotonic() >= self._next:
            self._upload()
            self._next = time.monotonic() + BUCKET_SECONDS

    def image(self, name, step, picture):
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def finish(self, metrics, error):
        self._writer.close()
        if self._place != self._folder:
            self._upload()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _upload(self) -> None:
        for file in self._folder.iterdir():
            with replacing(self._place / file.name) as temporary:
                shutil.copyfile(file, temporary)


class Service:
    """A service that goes on where the last attempt at the run ended, and gets nothing twice.

    What the service has stands in workdir/log_to.json, with the run's id there. The metrics of
    earlier steps that it lacks, because it was out of reach or is new to the run, are sent now.
    Steps that are computed again after a crash are not sent again.

    Args:
        name: in SERVICES.
        workdir: of the run.
        config: checked and flattened.
        records: the lines of metrics.jsonl so far.
        say: takes a line that says where to look.
    """

    def __init__(
        self,
        name: str,
        workdir: Path,
        config: dict[str, Any],
        *,
        records: Iterable[dict],
        say: Callable[[str], None],
    ):
        service = SERVICES[name]
        self._path = workdir / "log_to.json"
        self._key = f"{name} {service.place(workdir)}"  # another place has another run
        known = _read_state(self._path).get(self._key, {"id": None, "sent": {}})
        self._log = service(known["id"], workdir, config)
        self._sent = known["sent"] | {
            what: max(step, known["sent"].get(what, -1)) for what, step in self._log.found.items()
        }
        self._keep()
        say(f"logging to {name}: {self._log.where}")
        for record in records:
            self.scalars(record["kind"], record["step"], numbers(record))

    def scalars(self, kind, step, metrics):
        self._once(kind, step, self._log.scalars, kind, step, metrics)

    def image(self, name, step, picture):
        self._once(f"picture {name}", step, self._log.image, name, step, picture)

    def finish(self, metrics, error):
        self._log.finish(metrics, error)
        self._keep()

    def _once(self, what: str, step: int, send: Callable, *args) -> None:
        if step > self._sent.get(what, -1):
            send(*args)
            self._sent[what] = step
            if not self._log.buffers:  # otherwise a crash would lose it there
                self._keep()

    def _keep(self) -> None:
        with _state_lock:  # services write from threads of their own
            state = _read_state(self._path)
            state[self._key] = {"id": self._log.id, "sent": self._sent}
            write_record(self._path, json.dumps(state) + "\n")


_state_lock = threading.Lock()


def _read_state(path: Path) -> dict[str, Any]:
    def is_sound(state: Any) -> bool:
        return isinstance(state, dict) and all(
            isinstance(known, dict) and known.keys() == {"id", "sent"} for known in state.values()
        )

    return read_json(path, "delete it, and everything is sent again, to a new run", is_sound) or {}


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """Returns the metrics and speeds in a line of metrics.jsonl."""
    return {k: v for k, v in record.items() if isinstance(v, int | float) and k != "step"}


class Background:
    """Runs a destination in a thread, and lets go of it at its first exception.

    Args:
        name: for the warning.
        make_log: opens the destination; called in the thread.
        say: takes the warning, one line.
    """

    def __init__(self, name: str, make_log: Callable[[], MetricLog], say: Callable[[str], None]):
        self.name, self._make_log, self._say = name, make_log, say
        self._calls: queue.SimpleQueue[tuple | None] = queue.SimpleQueue()
        self._is_over = False
        # A daemon, so that a service that never answers cannot keep the process.
        self._thread = threading.Thread(target=self._work, name=f"log to {name}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            log = self._make_log()
            while (call := self._calls.get()) is not None:
                method, *args = call
                getattr(log, method)(*args)
        except Exception as error:
            if not self._is_over:
                self._say(
                    f"warning: logging to {self.name} has ended, training goes on: "
                    f"{type(error).__name__}: {one_line(error)}"
                )
        finally:
            self._is_over = True

    def _call(self, *call) -> None:
        if not self._is_over:
            self._calls.put(call)

    def scalars(self, kind, step, metrics):
        self._call("scalars", kind, step, metrics)

    def image(self, name, step, picture):
        self._call("image", name, step, picture)

    def finish(self, metrics, error):
        """Asks for the end; `wait` waits for it."""
        self._call("finish", metrics, error)
        self._calls.put(None)

    def wait(self, seconds: float) -> bool:
        """Returns whether the destination has come to its end, after so many seconds at most."""
        self._thread.join(max(seconds, 0.0))
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """Leaves the destination alone, with what it has not taken."""
        self._is_over = True
        self._say(f"warning: {self.name} has not taken everything; not waiting longer")


def check_services(names: Collection[str], workdir: Path | None = None) -> None:
    """Raises a ConfigError unless --log_to can be done: names known, installed, logged in."""
    if wrong := [name for name in names if name not in SERVICES]:
        raise ConfigError(f"--log_to={wrong[0]}: {unknown(wrong[0], SERVICES)}")
    for name in names:
        if jax.process_index() != 0:  # only the first process logs
            continue
        try:
            SERVICES[name].check()
            if workdir and in_bucket(
                place := SERVICES[name].place(workdir).removeprefix("sqlite:///")
            ):
                what = f"{place} cannot be a database; set MLFLOW_TRACKING_URI"
                raise ConfigError(f"--log_to={name}: {what}")
        except ImportError as error:
            install = "pip install -r requirements-loggers.txt"
            raise ConfigError(f"--log_to={name}: {one_line(error)}; {install}") from None


def open_logs(
    workdir: Path,
    *,
    services: Iterable[str],
    config: dict[str, Any],
    first_step: int,
    records: Iterable[dict],
    say: Callable[[str], None],
) -> list[Background]:
    """Returns TensorBoard and the services, all of them in the background.

    Args:
        workdir: of the run.
        services: names in SERVICES.
        config: checked, nested.
        first_step: that the run goes on from.
        records: the lines of metrics.jsonl up to there.
        say: takes a line for the person who looks.
    """
    makers = {"tensorboard": lambda: TensorBoard(workdir, first_step)}
    for name in services:
        makers[name] = functools.partial(
            Service, name, workdir, flatten(config), records=tuple(records), say=say
        )
    return [Background(name, make_log, say) for name, make_log in makers.items()]


def finish_logs(
    logs: list[Background],
    metrics: dict[str, float] | None,
    error: BaseException | None,
    say: Callable[[str], None],
) -> None:
    """Closes what `open_logs` opened; see `MetricLog.finish`."""
    for log in logs:
        log.finish(metrics, error)
    if isinstance(error, KeyboardInterrupt):  # of somebody in a hurry
        return
    seconds = INTERRUPTED_SECONDS if isinstance(error, Interrupted) else FINISH_SECONDS
    deadline = time.monotonic() + seconds
    if left := [log for log in logs if not log.wait(1.0)]:
        names = " and ".join(log.name for log in left)
        say(f"{names}: sending the rest, for {seconds:.0f} s at most")
    for log in left:
        if not log.wait(deadline - time.monotonic()):
            log.give_up()
