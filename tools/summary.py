"""Prints what models cost: parameters, multiply-adds, activations, memory.

    python tools/summary.py                                   # all models, one line per model
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

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

from absl import flags

from harness import commandline
from harness.arguments import Override
from harness.errors import ConfigError, input_errors
from inference.flags import as_image_size, define_image_flags
from zoo.cost_tables import as_text, default_num_classes, list_costs, list_header, summarize
from zoo.registry import MODELS, create_model, model_fields

FIELDS = sorted(
    {field for model_class, _ in MODELS.values() for field in model_fields(model_class)}
    - {"num_classes"}
)


def define_flags() -> None:
    define_image_flags()
    flags.DEFINE_integer("num_classes", None, "None: 1000, or 10 for small images.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 1, "Images of a training step.", lower_bound=1)
    flags.DEFINE_bool("memory", False, "Compile the gradient of a step and show its memory.")
    flags.DEFINE_bool("json", False, "Print JSON.")
    for field in FIELDS:
        flags.DEFINE_string(field, None, "Field of the model; None: the variant's own.")


def main(args: flags.FlagValues, name: str | None) -> None:
    given = {field: getattr(args, field) for field in FIELDS}
    fields = {field: Override(text).literal for field, text in given.items() if text is not None}
    if name is None:
        other = ("image_size", "num_classes", "memory", *fields)
        if wrong := [flag for flag in other if getattr(args, flag)]:
            raise ConfigError(
                f"--{wrong[0]} needs the name of a model; without one, all are listed"
            )
        if not args.json:
            print(list_header())
        for costs, line in list_costs():
            print(json.dumps(costs) if args.json else line, flush=True)
        return
    with input_errors():
        height, width = as_image_size(args.image_size, name)
        num_classes = args.num_classes or default_num_classes(max(height, width))
        model = create_model(name, num_classes=num_classes, **fields)
        shape = (height, width, args.channels)
        result = summarize(name, model, shape, args.batch_size, args.memory)
    print(json.dumps(result) if args.json else as_text(result))


if __name__ == "__main__":
    commandline.run(define_flags, main, arguments=("[NAME]",))
