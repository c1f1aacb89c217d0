"""Exports a model as one function from uint8 images to probabilities, which runs without this code.

    python tools/export.py --workdir=runs/birds --checkpoint=best --output=birds.jax
    python tools/export.py --config=configs/imagenet_nest.py:base --weights=nest-b_imagenet/ \
        --output=nest_base.jax
    python tools/predict.py --exported=nest_base.jax photo.jpg folder/

The function maps uint8 images [b, height, width, channels] to float32 probabilities [b, classes].
Normalisation, weights and softmax or sigmoid are inside. Decoding, resizing and cropping come
before, as in the recipe's evaluation, whose values are stored in the file. The batch is free unless
--batch_size fixes it. Flags of the config change the recipe: a file of timm's needs
--config.model.gelu=exact, for instance.

--format=jax writes what `jax.export` serialises, for CPU, CUDA and TPU alike (--platforms), and
about.json, in one zip. `inference.export.load_exported(file)` is the loader: call what it returns
with images, or its `iterate` with paths. Without this code, JAX and flatbuffers are enough:

    import zipfile, jax.export
    with zipfile.ZipFile("nest_base.jax") as file:
        exported = jax.export.deserialize(bytearray(file.read("function")))
    probabilities = exported.call(images)  # of what: `unzip -p nest_base.jax about.json`

--format=onnx writes ONNX, and about.json as OUTPUT.json. It needs requirements-onnx.txt, and then
`pip install --no-deps jax2onnx==0.17.1`, which asks for an older orbax-checkpoint but does not use
it; and it cannot keep the batch of a NesT free: give --batch_size. Large models come as two files,
the second with the weights.

Exit codes: 0 done; 2 wrong input.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

from absl import flags

from harness import commandline
from harness.errors import ConfigError
from inference.export import check_platforms, export, export_onnx, import_jax2onnx
from inference.flags import (
    check_output,
    define_output_flags,
    define_predictor_flags,
    load_predictor,
)


def define_flags() -> None:
    define_predictor_flags()
    define_output_flags("File to write, .jax or .onnx.")
    flags.DEFINE_integer("batch_size", None, "Images per call; None: any number.", lower_bound=1)
    flags.DEFINE_enum("format", "jax", ["jax", "onnx"], "What to write.")
    flags.DEFINE_list(
        "platforms", None, "Where a jax export is to run; None: on cpu, cuda and tpu alike."
    )


def main(args: flags.FlagValues) -> None:
    output = check_output(args.output, (f".{args.format}",), args.overwrite)
    # What is wrong is said before weights are read.
    if args.format == "onnx":
        check_output(f"{output}.json", (".json",), args.overwrite)
        if args.platforms is not None:
            raise ConfigError("--platforms is for --format=jax; ONNX has its own runtimes")
        import_jax2onnx()
    elif args.platforms is not None:
        check_platforms(args.platforms)
    predictor = load_predictor(args)
    print(predictor.report)
    if args.format == "onnx":
        export_onnx(output, predictor, batch_size=args.batch_size)
    else:
        options = {} if args.platforms is None else {"platforms": args.platforms}
        export(output, predictor, batch_size=args.batch_size, **options)
    print(f"written: {output} ({output.stat().st_size / 2**20:.1f} MiB)")


if __name__ == "__main__":
    commandline.run(define_flags, main)
