"""Folders of COCO-style JSON and of masks, in the layouts that people have."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

import train
from configs import ade20k_tnt, digits_segment
from data.annotations import coco_files, mask_files
from data.annotations.annotated import IGNORE, Annotated, Annotations, objects_of
from data.annotations.average_precision import objects_of_row
from data.annotations.pipeline import BoxData, Boxes, SegmentData
from data.digest import data_digest, digest_differences
from harness.errors import BadAnnotation, BadImage, ConfigError
from saving.checkpoints import can_resume
from tests.data.annotations.recipes import train_some_steps

SMALL = {"batch_size": 2, "eval_batch_size": 2, "image_size": 48, "eval_split": "validation"}


def image_file(path, height=30, width=40, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), value, np.uint8))


def annotation(number, image, category, box, **others):
    row = {"id": number, "image_id": image, "category_id": category, "bbox": box}
    return row | {"area": box[2] * box[3], "iscrowd": 0} | others


def content(images, annotations, categories=((3, "dog"), (1, "cat"), (18, "owl"))):
    return {
        "images": [{"id": i, "file_name": name, "height": 30, "width": 40} for i, name in images],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories],
    }


BOXES = [
    annotation(1, 7, 18, [4.5, 3, 10, 20.25]),
    annotation(2, 7, 1, [0, 0, 40, 30], iscrowd=1, area=640.5),
    annotation(3, 2, 3, [30, 20, 25, 25]),  # beyond the image
]
IMAGES = [(7, "b.png"), (2, "a.png"), (5, "no objects.png")]


def write_coco(root, val=None):
    """COCO's own layout, with another file of the same images beside it."""
    for _, name in IMAGES:
        image_file(root / "train2017" / name)
        image_file(root / "val2017" / name)
    (root / "annotations").mkdir(exist_ok=True)
    for split, written in (("train2017", None), ("val2017", val)):
        text = json.dumps(content(IMAGES, BOXES) if written is None else written)
        (root / f"annotations/instances_{split}.json").write_text(text)
    (root / "annotations/captions_val2017.json").write_text("[]")
    return root


def test_coco_as_it_is_published(tmp_path):
    found = coco_files.open_coco(write_coco(tmp_path))
    assert found.class_names == ("cat", "dog", "owl") and set(found.sources) == {
        "train",
        "validation",
    }
    data = BoxData(name=f"coco:{tmp_path}", max_objects=3, **SMALL).open()
    rows = list(data.eval_batches())
    batch = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
    assert batch["mask"].tolist() == [1, 1, 1, 0]
    assert batch["image_id"].tolist() == [2, 5, 7, 0]
    assert batch["labels"].tolist() == [[1, -1, -1], [-1] * 3, [2, 0, -1], [-1] * 3]
    assert batch["size"][:3].tolist() == [[30, 40]] * 3
    row = {key: array[2] for key, array in batch.items()}
    objects = objects_of_row(row)
    np.testing.assert_allclose(objects.boxes, [(4.5, 3, 14.5, 23.25), (0, 0, 40, 30)], atol=1e-5)
    assert objects.is_crowd.tolist() == [False, True] and objects.areas[1] == 640.5
    outside = objects_of_row({key: array[0] for key, array in batch.items()})
    np.testing.assert_allclose(outside.boxes, [(30, 20, 55, 45)], atol=1e-5)
    trained = next(data.train_batches())
    assert not trained["is_crowd"].any()


def test_json_beside_the_images(tmp_path):
    for split in ("train", "valid"):
        image_file(tmp_path / split / "a.png")
        written = content([(1, "a.png")], [{k: BOXES[0][k] for k in ("bbox",)}])
        written["annotations"][0] |= {"id": 1, "image_id": 1, "category_id": 3}
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(written))
    found = coco_files.open_coco(tmp_path)
    assert set(found.sources) == {"train", "validation"}
    objects = found.sources["validation"][0]["label"].objects
    assert objects.areas.tolist() == [10 * 20.25] and not objects.is_crowd.any()
    data = BoxData(name=f"coco:{tmp_path}", **{**SMALL, "eval_split": "test"}).open()
    assert data.dataset.num_classes == 3 and len(data.eval_source) == 1


