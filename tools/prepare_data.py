"""Prepares a data set for train.py.

    python tools/prepare_data.py cifar10
    python tools/prepare_data.py imagenet2012 --manual_dir=/downloads
    python tools/prepare_data.py imagenet2012 --resize=256
    python tools/prepare_data.py folder:/data/birds --resize=256
    python tools/prepare_data.py inat:/data/inat2019 --resize=512

The first form downloads a data set of TensorFlow Datasets and writes it as ArrayRecord files, which
can be read in random order; for sets that require registration, --manual_dir says where the
archives are. Only this needs TensorFlow (pip install -r requirements-prepare.txt). A set that is
already prepared as TFRecord is converted next to the old files, which may be removed afterwards.

--resize=256 writes a copy whose images have a short side of 256 pixels, as a data set of its own,
to be read as --config.data.name=imagenet2012_256 (birds_256 for the folder). It records what it was
made from: another folder of the same name, or one that has changed, is refused; --copy_name=NAME
makes another copy.

An interrupted preparation leaves nothing that looks finished: run the same line again. Exit codes:
0 done; 1 the preparation failed; 2 wrong input.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

from absl import flags

from data import datasets
from data.prepare import prepare, resize
from data.sources import tfds_prepared
from harness import commandline


def define_flags() -> None:
    flags.DEFINE_string(
        "data_dir", None, "Folder of prepared sets; $TFDS_DATA_DIR or ~/tensorflow_datasets."
    )
    flags.DEFINE_string("manual_dir", None, "Folder with archives downloaded by hand.")
    flags.DEFINE_integer("resize", None, "Write a copy with this short side in pixels.")
    flags.DEFINE_string("copy_name", None, "Name of the copy; None: NAME_SIZE.")


def main(args: flags.FlagValues, name: str) -> None:
    is_tfds = tfds_prepared.is_name(name) and name not in datasets.BUILT_IN
    if is_tfds or args.resize is None:
        prepare(name, args.data_dir, args.manual_dir)
    if args.resize is not None:
        resize(name, args.resize, args.data_dir, args.copy_name)


if __name__ == "__main__":
    commandline.run(define_flags, main, arguments=("NAME",))
