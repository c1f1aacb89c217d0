"""The speed of models side by side: contenders take turns on one device."""

import dataclasses
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from benchmarks.machine import find_chip

# A multiplication and an addition; the backward pass takes two products for one of the forward.
OPERATIONS = {"forward": 2, "train": 6}
UTILIZATION = "images/s x {operations} x multiply-adds / peak of dense bfloat16 products"


@dataclasses.dataclass
class Contender:
    """A step that is measured.

    Attributes:
        name: whose it is.
        run: makes this many steps and waits for the last.
        compile_seconds: what it took to be ready.
        parameters: entries of the parameters.
        memory: "bytes" at most in use, and "source" of the figure; None if nobody knows.
        waited: seconds that the steps so far have waited for input; None: their batch lies on the
            device.
        facts: what else to record.
    """

    name: str
    run: Callable[[int], None]
    compile_seconds: float
    parameters: int
    memory: dict[str, Any] | None = None
    waited: Callable[[], float] | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def measure(
    contenders: Sequence[Contender],
    *,
    kind: str,
    batch_size: int,
    multiply_adds: int | None,
    seconds: float,
    rounds: int,
    facts: dict[str, Any],
) -> list[dict[str, Any]]:
    """Measures contenders in turns, so that a slow minute of the machine affects all of them.

    Args:
        contenders: compiled steps of one kind, batch and type.
        kind: "forward" or "train".
        batch_size: images of a step.
        multiply_adds: of the model's forward pass for one image; None: not known.
        seconds: length of a measurement, which takes at least one step.
        rounds: measurements of each; the median counts.
        facts: what to record with each: model, dtype, versions.

    Returns:
        A record per contender, ready for JSON.
    """
    steps = [_num_steps(contender, seconds) for contender in contenders]
    speeds: list[list[float]] = [[] for _ in contenders]
    waits: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for contender, count, speed, wait in zip(contenders, steps, speeds, waits, strict=True):
            before = contender.waited() if contender.waited else 0.0
            started = time.perf_counter()
            contender.run(count)
            passed = time.perf_counter() - started
            speed.append(batch_size * count / passed)
            if contender.waited:
                wait.append(min(1.0, (contender.waited() - before) / passed))
    device = jax.devices()[0].device_kind
    chip = find_chip(device)
    records = []
    for contender, speed, wait in zip(contenders, speeds, waits, strict=True):
        median = statistics.median(speed)
        record = {
            "code": contender.name,
            "kind": kind,
            "device": device,
            "batch_size": batch_size,
            **facts,
            **contender.facts,
            "images_per_second": median,
            "rounds": speed,
            "milliseconds_per_step": 1e3 * batch_size / median,
            "compile_seconds": round(contender.compile_seconds, 1),
            "parameters": contender.parameters,
            "multiply_adds": multiply_adds,
            "memory": contender.memory,
            "input_wait": statistics.median(wait) if wait else None,
        }
        if chip and multiply_adds:
            used = median * OPERATIONS[kind] * multiply_adds
            record["utilization"] = used / chip.peak / facts.get("num_devices", 1)
            record["utilization_of"] = UTILIZATION.format(operations=OPERATIONS[kind])
        records.append(record)
    return records


def _num_steps(contender: Contender, seconds: float) -> int:
    contender.run(1)  # the first one is slower
    started = time.perf_counter()
    contender.run(1)
    return max(1, round(seconds / (time.perf_counter() - started)))


def as_text(record: dict[str, Any]) -> str:
    """Returns a record as a line for a person."""
    low, high = min(record["rounds"]), max(record["rounds"])
    parts = [
        f"{record['images_per_second']:10,.1f} images/s ({low:,.1f} to {high:,.1f})",
        f"{record['milliseconds_per_step']:9,.1f} ms a step",
        f"compiled in {record['compile_seconds']:.0f} s",
    ]
    if record["memory"]:
        parts.append(f"{record['memory']['bytes'] / 1e9:.2f} GB ({record['memory']['source']})")
    if "utilization" in record:
        parts.append(f"{record['utilization']:.1%} of peak")
    if record["input_wait"] is not None:
        parts.append(f"{record['input_wait']:.0%} waiting for input")
    return f"{'  '.join(parts)}  {record['code']}"


def ratio_text(records: Sequence[dict[str, Any]]) -> str | None:
    """Returns how ours, the first record, compares with the best of other people's code."""
    others = [r for r in records if r["code"].split()[0] in ("timm", "official")]
    if not others:
        return None
    best = max(others, key=lambda record: record["images_per_second"])
    ratio = records[0]["images_per_second"] / best["images_per_second"]
    return f"{ratio:.2f} times {best['code']}, the best of the others"


def versions(*packages: str) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
