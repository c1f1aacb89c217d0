"""Lists that give the images of one folder their classes, as they are published."""

import os
from collections import Counter
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from data import datasets, prepare, splits
from data.images import decode_image
from data.sources.arrays import NoLabel
from data.sources.class_lists import read_list

SYNSETS = ("n01440764", "n01443537", "n02123045")
# As in ImageNet: the class of image i + 1, which is i's grey level too.
CLASSES = ("n02123045", "n01440764", "n02123045", "n01443537", "n01440764")
FILES = tuple(f"ILSVRC2012_val_{i:08d}" for i in range(1, 6))
TENSORFLOW = "imagenet_2012_validation_synset_labels.txt"
# The shuffled rows, the boxes and the space at the end are Kaggle's.
KAGGLE = "ImageId,PredictionString\n" + "".join(
    f"{FILES[i]},{CLASSES[i]} 85 1 499 272 {f'{CLASSES[i]} 3 4 5 6 ' if i == 2 else ''}\n"
    for i in (3, 1, 0, 4, 2)
)


def picture(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 3, 3), level, np.uint8)).save(path, "PNG")


def make(root, split="val", train=True, names=None):
    """Images of one level each in a folder, and perhaps class folders to train on."""
    for i, name in enumerate(names or [f"{name}.JPEG" for name in FILES]):
        picture(root / split / name, i)
    for synset in SYNSETS if train else ():
        picture(root / "train" / synset / "1.JPEG")
    return root


def labels(root, split="validation"):
    """Grey level -> name of the class, of each record."""
    dataset = datasets.open_dataset(f"folder:{root}")
    source = splits.load_source(dataset, split, (8, 8))
    records = [source[i] for i in range(len(source))]
    return {
        int(decode_image(r["image"])[0, 0, 0]): dataset.class_names[r["label"]] for r in records
    }


EXPECTED = dict(enumerate(CLASSES))


def columns(separator, ending=".JPEG", header=""):
    rows = zip(FILES, CLASSES, strict=True)
    return header + "".join(f"{f}{ending}{separator}{c}\n" for f, c in rows)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("place", "text"),
    [
        (TENSORFLOW, "\n".join(CLASSES) + "\n"),
        ("synset_labels.txt", "\n".join(CLASSES)),  # of TPU's imagenet_to_gcs.py
        ("val/labels.txt", "\ufeff" + "\r\n".join(CLASSES) + "\r\n"),
        ("LOC_val_solution.csv", KAGGLE),
        ("../../../LOC_val_solution.csv", KAGGLE),
        ("val.txt", columns(" ")),
        ("val.txt", columns("  ", ending="")),
        ("val.tsv", columns("\t")),
        ("val/val.csv", columns(",", header="file,label\n")),
        ("val_labels.csv", columns(",", ending="", header="id,class\n")),
        ("val.csv", columns(",").replace("n0", '"n0').replace("\n", '"\n')),
        ("val.csv", columns(",").replace("ILSVRC", "val/ILSVRC").replace("val/", "")),
    ],
)
def test_a_flat_folder_with_a_list(tmp_path, place, text, train):
    root = make(tmp_path / "ILSVRC/Data/CLS-LOC", train=train)
    (root / place).write_text(text)
    assert labels(root) == EXPECTED
    dataset = datasets.open_dataset(f"folder:{root}")
    assert dataset.class_names == SYNSETS
    source = dataset.load("validation", (8, 8))
    assert sorted(map(source.describe, range(5))) == [f"{root}/val/{f}.JPEG" for f in FILES]
    (note,) = dataset.load_notes()
    assert os.path.realpath(note.split(" those in ")[1]) == os.path.realpath(root / place)