@pytest.mark.parametrize(
    "written, message",
    [
        ({"images": []}, "COCO's form has images, annotations and categories"),
        ([], "COCO's form has images, annotations and categories"),
        (content([], []), "it lists no images"),
        (content(IMAGES, BOXES, ()), "its categories are none"),
        (content(IMAGES, BOXES, ((3, "a"), (3, "b"))), "its categories are not unique"),
        (content([(1, "a"), (1, "b")], []), "two images have the same id"),
        (content([("x", "a")], []), "an image's id is 'x'; allowed: 0 to 2147483647"),
        (content(IMAGES, [annotation(4, 7, 2, [0, 0, 1, 1])]), "annotation 4: .*no category 2"),
        (content(IMAGES, [annotation(4, 9, 1, [0, 0, 1, 1])]), "annotation 4: .*no image 9"),
        (content(IMAGES, [annotation(4, 7, 1, [0, 0, -1, 1])]), "annotation 4.*side is negative"),
        (content(IMAGES, [BOXES[0] | {"bbox": [0, 1, 2]}]), "annotation 1: bbox=.0, 1, 2."),
        (
            content(IMAGES, [BOXES[0] | {"bbox": [0, 1, float("nan"), 2]}]),
            "annotation 1: bbox=.*it must be left, top, width, height",
        ),
        (content(IMAGES, ["x"]), "an annotation is 'x'; it must be an object"),
        (content(IMAGES, [BOXES[0] | {"image_id": [7]}]), r"annotation 1: there is no image .7."),
        (content(IMAGES, [BOXES[0] | {"category_id": [1]}]), "annotation 1: .*no category .1."),
        (content(IMAGES, [BOXES[0] | {"area": None}]), "annotation 1: area=None; it must be a num"),
        (content(IMAGES, [BOXES[0] | {"bbox": None}]), "annotation 1: bbox=None; it must be left"),
        (content(IMAGES, [BOXES[0] | {"area": -5}]), "annotation 1: area=-5; it must be a number"),
        (content(IMAGES, [BOXES[0] | {"area": 10**400}]), "annotation 1: area=1000"),
        (
            content(IMAGES, [BOXES[0] | {"iscrowd": "0"}]),
            "annotation 1: iscrowd='0'; allowed: 0, 1",
        ),
        (content(IMAGES, [BOXES[0] | {"iscrowd": 2}]), "annotation 1: iscrowd=2; allowed: 0, 1"),
        (content([(7, None)], []), "image 7 has no file_name"),
        (content(IMAGES, BOXES, (([1], "x"),)), "COCO's form has images, annotations and categ"),
        (content(IMAGES, BOXES, ((1, "x"), (3, "y"), (18, "z"))), "other categories in"),
    ],
)
def test_what_is_not_in_cocos_form(tmp_path, written, message):
    write_coco(tmp_path, written)
    with pytest.raises(ValueError, match=message):
        coco_files.open_coco(tmp_path)


def test_json_as_other_programs_write_it(tmp_path):
    """With a byte-order mark, as Windows has it; with sizes of pandas, which are floats."""
    written = content(IMAGES, [row | {"iscrowd": bool(row["iscrowd"])} for row in BOXES])
    for row in written["images"]:
        row |= {"height": 30.0, "width": 40.0}
    write_coco(tmp_path)
    file = tmp_path / "annotations/instances_val2017.json"
    file.write_text(json.dumps(written), "utf-8-sig")
    source = coco_files.open_coco(tmp_path).sources["validation"]
    assert [source[index]["label"].size for index in range(3)] == [(30, 40)] * 3
    assert source[2]["label"].objects.is_crowd.tolist() == [False, True]


