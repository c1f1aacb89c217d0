"""Tables of what models cost: one model part by part (`summarize`), all of them (`list_costs`)."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from flax import linen as nn

from zoo.costs import Cost, measure_memory, model_costs
from zoo.registry import MODELS, create_model, default_image_size

MIB = 2**20
# A float32 parameter, its gradient and AdamW's two averages of it.
BYTES_PER_PARAMETER = 16
HEADER = ["part", "parameters", "multiply-adds", "activations", "kept, MiB"]


def default_num_classes(image_size: int) -> int:
    """Returns CIFAR-10's number of classes for images as small as its, else ImageNet's."""
    return 10 if image_size <= 32 else 1000


def total(costs: dict[str, Cost]) -> Cost:
    """Returns the sum over the parts."""
    return sum(costs.values(), Cost())


def summarize(
    name: str, model: nn.Module, image_shape: tuple[int, int, int], batch_size: int, memory: bool
) -> dict[str, Any]:
    """Returns all costs of a model, ready for JSON.

    Args:
        name: of the model.
        model: the module.
        image_shape: (height, width, channels).
        batch_size: of a training step.
        memory: whether to compile its gradient, for "compiled_bytes".
    """
    costs = model_costs(model, image_shape, batch_size)
    result = {
        "model": name,
        "image_shape": image_shape,
        "num_classes": model.num_classes,
        "batch_size": batch_size,
        "total": dataclasses.asdict(total(costs)),
        "parts": {part: dataclasses.asdict(cost) for part, cost in costs.items()},
    }
    if memory:
        result["compiled_bytes"] = measure_memory(model, (batch_size, *image_shape))
    return result


def as_text(result: dict[str, Any]) -> str:
    """Returns what `summarize` gives as a table for a person."""
    whole = Cost(**result["total"])
    height, width, channels = result["image_shape"]
    costs = {part: Cost(**cost) for part, cost in result["parts"].items()} | {"total": whole}
    lines = [
        f"{result['model']}: {height} x {width} x {channels} pixels, {result['num_classes']} "
        f"classes, batch {result['batch_size']}",
        "",
        _aligned([HEADER, *([part, *_cells(cost)] for part, cost in costs.items())]),
        "",
        f"Training with AdamW: {BYTES_PER_PARAMETER * whole.parameters / MIB:,.0f} MiB for "
        f"parameters, gradients and averages, {whole.kept_bytes / MIB:,.0f} MiB kept for the "
        "backward pass before XLA fuses.",
    ]
    if "compiled_bytes" in result:
        sizes = {kind: size / MIB for kind, size in result["compiled_bytes"].items()}
        parts = ", ".join(f"{kind} {size:,.0f}" for kind, size in sizes.items())
        lines.append(
            f"Compiled gradient of a step here: {sum(sizes.values()):,.0f} MiB ({parts}), and "
            f"{8 * whole.parameters / MIB:,.0f} MiB for AdamW's averages."
        )
    return "\n".join(lines)


def list_costs() -> Iterator[tuple[dict[str, Any], str]]:
    """Yields the costs of each model at its own image size, as soon as they are counted.

    Yields:
        A dict ready for JSON, and the line of a table for a person: see `list_header`.
    """
    for name in MODELS:
        size = default_image_size(name)
        model = create_model(name, num_classes=default_num_classes(size))
        cost = total(model_costs(model, (size, size, 3)))
        known = dataclasses.asdict(cost)
        del known["kept_bytes"]
        line = (
            f"{name:<{_name_width()}}  {f'{size}x{size}':<7}  {model.num_classes:>7}  "
            f"{cost.parameters:>11,}  {cost.multiply_adds / 1e9:>11.3f} G  "
            f"{cost.activations / 1e6:>9.2f} M"
        )
        yield {"model": name, "image_size": size} | known, line


def list_header() -> str:
    """Returns the two lines above those of `list_costs`."""
    columns = "image    classes   parameters  multiply-adds  activations"
    header = f"{'model':<{_name_width()}}  {columns}"
    return f"{header}\n{'-' * len(header)}"


def _name_width() -> int:
    return max(map(len, MODELS))


def _cells(cost: Cost) -> list[str]:
    return [
        f"{cost.parameters:,}",
        f"{cost.multiply_adds / 1e6:,.1f} M",
        f"{cost.activations / 1e6:,.2f} M",
        f"{cost.kept_bytes / MIB:,.1f}",
    ]


def _aligned(rows: list[list[str]]) -> str:
    """Returns the rows in columns, the first one to the left; a line under the header."""
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip() for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
