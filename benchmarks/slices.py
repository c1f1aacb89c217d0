"""The papers' recipes on whole TPU slices: rows and table of "Memory on a slice"."""

from collections.abc import Sequence
from typing import Any

# The recipes have the papers' global batch of 1,024 images.
RECIPES = {
    "NesT-T": "configs/imagenet_nest.py:tiny",
    "TNT-S": "configs/imagenet_tnt.py:s",
    "NesT-S": "configs/imagenet_nest.py:small",
    "NesT-B": "configs/imagenet_nest.py:base",
    "TNT-B": "configs/imagenet_tnt.py:b",
}
FSDP = 16  # chips that share a copy of the state: all of the small slices, a row of the large one
WAYS = {
    "–": [],
    "FSDP": [f"--config.mesh.fsdp={FSDP}"],
    "remat": ["--config.model.remat=block"],
    "FSDP, remat": [f"--config.mesh.fsdp={FSDP}", "--config.model.remat=block"],
}
LARGEST = "largest: "  # begins the rows of the largest batch
# Slice and way, what matters most first: a row takes minutes.
CASES = (
    *(("v5e:4x4", "–"), ("v5e:16x16", "–"), ("v6e:4x4", "–")),
    *(("v5e:4x4", "remat"), ("v5e:4x4", "FSDP"), (LARGEST + "v5e:4x4", "–")),
    *(("v5e:16x16", "FSDP"), ("v6e:4x4", "FSDP"), ("v6e:4x4", "remat"), ("v5e:16x16", "remat")),
    *(("v5e:4x4", "FSDP, remat"), ("v5e:16x16", "FSDP, remat"), ("v6e:4x4", "FSDP, remat")),
)
# Images a chip where that search begins: on a line through the rows of 64 and of 4 images a chip.
FIRST = {"NesT-T": 1107, "TNT-S": 1489, "NesT-S": 1003, "NesT-B": 955, "TNT-B": 1102}


def rows() -> dict[str, list[str]]:
    """Returns name of a row -> arguments of the tool that compiles it, what matters most first."""
    found = {}
    for case, way in CASES:
        topology = case.removeprefix(LARGEST)
        for model, recipe in RECIPES.items():
            arguments = ["compile_for.py", f"--topology={topology}", f"--config={recipe}"]
            arguments += ["--config.model.dtype=bfloat16", *WAYS[way], "--top=0"]
            if case != topology:
                search = ["--max_batch", "--granularity=64", f"--batch_size={FIRST[model]}"]
                arguments += search
            found[f"{case} {model} {way}"] = arguments
    return found


def table(records: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns header and lines: memory of each step at 1,024 images, and the largest batch."""
    found = {record["row"]: record for record in records}
    lines = []
    for topology in ("v5e:4x4", "v5e:16x16", "v6e:4x4"):
        for model in RECIPES:
            for way in WAYS:
                name = f"{topology} {model} {way}"
                if record := found.get(name):
                    cells = _cells(record, found.get(LARGEST + name))
                    lines.append([topology, model, way, *cells])
    header = [
        "slice",
        "model",
        "with",
        "images a chip",
        "GB a chip",
        "fits",
        "collectives, MB a chip",
    ]
    return [*header, "largest batch a chip"], lines


def _cells(record: dict[str, Any], largest: dict[str, Any] | None) -> list[str]:
    memory = record["memory"]
    sizes = record.get("collectives", {})
    moved = ", ".join(f"{kind} {each['bytes'] / 1e6:,.0f}" for kind, each in sizes.items())
    known = memory["total"] is not None and memory["available"] is not None
    amount = f"{memory['total'] / 1e9:.2f} of {memory['available'] / 1e9:.2f}" if known else "–"
    batch = "–"
    if largest is not None:
        batch = f"{largest['images_per_device']:,}" if largest["fits"] else "none"
    fits = "yes" if record["fits"] else "**no**"
    return [str(record["images_per_device"]), amount, fits, moved or "–", batch]