@pytest.mark.parametrize("train", [True, False])
def test_tiny_imagenet_as_it_is_published(tmp_path, train):
    names = [f"val_{i}.JPEG" for i in range(12)]  # val_10 comes before val_2
    root = make(tmp_path, names=[f"images/{name}" for name in names], train=False)
    for synset in SYNSETS if train else ():
        picture(root / f"train/{synset}/images/{synset}_0.JPEG")
        (root / f"train/{synset}/{synset}_boxes.txt").write_text(f"{synset}_0.JPEG\t0\t10\t63\t63")
    picture(root / "test/images/test_0.JPEG")
    rows = [f"{name}\t{SYNSETS[i % 3]}\t0\t32\t44\t62\n" for i, name in enumerate(names)]
    (root / "val/val_annotations.txt").write_text("".join(rows))
    assert labels(root) == {i: SYNSETS[i % 3] for i in range(12)}
    if not train:
        return
    dataset = datasets.open_dataset(f"folder:{root}")
    dataset.load("train", (8, 8))
    assert dataset.notes == [
        f"{root}/train: 3 files left out: 3 .txt; 3 of 3 images lie in subfolders of the class "
        "folders"
    ]
    # Sorted into class folders, the annotations left behind.
    for i, name in enumerate(names):
        picture(root / f"val/{SYNSETS[i % 3]}/{name}", i)
        (root / f"val/images/{name}").unlink()
    (root / "val/images").rmdir()
    assert labels(root) == {i: SYNSETS[i % 3] for i in range(12)}


def test_a_flat_folder_to_train_on(tmp_path):
    """One folder and its list, with classes that are numbers, as competitions have them."""
    names = [f"{i:02d}.png" for i in range(24)]
    root = make(tmp_path / "cells", "train", train=False, names=names)
    (root / "train.csv").write_text("".join(f"{n},{i % 12}\n" for i, n in enumerate(names)))
    dataset = datasets.open_dataset(f"folder:{root}")
    assert dataset.class_names == tuple(map(str, range(12)))  # not 0, 1, 10, 11, 2
    assert labels(root, "train") | labels(root, "test") == {i: str(i % 12) for i in range(24)}
    assert labels(root / "train", "train+test") == labels(root, "train+test")


def test_class_names_of_several_words(tmp_path):
    """Where the names are known, the longest that fits counts."""
    files = [b"a.jpg", b"b.jpg"]
    known = ("golden retriever", "tabby, tabby cat", "tabby")
    (tmp_path / "x.txt").write_text("tabby, tabby cat\ngolden retriever\n")
    assert read_list(tmp_path / "x.txt", files, known) == ["tabby, tabby cat", "golden retriever"]
    (tmp_path / "x.txt").write_text("a.jpg golden retriever\nb.jpg tabby 7\n")
    assert read_list(tmp_path / "x.txt", files, known) == ["golden retriever", "tabby"]
    (tmp_path / "x.csv").write_text('a,"tabby, tabby cat"\nb,golden retriever\n')
    assert read_list(tmp_path / "x.csv", files, None) == ["tabby, tabby cat", "golden retriever"]


def test_a_flat_folder_without_a_list(tmp_path):
    root = make(tmp_path)
    dataset = datasets.open_dataset(f"folder:{root}")
    with pytest.raises(NoLabel) as error:
        splits.load_source(dataset, "validation", (8, 8))
    for word in ("one folder for each class", "val/labels.txt", "val.csv", "one class per line"):
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="'file,class'"):
        datasets.open_dataset(f"folder:{root / 'val'}")


