"""Compiles a step for a target and says what it takes there: memory, operations, bytes."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.compiled.hlo import Program
from benchmarks.compiled.targets import Target, memory_of_error, tracing_for
from harness.errors import one_line

GB = 1e9
# A multiplication and an addition, forward and twice as much backward.
OPERATIONS_PER_MULTIPLY_ADD = 6


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that can be compiled.

    Attributes:
        name: for a person.
        lower: traces it for the target's devices; nothing is compiled yet.
        batch_size: images on all devices.
        num_devices: of the mesh.
        facts: what else to record: model, mesh, dtype, multiply-adds.
    """

    name: str
    lower: Callable[[], Any]
    batch_size: int
    num_devices: int
    facts: dict[str, Any]


def measure(step: Step, target: Target, *, top: int, hlo_path: Any = None) -> dict[str, Any]:
    """Compiles a step and counts.

    Args:
        step: to compile.
        target: for which.
        top: how many of the heaviest kernels to list.
        hlo_path: file to write the compiled program's text to.

    Returns:
        A record ready for JSON, all of it of one device; `fits` says whether it fits, and where
        its compiler refuses for lack of memory nothing but the memory is known.
    """
    images = step.batch_size // step.num_devices
    chip = target.chip
    record = {
        "step": step.name,
        "topology": target.topology,
        "device": target.devices[0].device_kind,
        "num_devices": step.num_devices,
        "images_per_device": images,
        "jax": jax.__version__,
        **step.facts,
    }
    with tracing_for(target):
        lowered = step.lower()
    started = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        memory = {"arguments": None, "temporaries": None, **memory_of_error(error)}
        return record | {"fits": False, "memory": memory | {"message": one_line(error)}}
    record["compile_seconds"] = round(time.perf_counter() - started, 1)
    record["memory"] = memory = _memory(compiled.memory_analysis(), target)
    record["fits"] = memory["available"] is None or memory["total"] <= memory["available"]
    text = compiled.as_text()
    if hlo_path:
        hlo_path.write_text(text)
    program = Program(text)
    counted = compiled.cost_analysis() or {}  # a GPU that is not here has none
    record["operations_per_image"] = counted["flops"] / images if counted else None
    record["bytes_per_image"] = {
        what: program.total(what) / images for what in ("whole", "moved", "workspace")
    } | {"xla": counted["bytes accessed"] / images if counted else None}
    if chip:
        bounds = {"memory": chip.bandwidth / record["bytes_per_image"]["moved"]}
        if count := record.get("multiply_adds"):
            bounds["operations"] = chip.peak / (OPERATIONS_PER_MULTIPLY_ADD * count)
        record["images_per_second_at_most"] = bounds
    return record | {
        "num_kernels": sum(kernel.runs for kernel in program.kernels),
        "unknown_loops": program.unknown_loops,
        "collectives": {
            kind: {"count": count, "bytes": size}
            for kind, (count, size) in sorted(program.collectives.items())
        },
        "heaviest": program.alike()[:top],
    }


def _memory(analysis: Any, target: Target) -> dict[str, int | None]:
    arguments, temporaries = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    # Results that take the place of donated arguments need none.
    new = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    code = analysis.generated_code_size_in_bytes
    return {
        "arguments": arguments,
        "temporaries": temporaries,
        "results": new,
        "code": code,
        "total": arguments + temporaries + new + code,
        "available": target.memory,
    }