def of_roboflow(used, names=("birds", "birds", "owl"), split="val2017"):
    """A category above the others has the name of one of them."""
    rows = [annotation(n, 7, category, [0, 0, 5, 5]) for n, category in enumerate(used)]
    return content(IMAGES, rows, enumerate(names))


def test_two_categories_of_one_name(tmp_path):
    write_coco(tmp_path, of_roboflow([1]))
    train_file = tmp_path / "annotations/instances_train2017.json"
    train_file.write_text(json.dumps(of_roboflow([2, 1, 2])))
    found = coco_files.open_coco(tmp_path)
    assert found.class_names == ("birds", "owl")
    labels = found.sources["train"][2]["label"].objects.labels
    assert labels.tolist() == [1, 0, 1]
    assert coco_files.read_ids(train_file)[0] == {"birds": 1, "owl": 2}
    # Used in another split alone, or in none.
    for used in ([0], []):
        train_file.write_text(json.dumps(of_roboflow(used)))
        write_coco(tmp_path / "other", of_roboflow([1] if used else []))
        shutil.copy(train_file, tmp_path / "other/annotations")
        message = (
            r"instances_train2017.json: the categories 0 and 1 are both called 'birds'; rename"
        )
        with pytest.raises(ValueError, match=message):
            coco_files.open_coco(tmp_path / "other")


@pytest.mark.parametrize("kind", ["coco", "masks"])
def test_the_first_file_may_be_missing_as_any_other(tmp_path, kind):
    """Only the message differed: a run that lacked the first one did not begin."""
    if kind == "coco":
        write_coco(tmp_path)
        data, first = BoxData(name=f"coco:{tmp_path}", max_objects=3, **SMALL), "a.png"
        (tmp_path / "val2017/a.png").unlink()
        (tmp_path / "train2017/a.png").unlink()
    else:
        data, first = SegmentData(name=f"masks:{write_masks(tmp_path)}", **SMALL), "0.jpg"
    data = data.open()
    if kind == "masks":  # after the folders are listed; that of the mask, too
        (tmp_path / "images/validation/0.jpg").unlink()
        (tmp_path / "annotations/validation/1.png").unlink()
    with pytest.raises(BadImage, match="the file cannot be read: No such file or directory"):
        data.eval_source[0]
    assert data.eval_source.describe(0).endswith(first)
    masks = np.concatenate([batch["mask"] for batch in data.eval_batches()])
    assert masks.sum() == (2 if kind == "coco" else 1)


def test_an_image_of_another_size_than_its_annotations_is_left_out(tmp_path):
    """Such as a photo that was turned by its EXIF data where it was annotated."""
    write_coco(tmp_path)
    image_file(tmp_path / "val2017/b.png", height=40, width=30)
    data = BoxData(name=f"coco:{tmp_path}", max_objects=3, **SMALL).open()
    ids = np.concatenate([batch["image_id"] for batch in data.eval_batches()])
    mask = np.concatenate([batch["mask"] for batch in data.eval_batches()])
    assert ids[mask > 0].tolist() == [2, 5]
    unstated = content(IMAGES, BOXES)
    for row in unstated["images"]:
        row |= {"height": None}
    write_coco(tmp_path, unstated)
    image_file(tmp_path / "val2017/b.png", height=40, width=30)
    data = BoxData(name=f"coco:{tmp_path}", max_objects=3, **SMALL).open()
    assert sum(batch["mask"].sum() for batch in data.eval_batches()) == 3


def test_too_few_places_for_the_objects_are_found_at_the_start(tmp_path):
    data = BoxData(name=f"coco:{write_coco(tmp_path)}", max_objects=1, **SMALL)
    with pytest.raises(ValueError, match="max_objects=1: .*image 7 has 2 objects; .*from 2 on"):
        data.open()


