"""A smaller copy is of what its source holds now: labels, sizes, splits and versions."""

import json

import numpy as np
import pytest
from PIL import Image

from data import datasets, prepare, splits
from data.array_records import write_resized
from data.copy_sources import describe_source
from data.sources.arrays import as_array, check_index
from harness.errors import ConfigError


def write_images(folder, count=6):
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (40, 30), (index, 0, 0)).save(folder / f"{index}.png")


def labels(name, data_dir):
    source = datasets.open_dataset(name, str(data_dir)).load("validation", (8, 8))
    return [source[i]["label"] for i in range(len(source))]


def test_labels_count_where_a_list_gives_them(tmp_path):
    write_images(tmp_path / "set" / "val")
    listed = tmp_path / "set" / "val" / "labels.txt"
    listed.write_text("x\ny\nx\ny\nx\ny\n")
    name, out = f"folder:{tmp_path}/set", tmp_path / "out"
    prepare.resize(name, 16, str(out))
    before = labels("set_16", out)
    listed.write_text("y\nx\ny\nx\ny\nx\n")
    with pytest.raises(ConfigError, match="as it was before: some of its files are other ones"):
        prepare.resize(name, 16, str(out))
    prepare.resize(name, 16, str(out), "swapped")
    assert labels("swapped", out) == [1 - label for label in before]


def test_another_size_under_one_name(tmp_path):
    write_images(tmp_path / "set" / "train" / "a")
    name, out = f"folder:{tmp_path}/set/train", str(tmp_path / "out")
    prepare.resize(name, 16, out, "mine")
    with pytest.raises(ConfigError, match="short side 16, not 24"):
        prepare.resize(name, 24, out, "mine")


def test_a_split_without_labels_is_left_out(tmp_path, capsys):
    """As Tiny ImageNet and Kaggle's ImageNet have their test images."""
    for name in "ab":
        write_images(tmp_path / "set" / "train" / name)
    write_images(tmp_path / "set" / "test" / "images")
    out = tmp_path / "out"
    prepare.resize(f"folder:{tmp_path}/set", 16, str(out))
    copy = datasets.open_dataset("set_16", str(out))
    assert "train" in copy.splits and "test" not in copy.splits
    assert "'test' is left out" in capsys.readouterr().out
    prepare.resize(f"folder:{tmp_path}/set", 16, str(out))
    assert "is there already" in capsys.readouterr().out


def test_the_name_that_is_said_reads_the_copy(tmp_path, capsys):
    """Not a newer version of a set that has this name."""
    write_images(tmp_path / "set" / "train" / "a")
    name, out = f"folder:{tmp_path}/set/train", tmp_path / "out"
    folder = prepare.resize(name, 16, str(out), "birds")
    assert capsys.readouterr().out.strip().endswith("--config.data.name=birds")
    newer = folder.with_name("2.0.0")
    folder.rename(newer)
    info = json.loads((newer / "dataset_info.json").read_text()) | {"version": "2.0.0"}
    (newer / "dataset_info.json").write_text(json.dumps(info))
    prepare.resize(name, 16, str(out), "birds")
    assert capsys.readouterr().out.strip().endswith("--config.data.name=birds:1.0.0")


def test_a_split_under_two_names_does_not_count_twice(tmp_path):
    for name in "ab":
        write_images(tmp_path / "set" / "val" / name)
    dataset = datasets.open_dataset(f"folder:{tmp_path}/set")
    with pytest.raises(ValueError, match="'test' and 'validation' are the same split"):
        splits.load_source(dataset, "test+validation", (8, 8))
    halves = splits.load_source(dataset, "test[:50%]+test[50%:]", (8, 8))
    assert len(halves) == 12


@pytest.mark.parametrize("name", ["", " ", "\ufeff"])
def test_class_names_that_a_list_of_lines_would_lose(tmp_path, name):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    pairs = {"train_images": images, "train_labels": np.arange(4) % 2}
    np.savez(tmp_path / "a.npz", class_names=["a", name], **pairs)
    with pytest.raises(ValueError, match="the name of the class .* is blank"):
        datasets.open_dataset(f"npz:{tmp_path}/a.npz")
    np.savez(tmp_path / "b.npz", class_names=np.array([], str), **pairs)
    dataset = datasets.open_dataset(f"npz:{tmp_path}/b.npz")
    assert (dataset.class_names, dataset.num_classes) == (None, 2)


def test_folders_that_are_not_read_are_said(tmp_path):
    for split in ("train", "eval", "extra"):
        write_images(tmp_path / "set" / split / "a")
    (tmp_path / "set" / "train" / "b").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "set" / "train" / "b" / "noend", "PNG")
    Image.new("RGB", (8, 8)).save(tmp_path / "set" / "train" / "beside", "PNG")
    dataset = datasets.open_dataset(f"folder:{tmp_path}/set")
    dataset.load("train", (8, 8))
    notes = "\n".join(dataset.notes)
    assert f"{tmp_path}/set: not read: eval, extra" in notes
    assert "1 file left out: 1 beside the class folders" in notes


def test_a_copy_answers_to_both_names_of_its_evaluation_split(tmp_path, capsys):
    """As its folder does, so that every recipe takes it; what cannot be read in it is said."""
    for split in ("train", "val"):
        write_images(tmp_path / "set" / split / "a")
    (tmp_path / "set" / "val" / "a" / "0.png").write_bytes(b"no image")
    out = tmp_path / "out"
    prepare.resize(f"folder:{tmp_path}/set", 16, str(out))
    note = "note: validation: 1 of 6 images cannot be read and are copied as they are: "
    assert f"{note}{tmp_path}/set/val/a/0.png: it is not an image" in capsys.readouterr().out
    copy = datasets.open_dataset("set_16", str(out))
    for split in ("test", "validation"):
        assert len(splits.load_source(copy, split, (8, 8))) == 6


def test_a_copy_keeps_several_labels_an_image(tmp_path, monkeypatch):
    class Photographs:
        """Two encoded images with labels in a tuple each."""

        labels = as_array([(2, 0), ()])

        def __len__(self):
            return 2

        def __getitem__(self, index):
            check_index(index, 2)
            return {"image": (tmp_path / "set" / f"{index}.png").read_bytes()} | {
                "label": self.labels[index]
            }

        def describe(self, index):
            return str(tmp_path / "set" / f"{index}.png")

    write_images(tmp_path / "set", 2)
    names = ("ant", "bee", "cat")
    dataset = datasets.Dataset(
        "mine", 3, 3, lambda split, size: Photographs(), multi_label=True, class_names=names
    )
    described = describe_source(dataset, tmp_path / "set", 16)
    monkeypatch.setattr(Photographs, "labels", as_array([(2,), ()]))
    assert describe_source(dataset, tmp_path / "set", 16)["splits"] != described["splits"]
    monkeypatch.undo()
    write_resized(dataset, "mine_16", "1.0.0", tmp_path / "out", 16, described)
    copy = datasets.open_dataset("mine_16", str(tmp_path / "out"))
    assert copy.multi_label and copy.class_names == names
    source = copy.load("train", (16, 16))
    assert [source[index]["label"] for index in (0, 1)] == [(2, 0), ()]
