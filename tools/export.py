"""Exports a model as one function from uint8 images to probabilities, which runs without this code.

    python tools/export.py --model=nest_base_s196_224 --input=nest-b_imagenet/ \
        --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225 --output=nest_base.jax
    python tools/export.py --model=tnt_s_patch16_224 --input=tnt_s.safetensors --format=onnx \
        --mean=0.5,0.5,0.5 --std=0.5,0.5,0.5 --output=tnt_s.onnx
    python tools/export.py --workdir=/tmp/run --checkpoint=best --output=run.jax

The function maps uint8 images [b, height, width, channels] to float32 probabilities [b, classes].
Normalisation, weights and softmax are inside; decoding and resizing stay with the caller. The batch
is free unless --batch_size fixes it. For grey images: --channels=1 --mean=0.5 --std=0.5.

--format=jax writes what `jax.export` serialises, for CPU, CUDA and TPU alike (--platforms). To load
it, JAX and flatbuffers are enough:

    import pathlib, jax.export
    exported = jax.export.deserialize(pathlib.Path("nest_base.jax").read_bytes())
    probabilities = exported.call(images)

--format=onnx needs the package jax2onnx, which is not among the requirements. Of version
0.17.1: it asks for an older orbax-checkpoint than ours, but runs with ours (install it first, the
requirements after it); and it cannot keep the batch of a NesT free: give --batch_size. Large models
come as two files, the second beside the first with the weights.

Exit codes: 0 done; 2 wrong input.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from anywhere

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array

from tools.model_flags import NamedModel, check_output, define_model_flags, load_named_model
from training import commandline
from training.errors import ConfigError


def inference_function(
    named: NamedModel, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[Array], Array]:
    """Returns the function to export.

    Args:
        named: model and weights.
        mean, std: of each channel, in units of 0..1.

    Returns:
        Function from uint8 [b, height, width, channels] to probabilities, float32 [b, classes].
    """
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def classify(images: Array) -> Array:
        images = (images.astype(jnp.float32) / 255.0 - mean) / std  # as in training
        logits = named.model.apply(named.variables, images, train=False)
        return jax.nn.softmax(logits, axis=-1)

    return classify


def _images(named: NamedModel, batch_size: int | None) -> jax.ShapeDtypeStruct:
    height, width, channels = named.image_shape
    batch = "b" if batch_size is None else str(batch_size)
    shape = jax.export.symbolic_shape(f"{batch}, {height}, {width}, {channels}")
    return jax.ShapeDtypeStruct(shape, jnp.uint8)


def export_jax(
    function: Callable, images: jax.ShapeDtypeStruct, platforms: tuple[str, ...]
) -> bytes:
    """Serialises a function with `jax.export`.

    Raises:
        ConfigError: flatbuffers is not installed, or there is no such platform.
    """
    try:
        exported = jax.export.export(jax.jit(function), platforms=platforms)(images)
        return bytes(exported.serialize())
    except ImportError as error:
        raise ConfigError(f"--format=jax needs the package flatbuffers ({error})") from error
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"not exported: {str(error).splitlines()[0]}") from error


def export_onnx(function: Callable, images: jax.ShapeDtypeStruct, output: Path) -> None:
    """Writes a function as ONNX.

    Raises:
        ConfigError: jax2onnx is not installed, or cannot translate the function.
    """
    try:
        import jax2onnx
    except ImportError as error:
        raise ConfigError(f"--format=onnx needs the package jax2onnx ({error})") from error
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # a warning for every constant
    try:
        jax2onnx.to_onnx(function, inputs=[images], return_mode="file", output_path=str(output))
    except Exception as error:  # it documents no errors of its own
        hint = (
            ""
            if all(isinstance(side, int) for side in images.shape)
            else "; --batch_size=1 may help"
        )
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"not exported by jax2onnx: {message}{hint}") from error


def _per_channel(name: str, values: list[str] | None, channels: int) -> tuple[float, ...]:
    try:
        numbers = tuple(map(float, values))
    except (TypeError, ValueError):
        numbers = ()
    positive = name == "mean" or all(number > 0 for number in numbers)
    if len(numbers) != channels or not np.isfinite(numbers).all() or not positive:
        given = " is missing" if values is None else f"={','.join(values)} is wrong"
        example = ",".join(["0.5"] * channels)
        raise ConfigError(
            f"--{name}{given}: a number for each of {channels} channels, in units of 0..1, "
            f"e.g. {example}"
        )
    return numbers


def define_flags() -> None:
    define_model_flags()
    flags.DEFINE_list("mean", None, "Of each channel, in units of 0..1.")
    flags.DEFINE_list("std", None, "Of each channel, in units of 0..1.")
    flags.DEFINE_integer("batch_size", None, "None: any.", lower_bound=1)
    flags.DEFINE_enum("format", "jax", ["jax", "onnx"], "What to write.")
    flags.DEFINE_list("platforms", ["cpu", "cuda", "tpu"], "Where a jax export shall run.")
    flags.DEFINE_string("output", None, "File to write, .jax or .onnx.")
    flags.DEFINE_bool("overwrite", False, "Replace the output if it exists.")


def main(args: flags.FlagValues) -> None:
    output = check_output(args.output, (f".{args.format}",), args.overwrite)
    if not args.workdir:
        given = [_per_channel(name, getattr(args, name), args.channels) for name in ("mean", "std")]
    elif args.mean or args.std:
        raise ConfigError("--mean and --std do not go with --workdir, whose config tells them")
    named = load_named_model(args)
    mean, std = (named.mean, named.std) if args.workdir else given
    print(named.report)
    function, images = inference_function(named, mean, std), _images(named, args.batch_size)
    if args.format == "onnx":
        export_onnx(function, images, output)
    else:
        output.write_bytes(export_jax(function, images, tuple(args.platforms)))
    print(f"written: {output} ({output.stat().st_size / 2**20:.1f} MiB)")


if __name__ == "__main__":
    commandline.run(define_flags, main)