def test_folders_without_json(tmp_path):
    with pytest.raises(ValueError, match="no COCO-style JSON file"):
        coco_files.open_coco(tmp_path)
    write_coco(tmp_path)
    (tmp_path / "annotations/instances_train2014.json").write_text("{}")
    with pytest.raises(ValueError, match="the split 'train' is there twice"):
        coco_files.open_coco(tmp_path)
    with pytest.raises(ValueError, match=r"config.data.name='coco:': there is no folder"):
        BoxData(name="coco:", **SMALL).check_there()


# --- masks ----------------------------------------------------------------------------------------

MASK = np.array([[0, 1, 2], [3, 3, 255]], np.uint8).repeat(10, 0).repeat(10, 1)  # [20, 30]


def write_masks(root, masks="annotations", names="classes.txt", mode="L"):
    for split in ("training", "validation"):
        for number in range(3):
            image_file(root / f"images/{split}/{number}.jpg", 20, 30)
            mask = Image.fromarray(MASK)
            if mode == "P":
                mask.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
            path = root / f"{masks}/{split}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            mask.save(path)
    if names == "classes.txt":
        (root / names).write_text("wall\nsky\nowl\ntree\n")
    else:
        lines = ["Idx\tRatio\tTrain\tVal\tName"]
        lines += [f"{i}  \t0.1\t1\t1\t{n}   " for i, n in enumerate(("wall", "sky, air", "owl"), 1)]
        (root / names).write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks(tmp_path, mode):
    write_masks(tmp_path, masks="masks", mode=mode)
    data = SegmentData(name=f"masks:{tmp_path}", **SMALL).open()
    assert data.dataset.class_names == ("wall", "sky", "owl", "tree")
    batch = next(iter(data.eval_batches()))
    np.testing.assert_array_equal(batch["segments"][0, :20, :30], MASK)
    assert (batch["segments"][:, 20:] == IGNORE).all()
    assert sum(b["mask"].sum() for b in data.eval_batches()) == 3


def test_masks_in_which_zero_counts_for_nothing(tmp_path):
    write_masks(tmp_path, names="objectInfo150.txt")
    data = SegmentData(name=f"masks:{tmp_path}", ignore_label=0, **SMALL).open()
    assert data.dataset.class_names == ("wall", "sky", "owl") and not data.dataset.notes
    batch = next(iter(data.eval_batches()))
    expected = np.where(MASK == 0, 255, np.where(MASK == 255, 255, MASK - 1))
    np.testing.assert_array_equal(batch["segments"][0, :20, :30], expected)


@pytest.mark.parametrize(
    ("ignored", "message"),
    [(0, "'Background' is that of pixels of number 1"), (2, "'owl' .* number 3")],
)
def test_names_that_are_easily_shifted_are_noted(tmp_path, ignored, message):
    write_masks(tmp_path)
    (tmp_path / "classes.txt").write_text("Background\nsky\nowl\ntree\n")
    data = SegmentData(name=f"masks:{tmp_path}", ignore_label=ignored, **SMALL).open()
    (note,) = data.dataset.notes
    assert re.search(message, note)


@pytest.mark.parametrize("kind", ["coco", "masks"])
def test_moved_data_are_the_same_and_other_annotations_are_not(tmp_path, kind):
    """What resuming a run compares."""
    write = {"coco": write_coco, "masks": write_masks}[kind]

    def digest(root):
        form = {"coco": BoxData, "masks": SegmentData}[kind]
        return data_digest(form(name=f"{kind}:{root}", **SMALL).open())

    before = digest(write(tmp_path / "old"))
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert digest(tmp_path / "new") == before
    if kind == "coco":
        boxes = [BOXES[0] | {"bbox": [4.5, 3, 10, 20]}, *BOXES[1:]]
        write_coco(tmp_path / "new", val=content(IMAGES, boxes))
    else:
        Image.fromarray(MASK[::-1]).save(tmp_path / "new/annotations/validation/1.png")
    (difference,) = digest_differences(before, digest(tmp_path / "new"))
    assert difference.startswith("eval: other ") and "contents" in difference


