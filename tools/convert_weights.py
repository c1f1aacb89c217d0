"""Converts weights of any format that load_weights reads.

    python tools/convert_weights.py --model=tnt_s_patch16_224 --input=tnt_s_81.5.pth.tar \
        --output=tnt_s.safetensors --to=ours
    python tools/convert_weights.py --model=nest_base_s196_224 --fields=gelu=exact \
        --ignore_fields=gelu --input=nest-b_imagenet/ --output=nest_base_jx.safetensors --to=timm
    python tools/convert_weights.py --workdir=runs/mine --ema --output=run.npz --to=npz

--to: "ours" writes .safetensors that tells the fields of its model and the names of its classes,
"npz" the same as .npz, and "timm" .safetensors for
`timm.create_model(...).load_state_dict(..., strict=True)`. timm's NesT has the exact GELU only, so
the second line says that the official weights, made with the other one, shall be run with it, as
timm itself does. A NesT with aggregation_padding="same" becomes one of timm's `nest_*_jx`, one with
"torch" one of its `nest_*`.

Prints what was read and what was written. Exit codes: 0 done; 2 wrong input.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from anywhere

from absl import flags

from harness import commandline
from harness.errors import ConfigError, input_errors
from inference.model_flags import NamedModel, check_output, define_model_flags, load_named_model
from nest.convert_timm import to_timm as nest_to_timm
from nest.model import Nest
from tnt.convert import to_timm as tnt_to_timm
from tnt.model import Tnt
from zoo.files import METADATA, write_safetensors, write_weights

SUFFIXES = {"timm": ".safetensors", "ours": ".safetensors", "npz": ".npz"}


def write_timm(file: Path, named: NamedModel) -> None:
    """Writes a file for timm.

    Raises:
        ConfigError: timm has no such model.
    """
    model, (height, width, _) = named.model, named.image_shape
    to_timm = {Nest: nest_to_timm, Tnt: tnt_to_timm}.get(type(model))
    if to_timm is None:
        raise ConfigError(f"--to=timm: for NesT and TNT only, not for {type(model).__name__}")
    # What no array shows, and load_weights reads again: names, which rectangle a table is of...
    told = {"image_size": [height, width], "classes": named.report.class_names}
    about = {"format": "pt", METADATA: json.dumps(told)}
    if isinstance(model, Nest):
        if height != width:
            raise ConfigError(f"--to=timm: its NesT takes square images only, not {height}x{width}")
        # ... and what pads the aggregation.
        about["architecture"] = {"same": "nest_jx", "torch": "nest"}[model.aggregation_padding]
    with input_errors():
        write_safetensors(file, to_timm(named.variables["params"], model), about)


def define_flags() -> None:
    define_model_flags()
    flags.DEFINE_string("output", None, "File to write.")
    flags.DEFINE_enum("to", "ours", list(SUFFIXES), "Format of the output.")
    flags.DEFINE_bool("overwrite", False, "Replace the output if it exists.")


def main(args: flags.FlagValues) -> None:
    output = check_output(args.output, (SUFFIXES[args.to],), args.overwrite)
    named = load_named_model(args)
    print(named.report)
    if args.to == "timm":
        write_timm(output, named)
    else:
        with input_errors():
            names = named.report.class_names
            write_weights(output, named.variables, named.model, named.image_shape, names)
    print(f"written: {output}")


if __name__ == "__main__":
    commandline.run(define_flags, main)
