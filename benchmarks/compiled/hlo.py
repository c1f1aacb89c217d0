"""What a compiled program does, read from its text: the kernels, the bytes they move, collectives.

    whole   every kernel reads all of its operands and writes all of its results, as arrays without
            padding, wherever they lie. Also the workspace of a library's routine counts.
    moved   what the device's memory sees of it: arrays as they lie there, a TPU's tiles padded;
            nothing for an array that the compiler keeps on the chip (S(1) in its layout), for a
            workspace, or for the rest of an operand of which a fusion reads slices; an update in
            place writes the update alone.

Kernels are the instructions of the entry computation and of what it calls. A loop counts as often
as it is known to run (once if that is not known, see `Program.unknown_loops`), a conditional as its
heaviest branch, an asynchronous operation where it starts. Calls of libraries (cuDNN, cuBLAS) and
Pallas kernels count their operands and results like any other.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmarks.compiled.program_text import Instruction, memory_bytes, parse, whole_bytes

# No kernel: names, and ends of what was counted at its start.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id", "optimization-barrier", "add-dependency"),
}
FREE_TARGETS = {"ConcatBitcast", "SliceBitcast", "AllocateBuffer", "Sharding"}  # of custom calls
SLICES = {"slice", "dynamic-slice", "gather"}
COLLECTIVE = re.compile(
    r"(all-reduce|all-gather|reduce-scatter|(?:ragged-)?all-to-all|collective-\w+)(-start)?"
)
_TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel and its bytes, all its runs together.

    Attributes:
        name, operation: of the instruction; the operation of a custom call is its target.
        result: type of its result.
        source: where in the model it comes from.
        runs: how often it runs.
        whole, moved, workspace: bytes; see the module's docstring.
    """

    name: str
    operation: str
    result: str
    source: str
    runs: int
    whole: int
    moved: int
    workspace: int


