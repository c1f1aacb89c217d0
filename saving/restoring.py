"""Reads one checkpoint, sound and complete, or says what is wrong with it.

What Orbax raises is caught in one place; the reason is found by reading the files ourselves,
and process 0 decides for all. Damage is what a later try would meet again: a file that is missing
or not as it was written, or arrays that are not as saved. Other reasons are waited for.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from harness.errors import (
    ConfigError,
    RunError,
    StorageError,
    Unavailable,
    innermost,
    input_errors,
    one_line,
)
from harness.trees import check_tree, flatten, listed
from parallel import peers
from workdirs import step_files
from workdirs.checksums import differing, inspect, record_checksum
from workdirs.plain_path import plain_path
from workdirs.quiet_orbax import quiet_orbax
from workdirs.step_files import DamagedCheckpoint, patiently

NO_CHECKSUMS = (
    "was saved without checksums, by an earlier version: nobody can say whether it is as written"
)


def read_step(step: Path, shapes: Any) -> tuple[Any, dict[str, Any], bool]:
    """Reads a checkpoint; with several processes, all call this together and agree.

    Args:
        step: its folder.
        shapes: of the state, with the shardings to restore to.

    Returns:
        The state, the loop record, and whether they were saved with checksums.

    Raises:
        DamagedCheckpoint: it is not as it was saved.
        StorageError: it cannot be read, and nothing says that it is damaged.
        ConfigError: it is of another model, or its folder was renamed.
    """
    for wait in (*step_files.WAITS, None):
        # Before Orbax, inside which a process that fails alone would leave the others waiting.
        damage, reason = from_first(_look, step)
        if damage:
            raise DamagedCheckpoint(damage)
        if reason is None:
            passing = False
            try:
                state, loop, record = _read(step, shapes)
            except ConfigError:
                raise
            except Exception as error:
                reason, passing = innermost(error), step_files.may_pass(error)
            met = peers.gather("what was met", [reason, passing])
            reason = next((each for each, _ in met if each is not None), None)
            if reason is None:
                (sums, finite), counter = inspect(state), state_step(state)
                damage = from_first(find_difference, step, sums, finite, counter, loop, record)
                if damage:
                    raise DamagedCheckpoint(damage)
                return state, loop, record is not None
            damage, _ = from_first(_look, step)
            if not damage and not any(each for _, each in met):  # another try would end as this
                if from_first(lambda: not step_files.is_sealed(step)):
                    damage = f"it cannot be read: {reason}"
                wait = None
            if damage:
                raise DamagedCheckpoint(damage)
        if wait is None:
            raise StorageError(
                f"checkpoint {step} cannot be read now: {reason}; it is not known to be damaged, "
                "and nothing was changed"
            )
        time.sleep(wait)


def state_step(state: Any) -> int | None:
    """Returns the number of updates that a state has seen, None if it does not say."""
    counter = flatten(state).get("step")
    return None if counter is None else int(counter)


def from_first(question: Callable[..., Any], *args: Any) -> Any:
    """Returns process 0's answer to a question, one that JSON can hold, in all processes.

    A reason that may pass is waited for, a little.

    Raises:
        Exception: what process 0 meets; in the others a RunError of the same exit code.
    """
    answer, error = {}, None
    if jax.process_index() == 0:
        try:
            answer = {"answer": patiently(question, *args)}
        except Exception as found:  # of any kind: the others must not wait for ever
            error = found
            answer = {"error": str(error), "code": getattr(error, "exit_code", 1)}
    answer = peers.gather("an answer of process 0", answer)[0]
    if error is not None:
        raise error
    if "error" in answer:
        kinds = {kind.exit_code: kind for kind in (ConfigError, StorageError, Unavailable)}
        raise kinds.get(answer["code"], RunError)(answer["error"])
    return answer["answer"]


def find_difference(
    step: Path,
    sums: dict[str, str],
    finite: bool,
    state_step: int | None,
    loop: dict[str, Any],
    record: dict[str, Any] | None,
) -> str | None:
    """Returns in what a checkpoint that was read is not as it was saved; None if it is.

    Args:
        step: its folder.
        sums: checksums of the arrays that were read.
        finite: whether all of them are.
        state_step: number of updates that they have seen.
        loop: the loop record.
        record: what was noted when it was saved, None without checksums.

    Raises:
        WrongName: all numbers agree but for the folder's name.
    """
    if record is not None:
        wrong = differing(record["arrays"], sums)
        if wrong := wrong + sorted(record["arrays"].keys() - sums.keys()):
            return f"{len(wrong)} arrays are not as saved: {listed(wrong)}"
        if record_checksum(loop) != record["loop"]:
            return "the record of the loop is not as saved"
    if not finite:
        return "it has values that are not finite"
    if record is None and not _is_loop_record(loop):
        return "the record of the loop has another shape"
    numbers = {"the state": state_step, "checksums": record and record["step"]}
    with contextlib.suppress(KeyError, TypeError):
        numbers["the data"] = loop["data"]["batches"]
    numbers = {what: number for what, number in numbers.items() if number is not None}
    if len(set(numbers.values())) > 1:
        return ", ".join(f"{what} is of step {number}" for what, number in numbers.items())
    if numbers and int(step.name) not in numbers.values():
        raise step_files.WrongName(
            f"checkpoint {step} is that of step {next(iter(numbers.values()))} under another "
            "name: give the folder its name back, or move it away"
        )
    return None


def read_best_value(step: Path) -> tuple[float, dict[str, Any]]:
    """Returns the metric of a best checkpoint, and what it was measured with.

    Its arrays are not read, but their files are.

    Raises:
        DamagedCheckpoint: it is not as it was saved.
        ConfigError: its folder was renamed.
        OSError: for a reason that may pass.
    """
    if damage := step_files.find_damage(step):
        raise DamagedCheckpoint(damage)
    loop = step_files.read_record(step, "loop")
    record = step_files.read_record(step, "checksums")
    arrays = (record or {}).get("arrays", {})
    damage = find_difference(step, arrays, True, None, loop, record) or best_differs(loop, record)
    if damage:
        raise DamagedCheckpoint(damage)
    return loop["best_value"], loop.get("measured_with", {})


def best_differs(loop: dict[str, Any], record: dict[str, Any] | None) -> str | None:
    """Returns how the metric in a best checkpoint's loop record is not what was noted."""
    value = loop.get("best_value")
    if type(value) not in (int, float):
        return f"best_value is {value!r}"
    best = record.get("best") if record else {"value": value}
    noted = best.get("value") if isinstance(best, dict) else best
    return None if noted == value else f"its record says {value!r}, its checksums {noted!r}"


def _is_loop_record(loop: dict[str, Any]) -> bool:
    """Returns whether a run can go on from a record, as far as that shows in its shape."""
    data, window, faults = loop.get("data"), loop.get("window"), loop.get("faults", {})
    shapes = isinstance(data, dict) and isinstance(window, list) and isinstance(faults, dict)
    if not shapes or not all(isinstance(row, dict) for row in window):
        return False
    return type(data.get("batches", 0)) is int


def _look(step: Path) -> tuple[str | None, str | None]:
    """Returns what is damaged, and what may pass."""
    try:
        return step_files.find_damage(step), None
    except OSError as error:
        return None, one_line(error)


def _read(step: Path, shapes: Any) -> tuple[Any, dict[str, Any], dict[str, Any] | None]:
    quiet_orbax()
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        place = plain_path(step / "state")
        stored = handler.metadata(place).tree
        with input_errors():
            check_tree(shapes, stored, f"checkpoint {step}")
        state = handler.restore(place, args=ocp.args.StandardRestore(shapes))
    record = step_files.read_record(step, "checksums")
    return state, step_files.read_record(step, "loop"), record
