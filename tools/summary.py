"""Prints what models cost: parameters, multiply-adds, activations, memory.

    python tools/summary.py                                   # all models, a line each
    python tools/summary.py nest_tiny_s196_224
    python tools/summary.py tnt_s_patch16_224 --image_size=384 --batch_size=64 --dtype=bfloat16
    python tools/summary.py nest_tiny_s16_32 --depths='(1,1,2,2)' --num_classes=100 --json
    python tools/summary.py deit_s_patch16_224 --batch_size=8 --memory

Every field of the model is a flag. A model is given part by part: a level of NesT, a layer of TNT,
a block of ViT, a stage of a ResNet. Multiply-adds (papers' "FLOPs") and activations (entries of the
outputs of matrix products and convolutions, as in timm's tables) are for one image; "kept" is what
the forward pass of a training step keeps for its backward pass, for the whole batch, before XLA
fuses; see zoo/costs.py. Nothing is computed, no weights are made.

--memory compiles the gradient of a step, which takes up to minutes, and prints what XLA reserves
for it on this machine's device.
"""

import ast
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from absl import flags
from flax import linen as nn

from harness import commandline
from harness.errors import ConfigError, input_errors
from inference.model_flags import as_image_size, default_size
from zoo.costs import Cost, measure_memory, model_costs
from zoo.registry import MODELS, create_model, model_fields

MIB = 2**20
# float32 parameter, its gradient and AdamW's two averages of it.
BYTES_PER_PARAMETER = 16
FIELDS = sorted(
    {field for model_class, _ in MODELS.values() for field in model_fields(model_class)}
)
FIELDS.remove("num_classes")


def default_classes(image_size: int) -> int:
    """Returns CIFAR-10's number of classes for images as small as its, else ImageNet's."""
    return 10 if image_size <= 32 else 1000


def table(header: list[str], rows: list[list[str]]) -> str:
    """Returns aligned columns, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


HEADER = ["parameters", "multiply-adds", "activations", "kept, MiB"]


def cells(cost: Cost) -> list[str]:
    """Returns a row of the table: exact parameters, the others in millions and MiB."""
    return [
        f"{cost.parameters:,}",
        f"{cost.multiply_adds / 1e6:,.1f} M",
        f"{cost.activations / 1e6:,.2f} M",
        f"{cost.kept_bytes / MIB:,.1f}",
    ]


def total(costs: dict[str, Cost]) -> Cost:
    """Returns the sum over the parts."""
    return sum(costs.values(), Cost())


def summarize(
    name: str, model: nn.Module, image_shape: tuple[int, int, int], batch_size: int, memory: bool
) -> dict[str, Any]:
    """Returns all that is known of a model, ready for JSON.

    Args:
        name: of the model.
        model: the module.
        image_shape: (height, width, channels).
        batch_size: of a training step.
        memory: compile its gradient.
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
    """Returns the summary of a model for a person."""
    costs = {part: Cost(**cost) for part, cost in result["parts"].items()}
    whole = total(costs)
    height, width, channels = result["image_shape"]
    rows = [[part, *cells(cost)] for part, cost in costs.items()]
    state = BYTES_PER_PARAMETER * whole.parameters
    lines = [
        f"{result['model']}: {height} x {width} x {channels} pixels, {result['num_classes']} "
        f"classes, batch {result['batch_size']}",
        "",
        table(["part", *HEADER], [*rows, ["total", *cells(whole)]]),
        "",
        f"Training with AdamW: {state / MIB:,.0f} MiB for parameters, gradients and averages, "
        f"{whole.kept_bytes / MIB:,.0f} MiB kept for the backward pass before XLA fuses.",
    ]
    if "compiled_bytes" in result:
        sizes = {kind: size / MIB for kind, size in result["compiled_bytes"].items()}
        parts = ", ".join(f"{kind} {size:,.0f}" for kind, size in sizes.items())
        lines.append(
            f"Compiled gradient of a step here: {sum(sizes.values()):,.0f} MiB ({parts}), and "
            f"{8 * whole.parameters / MIB:,.0f} MiB for AdamW's averages."
        )
    return "\n".join(lines)


def list_models(as_lines: bool) -> None:
    """Prints a line for each model, as soon as it is counted."""
    width = max(map(len, MODELS))
    if not as_lines:
        header = f"{'model':<{width}}  image    classes   parameters  multiply-adds  activations"
        print(f"{header}\n{'-' * len(header)}")
    for name in MODELS:
        size = default_size(name)
        model = create_model(name, num_classes=default_classes(size))
        cost = total(model_costs(model, (size, size, 3)))
        if as_lines:
            known = dataclasses.asdict(cost)
            del known["kept_bytes"]
            print(json.dumps({"model": name, "image_size": size} | known), flush=True)
            continue
        shape = f"{size}x{size}"
        print(
            f"{name:<{width}}  {shape:<7}  {model.num_classes:>7}  {cost.parameters:>11,}  "
            f"{cost.multiply_adds / 1e9:>11.3f} G  {cost.activations / 1e6:>9.2f} M",
            flush=True,
        )


def define_flags() -> None:
    flags.DEFINE_list("image_size", None, "Side or height,width in pixels; None: the model's.")
    flags.DEFINE_integer("channels", 3, "Channels of an image.", lower_bound=1)
    flags.DEFINE_integer("num_classes", None, "None: 1000, or 10 for small images.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 1, "Images of a training step.", lower_bound=1)
    flags.DEFINE_bool("memory", False, "Compile the gradient of a step and show its memory.")
    flags.DEFINE_bool("json", False, "Print JSON.")
    for field in FIELDS:
        flags.DEFINE_string(field, None, "Field of the model, in place of the variant's own.")


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a word


def main(args: flags.FlagValues, name: str | None) -> None:
    given = {field: getattr(args, field) for field in FIELDS}
    fields = {field: _value(text) for field, text in given.items() if text is not None}
    if name is None:
        other = ("image_size", "num_classes", "memory", *fields)
        if wrong := [flag for flag in other if getattr(args, flag)]:
            raise ConfigError(
                f"--{wrong[0]} needs the name of a model; without one, all are listed"
            )
        list_models(args.json)
        return
    with input_errors():
        height, width = as_image_size(args.image_size, name)
        num_classes = args.num_classes or default_classes(max(height, width))
        model = create_model(name, num_classes=num_classes, **fields)
        shape = (height, width, args.channels)
        result = summarize(name, model, shape, args.batch_size, args.memory)
    print(json.dumps(result) if args.json else as_text(result))


if __name__ == "__main__":
    commandline.run(define_flags, main, arguments=("[NAME]",))