class Program:
    """A compiled module.

    Attributes:
        kernels: the heaviest first.
        collectives: kind -> (how many run, bytes of their results on one device).
        unknown_loops: loops counted once because nothing says how often they run.
    """

    def __init__(self, text: str):
        """Takes `compiled.as_text()`."""
        self.unknown_loops = 0
        self._computations, self._roots, entry = parse(text)
        self.kernels = sorted(self._visit(entry, 1), key=lambda k: k.whole, reverse=True)
        self.collectives: dict[str, tuple[int, int]] = {}
        for kind, runs, size in self._find_collectives(entry, 1):
            count, total = self.collectives.get(kind, (0, 0))
            self.collectives[kind] = (count + runs, total + runs * size)

    def total(self, what: str) -> int:
        """Returns the sum of "whole", "moved" or "workspace" over the kernels, in bytes."""
        return sum(getattr(kernel, what) for kernel in self.kernels)

    def alike(self) -> list[dict[str, Any]]:
        """Returns the kernels, those of layers of one kind together, the heaviest first.

        Returns:
            Dicts of "source" (numbers left out), "operation", "runs", "whole" and "moved" bytes.
        """
        groups = {}
        for kernel in self.kernels:
            source = kernel.source.partition("/")[2] or kernel.name
            key = re.sub(r"\d+", "#", source), kernel.operation
            sums = groups.setdefault(key, Counter())
            sums.update(runs=kernel.runs, whole=kernel.whole, moved=kernel.moved)
        rows = [
            {"source": source, "operation": operation, **sums}
            for (source, operation), sums in groups.items()
        ]
        return sorted(rows, key=lambda row: row["whole"], reverse=True)

    def _visit(self, computation: str, runs: int) -> Iterator[Kernel]:
        scope = self._computations[computation]
        for each in scope.values():
            operation = each.operation
            if operation in FREE or operation.endswith(("-done", "-update")):
                continue
            if operation == "while":
                yield from self._visit(_body(each), runs * self._trips(each))
            elif operation in ("call", "async-start"):
                for name in each.called:
                    yield from self._visit(name, runs)
            elif operation == "conditional":
                branches = [list(self._visit(name, runs)) for name in each.called]
                yield from max(branches, key=lambda b: sum(k.whole for k in b), default=[])
            elif each.target not in FREE_TARGETS:
                yield self._kernel(each, scope, runs)

    def _trips(self, loop: Instruction) -> int:
        if found := _TRIPS.search(loop.attributes):
            return int(found[1])
        self.unknown_loops += 1
        return 1

    def _kernel(self, each: Instruction, scope: dict[str, Instruction], runs: int) -> Kernel:
        types = [scope[name].type if name in scope else "" for name in each.operands]
        workspace = 0
        written = each.elements
        if each.target:  # libraries return their scratch memory as a last array of bytes
            scratch = [text for text in written[1:] if re.match(r"[su]8\[\d+\]", text)]
            workspace = sum(map(whole_bytes, scratch))
            written = [text for text in written if text not in scratch]
        if each.operation.endswith("-start"):  # its result is (operand, result, context)
            written = _result_of_start(each)
            size = sum(map(whole_bytes, written))
            if each.operation == "slice-start":  # reads as much as it writes
                whole, read = 2 * size, min(size, memory_bytes(types[0]))
            else:
                whole, read = sum(map(whole_bytes, types)) + size, sum(map(memory_bytes, types))
            moved = read + sum(map(memory_bytes, written))
        else:
            whole = sum(map(whole_bytes, types)) + sum(map(whole_bytes, written)) + workspace
            moved = self._read(each, types) + self._written(each, written, scope)
        return Kernel(
            name=each.name,
            operation=each.target or each.operation,
            result=each.type,
            source=each.source,
            runs=runs,
            whole=whole * runs,
            moved=moved * runs,
            workspace=workspace * runs,
        )

    def _read(self, each: Instruction, types: list[str]) -> int:
        """Returns the bytes that a kernel reads from the device's memory."""
        if each.operation == "dynamic-update-slice":
            types = types[1:]
        elif each.operation in SLICES:
            whole = memory_bytes(types[0])
            return min(whole, whole_bytes(each.type)) + sum(map(memory_bytes, types[1:]))
        if each.operation != "fusion":
            return sum(map(memory_bytes, types))
        fused = each.called[0]
        return sum(
            min(memory_bytes(text), self._used(fused, index)) for index, text in enumerate(types)
        )

    def _used(self, fused: str, index: int) -> float:
        """Returns the bytes that a fusion reads of an operand at most: all, or the slices."""
        scope = self._computations[fused]
        parameters = [each for each in scope.values() if each.operation == "parameter"]
        # A parameter's number is what stands in its brackets.
        name = next((p.name for p in parameters if p.operands == (str(index),)), None)
        return math.inf if name is None else self._used_of(fused, name)

    def _used_of(self, computation: str, name: str) -> float:
        if self._roots[computation].name == name:  # handed on as it is
            return math.inf
        used = 0.0
        for user in self._computations[computation].values():
            if name not in user.operands:
                continue
            first = user.operands[0] == name and name not in user.operands[1:]
            if user.operation == "bitcast":
                used += self._used_of(computation, user.name)
            elif user.operation in SLICES and first:
                used += whole_bytes(user.type)
            elif user.operation == "dynamic-update-slice" and first:
                pass  # in place
            elif user.operation == "fusion":
                places = [i for i, operand in enumerate(user.operands) if operand == name]
                used += sum(self._used(user.called[0], i) for i in places)
            else:
                return math.inf
        return used

    def _written(self, each: Instruction, written: list[str], scope: dict[str, Instruction]) -> int:
        """Returns the bytes that a kernel writes to the device's memory."""
        if each.operation == "dynamic-update-slice":
            return whole_bytes(scope[each.operands[1]].type)
        if each.operation != "fusion":
            return sum(map(memory_bytes, written))
        fused = self._computations[each.called[0]]
        root = self._roots[each.called[0]]
        roots = [fused[name] for name in root.operands] if root.operation == "tuple" else [root]
        if len(roots) != len(written):
            return sum(map(memory_bytes, written))
        total = 0
        for text, origin in zip(written, roots, strict=True):
            while origin.operation == "bitcast" and origin.operands[0] in fused:
                origin = fused[origin.operands[0]]
            update = origin.operation == "dynamic-update-slice" and fused.get(origin.operands[1])
            size = memory_bytes(text)
            total += min(size, whole_bytes(update.type)) if update else size
        return total

    def _find_collectives(self, computation: str, runs: int) -> Iterator[tuple[str, int, int]]:
        for each in self._computations.get(computation, {}).values():
            if found := COLLECTIVE.fullmatch(each.operation):
                written = _result_of_start(each) if found[2] else each.elements
                yield found[1], runs, sum(map(whole_bytes, written))
            elif each.operation == "while":
                found = _TRIPS.search(each.attributes)
                yield from self._find_collectives(_body(each), runs * int(found[1] if found else 1))
            elif each.operation in ("call", "async-start", "conditional", "fusion"):
                for name in each.called:
                    yield from self._find_collectives(name, runs)


def _body(loop: Instruction) -> str:
    return re.search(r"body=%?([\w.\-]+)", loop.attributes)[1]


def _result_of_start(each: Instruction) -> list[str]:
    """Returns the types of what an asynchronous operation will give.

    `all-reduce-start` has the type of its result, `copy-start` (result, operand, context), the
    others (operand, result, contexts).
    """
    elements = each.elements
    if each.operation.startswith("all-reduce"):
        return elements
    return elements[:1] if each.operation == "copy-start" else elements[len(each.operands) :][:1]
