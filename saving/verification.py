"""Says of each checkpoint of a run whether it is as it was saved, for tools/verify.py."""

from pathlib import Path
from typing import Any

from harness.errors import ConfigError, StorageError, innermost
from saving.restoring import NO_CHECKSUMS, best_differs, find_difference, state_step
from workdirs import records, step_files
from workdirs.checksums import inspect
from workdirs.findings import Finding
from workdirs.progress import check_not_lost, check_places, read_saved
from workdirs.results import read_metrics
from workdirs.step_files import patiently
from zoo.find import CHECKPOINTS
from zoo.run_checkpoints import read_whole_state


def verify_checkpoints(workdir: Path) -> list[Finding]:
    """Reads every checkpoint of a run and compares it with what was noted when it was saved.

    Raises:
        StorageError: something cannot be read, for a reason that may pass.
    """
    findings = []
    try:
        check_places(workdir)
        check_not_lost(workdir)
    except ConfigError as error:
        findings.append(Finding(workdir / "checkpoints", "damaged", str(error)))
    newest = _newest_saved(workdir)  # first: a run that goes on saves another meanwhile
    for which in CHECKPOINTS:
        folder = workdir / "checkpoints" / which
        try:
            steps = step_files.steps_in(folder)
        except step_files.WrongName as error:
            findings.append(Finding(folder, "damaged", str(error)))
            continue
        if which == "latest" and steps and newest > steps[-1]:
            what = f"step {newest} was saved too, and is gone"
            findings.append(Finding(folder / str(newest), "damaged", what))
        found = map(_verify, (folder / str(step) for step in steps))
        findings += [finding for finding in found if finding is not None]
    return findings


def _verify(step: Path) -> Finding | None:
    """Returns how a checkpoint stands, None if a run that goes on has deleted it meanwhile."""
    try:
        return _compare(step)
    except (step_files.DamagedCheckpoint, ConfigError, StorageError) as error:
        if not patiently(step.exists):
            return None
        if getattr(error, "exit_code", 2) == StorageError.exit_code:
            raise
        return Finding(step, "damaged", str(error))


def _compare(step: Path) -> Finding:
    if damage := patiently(step_files.find_damage, step):
        raise step_files.DamagedCheckpoint(damage)
    record = patiently(step_files.read_record, step, "checksums")
    loop = patiently(step_files.read_record, step, "loop")
    try:
        state = read_whole_state(step)
    except Exception as error:  # tensorstore, json and orbax each have their own
        if step_files.may_pass(error):
            raise StorageError(
                f"checkpoint {step} cannot be read now: {innermost(error)}"
            ) from error
        raise step_files.DamagedCheckpoint(f"it cannot be read: {innermost(error)}") from error
    (sums, finite), counter = inspect(state), state_step(state)
    if damage := find_difference(step, sums, finite, counter, loop, record):
        raise step_files.DamagedCheckpoint(damage)
    if damage := _best_differs(step, loop, record):
        raise step_files.DamagedCheckpoint(damage)
    if record is None:
        return Finding(step, "unknown", f"finite, but it {NO_CHECKSUMS}")
    if not step_files.is_sealed(step):
        what = f"{len(sums)} arrays as saved, but there is no list of its files: a run that was "
        return Finding(step, "unknown", f"{what}killed had no time to write it, or it is lost")
    num_files = len(step_files.read_json(step / step_files.FILES))
    return Finding(step, "sound", f"{len(sums)} arrays as saved, {num_files} files as written")


def _best_differs(step: Path, loop: dict[str, Any], record: dict[str, Any] | None) -> str | None:
    """Returns how the metric of a best checkpoint differs from what was noted and logged."""
    if step.parent.name != "best":
        return None
    if damage := best_differs(loop, record):
        return damage
    best = (record or {}).get("best") or {}
    try:
        lines = read_metrics(step.parents[2]).sound if best else []
    except records.DamagedFile:  # verify_files says so
        lines = []
    for line in lines:
        if (line["step"], line["kind"]) == (int(step.name), "eval"):
            logged = line.get(best["metric"])
            if logged not in (None, best["value"]):
                return f"{best['metric']} is {best['value']}, and metrics.jsonl has {logged}"
    return None


def _newest_saved(workdir: Path) -> int:
    try:
        return read_saved(workdir) or 0
    except (FileNotFoundError, records.DamagedFile):  # verify_files says so
        return 0
