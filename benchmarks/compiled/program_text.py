"""The text of a compiled program (HLO): its computations, instructions, and sizes of arrays."""

import dataclasses
import functools
import math
import re

BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_NAMES = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(?:to_apply|calls|body|branch_computations|\w+_computation)=\{?([^,}]+)")


def array_bytes(kind: str, dims: str) -> int:
    """Returns the bytes of an array without padding: ("bf16", "64,196") -> 25088."""
    number = re.match(r"[a-z]+(\d+)", kind)
    bits = BITS.get(kind, int(number[1]) if number else 32)
    sides = [int(side.lstrip("<=")) for side in dims.split(",") if side]
    return -(-math.prod(sides) * bits // 8)


def bytes_in_memory(kind: str, dims: str, layout: str) -> int:
    """Returns the bytes that an array takes in the device's memory, 0 if it lies elsewhere.

    Args:
        kind: "bf16".
        dims: "64,196,24".
        layout: as in the text: axes from the innermost, tiles, memory space; "2,1,0:T(8,128)S(1)".
    """
    if re.search(r"S\([1-9]\d*\)", layout):
        return 0
    if not (tile := re.search(r"T\(([\d,]+)\)", layout)):
        return array_bytes(kind, dims)
    sides = [int(side.lstrip("<=")) for side in dims.split(",") if side]
    axes = [int(axis) for axis in layout.split(":")[0].split(",") if axis]
    for axis, length in zip(axes, reversed(tile[1].split(",")), strict=False):
        sides[axis] = -(-sides[axis] // int(length)) * int(length)
    return array_bytes(kind, ",".join(map(str, sides)))


def whole_bytes(text: str) -> int:
    """Returns the bytes of all arrays of a type, without padding."""
    return sum(array_bytes(kind, dims) for kind, dims, _ in ARRAY.findall(text))


def memory_bytes(text: str) -> int:
    """Returns the bytes that all arrays of a type take in the device's memory."""
    return sum(bytes_in_memory(*array) for array in ARRAY.findall(text))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program: `name = type operation(operands), attributes`."""

    name: str
    type: str
    operation: str
    operands: tuple[str, ...]
    attributes: str

    @functools.cached_property
    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        found = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        names = found[1].split(",") if found else _CALLED.findall(self.attributes)
        return [name.strip().lstrip("%") for name in names]

    @property
    def target(self) -> str:
        """What a custom call calls, "" for other instructions."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def source(self) -> str:
        """Where in the model it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def elements(self) -> list[str]:
        """Types of the results, one text for each array."""
        return [match[0] for match in ARRAY.finditer(self.type)]


Computations = dict[str, dict[str, Instruction]]


def parse(text: str) -> tuple[Computations, dict[str, Instruction], str]:
    """Takes a program apart.

    Args:
        text: `compiled.as_text()`.

    Returns:
        Computation -> name -> instruction; computation -> its root; name of the entry.

    Raises:
        ValueError: it is no program.
    """
    computations, roots, entry, lines = {}, {}, "", None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name, lines = header[2], computations.setdefault(header[2], {})
            entry = name if header[1] else entry
        elif line.startswith("}"):
            lines = None
        elif lines is not None and (match := _INSTRUCTION.match(line)):
            instruction = _read_instruction(match[2], match[3])
            lines[instruction.name] = instruction
            if match[1]:
                roots[name] = instruction
    if not entry:
        raise ValueError("no program: the text has no ENTRY")
    return computations, roots, entry


def _read_instruction(name: str, text: str) -> Instruction:
    """Takes `type operation(operands), attributes` apart; a type may hold brackets itself."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    kind, rest = text[:end], text[end:].strip()
    start = rest.index("(")
    close = _closing(rest, start)
    inside = rest[start + 1 : close]
    operation = rest[:start]
    names = (inside,) if operation == "parameter" else tuple(_NAMES.findall(inside))
    return Instruction(name, kind, operation, names, rest[close + 1 :])


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if not depth:
            return index
    raise ValueError(f"a bracket is not closed: {text[:100]}")
