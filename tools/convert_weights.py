"""Converts weights of any format that load_weights reads.

    python tools/convert_weights.py --model=tnt_s_patch16_224 --input=tnt_s_81.5.pth.tar \
        --output=tnt_s.safetensors --to=ours
    python tools/convert_weights.py --model=nest_base_s196_224 --fields=gelu=exact \
        --ignore_fields=gelu --input=nest-b_imagenet/ --output=nest_base_jx.safetensors --to=timm
    python tools/convert_weights.py --workdir=runs/mine --ema --output=run.npz --to=npz

--to: "ours" writes .safetensors with the fields of the model and the names of the classes, "npz"
the same as .npz, and "timm" .safetensors for
`timm.create_model(...).load_state_dict(..., strict=True)`. timm's NesT has only the exact GELU, so
the second line says that the official weights, made with the other one, are to run with it, as in
timm itself. A NesT with aggregation_padding="same" becomes one of timm's `nest_*_jx`, one with
"torch" one of its `nest_*`.

Prints what was read and what was written. Exit codes: 0 done; 2 wrong input.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

from absl import flags

from harness import commandline
from harness.errors import input_errors
from inference.flags import check_output, define_model_flags, define_output_flags, load_model
from zoo.save import write_timm, write_weights

WRITERS = {
    "timm": (write_timm, ".safetensors"),
    "ours": (write_weights, ".safetensors"),
    "npz": (write_weights, ".npz"),
}


def define_flags() -> None:
    define_output_flags("File to write.")
    flags.DEFINE_enum("to", "ours", list(WRITERS), "Format of the output.")
    define_model_flags()


def main(args: flags.FlagValues) -> None:
    write, suffix = WRITERS[args.to]
    output = check_output(args.output, (suffix,), args.overwrite)
    model, variables, report, image_shape = load_model(args)
    print(report)
    with input_errors():
        write(output, variables, model, image_shape, report.class_names)
    print(f"written: {output}")


if __name__ == "__main__":
    commandline.run(define_flags, main)
