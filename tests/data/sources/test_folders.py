"""Folders of images and .npz files as data sets."""

import io
import os
import pickle

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from data import datasets, splits
from data.images import decode_image
from data.sources import folders
from harness.errors import BadImage


def png(value=0):
    """A small PNG of one grey level."""
    file = io.BytesIO()
    Image.fromarray(np.full((2, 3, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


PNG = png()


def make(root, files):
    """Makes files, each with its bytes or a small PNG."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name] if isinstance(files, dict) else PNG)
    return root


def many(count, *folders_, suffix=".png"):
    """File names, `count` in each folder."""
    return [f"{folder}/{i:03d}{suffix}" for folder in folders_ for i in range(count)]


def open_folder(root):
    return datasets.open_dataset(f"folder:{root}")


def names(dataset, split, root):
    """Paths of a split's records within the root."""
    source = splits.load_source(dataset, split, (8, 8))
    return [os.path.relpath(source.describe(i), root) for i in range(len(source))]


def assert_refused(root, *words, split=None):
    """One clear line, when opened or when the split is loaded."""
    with pytest.raises(ValueError) as error:
        dataset = open_folder(root)
        assert split is not None
        splits.load_source(dataset, split, (8, 8))
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


# --- folders --------------------------------------------------------------------------------------


def test_every_image_with_its_class(tmp_path):
    files = {
        "train/wren/a.PNG": png(1),
        "train/wren/b.jpeg": png(2),
        "train/robin/c.JPG": png(3),
        "train/Zebra/d.WebP": png(4),
        "val/wren/e.tiff": png(5),
        "val/robin/f.png": png(6),
        "README.txt": b"not an image",
        "train/wren/notes.txt": b"not an image",
        "train/wren/.hidden.png": b"",
        "train/.cache/x.png": b"",
        "annotations/x.png": b"",
    }
    dataset = open_folder(make(tmp_path, files))
    assert dataset.class_names == ("Zebra", "robin", "wren") and dataset.num_classes == 3
    assert dataset.num_channels == 3 and dataset.note == ""
    expected = {
        "train": {1: "wren", 2: "wren", 3: "robin", 4: "Zebra"},
        "validation": {5: "wren", 6: "robin"},
    }
    for split, images in expected.items():
        source = splits.load_source(dataset, split, (8, 8))
        records = [source[i] for i in range(len(source))]
        found = {
            int(decode_image(r["image"])[0, 0, 0]): dataset.class_names[r["label"]] for r in records
        }
        assert found == images and len(records) == len(images)
        for i, record in enumerate(records):
            with open(source.describe(i), "rb") as file:
                assert file.read() == record["image"]


@pytest.mark.parametrize("given", ["val", "valid", "validation", "test", "Test", "VAL"])
def test_the_only_evaluation_folder_answers_to_all_names(tmp_path, given):
    make(tmp_path, many(5, "train/a", "train/b") + many(2, f"{given}/a"))
    dataset = open_folder(tmp_path)
    for split in ("validation", "val", "test"):
        assert sorted(names(dataset, split, tmp_path)) == many(2, f"{given}/a")
    assert sorted(names(dataset, "train", tmp_path)) == many(5, "train/a", "train/b")


def test_two_evaluation_folders_are_two_splits(tmp_path):
    make(tmp_path, many(5, "train/a") + many(2, "val/a") + many(3, "test/a"))
    dataset = open_folder(tmp_path)
    assert dataset.splits == ("train", "validation", "test")
    assert sorted(names(dataset, "val", tmp_path)) == many(2, "val/a")
    assert sorted(names(dataset, "validation", tmp_path)) == many(2, "val/a")
    assert sorted(names(dataset, "test", tmp_path)) == many(3, "test/a")


@pytest.mark.parametrize("around", ["", "train/"])
def test_a_tenth_of_each_class_is_held_out(tmp_path, around):
    files = [*many(100, f"{around}a"), *many(17, f"{around}b"), *many(2, f"{around}c")]
    files += many(1, f"{around}d")
    dataset = open_folder(make(tmp_path, files))
    assert "held out" in dataset.note and "\n" not in dataset.note
    train, held_out = (names(dataset, split, tmp_path) for split in ("train", "test"))
    assert sorted(train + held_out) == sorted(files)
    counts = [sum(name.startswith(f"{around}{c}/") for name in held_out) for c in "abcd"]
    assert counts == [10, 2, 1, 0]
    for alias in ("validation", "val"):
        assert names(dataset, alias, tmp_path) == held_out
    # Not the first by name.
    assert held_out[0] > f"{around}a/009.png"


def test_the_split_is_the_same_elsewhere_and_changes_little_with_more_images(tmp_path):
    first = make(tmp_path / "first", many(200, "a", "b"))
    # Made in another order; 20 images more.
    again = make(tmp_path / "again", many(210, "a", "b")[::-1])
    held_out = set(names(open_folder(first), "test", first))
    assert names(open_folder(first), "train", first) == names(open_folder(first), "train", first)
    again_held_out = set(names(open_folder(again), "test", again))
    assert len(held_out) == 40 and len(again_held_out) == 42
    assert len(held_out & again_held_out) >= 34


def test_slices_are_balanced_and_the_order_is_mixed(tmp_path):
    dataset = open_folder(make(tmp_path, many(300, "train/a", "train/b", "train/c", "val/a")))
    source = splits.load_source(dataset, "train[:50%]", (8, 8))
    counts = np.bincount([source[i]["label"] for i in range(len(source))])
    assert counts.sum() == 450 and counts.min() > 120
    order = [int(name[-7:-4]) for name in names(dataset, "train", tmp_path) if "/a/" in name]
    assert abs(np.corrcoef(order, np.arange(300))[0, 1]) < 0.25


def test_linked_classes_and_images_with_odd_names(tmp_path):
    elsewhere = make(tmp_path / "elsewhere", ["x.png", "y z.png", "ä/u\u0308 #1.png"])
    root = make(tmp_path / "data", many(1, "train/a", "val/a"))
    (root / "train/linked").symlink_to(elsewhere, target_is_directory=True)
    (root / "train/ä").symlink_to(elsewhere / "ä", target_is_directory=True)
    (root / "train/a/link.png").symlink_to(elsewhere / "x.png")
    os.rename(root / "train/a/000.png", os.fsencode(root / "train/a") + b"/not-utf8-\xff.png")
    dataset = open_folder(root)
    assert dataset.class_names == ("a", "linked", "ä")
    source = splits.load_source(dataset, "train", (8, 8))
    labels = [source[i]["label"] for i in range(len(source))]
    assert sorted(labels) == [0, 0, 1, 1, 1, 2]  # "linked" has "ä" as a subfolder
    assert all(source[i]["image"] == PNG for i in range(6))


def test_a_folder_called_like_an_image_is_none(tmp_path):
    make(tmp_path, many(2, "train/a", "val/a"))
    (tmp_path / "train/a/nested.png").mkdir()
    assert len(names(open_folder(tmp_path), "train", tmp_path)) == 2


def test_a_file_that_is_gone_is_a_bad_image(tmp_path):
    source = splits.load_source(
        open_folder(make(tmp_path, many(3, "train/a", "val/a"))), "train", (8, 8)
    )
    os.remove(source.describe(1))
    with pytest.raises(BadImage, match="No such file"):
        source[1]
    assert source[0]["image"] == source[2]["image"] == PNG
    for index in (3, -1):
        with pytest.raises(IndexError):
            source[index]


def test_pickled_source(tmp_path):
    make(tmp_path, many(20, "a", "b"))
    source = splits.load_source(open_folder(tmp_path), "train[:50%]", (8, 8))
    again = pickle.loads(pickle.dumps(source))
    assert [again.describe(i) for i in range(18)] == [source.describe(i) for i in range(18)]
    assert again[3] == source[3]


def test_a_million_files_take_little_memory():
    """The list of files as a worker process gets it: some 16 bytes a file beside its name."""
    count = 200_000
    files = [[b"n%07d_%05d.JPEG" % (c, i) for i in range(count // 100)] for c in range(100)]
    class_names = tuple(f"n{c:08d}" for c in range(100))
    source = folders.FolderSource(folders.Path("/data/train"), class_names, files)
    assert len(source) == count
    assert len(pickle.dumps(source)) < count * (20 + 16)
    assert len({source.describe(i) for i in range(0, count, 1000)}) == 200


def test_evaluation_without_a_training_split(tmp_path):
    dataset = open_folder(make(tmp_path, ["val/a/x.png", "val/b/y.png"]))
    assert dataset.class_names == ("a", "b") and dataset.splits == ("validation",)
    assert len(splits.load_source(dataset, "test", (8, 8))) == 2


def test_one_class_is_said(tmp_path):
    assert "one class" in open_folder(make(tmp_path, ["train/a/x.png", "val/a/y.png"])).note


def test_what_is_wrong_with_a_folder(tmp_path):
    assert_refused(
        make(tmp_path / "flat", ["x.png", "y.png"]),
        "flat",
        "one folder for each class",
        "labels.txt",
        "flat.csv",
    )
    assert_refused(make(tmp_path / "none", [".keep"]), "none", "one folder for each class")
    assert_refused(make(tmp_path / "b", ["train/x.png", "val/a/x.png"]), "train", "each class")
    assert_refused(
        make(tmp_path / "extra", ["train/a/x.png", "val/a/x.png", "val/new/x.png"]),
        *("training split lacks", "'new'", "folders: 1"),
        split="validation",
    )
    assert_refused(
        make(tmp_path / "empty", ["train/a/x.png", "train/b/x.txt", "val/a/x.png"]),
        *("train/b", "has no image", "1 file left out: 1 .txt"),
        split="train",
    )
    assert_refused(make(tmp_path / "only", ["val/a/x.png"]), "'train'", "validation", split="train")
    assert_refused(
        make(tmp_path / "mixed", ["train/x.png", "bus/y.png"]), "'train' counts as a split"
    )
    assert_refused(
        make(tmp_path / "both", ["train/a/x.png", "val/a/x.png", "valid/a/x.png"]), "val, valid"
    )
    assert_refused(
        make(tmp_path / "single", ["a/x.png", "b/x.png"]), "one image per class", split="test"
    )
    assert_refused(
        make(tmp_path / "flat_test", ["train/a/x.png", "test/x.png"]), "test", split="test"
    )


def test_digits_as_png_files_are_the_digits(tmp_path):
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = tmp_path / str(label)
        folder.mkdir(exist_ok=True)
        Image.fromarray((image * 255 / 16).astype(np.uint8)).save(folder / f"{i}.png")
    dataset = open_folder(tmp_path)
    assert dataset.class_names == tuple("0123456789")
    found = set()
    for split, size in (("train", 1617), ("test", 180)):
        source = splits.load_source(dataset, split, (8, 8))
        assert abs(len(source) - size) <= 5
        for i in range(len(source)):
            record = source[i]
            image = decode_image(record["image"])
            found.add((image[..., 0].tobytes(), record["label"]))
    expected = {
        ((image * 255 / 16).astype(np.uint8).tobytes(), label)
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    assert found == expected