def as_text(record: dict[str, Any]) -> str:
    """Returns what `measure` gives for a person."""
    memory = record["memory"]
    lines = [
        f"{record['step']}: {record['num_devices']} x {record['device']}, "
        f"{record['images_per_device']} images each"
    ]
    known = f"of {memory['available'] / GB:.2f} GB" if memory["available"] else "(the compiler's)"
    verdict = "fits" if record["fits"] else "DOES NOT FIT"
    if memory["total"] is None:
        return f"{lines[0]}\n  memory     {verdict}: {memory['message']}"
    total = f"{memory['total'] / GB:.2f} GB {known}: {verdict}"
    if "bytes_per_image" not in record:
        return f"{lines[0]}\n  memory     {total}"
    sizes = {kind: (size or 0) / 1e6 for kind, size in record["bytes_per_image"].items()}
    count = record.get("multiply_adds")
    lines += [
        f"  memory     {total}; arguments {memory['arguments'] / GB:.2f}, temporaries "
        f"{memory['temporaries'] / GB:.2f}",
        f"  bytes      {sizes['whole']:,.1f} MB an image are operands and results of kernels, "
        f"{sizes['workspace']:,.1f} of it workspace; memory sees {sizes['moved']:,.1f}"
        + (f"; XLA counts {sizes['xla']:,.1f}" if sizes["xla"] else ""),
    ]
    if operations := record["operations_per_image"]:
        lines.append(f"  operations {operations / 1e9:,.2f} G an image by XLA's count")
    if count:
        lines.append(f"  model      {count / 1e9:.2f} G multiply-adds in the forward pass")
    if bounds := record.get("images_per_second_at_most"):
        by_operations = f", {bounds['operations']:,.0f} by its operations" if count else ""
        lines.append(
            f"  at most    {bounds['memory']:,.0f} images/s a device by its memory{by_operations}"
        )
    lines.append(
        f"  program    {record['num_kernels']:,} kernels, compiled in "
        f"{record['compile_seconds']:.0f} s"
    )
    if record["unknown_loops"]:
        lines.append(f"  note       {record['unknown_loops']} loops of unknown length count once")
    for kind, each in record["collectives"].items():
        lines.append(f"  {kind:<10} {each['count']} of {each['bytes'] / 1e6:,.1f} MB in all")
    images = record["images_per_device"]
    for row in record["heaviest"]:
        lines.append(
            f"  {row['whole'] / images / 1e6:8.1f} MB an image  {row['runs']:4d} x "
            f"{row['operation'][:34]:<34}  {row['source'][-90:]}"
        )
    return "\n".join(lines)


def largest_batch(
    step_of: Callable[[int], Step],
    target: Target,
    *,
    granularity: int,
    first: int | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Searches the largest batch that fits on a device, a multiple of `granularity`.

    Memory grows nearly linearly with the batch, so that two compilations predict the answer and a
    few more confirm it.

    Args:
        step_of: images on a device -> the step.
        target: for which.
        granularity: images.
        first: images to begin with, the better a guess the fewer compilations; None: the fewest.
        say: prints a line.

    Returns:
        The record of the largest batch that fits, and in `next` how much the next one would take.
        Without one that fits, the record of the smallest.
    """
    tried: dict[int, dict[str, Any]] = {}

    def fits(units: int) -> bool:
        record = tried[units] = measure(step_of(units * granularity), target, top=0)
        total, available = record["memory"]["total"], record["memory"]["available"]
        amount = f"{total / GB:.2f} GB" if total else "unknown"
        amount += f" of {available / GB:.2f}" if available else ""
        say(f"  {units * granularity:5d} images a device: {amount}, fits: {record['fits']}")
        return record["fits"]

    low, high = 0, None  # in units: the largest that fits, the smallest that does not
    units = max(1, (first or 0) // granularity)
    while high is None or high - low > 1:
        if fits(units):
            low = max(low, units)
        else:
            high = units if high is None else min(high, units)
        units = _next_guess(tried, low, high)
    best = tried[low or 1]
    return best | {"next": tried[high]["memory"]} if low else best


def _next_guess(tried: dict[int, dict[str, Any]], low: int, high: int | None) -> int:
    """Returns the batch to try: where a line through two known ones meets the limit."""
    memories = {units: record["memory"] for units, record in tried.items()}
    known = {units: memory["total"] for units, memory in memories.items()}
    some = memories[min(memories)]
    # Before any image there are the state and the program; a refusal does not name them.
    known[0] = (some["arguments"] or 0) + some.get("code", 0)
    # Not through two that fit: from one batch to the next, a compiler may need less.
    first, second = (0, low) if high is None else (low, high)
    guess = 4 * low if high is None else (low + high) // 2
    below, above, limit = known[first], known[second], some["available"]
    if limit and below is not None and above is not None:
        if below < above:
            guess = int(first + (limit - below) * (second - first) / (above - below))
            # Beside a bound, the guess confirms it.
            guess = min(guess, 8 * low) if high is None else guess
    top = high - 1 if high is not None else max(guess, low + 1)
    return max(low + 1, min(guess, top))