@pytest.mark.parametrize("test", ["ILSVRC2012_test_00000001.JPEG", "images/test_0.JPEG"])
def test_a_split_without_labels_is_left_out_of_a_smaller_copy(tmp_path, test, capsys):
    """As Kaggle's ImageNet comes: class folders, a flat val with its list, a test without."""
    root = make(tmp_path / "imagenet")
    picture(root / "test" / test)
    (root / "test.csv").write_text(f"id\n{test}\n")
    (tmp_path / "LOC_val_solution.csv").write_text(KAGGLE)
    prepare.resize(f"folder:{root}", 8, str(tmp_path / "prepared"))
    assert "the split 'test' is left out" in capsys.readouterr().out
    copy = datasets.open_dataset("imagenet_8", str(tmp_path / "prepared"))
    source = copy.load("validation", (8, 8))
    assert copy.splits == ("train", "validation") and copy.class_names == SYNSETS
    found = {
        int(decode_image(r["image"])[0, 0, 0]): r["label"]
        for r in map(source.__getitem__, range(5))
    }
    assert found == {i: SYNSETS.index(name) for i, name in EXPECTED.items()}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("val.txt", "\n".join(CLASSES[:4]), ["4 lines", "5 images"]),
        ("val.txt", "\n".join([*CLASSES[:4], "n1"]), ["classes", "lacks", "'n1' (in all 1)"]),
        ("val.csv", columns(",").replace("n01443537", "n1"), ["'n1' (in all 1)"]),
        ("val.csv", columns(",") + "x.JPEG,n01440764\n", ["not there", "'x.JPEG' (in all 1)"]),
        ("val.csv", columns(",", ".png"), ["not there", f"{FILES[0]}.png' (in all 5)"]),
        ("val.csv", columns(",")[: -len(CLASSES[4]) - 2], ["no class", FILES[4]]),
        ("val.csv", columns(",").split("\n")[0], ["lacks images", FILES[1], "(4 of 5)"]),
        ("val.csv", columns(",") + f"{FILES[0]},n01440764", ["two classes", FILES[0]]),
        ("val.csv", columns(",").replace(CLASSES[3], ""), ["no class", FILES[3]]),
        ("val.txt", "\n".join("12345"), ["'1' (in all 5)", "numbers do not say"]),
        ("val.txt", columns(" ").replace("n0", "0"), ["(in all 3)", "numbers do not say"]),
        ("ILSVRC2012_validation_ground_truth.txt", "\n".join("12345"), ["order of its own"]),
        ("val.txt", "", ["0 lines", "5 images"]),
    ],
)
def test_what_is_wrong_with_a_list(tmp_path, name, text, words):
    root = make(tmp_path)
    (root / name).write_text(text)
    with pytest.raises(ValueError) as error:
        labels(root)
    for word in (name, *words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["val.txt", "ILSVRC2012_validation_ground_truth.txt"])
def test_numbers_alone_name_no_classes(tmp_path, name):
    """490, 361, 171, ...: the challenge's own numbers, which weights of the synsets do not mean."""
    root = make(tmp_path, train=False)
    (root / name).write_text("490\n361\n171\n822\n297\n")
    with pytest.raises(ValueError, match=r"no names of classes|order of its own"):
        datasets.open_dataset(f"folder:{root}")


def test_an_order_that_is_not_clear(tmp_path):
    root = make(tmp_path, names=[f"{i}.jpg" for i in (1, 2, 10)])
    (root / "val.txt").write_text("\n".join(CLASSES[:3]))
    with pytest.raises(ValueError, match="the order of the files is not clear.*'10.jpg'"):
        labels(root)
    make(tmp_path / "two", names=["a/1.jpg", "a/b/1.jpg"])
    (tmp_path / "two/val/val.csv").write_text("1.jpg,n01440764\na/b/1.jpg,n01440764\n")
    with pytest.raises(ValueError, match="several files '1.jpg'"):
        labels(tmp_path / "two")


def test_imagenets_own_50000_labels(tmp_path):
    """The list as TensorFlow Datasets ships it; the labels of the first five are widely known."""
    package = resources.files("tensorflow_datasets.datasets") / "imagenet2012"
    synsets = (package / "labels.txt").read_text().split()
    (tmp_path / TENSORFLOW).write_text((package / "validation_labels.txt").read_text())
    files = [f"ILSVRC2012_val_{i:08d}.JPEG".encode() for i in range(1, 50_001)]
    classes = read_list(tmp_path / TENSORFLOW, files, synsets)
    assert [synsets.index(name) for name in classes[:5]] == [65, 970, 230, 809, 516]
    assert set(Counter(classes).values()) == {50} and set(classes) == set(synsets)
