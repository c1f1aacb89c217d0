"""tools/prepare_data.py: preparation by TensorFlow Datasets, conversion, smaller copies.

What needs TensorFlow carries the marker `tensorflow` (pip install -r requirements-prepare.txt). It
uses no network: the archives are made here, in the official formats.
"""

import dataclasses
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

import train
from configs import cifar_nest, imagenet_nest
from data import array_records, datasets, splits
from data import prepare as prepare_data
from data.images import decode_image
from data.sources import tfds_prepared
from harness.errors import ConfigError

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)


def run(*arguments):
    """Runs the tool as a person does."""
    return subprocess.run(
        [sys.executable, ROOT / "tools/prepare_data.py", *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )


def jpeg(height, width, value=None):
    """A JPEG file of noise or of one grey level."""
    image = RNG.integers(0, 256, (height, width, 3), np.uint8)
    if value is not None:
        image[:] = value
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def tar(files, mode="w"):
    """A tar archive of {name: bytes}."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=mode) as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return archive.getvalue()


def records(name, split, data_dir):
    """All records of a split."""
    source = splits.load_source(datasets.open_dataset(name, str(data_dir)), split, (8, 8))
    return [source[i] for i in range(len(source))]


def as_tfrecord(folder):
    """Turns a prepared ArrayRecord folder into the TFRecord one that it could have been."""
    (version,) = (path for path in folder.iterdir() if path.is_dir())
    info = json.loads((version / "dataset_info.json").read_text())
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    for path in version.glob("*.array_record-*"):
        with open(str(path).replace("array_record", "tfrecord"), "wb") as file:
            for record in ArrayRecordDataSource(str(path)):
                # The checksums are not looked at.
                file.write(struct.pack("<QI", len(record), 0) + record + bytes(4))
        path.unlink()
    (version / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    return version


def train_a_step(recipe, data_dir, workdir):
    """Trains one step of a recipe on its own data set, with its augmentation and a small model."""
    config, debug = recipe.get_config(), recipe.get_config("debug")
    config.model = debug.model
    config.mesh.data = 1
    config.data.update(
        data_dir=str(data_dir), image_size=debug.data.image_size, batch_size=8, eval_batch_size=8
    )
    config.device_augment.mixup_cutmix.groups = 2  # of a small batch
    config.optimizer.warmup_epochs = 0.0
    config.loop.update(num_epochs=0.01, log_every_steps=1)
    metrics = train.train_and_evaluate(config, workdir)
    assert np.isfinite(metrics["loss"]) and metrics["num_examples"] > 6
    assert (workdir / "classes.txt").exists()


def area_means(image, length):
    """Means over `length` equal stretches of the first axis, with parts of pixels at their ends."""
    cumulated = np.concatenate([np.zeros_like(image[:1], float), np.cumsum(image, 0, float)])
    ends = np.linspace(0, len(image), length + 1)
    low = np.minimum(ends.astype(int), len(image) - 1)
    part = (ends - low)[:, None, None]
    at_ends = (1 - part) * cumulated[low] + part * cumulated[low + 1]
    return np.diff(at_ends, axis=0) / (len(image) / length)


@pytest.fixture
def birds(tmp_path):
    """A folder of images, small and large, odd and unreadable."""
    photo = load_sample_image("china.jpg")
    for split, count in (("train", 6), ("val", 3)):
        for label, name in enumerate(("robin", "wren")):
            folder = tmp_path / "birds" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                part = Image.fromarray(photo[10 * i : 10 * i + 200 + 40 * label, : 300 + i])
                part.save(folder / f"{i}.{'jpg' if i else 'png'}")
    (tmp_path / "birds/train/wren/broken.jpg").write_bytes(b"not an image")
    Image.fromarray(photo[:20, :30]).save(tmp_path / "birds/train/robin/small.jpg")
    return tmp_path / "birds"


# --- smaller copies -------------------------------------------------------------------------------


def test_smaller_copy_of_a_folder(birds, tmp_path, capsys):
    data_dir = tmp_path / "prepared"
    folder = prepare_data.resize(f"folder:{birds}", 64, str(data_dir))
    assert folder == data_dir / "birds_64/1.0.0"
    assert "--config.data.name=birds_64" in capsys.readouterr().out
    copy = datasets.open_dataset("birds_64", str(data_dir))
    assert copy.class_names == ("robin", "wren") and copy.splits == ("train", "validation")
    for split, count in (("train", 14), ("validation", 6)):
        original = records(f"folder:{birds}", split, data_dir)
        smaller = records("birds_64", split, data_dir)
        assert len(original) == len(smaller) == count
        for large, small in zip(original, smaller, strict=True):
            assert large["label"] == small["label"]
            if len(large["image"]) < 3000:  # the small and the unreadable one, as they are
                assert large["image"] == small["image"]
                continue
            image = decode_image(large["image"])
            height, width = (max(64, round(n * 64 / min(image.shape[:2]))) for n in image.shape[:2])
            expected = area_means(area_means(image, height).swapaxes(0, 1), width).swapaxes(0, 1)
            file = io.BytesIO()
            Image.fromarray(np.rint(expected).astype(np.uint8)).save(file, "JPEG", quality=95)
            expected = decode_image(file.getvalue()).astype(int)
            found = decode_image(small["image"])
            assert found.shape == expected.shape and min(found.shape[:2]) == 64
            assert np.abs(found - expected).mean() < 1
            assert small["image"].startswith(b"\xff\xd8")
    assert prepare_data.resize(f"folder:{birds}", 64, str(data_dir)) == folder
    assert "is there already" in capsys.readouterr().out


def refused(name, data_dir, *words, **options):
    with pytest.raises(ConfigError) as error:
        prepare_data.resize(name, 64, str(data_dir), **options)
    for word in (*words, "--copy_name=NAME"):
        assert word in str(error.value), error.value


def test_a_copy_is_of_what_it_says(birds, tmp_path, capsys):
    """Two folders of one name; the second one's images would have been those of the first."""
    years = [tmp_path / year / "birds" for year in ("2023", "2024")]
    for year in years:
        shutil.copytree(birds, year)
    (years[1] / "train/wren/1.jpg").write_bytes(jpeg(90, 90, 7))
    data_dir = tmp_path / "prepared"
    first = prepare_data.resize(f"folder:{years[0]}", 64, str(data_dir))
    refused(f"folder:{years[1]}", data_dir, f"{first} is a copy of {years[0]}, not of {years[1]}")
    second = prepare_data.resize(f"folder:{years[1]}", 64, str(data_dir), "birds_2024")
    assert second == data_dir / "birds_2024/1.0.0"
    found = [
        [r["image"] for r in records(n, "train", data_dir)] for n in ("birds_64", "birds_2024")
    ]
    assert found[0] != found[1]
    capsys.readouterr()
    shutil.move(years[0], tmp_path / "moved" / "birds")  # the same files elsewhere are no others
    assert prepare_data.resize(f"folder:{tmp_path / 'moved/birds'}", 64, str(data_dir)) == first
    assert "is there already" in capsys.readouterr().out


def test_a_copy_of_a_folder_that_has_changed(birds, tmp_path):
    data_dir, name = tmp_path / "prepared", f"folder:{birds}"
    folder = prepare_data.resize(name, 64, str(data_dir))
    new = birds / "train/wren/new.jpg"
    new.write_bytes(jpeg(90, 90))
    refused(
        name, data_dir, f"{folder} is a copy of {birds} as it was", "train had 14 images and has 15"
    )
    new.rename(birds / "val/wren/new.jpg")
    refused(name, data_dir, "validation had 6 images and has 7")
    (birds / "val/wren/new.jpg").rename(new)
    (birds / "train/wren/1.jpg").unlink()
    refused(name, data_dir, "some of its files are other ones")
    (birds / "train/wren").rename(birds / "train/tit")
    (birds / "val/wren").rename(birds / "val/tit")
    refused(name, data_dir, "its classes differ in tit, wren")
    (folder / "source.json").unlink()  # as copies of earlier versions
    refused(name, data_dir, "a copy that does not say what it is of")
    shutil.rmtree(folder)
    assert prepare_data.resize(name, 64, str(data_dir)) == folder


def test_a_copy_of_a_copy_that_has_changed(birds, tmp_path):
    """The same of sets by name: their records count."""
    data_dir = tmp_path / "prepared"
    folder = prepare_data.resize(f"folder:{birds}", 64, str(data_dir))
    assert prepare_data.resize("birds_64", 32, str(data_dir)).name == "1.0.0"
    shutil.rmtree(folder)
    (birds / "train/wren/1.jpg").write_bytes(jpeg(90, 90, 7))
    prepare_data.resize(f"folder:{birds}", 64, str(data_dir))
    with pytest.raises(ConfigError, match=r"birds_64_32.* as it was before: some of its files"):
        prepare_data.resize("birds_64", 32, str(data_dir))


def test_smaller_copy_in_several_files(birds, tmp_path, monkeypatch):
    monkeypatch.setattr(array_records, "SHARD_BYTES", 8000)
    monkeypatch.setattr(array_records, "_AT_ONCE", 4)
    folder = prepare_data.resize(f"folder:{birds}", 64, str(tmp_path))
    shards = tfds_prepared.open_prepared("birds_64", tmp_path).shards("train")
    assert len(shards) > 3 and sum(shard.num_records for shard in shards) == 14
    assert sorted(path.name for path in folder.glob("*-train.*")) == [
        f"birds_64-train.array_record-{i:05d}-of-{len(shards):05d}" for i in range(len(shards))
    ]
    labels = [record["label"] for record in records("birds_64", "train", tmp_path)]
    assert labels == [r["label"] for r in records(f"folder:{birds}", "train", tmp_path)]


def test_an_interrupted_copy_leaves_nothing(birds, tmp_path, monkeypatch):
    calls = []

    def interrupted(encoded, size):
        calls.append(size)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return encoded

    with monkeypatch.context() as patch:
        patch.setattr(array_records, "shrink", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_data.resize(f"folder:{birds}", 64, str(tmp_path / "prepared"))
    assert list((tmp_path / "prepared/birds_64").iterdir()) == []
    with pytest.raises(ValueError, match="not prepared"):
        datasets.check_name("birds_64", str(tmp_path / "prepared"))
    prepare_data.resize(f"folder:{birds}", 64, str(tmp_path / "prepared"))
    assert len(records("birds_64", "train", tmp_path / "prepared")) == 14


def test_a_killed_copy_does_not_look_finished(birds, tmp_path):
    for i in range(3000):  # a few seconds of work
        os.link(birds / "train/wren/1.jpg", birds / f"train/wren/more{i}.jpg")
    data_dir = tmp_path / "prepared"
    command = [sys.executable, ROOT / "tools/prepare_data.py", f"folder:{birds}"]
    process = subprocess.Popen(
        [*command, "--resize=64", f"--data_dir={data_dir}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(data_dir.glob("birds_64/incomplete.*/*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(ValueError, match="not prepared"):
        datasets.check_name("birds_64", str(data_dir))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["NAME is missing"]),
        (["cifar10", "cifar100"], ["unexpected argument 'cifar100'"]),
        (["digits"], ["'digits'", "nothing to prepare"]),
        (["folder:/no/such", "--resize=64"], ["no folder '/no/such'"]),
        (["cifar10", "--resize=x"], ["resize"]),
    ],
)
def test_wrong_input(tmp_path, arguments, words):
    done = run(*arguments, f"--data_dir={tmp_path}")
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr
    said = [line for line in done.stderr.splitlines() if not line.endswith(": starting ...")]
    assert len(said) == 1


def test_what_cannot_be_prepared(tmp_path):
    data_dir = str(tmp_path)
    np.savez(tmp_path / "a.npz", train_images=np.zeros((1, 9, 9), np.uint8), train_labels=[0])
    for function, arguments, words in (
        (prepare_data.prepare, ("folder:/tmp", data_dir), "'folder:/tmp'.*--resize=256"),
        (prepare_data.prepare, ("cifar10", data_dir, "/no/such"), "manual_dir=/no/such is not a f"),
        (prepare_data.resize, ("digits", 4, data_dir), "--resize=4.*from 8"),
        (prepare_data.resize, ("digits", 64, data_dir), "'digits'.*nothing to shrink"),
        (prepare_data.resize, (f"npz:{tmp_path}/a.npz", 64, data_dir), "held in memory"),
        (prepare_data.resize, ("cifar10", 64, data_dir), "prepare_data.py cifar10"),
    ):
        with pytest.raises(ConfigError, match=words):
            function(*arguments)


def test_without_tensorflow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match="pip install -r requirements-prepare.txt$"):
        prepare_data.prepare("cifar10", str(tmp_path))


# --- conversion -----------------------------------------------------------------------------------


def test_conversion_of_tfrecord(birds, tmp_path, capsys):
    prepare_data.resize(f"folder:{birds}", 64, str(tmp_path))
    expected = {split: records("birds_64", split, tmp_path) for split in ("train", "validation")}
    version = as_tfrecord(tmp_path / "birds_64")
    with pytest.raises(ValueError, match="tfrecord only.*prepare_data.py birds_64"):
        datasets.check_name("birds_64", str(tmp_path))
    prepare_data.prepare("birds_64", str(tmp_path))
    assert "is converted" in capsys.readouterr().out
    for split, wanted in expected.items():
        assert records("birds_64", split, tmp_path) == wanted
    assert len(list(version.glob("*.tfrecord-*"))) == 2  # still there
    prepare_data.prepare("birds_64", str(tmp_path))
    assert "is prepared already" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["cut", "fewer", "length"])
def test_conversion_of_a_damaged_file(birds, tmp_path, damage):
    prepare_data.resize(f"folder:{birds}", 64, str(tmp_path))
    version = as_tfrecord(tmp_path / "birds_64")
    (path,) = version.glob("*-train.tfrecord-*")
    content = path.read_bytes()
    (first,) = struct.unpack("<Q", content[:8])
    damaged = {
        "cut": content[:-10],
        "fewer": content[first + 16 :],
        "length": content[: first + 16] + b"\xff" * 7 + content[first + 23 :],
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(ConfigError, match=f"{path} (is damaged|holds 13 records, not 14)"):
        prepare_data.prepare("birds_64", str(tmp_path))
    with pytest.raises(ValueError, match="tfrecord only"):
        datasets.check_name("birds_64", str(tmp_path))
    path.write_bytes(content)
    prepare_data.prepare("birds_64", str(tmp_path))
    assert len(records("birds_64", "train", tmp_path)) == 14


# --- preparation by TensorFlow Datasets -----------------------------------------------------------

CIFAR_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """An archive in CIFAR-10's binary format; returns its images and labels of each split."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    prefix = "cifar-10-batches-bin"
    files, splits = {}, {"train": [], "test": []}
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        images = RNG.integers(0, 256, (13, 32, 32, 3), np.uint8)
        labels = RNG.integers(0, 10, 13)
        # One byte of label, then the red, the green and the blue plane.
        files[f"{prefix}/{name}"] = b"".join(
            bytes([label]) + image.transpose(2, 0, 1).tobytes()
            for image, label in zip(images, labels, strict=True)
        )
        splits["test" if name.startswith("test") else "train"] += zip(images, labels, strict=True)
    files[f"{prefix}/batches.meta.txt"] = ("\n".join(CIFAR_CLASSES) + "\n\n").encode()
    archive = tmp_path / "manual/cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(tar(files, "w:gz"))
    # The official archive has another checksum; all else is as it is.
    builder = tfds.builder_cls("cifar10")
    url, official = next(iter(builder.url_infos.items()))
    ours = checksums.compute_url_info(archive)
    ours = dataclasses.replace(official, size=ours.size, checksum=ours.checksum)
    monkeypatch.setattr(builder, "url_infos", {url: ours})
    return splits


@pytest.mark.tensorflow
@pytest.mark.parametrize("converted", [False, True])
def test_cifar_from_its_archive(cifar, tmp_path, converted, capsys):
    data_dir = tmp_path / "data"
    if converted:  # from TFRecord, which is the usual format
        import tensorflow_datasets as tfds

        builder = tfds.builder("cifar10", data_dir=str(data_dir))
        download = tfds.download.DownloadConfig(manual_dir=str(tmp_path / "manual"))
        builder.download_and_prepare(download_config=download)
        with pytest.raises(ValueError, match="tfrecord only"):
            datasets.check_name("cifar10", str(data_dir))
    prepare_data.prepare("cifar10", str(data_dir), str(tmp_path / "manual"))
    assert "train 65, test 13 records" in capsys.readouterr().out
    dataset = datasets.open_dataset("cifar10", str(data_dir))
    assert dataset.class_names == tuple(CIFAR_CLASSES)
    assert dataset.mean == (0.4914, 0.4822, 0.4465)
    for split, expected in cifar.items():
        found = records("cifar10", split, data_dir)
        assert {(r["image"].tobytes(), r["label"]) for r in found} == {
            (image.tobytes(), label) for image, label in expected
        }
        assert len(found) == len(expected)
    train_a_step(cifar_nest, data_dir, tmp_path / "run")


@pytest.mark.tensorflow
def test_imagenet_from_its_archives(tmp_path, capsys):
    """Small JPEGs in archives as ImageNet's; then a smaller copy, which TFDS reads as well."""
    import tensorflow_datasets as tfds

    synsets = {"n01440764": 0, "n01443537": 1, "n15075141": 999}
    values = {}
    archives = {}
    for place, synset in enumerate(synsets):
        images = {}
        for i in range(4):
            values[(4 * place + i) * 20] = synsets[synset]
            images[f"{synset}_{i}.JPEG"] = jpeg(40, 60, (4 * place + i) * 20)
        archives[f"{synset}.tar"] = tar(images)
    manual = tmp_path / "manual"
    manual.mkdir()
    with pytest.raises(
        ConfigError,
        match="does not exist or is empty.* two files: ILSVRC2012_img_train.tar and .*_val.tar",
    ):
        prepare_data.prepare("imagenet2012", str(tmp_path / "data"), str(manual))
    (manual / "ILSVRC2012_img_train.tar").write_bytes(tar(archives))
    validation = {f"ILSVRC2012_val_{i:08d}.JPEG": jpeg(30, 50) for i in range(1, 8)}
    (manual / "ILSVRC2012_img_val.tar").write_bytes(tar(validation))
    test = {f"ILSVRC2012_test_{i:08d}.JPEG": jpeg(30, 50) for i in range(1, 3)}
    (manual / "ILSVRC2012_img_test.tar").write_bytes(tar(test))
    data_dir = str(tmp_path / "data")
    folder = prepare_data.prepare("imagenet2012", data_dir, str(manual))
    dataset = datasets.open_dataset("imagenet2012", data_dir)
    assert dataset.num_classes == 1000 and dataset.class_names[0] == "n01440764"
    found = {}
    for record in records("imagenet2012", "train", data_dir):
        image = decode_image(record["image"])
        assert image.shape == (40, 60, 3)
        found[int(image.mean().round() / 20 + 0.5) * 20] = record["label"]
    assert found == values
    assert {r["image"] for r in records("imagenet2012", "validation", data_dir)} == set(
        validation.values()
    )
    assert os.listdir(folder.parent) == [folder.name]
    train_a_step(imagenet_nest, data_dir, tmp_path / "run")

    prepare_data.resize("imagenet2012", 24, data_dir)
    assert "the split 'test' is left out" in capsys.readouterr().out
    builder = tfds.builder_from_directory(f"{data_dir}/imagenet2012_24/{folder.name}")
    assert builder.info.features["label"].num_classes == 1000
    assert builder.info.features["label"].int2str(999) == "n15075141"
    theirs = list(builder.as_data_source(split="train"))
    ours = records("imagenet2012_24", "train", data_dir)
    assert len(ours) == len(theirs) == 12
    for our, their in zip(ours, theirs, strict=True):
        assert their["image"].shape == (24, 36, 3)
        assert our["label"] == their["label"]
        difference = decode_image(our["image"]).astype(int) - their["image"]
        assert np.abs(difference).max() <= 1


@pytest.mark.tensorflow
def test_unknown_set(tmp_path):
    with pytest.raises(ConfigError, match="no set 'mnits'"):
        prepare_data.prepare("mnits", str(tmp_path))


@pytest.mark.tensorflow
def test_the_accelerator_is_left_alone(tmp_path):
    code = """
import os, sys
from data import prepare as prepare_data
try:
    prepare_data.prepare("mnits", sys.argv[1])
except Exception as error:
    print(error)
import tensorflow as tf
assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
assert {device.device_type for device in tf.config.get_visible_devices()} == {"CPU"}
"""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
