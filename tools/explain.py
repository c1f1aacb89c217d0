"""Draws what is inside a model, as the papers' figures do: PNG or SVG.

    python tools/explain.py gradcat --workdir=runs/digits_nest --examples=0,5,9
    python tools/explain.py gradcat --config=configs/imagenet_nest.py:tiny --weights=nest-t/ a.jpg
    python tools/explain.py mosaic --workdir=runs/digits_nest --examples=0,1,2,3
    python tools/explain.py features --model=tnt_s_patch16_224 --against=deit_s_patch16_224 \
        --image_size=1024 photo.jpg
    python tools/explain.py attention --kind=words --workdir=runs/digits_tnt --examples=0

gradcat: which block speaks for the class, level by level (NesT).
mosaic: four images in one, and the path for each class (NesT).
features: channels of several blocks.
words: the word embeddings over the image (TNT).
tsne: all channels of the last block, one point each.
attention: --kind=words (TNT), patches, or class_token.
positions: similarity of position embeddings.
filters: those of the first layer.

The model is --workdir, --config with --weights, or for a first look, with random weights, --config
alone or --model. features, tsne and attention draw a second one next to it, --against. Images are
files and folders, prepared as in the recipe's evaluation, or --examples of its evaluation split;
without either, the photographs that come with scikit-learn.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

from absl import flags

from harness import commandline
from harness.errors import input_errors
from inference.flags import check_output, define_output_flags, define_predictor_flags
from inference.pictures import style
from inference.pictures.choices import define_picture_flags
from inference.pictures.commands import COMMANDS


def define_flags() -> None:
    define_predictor_flags()
    define_picture_flags()
    define_output_flags("PNG or SVG to write; None: a PNG named after the command.")


def main(args: flags.FlagValues, command: str, images: list[str]) -> None:
    draw = commandline.choose_command(command, COMMANDS)
    output = check_output(args.output or f"{command}.png", style.SUFFIXES, args.overwrite)
    with input_errors():
        figure = draw(args, images)
    style.save(figure, output)
    print(f"wrote {output}")


if __name__ == "__main__":
    commandline.run(define_flags, main, arguments=("|".join(COMMANDS), "[IMAGE|FOLDER...]"))