def test_the_recipe_of_ade20k_on_a_folder_laid_out_as_published(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    for folder, split, count in (("training", "train", 3), ("validation", "val", 2)):
        for kind in ("images", "annotations"):
            (root / kind / folder).mkdir(parents=True)
        for number in range(1, count + 1):
            name, mask = f"{folder}/ADE_{split}_{number:08d}", np.zeros((40, 60), np.uint8)
            mask[:20], mask[20:30] = 150, number
            image = np.full((40, 60, 3), 90, np.uint8)
            Image.fromarray(image).save(root / "images" / f"{name}.jpg")
            Image.fromarray(mask).save(root / "annotations" / f"{name}.png")
    rows = [f"{n}\t0.01\t10\t1\t0\tthing {n}, also {n}" for n in range(1, 151)]
    heading = "Idx\tRatio\tTrain\tVal\tStuff\tName"
    (root / "objectInfo150.txt").write_text("\n".join([heading, *rows]) + "\n")
    metrics = train_some_steps(ade20k_tnt, tmp_path / "run", name=f"masks:{root}")
    assert 0 <= metrics["mean_iou"] <= 1 and metrics["num_examples"] == 2
    names = (tmp_path / "run" / "classes.txt").read_text().splitlines()
    assert len(names) == 150 and names[149].startswith("thing 150")


def test_a_mask_that_is_all_ignored(tmp_path):
    write_masks(tmp_path)
    nothing = Image.fromarray(np.full((20, 30), 255, np.uint8))
    nothing.save(tmp_path / "annotations/validation/0.png")
    data = SegmentData(name=f"masks:{tmp_path}", **SMALL).open()
    batch = next(iter(data.eval_batches()))
    assert batch["mask"].tolist() == [1, 1] and (batch["segments"][0] == IGNORE).all()


def test_masks_that_cannot_be_used(tmp_path):
    write_masks(tmp_path)
    with pytest.raises(BadImage, match="the mask has 3 channels"):
        mask_files.decode_mask(cv2.imencode(".png", np.zeros((2, 2, 3)))[1].tobytes())
    with pytest.raises(BadImage, match="the mask cannot be read"):
        mask_files.decode_mask(b"\x89PNG nothing")
    with pytest.raises(ValueError, match="a.png: .* class 4; allowed: 0 to 3, 255"):
        mask_files.as_segments(np.full((2, 2), 4, np.uint8), 4, 255, "a.png")
    with pytest.raises(ValueError, match="a.png: .* class 9; allowed: 1 to 4, 0 and 255"):
        mask_files.as_segments(np.full((2, 2), 9, np.uint8), 4, 0, "a.png")
    # One of another size than its image is left out, as an image that cannot be read.
    Image.fromarray(MASK[:5]).save(tmp_path / "annotations/validation/1.png")
    data = SegmentData(name=f"masks:{tmp_path}", **SMALL).open()
    assert next(iter(data.eval_batches()))["mask"].tolist() == [1, 0]
    (tmp_path / "classes.txt").write_text("wall\nsky\n")
    data = SegmentData(name=f"masks:{tmp_path}", **SMALL).open()
    with pytest.raises(ValueError, match=r"0\.png: the mask has a pixel of class 2; allowed: 0 t"):
        next(iter(data.eval_batches()))


@pytest.mark.parametrize(
    ("names", "lines"), [("classes.txt", "1 and 3"), ("objectInfo150.txt", "2 and 4")]
)
def test_two_classes_of_one_name(tmp_path, names, lines):
    write_masks(tmp_path, names=names)
    (tmp_path / names).write_text((tmp_path / names).read_text().replace("owl", "wall"))
    with pytest.raises(
        ValueError, match=f"lines {lines} of the names of the classes are both 'wal"
    ):
        mask_files.open_masks(tmp_path)


def test_folders_that_are_not_laid_out_so(tmp_path):
    with pytest.raises(ValueError, match="it must have a folder images and one of annotations"):
        mask_files.open_masks(tmp_path)
    write_masks(tmp_path)
    (tmp_path / "annotations/training/2.png").unlink()
    with pytest.raises(ValueError, match="1 of its 3 images have no mask, such as .*2.jpg"):
        mask_files.open_masks(tmp_path)
    (tmp_path / "images/training/2.jpg").unlink()
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(ValueError, match=re.escape("no classes.txt with the names")):
        mask_files.open_masks(tmp_path)


def test_masks_of_one_split_in_two_folders(tmp_path):
    """As Cityscapes has them: train and train_extra."""
    write_masks(tmp_path)
    for kind in ("images", "annotations"):
        shutil.copytree(tmp_path / kind / "training", tmp_path / kind / "train_extra")
    with pytest.raises(ValueError, match="'train' is there twice: .*train_extra, .*training; ren"):
        mask_files.open_masks(tmp_path)
    shutil.rmtree(tmp_path / "annotations/train_extra")  # without masks it is none to learn from
    assert len(mask_files.open_masks(tmp_path).pairs["train"]) == 3


def of_masks(root):
    """A tiny training on what write_masks writes."""
    config = digits_segment.get_config("debug")
    config.model.update(dims=(8, 16), depths=(1, 1), num_heads=(2, 2))
    config.decoder.update(dim=16, num_heads=2, mask_dim=8)
    config.data.update(name=f"masks:{root}", train_split="train", eval_split="validation")
    config.data.update(image_size=32, batch_size=1, eval_batch_size=1)
    config.loop.update(num_epochs=1.0, save_every_epochs=1.0, evaluate_every_epochs=1 / 3)
    config.mesh.data = 1
    return config


@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize("split", ["training", "validation"])
def test_a_wrong_label_ends_a_run_with_one_line_after_a_save(tmp_path, monkeypatch, split):
    """What a classes.txt that is a line short leads to."""
    config = of_masks(write_masks(tmp_path / "data"))
    mask = tmp_path / f"data/annotations/{split}/1.png"
    Image.fromarray(np.full((20, 30), 4, np.uint8)).save(mask)
    line = f"{mask}: the mask has a pixel of class 4; allowed: 0 to 3, 255"
    # Of few images all are looked at before anything is written.
    with pytest.raises(ConfigError) as error:
        train.train_and_evaluate(config, tmp_path / "run")
    assert str(error.value) == line and error.value.exit_code == 2
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("data.digest.NUM_CONTENTS", 1)
    with pytest.raises(ConfigError) as error:
        train.train_and_evaluate(config, tmp_path / "run")
    assert str(error.value) == line
    assert can_resume(tmp_path / "run")
    Image.fromarray(MASK).save(mask)
    assert train.train_and_evaluate(config, tmp_path / "run")["num_examples"] == 3


def test_a_wrong_label_in_a_worker_process(tmp_path):
    write_masks(tmp_path)
    (tmp_path / "classes.txt").write_text("wall\nsky\n")
    data = SegmentData(name=f"masks:{tmp_path}", num_workers=1, **SMALL).open()
    with pytest.raises(
        BadAnnotation, match=r"\.png: the mask has a pixel of class 2; allowed: 0 t"
    ):
        next(data.train_batches())


def test_too_many_objects_in_a_record_whose_set_does_not_count_them():
    objects = objects_of([(0, 0, 1, 1)] * 3, [0] * 3, [1] * 3, [False] * 3)
    item = Annotated(np.zeros((2, 2, 3), np.uint8), objects, (2, 2))
    with pytest.raises(BadAnnotation, match="max_objects=2: image 7 has 3 objects; .*from 3 on"):
        Boxes((4, 4, 3), 2).finish(item, Annotations(image_id=7))
