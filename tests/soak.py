"""Interrupts and damages trainings for as long as you like, and compares what comes out.

    python tests/soak.py --minutes=10
    python tests/soak.py --table results/faults/soak.jsonl

Each series trains one small run (digits), stopped again and again at random moments, until it is
finished. Its metrics and its last checkpoint must then equal, bit for bit, those of a run that
nobody disturbed (to 1e-4 where the number of devices changes on the way). What is done to it:

signals   kill -9, SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, at any moment or just while it saves
damage    as above, and the newest checkpoint loses a file, or bits or bytes of one
disk      it trains on a disk that fills up, and that is enlarged afterwards (needs root on Linux)
devices   as signals, and each attempt has 1, 2, 4 or 8 devices

Each attempt is a process of its own, forked off one that has imported everything already: a third
of the time of a fresh start, and the same to the run. Exit code: 0 if nothing was lost.
"""

import argparse
import atexit
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["JAX_PLATFORMS"] = "cpu"

import sklearn.datasets  # noqa: E402, F401  (imported before the forks)

import train  # noqa: E402
from harness import commandline  # noqa: E402
from process import first  # noqa: E402
from training.curves import TIMINGS  # noqa: E402

FLAGS = [
    f"--config={ROOT / 'configs/digits_nest.py'}:debug",
    *("--config.model.dims=(16,16,16)", "--config.model.depths=(1,1,1)"),
    *("--config.data.batch_size=32", "--config.loop.num_epochs=4.0"),
    *("--config.loop.log_every_steps=2", "--config.loop.save_every_epochs=0.5"),
]
SIGNALS = (
    *(signal.SIGKILL, signal.SIGTERM, signal.SIGINT),
    *(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
)
KINDS = ("signals", "damage", "disk", "devices")
DONE, STORAGE_ERROR, INTERRUPTED = 0, 74, 75
MAX_ATTEMPTS = 60  # of one series; far more than any has needed
SMALL_DISK = 3 << 20  # bytes at most, before it is enlarged


class Lost(Exception):
    """A run was lost, or ended as none should."""


def start(workdir: Path, log: Path, num_devices: int = 1) -> int:
    """Starts or resumes a training; returns the number of its process."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        for number in SIGNALS[1:]:  # as in a shell, whatever started this
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
        first.guard("train.py")
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={num_devices}"
        cache = f"--compilation_cache={log.parent / 'programs'}"
        sys.argv = ["train.py", *FLAGS, f"--workdir={workdir}", cache]
        commandline.run(train.define_flags, train.main)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    # As the interpreter ends: wait for threads, then what asked to be called.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def wait(pid: int) -> int:
    """Returns the exit code of a process, or minus the number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def poll(pid: int) -> int | None:
    """Returns the exit code of a process that has ended, None for one that runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


class Series:
    """One run, from its beginning to its end through all that is done to it."""

    def __init__(self, kind: str, folder: Path, number: int, seed: int, longest: float):
        self.kind, self.number = kind, number
        self.random = random.Random(f"{seed} {number}")
        self.folder = folder
        self.workdir = folder / f"{kind}_{number}" / "run"
        self.log = folder / f"{kind}_{number}.log"
        self.longest = longest  # seconds of an undisturbed run
        self.events: list[str] = []
        self.pid: int | None = None  # of the training that runs

    def __call__(self, reference: dict) -> list[str]:
        """Trains to the end; returns what was done to the run, in order.

        Raises:
            Lost: it did not come to the same end.
        """
        self.workdir.parent.mkdir(parents=True)
        if self.kind == "disk":
            size = self.random.randrange(SMALL_DISK // 10, SMALL_DISK)
            mount(self.workdir.parent, f"size={size}", "-t", "tmpfs", "none")
        try:
            for _ in range(MAX_ATTEMPTS):
                if self.attempt() == DONE:
                    break
            else:
                raise Lost(f"not finished after {MAX_ATTEMPTS} attempts")
            compare(reference, outcome(self.workdir), exact=self.kind != "devices")
        finally:
            if self.pid:  # stopped in the middle
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    os.kill(self.pid, signal.SIGKILL)
                    wait(self.pid)
            if self.kind == "disk":
                subprocess.run(["umount", str(self.workdir.parent)], check=True)
        return self.events

    def attempt(self) -> int:
        """Starts the run once, and disturbs it; returns its exit code."""
        is_first = not self.events
        num_devices = self.random.choice((1, 2, 4, 8)) if self.kind == "devices" else 1
        started = self.log.stat().st_size if self.log.exists() else 0
        pid = self.pid = start(self.workdir, self.log, num_devices)
        if self.kind == "disk":
            code = wait(pid)
            if code != DONE:
                self.events.append("full disk")
                mount(self.workdir.parent, "remount,size=64m")
            allowed = {DONE, STORAGE_ERROR, INTERRUPTED} if is_first else {DONE}
        else:
            sent, code = self.strike(pid)
            allowed = {DONE} if sent is None else {DONE, INTERRUPTED, -sent, 128 + sent}
        self.pid = None
        with self.log.open(errors="replace") as log:
            log.seek(started)
            said = log.read()
        if code not in allowed or "Traceback (most recent call last)" in said:
            raise Lost(f"exit code {code}, the last line: {(said.splitlines() or [''])[-1][:200]}")
        if self.kind == "damage" and code != DONE and self.random.random() < 0.5:
            self.damage()
        return code

    def strike(self, pid: int) -> tuple[int | None, int]:
        """Sends a signal at a random moment.

        Returns:
            The signal, None if the run had ended before, and the exit code.
        """
        number = self.random.choice(SIGNALS)
        at_a_save = self.random.random() < 0.4
        until = time.monotonic() + self.random.uniform(0, 1.2 * self.longest)
        while (code := poll(pid)) is None:
            saving = at_a_save and any(self.workdir.glob("checkpoints/*/*.orbax-checkpoint-tmp*"))
            if saving:
                time.sleep(self.random.expovariate(1 / 0.02))
            if saving or time.monotonic() > until:
                os.kill(pid, number)
                name = signal.Signals(number).name
                self.events.append(f"{name} at a save" if saving else name)
                return number, wait(pid)
            time.sleep(0.002)
        return None, code

    def damage(self) -> None:
        """Damages the newest checkpoint, if there is one before it."""
        steps = sorted(
            (path for path in self.workdir.glob("checkpoints/latest/*") if path.name.isdigit()),
            key=lambda path: int(path.name),
        )
        if len(steps) < 2:
            return
        path = self.random.choice([path for path in steps[-1].rglob("*") if path.is_file()])
        content = bytearray(path.read_bytes())
        how = self.random.choice(("bit", "cut", "zeros", "empty", "deleted"))
        if how == "deleted" or not content:
            path.unlink()
        elif how == "bit":
            content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
            path.write_bytes(content)
        elif how == "cut":
            path.write_bytes(content[: self.random.randrange(len(content))])
        else:
            path.write_bytes(b"" if how == "empty" else bytes(len(content)))
        self.events.append(f"damage: {how}")


def mount(folder: Path, options: str, *more: str) -> None:
    """Mounts a file system in memory, or changes its size."""
    subprocess.run(["mount", *more, "-o", options, str(folder)], check=True)


def outcome(workdir: Path) -> dict:
    """Returns what a finished run leaves: its final and its logged metrics, its checksums."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        for name in (*TIMINGS, "crc32"):
            record.pop(name, None)
    newest = max((workdir / "checkpoints/latest").glob("[0-9]*"), key=lambda path: int(path.name))
    checksums = json.loads((newest / "checksums" / "metadata").read_text())
    return {
        "DONE": json.loads((workdir / "DONE").read_text()),
        "metrics": records,
        "checksums": checksums,
    }


def compare(expected: dict, found: dict, *, exact: bool) -> None:
    """Raises Lost unless both runs came to the same end."""
    if exact:
        for part, value in expected.items():
            if found[part] != value:
                raise Lost(f"{part} differs")
        return
    pairs = [(expected["DONE"], found["DONE"])]
    pairs += zip(expected["metrics"], found["metrics"], strict=True)
    for one, other in pairs:
        for key, value in one.items():
            near = value == other[key] if isinstance(value, str) else abs(value - other[key]) < 1e-4
            if not near:
                raise Lost(f"{key}: {value} and {other[key]}")


def undisturbed(folder: Path) -> tuple[dict, float]:
    """Trains without disturbance, twice; returns what came out and how long the second took."""
    for name in ("first", "reference"):  # the first fills the cache of compiled programs
        began = time.monotonic()
        if code := wait(start(folder / name, folder / f"{name}.log")):
            sys.exit(f"undisturbed, the run ended with {code}: see {folder / name}.log")
    return outcome(folder / "reference"), time.monotonic() - began


def work(folder: Path, args: argparse.Namespace, job: int, reference: dict, longest: float) -> None:
    """Runs series after series until the time is over; notes each in results.jsonl."""
    for each in (signal.SIGTERM, signal.SIGINT):  # unwinds: what is mounted is unmounted
        signal.signal(each, lambda got, _: sys.exit(128 + got))
    kinds = args.kinds
    number, until = job, time.monotonic() + 60 * args.minutes
    while time.monotonic() < until:
        kind = kinds[number // args.jobs % len(kinds)]
        series = Series(kind, folder, number, args.seed, longest)
        result = {"kind": kind, "number": number, "lost": None}
        try:
            series(reference)
            shutil.rmtree(series.workdir.parent)
        except Lost as error:
            result["lost"] = f"{error} (see {series.log})"
        result["events"] = series.events
        with (folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(result) + "\n")
        number += args.jobs


def work_and_exit(*arguments) -> None:
    """Works, in a process of its own; anything that it raises is its exit code."""
    code = 1
    try:
        work(*arguments)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def stop(workers: list[int], number: int) -> None:
    """Ends the workers, which unmount their disks, and this process."""
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    for pid in workers:
        with contextlib.suppress(ChildProcessError):
            wait(pid)
    sys.exit(128 + number)


def summary(results: list[dict]) -> str:
    """Returns a Markdown table: what was done how often, and how many runs survived it."""
    done, runs = collections.Counter(), collections.defaultdict(list)
    for result in results:
        for event in set(result["events"]):
            runs[event].append(result)
        done.update(result["events"])
    lines = ["| what was done | times | runs | survived | lost |", "|---|---|---|---|---|"]

    def line(name, times, found):
        lost = sum(result["lost"] is not None for result in found)
        lines.append(f"| {name} | {times:,} | {len(found)} | {len(found) - lost} | {lost} |")

    for event in sorted(done):
        line(event, done[event], runs[event])
    line("all", done.total(), results)
    return "\n".join(lines)


def kinds_of(text: str) -> list[str]:
    """Returns the kinds of a list with commas."""
    if wrong := set(text.split(",")) - set(KINDS):
        raise argparse.ArgumentTypeError(f"{min(wrong)!r} is none of {', '.join(KINDS)}")
    return text.split(",")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--seed", type=int, default=0)
    can_mount = sys.platform == "linux" and os.geteuid() == 0
    kinds = [kind for kind in KINDS if can_mount or kind != "disk"]
    parser.add_argument("--kinds", type=kinds_of, default=kinds, help=f"of {','.join(KINDS)}")
    parser.add_argument("--folder", type=Path, help="where the runs are; default: a temporary one")
    parser.add_argument("--table", type=Path, help="print that of a results.jsonl, and end")
    args = parser.parse_args()
    if args.table:
        print(summary([json.loads(line) for line in args.table.read_text().splitlines()]))
        return
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="soak_"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        parser.error(f"--folder={folder} is not empty")
    print(f"runs and logs are in {folder}", flush=True)
    reference, longest = undisturbed(folder)
    print(f"undisturbed, a run takes {longest:.1f} s", flush=True)
    workers = []
    for job in range(args.jobs):
        if pid := os.fork():
            workers.append(pid)
        else:
            work_and_exit(folder, args, job, reference, longest)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda got, _: stop(workers, got))
    results, shown, failed = [], 0, []
    while workers:
        time.sleep(1)
        codes = {pid: poll(pid) for pid in workers}
        workers[:] = [pid for pid, code in codes.items() if code is None]
        failed += [code for code in codes.values() if code]
        if (folder / "results.jsonl").exists():
            text = (folder / "results.jsonl").read_text()
            results = [json.loads(line) for line in text.splitlines()]
        for result in results[shown:]:
            how = result["lost"] or "survived"
            print(f"{result['kind']} {result['number']}: {len(result['events'])} x, {how}")
        shown = len(results)
        sys.stdout.flush()
    print(summary(results))
    lost = [result for result in results if result["lost"]]
    if results and not lost and not failed and not args.folder:
        shutil.rmtree(folder)
    if failed or not results:
        sys.exit(f"{len(failed)} workers ended with an error; {len(results)} runs")
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
