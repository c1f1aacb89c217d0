"""Exports a model as one function from uint8 images to probabilities, which runs without this code.

    python tools/export.py --workdir=runs/birds --checkpoint=best --output=birds.jax
    python tools/export.py --config=configs/imagenet_nest.py:base --weights=nest-b_imagenet/ \
        --output=nest_base.jax
    python tools/predict.py --exported=nest_base.jax photo.jpg folder/

The function maps uint8 images [b, height, width, channels] to float32 probabilities [b, classes].
Normalisation, weights and softmax are inside. Decoding, resizing and cropping come before: as in
the recipe's evaluation, whose values are in the file, too. The batch is free unless --batch_size
fixes it. Flags of the config change the recipe: a file of timm's wants
--config.model.gelu=exact, for instance.

--format=jax writes what `jax.export` serialises, for CPU, CUDA and TPU alike (--platforms), with
about.json beside it in one zip. `inference.export.load_exported(file)` is the loader: call what it
returns with images, or its `predict` with paths. Elsewhere, JAX and flatbuffers are enough:

    import zipfile, jax.export
    with zipfile.ZipFile("nest_base.jax") as file:
        exported = jax.export.deserialize(bytearray(file.read("function")))
    probabilities = exported.call(images)  # `unzip -p nest_base.jax about.json` tells of what

--format=onnx writes ONNX, and about.json beside it as OUTPUT.json. It needs the package jax2onnx,
which is not among the requirements. Of version 0.17.1: it asks for an older orbax-checkpoint than
ours, but runs with ours (install it first, the requirements after it); and it cannot keep the batch
of a NesT free: give --batch_size. Large models come as two files, the second beside the first with
the weights.

Exit codes: 0 done; 2 wrong input.
"""

import json
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from anywhere

from absl import flags

from harness import commandline
from harness.errors import ConfigError
from harness.files import write_text
from inference.export import about, export, inference_function, input_shape
from inference.model_flags import check_output
from inference.predict import Predictor
from inference.predictor_flags import define_predictor_flags, load_predictor


def export_onnx(file: Path, predictor: Predictor, *, batch_size: int | None = None) -> None:
    """Writes a model as ONNX, and what `about` tells as a .json beside it.

    Raises:
        ConfigError: jax2onnx is not installed, or cannot translate the model.
    """
    try:
        import jax2onnx
    except ImportError as error:
        raise ConfigError(f"--format=onnx needs the package jax2onnx ({error})") from error
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # a warning for every constant
    images = input_shape(predictor, batch_size)
    function = inference_function(predictor)
    try:
        jax2onnx.to_onnx(function, inputs=[images], return_mode="file", output_path=str(file))
    except Exception as error:  # it documents no errors of its own
        hint = "; --batch_size=1 may help" if batch_size is None else ""
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"not exported by jax2onnx: {message}{hint}") from error
    write_text(Path(f"{file}.json"), json.dumps(about(predictor), indent=1))


def define_flags() -> None:
    define_predictor_flags()
    flags.DEFINE_integer("batch_size", None, "None: any.", lower_bound=1)
    flags.DEFINE_enum("format", "jax", ["jax", "onnx"], "What to write.")
    flags.DEFINE_list("platforms", ["cpu", "cuda", "tpu"], "Where a jax export shall run.")
    flags.DEFINE_string("output", None, "File to write, .jax or .onnx.")
    flags.DEFINE_bool("overwrite", False, "Replace the output if it exists.")


def main(args: flags.FlagValues) -> None:
    output = check_output(args.output, (f".{args.format}",), args.overwrite)
    predictor = load_predictor(args)
    print(predictor.report)
    if args.format == "onnx":
        export_onnx(output, predictor, batch_size=args.batch_size)
    else:
        export(output, predictor, batch_size=args.batch_size, platforms=args.platforms)
    print(f"written: {output} ({output.stat().st_size / 2**20:.1f} MiB)")


if __name__ == "__main__":
    commandline.run(define_flags, main)
