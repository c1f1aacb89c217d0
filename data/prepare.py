"""Preparing data sets on disk: `prepare` as ArrayRecord, `resize` as a copy of smaller images.

Only the preparation of a set of TensorFlow Datasets needs TensorFlow.
"""

import os
import re
from pathlib import Path

from data import array_records, copy_sources, datasets
from data.sources import tfds_prepared
from harness.arguments import problem
from harness.errors import ConfigError, RunError, input_errors, one_line
from harness.files import local_path

INSTALL = "pip install -r requirements-prepare.txt"
_LEAST_SIZE = 8


def prepare(name: str, data_dir: str | None = None, manual_dir: str | None = None) -> Path:
    """Makes sure that a data set of TensorFlow Datasets is there as ArrayRecord.

    Args:
        name: `set[/config][:version]`.
        data_dir: folder of the prepared sets; None: $TFDS_DATA_DIR or ~/tensorflow_datasets.
        manual_dir: folder with archives that were downloaded by hand.

    Returns:
        The folder of the set.

    Raises:
        ConfigError: the name is unknown, or TensorFlow or an archive is missing.
        RunError: the preparation failed.
    """
    if not tfds_prepared.is_name(name) or name in datasets.BUILT_IN:
        raise ConfigError(
            f"{name!r} is not a set of TensorFlow Datasets, so there is nothing to prepare; "
            "for a smaller copy of a folder add --resize=256"
        )
    folder = tfds_prepared.find_folder(name, data_dir)
    if folder is None:
        _prepare_with_tfds(name, data_dir, manual_dir)
    with input_errors():
        prepared = tfds_prepared.describe_folder(name, data_dir)
        if tfds_prepared.FORMAT in prepared.formats:
            tfds_prepared.open_prepared(name, data_dir)  # all files are there
            done = "is prepared already" if folder else "is prepared"
        elif prepared.formats[0] == "tfrecord":
            array_records.convert_tfrecords(prepared)
            done = "is converted"
        else:
            raise ConfigError(
                f"{prepared.folder} is in the format {prepared.formats[0]!r}; only tfrecord can be "
                "converted"
            )
    sizes = ", ".join(f"{split} {sum(n):,}" for split, n in prepared.splits.items())
    print(f"{name} {done}: {prepared.folder} ({sizes} records)")
    return prepared.folder


def _prepare_with_tfds(name: str, data_dir: str | None, manual_dir: str | None) -> None:
    manual = None if manual_dir is None else local_path("--manual_dir", manual_dir)
    if manual and not manual.is_dir():
        raise ConfigError(f"--manual_dir={manual_dir} is not a folder")
    # Before TensorFlow is imported: it would take all memory of an accelerator that may be in use.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError:
        raise ConfigError(
            f"{name!r} is not prepared yet, and preparing it needs TensorFlow: {INSTALL}"
        ) from None
    import tensorflow_datasets as tfds

    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    download = tfds.download.DownloadConfig(
        # The files in the public bucket are TFRecord; prepare from the originals.
        try_download_gcs=False,
        manual_dir=str(manual) if manual else None,
    )
    try:
        builder = tfds.builder(
            name,
            data_dir=str(tfds_prepared.resolve_data_dir(data_dir)),
            file_format=tfds_prepared.FORMAT,
        )
        builder.download_and_prepare(download_config=download)
    except tfds.core.DatasetNotFoundError:
        raise ConfigError(f"TensorFlow Datasets has no set {name!r}") from None
    except AssertionError as error:  # an archive that has to be downloaded by hand is missing
        raise ConfigError(f"{name!r} cannot be prepared: {one_line(error)}") from error
    except Exception as error:
        raise RunError(
            f"{name!r} could not be prepared: {type(error).__name__}: {one_line(error)}"
        ) from error


def resize(name: str, size: int, data_dir: str | None = None, copy_name: str | None = None) -> Path:
    """Writes a copy of a data set with smaller images, unless it is there already.

    The copy's folder says what it was made from. One of other images under the same name, or of a
    set that has changed since, is neither taken for it nor replaced.

    Args:
        name: as data.name of a recipe.
        size: short side in pixels.
        data_dir: folder of the prepared sets, where the copy goes.
        copy_name: of the copy; None: the name of the set and the size.

    Returns:
        The folder of the copy.

    Raises:
        ConfigError: there is no such data set, it is not one of image files, or a copy of other
            images has this name.
    """
    if size < _LEAST_SIZE:
        raise ConfigError(f"--resize={size}; it must be a number of pixels from {_LEAST_SIZE}")
    if name in datasets.BUILT_IN:
        raise ConfigError(f"{name!r} is not a set of image files, so there is nothing to shrink")
    with input_errors():
        dataset = datasets.open_dataset(name, data_dir)
        kind, _, path = name.partition(":")
        if kind in datasets.PATHS:
            original, version = local_path("NAME", path), "1.0.0"
            base = original.stem
        else:
            original = tfds_prepared.find_folder(name, data_dir)
            base, version = kind, original.name
        copy = copy_name or f"{re.sub(r'[^A-Za-z0-9_]+', '_', base)}_{size}"
        if copy_name and not re.fullmatch(r"[a-z]\w*", copy_name, re.ASCII):
            what = "not a name"
            raise ConfigError(problem("--copy_name", copy_name, what, "a-z, then a-z, 0-9 and _"))
        if not tfds_prepared.is_name(copy):  # it starts with a digit
            copy = f"folder_{copy}"
        folder = tfds_prepared.find_folder(f"{copy}:{version}", data_dir)
        described = copy_sources.describe_source(dataset, original, size)
        if folder is not None:
            if what := copy_sources.compare_source(folder, described):
                raise ConfigError(
                    f"{folder} is {what}; delete it and run this again, or give the new copy "
                    "another name: --copy_name=NAME"
                )
            print(f"{copy}:{version} is there already: {folder}")
            return folder
        root = tfds_prepared.resolve_data_dir(data_dir)
        folder = array_records.write_resized(dataset, copy, version, root, size, described)
    is_newest = tfds_prepared.find_folder(copy, data_dir) == folder
    copy += "" if is_newest else f":{version}"
    print(f"written: {folder}; read it with --config.data.name={copy}")
    return folder
