"""A made-up archive in the form of iNaturalist 2019's (visipedia/inat_comp, 2019/README.md)."""

import json
import pickle
import shutil

import cv2
import numpy as np
import pytest

from data import datasets, prepare, splits
from data.images import decode_image
from data.pipeline import Data
from harness.errors import ConfigError, input_errors

# Category -> its name and super-category. The order of the labels is that of the numbers.
CATEGORIES = {2: ("b", "Plants"), 10: ("c", "Birds"), 0: ("a", "Plants"), 11: ("d", "Birds")}
LABELS = {0: 0, 2: 1, 10: 2, 11: 3}
TRAIN = [10, 0, 2, 2, 11, 0, 10, 2]  # categories of the images; each is as grey as its category
VALIDATION = [11, 2]


def write_annotations(root, split, categories, first_id):
    images, annotations = [], []
    for number, category in enumerate(categories, start=first_id):
        _, above = CATEGORIES[category]
        name = f"train_val2019/{above}/{category}/{number:032x}.jpg"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.full((40, 50, 3), 20 * category, np.uint8))
        images.append({"id": number, "file_name": name, "width": 50, "height": 40})
        annotations.append({"id": number, "image_id": number, "category_id": category})
    content = {
        "images": images,
        "annotations": annotations[::-1],  # matched by image_id, not by place
        "categories": [{"id": i, "name": name} for i, (name, _) in CATEGORIES.items()],
    }
    (root / f"{split}2019.json").write_text(json.dumps(content))


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "inat2019"
    root.mkdir()
    write_annotations(root, "train", TRAIN, 100)
    write_annotations(root, "val", VALIDATION, 7)
    return root


def category_of(image):
    return round(float(decode_image(image).mean()) / 20)


def test_labels_are_those_of_the_annotations(archive):
    dataset = datasets.open_dataset(f"inat:{archive}")
    assert (dataset.num_classes, dataset.class_names) == (4, ("a", "b", "c", "d"))
    for split, categories in (("train", TRAIN), ("test", VALIDATION), ("val", VALIDATION)):
        source = splits.load_source(dataset, split, (8, 8))
        records = [source[i] for i in range(len(source))]
        found = [(category_of(record["image"]), record["label"]) for record in records]
        assert sorted(found) == sorted((category, LABELS[category]) for category in categories)
        assert list(source.labels) == [record["label"] for record in records]


def test_order_depends_on_the_names_alone(archive, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(archive, moved)
    content = json.loads((moved / "train2019.json").read_text())
    content["images"].reverse()
    (moved / "train2019.json").write_text(json.dumps(content))
    sources = [
        datasets.open_dataset(f"inat:{root}").load("train", (8, 8)) for root in (archive, moved)
    ]
    names = [[s.describe(i)[-36:] for i in range(len(s))] for s in sources]
    assert names[0] == names[1] != sorted(names[0])
    copy = pickle.loads(pickle.dumps(sources[0]))
    assert [copy[i]["label"] for i in range(len(copy))] == list(sources[1].labels)


def test_batches(archive):
    data = Data(name=f"inat:{archive}", image_size=8, batch_size=4, eval_batch_size=2).open()
    (batch,) = data.eval_batches()
    assert sorted(batch["label"].tolist()) == sorted(LABELS[c] for c in VALIDATION)
    assert data.num_train_examples == len(TRAIN)


def test_a_smaller_copy(archive, tmp_path):
    with input_errors():
        prepare.resize(f"inat:{archive}", 16, str(tmp_path))
    dataset = datasets.open_dataset("inat2019_16", str(tmp_path))
    assert dataset.class_names == ("a", "b", "c", "d")
    source = dataset.load("train", (8, 8))
    found = [(category_of(source[i]["image"]), source[i]["label"]) for i in range(len(source))]
    assert sorted(found) == sorted((category, LABELS[category]) for category in TRAIN)


def rewrite(change):
    def damage(root):
        file = root / "train2019.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "train2019.json").unlink(), "one train2019.json, .*: none"),
        (
            lambda root: shutil.copy(root / "train2019.json", root / "train2018.json"),
            "one train2019.json, or of another year: train2018.json, train2019.json",
        ),
        (lambda root: (root / "val2019.json").write_text("{"), "val2019.json cannot be read: "),
        (lambda root: (root / "val2019.json").write_text("[]"), "val2019.json is no list of ann"),
        (lambda root: (root / "val2019.json").write_text("{}"), "images: no 'annotations'"),
        (rewrite(lambda content: content.pop("categories")), "no categories: no 'categories'"),
        (rewrite(lambda c: c["categories"].pop(0)), "1 of 2 images have no category .*/2/.*jpg"),
        (rewrite(lambda c: c["annotations"].pop()), "1 of 8 images have no category .*/10/.*jpg"),
        (rewrite(lambda c: c["images"].clear()), "train2019.json: no image"),
        (
            rewrite(lambda c: c["categories"].append({"id": 99, "name": "a"})),
            "two categories have the name 'a'",
        ),
        (
            rewrite(lambda c: c["categories"].append(c["categories"][0] | {"name": "z"})),
            "two categories have the id",
        ),
        (lambda root: (root / "val2019.json").unlink(), "eval_split='test': 'test' is unknown"),
        (lambda root: shutil.rmtree(root / "train_val2019"), "not there: extract the images"),
    ],
)
def test_what_is_wrong_is_said(archive, damage, message):
    damage(archive)
    with pytest.raises(ConfigError, match=message) as error, input_errors():
        Data(name=f"inat:{archive}", image_size=8, batch_size=4, eval_batch_size=2).open()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["folder:", "inat:", "npz:"])
def test_a_path_has_to_be_given(name):
    with pytest.raises(
        ValueError, match=f"'{name}': there is no .*; give its path, .*name={name}/"
    ):
        datasets.check_name(datasets.absolute_name(name))
