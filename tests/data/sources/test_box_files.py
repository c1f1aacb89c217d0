"""Boxes of a folder's images: tables, and annotations in the form of ImageNet's."""

import os

import numpy as np
import pytest
from PIL import Image

from data import datasets, splits
from harness.errors import BadImage

FILES = ("train/robin/1.png", "train/wren/2.png", "val/robin/7.png", "val/wren/b c.png")
HEADER = "file,label,top,left,bottom,right\n"
# ILSVRC2012_val_00000001.xml has this form.
XML = """<annotation>
  <folder>val</folder><filename>{name}</filename>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
  {objects}
</annotation>"""
OBJECT = """<object><name>{}</name><bndbox>
  <xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


@pytest.fixture
def root(tmp_path):
    """A data set of images of 40 x 80 pixels."""
    for name in FILES:
        path = tmp_path / "birds" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((40, 80, 3), np.uint8)).save(path)
    return tmp_path / "birds"


def load(root, split="val"):
    return splits.load_source(datasets.open_dataset(f"folder:{root}"), split, (8, 8))


def boxes_of(source):
    """File name -> boxes as lists."""
    names = [os.path.basename(source.describe(i)) for i in range(len(source))]
    return {name: source.boxes(i).tolist() for i, name in enumerate(names)}


def test_a_table_of_boxes(root):
    rows = "val/robin/7.png,robin,10,20,30,60\nval/robin/7.png,wren,0,0,40,80\n"
    (root / "boxes.csv").write_text(HEADER + rows + "val/wren/b c.png,,0,0,20.5,8\n")
    source = load(root)
    half = np.float32(0.5125)  # 20.5 of 40
    assert boxes_of(source) == {
        "7.png": [[0, 0.25, 0.25, 0.75, 0.75], [1, 0, 0, 1, 1]],
        "b c.png": [[1, 0, 0, half, np.float32(0.1)]],
    }
    assert source.boxes(0).dtype == np.float32 and source.labels.tolist() == [
        source[i]["label"] for i in range(2)
    ]
    # The columns in another order, without labels, as another system writes them, in the split.
    text = "right, bottom,left,top,file\r\n8,40,0,0,robin/7.png\r\n"
    (root / "boxes.csv").unlink()
    (root / "val/boxes.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert boxes_of(load(root)) == {"7.png": [[0, 0, 0, 1, np.float32(0.1)]], "b c.png": []}
    assert not hasattr(load(root, "train"), "boxes")


def test_boxes_of_parts_and_of_a_held_out_tenth(root):
    (root / "boxes.csv").write_text(HEADER + "".join(f"{name},,0,0,40,80\n" for name in FILES))
    for split in ("val[:1]", "train+val", "val[50%:]+train[:1]"):
        source = load(root, split)
        found = [source.boxes(i)[0, 0] for i in range(len(source))]
        assert found == [source[i]["label"] for i in range(len(source))]
    flat = root / "train"
    for number in range(5):
        Image.fromarray(np.zeros((40, 80, 3), np.uint8)).save(flat / f"wren/{number}.png")
    (flat / "boxes.csv").write_text(HEADER + "wren/2.png,,0,0,40,80\n")
    sources = [load(flat, split) for split in ("train", "validation")]
    found = [len(source.boxes(i)) for source in sources for i in range(len(source))]
    assert sum(found) == 1 and len(found) == 6


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("val/robin/7.png,owl,0,0,9,9", "line 2: there is no class 'owl'"),
        ("val/robin/7.png,,0,0,9,x", "line 2: top, left, bottom, right must be numbers"),
        ("val/robin/7.png,,0,0,9", "line 2: 5 values for the 6 columns"),
        ("val/robin/7.png,,0,0,9,9,77", "line 2: 7 values for the 6 columns"),
        ("val/robin/7.png,,9,0,9,9", "line 2: a box has 0 <= top < bottom"),
        ("val/robin/7.png,,0,-1,9,9", "line 2: a box has 0 <= top < bottom"),
        ("val/robin/7.png,,0,0,inf,9", "line 2: a box has"),
        ("val/robin/8.png,,0,0,9,9", "line 2: there is no file 'val/robin/8.png'"),
        ("val/robin/7.png,,0,0,9,9\n\nval/robin/7.png,,0,0,9,", "line 4: top, left"),
    ],
)
def test_errors_name_the_line(root, line, words):
    (root / "boxes.csv").write_text(f"{HEADER}{line}\n")
    with pytest.raises(ValueError) as error:
        load(root)
    assert f"boxes.csv, {words}" in str(error.value) and "\n" not in str(error.value)


def test_boxes_outside_of_the_image_and_wrong_columns(root):
    (root / "boxes.csv").write_text(f"{HEADER}val/robin/7.png,,0,0,60,40\n")  # x and y confused
    source = load(root)
    with pytest.raises(ValueError, match=r"line 2: .* not lie in the image of 40 x 80 pixels"):
        [source.boxes(i) for i in range(2)]
    for header in ("file,x,y,w,h", "file,top,left,bottom", "file,file,top,left,bottom,right"):
        (root / "boxes.csv").write_text(f"{header}\n")
        with pytest.raises(ValueError, match="line 1: the columns are"):
            load(root)
    (root / "boxes.csv").write_text(f"{HEADER}val/robin/7.png,,0,0,9,9\n")
    source = load(root)
    (root / "val/robin/7.png").write_bytes(b"broken")
    with pytest.raises(BadImage):
        [source.boxes(i) for i in range(2)]


@pytest.mark.parametrize("place", ["birds/Annotations/val", "Annotations/val", "Annotation/robin"])
def test_annotations_in_or_beside_the_folder(root, place):
    place = root.parent / place
    place.mkdir(parents=True)
    objects = OBJECT.format("robin", 20, 10, 60, 30) + OBJECT.format("owl", 0, 0, 9, 9)
    name = "7.xml" if place.name == "val" else "../7.xml"
    text = XML.format(name="7", width=80, height=40, objects=objects)
    (place / name).write_text(text)
    assert boxes_of(load(root)) == {"7.png": [[0, 0.25, 0.25, 0.75, 0.75]], "b c.png": []}
    # A name of no class, alone in its file, means the image's class; here of an image twice as big.
    text = XML.format(name="7", width=160, height=80, objects=OBJECT.format("bird", 0, 0, 80, 80))
    (place / name).write_text(text)
    assert boxes_of(load(root))["7.png"] == [[0, 0, 0, 1, 0.5]]
    (place / name).write_text(text.replace("<xmin>0</xmin>", ""))
    with pytest.raises(ValueError, match=r"7\.xml is no annotation"):
        boxes_of(load(root))
    assert "Annotations" not in "".join(datasets.open_dataset(f"folder:{root}").notes)


def test_kaggles_folders_of_imagenet(tmp_path):
    images = tmp_path / "ILSVRC/Data/CLS-LOC/val"
    notes = tmp_path / "ILSVRC/Annotations/CLS-LOC/val"
    for folder in (images, notes):
        folder.mkdir(parents=True)
    solution = ["ImageId,PredictionString"]
    for number, synset in enumerate(("n01440764", "n02119789"), start=1):
        name = f"ILSVRC2012_val_{number:08d}"
        Image.fromarray(np.zeros((40, 80, 3), np.uint8)).save(images / f"{name}.JPEG")
        objects = OBJECT.format(synset, 20, 10, 60, 30)
        (notes / f"{name}.xml").write_text(
            XML.format(name=name, width=80, height=40, objects=objects)
        )
        solution.append(f"{name},{synset} 20 10 60 30 ")
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(solution))
    source = load(images.parent)
    for index in range(2):
        label = source[index]["label"]
        assert source.boxes(index).tolist() == [[label, 0.25, 0.25, 0.75, 0.75]]
