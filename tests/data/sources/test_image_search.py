"""Which files of a folder are its images, for training, preparing and predicting alike."""

import errno
import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from data import datasets, prepare
from data.images import decode_image, endings, formats
from data.sources.image_search import Tally, find_images
from inference.given_images import find_files

PHOTO = Image.fromarray(np.ascontiguousarray(load_sample_image("china.jpg")[::8, ::8]))


def make(root, *files):
    """Small PNGs under these names; what has another ending is no image."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PHOTO.save(root / name, "PNG")
    return root


def search(folder):
    tally = Tally()
    return sorted(map(os.fsdecode, find_images(folder, tally))), tally


# Endings that were not listed before.
NEW = {"AVIF": ".avif", "JPEG2000": ".jp2", "TGA": ".tga", "DDS": ".dds", "PCX": ".PCX"}


@pytest.mark.parametrize(("file_format", "ending"), NEW.items())
def test_a_format_that_can_be_decoded_is_taken(tmp_path, file_format, ending):
    Image.init()
    if file_format not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {file_format}")
    PHOTO.save(tmp_path / f"a{ending}", file_format)
    PHOTO.save(tmp_path / "without", file_format)  # the first bytes say it; TGA has none
    found, tally = search(tmp_path)
    assert found == [f"a{ending}", "without"][: 1 if file_format == "TGA" else 2]
    image = decode_image((tmp_path / f"a{ending}").read_bytes())
    expected = np.asarray(Image.open(tmp_path / f"a{ending}").convert("RGB"))
    np.testing.assert_array_equal(image, expected)
    assert tally.told() == ("1 file left out: 1 without an ending" if len(found) == 1 else "")


def test_what_is_no_photograph_is_not_taken():
    former = ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pnm"
    assert set(former.split()) <= endings()
    others = {".pdf", ".eps", ".ps", ".wmf", ".mpg", ".h5", ".grib", ".pfm", ".palm", ".txt", ""}
    assert not endings() & others
    assert formats()[:2] == ("JPEG", "PNG") and not set(formats()) & {"EPS", "WMF", "HDF5"}


def test_what_is_left_out_is_counted(tmp_path):
    files = ["a.jpg", "b.txt", "c.TXT", "d.mp4", "sub/e.PNG", "sub/deep/f.png", ".hidden.txt"]
    make(tmp_path, *files, ".git/x.png", "sub/.cache/y.png")
    (tmp_path / "README").write_text("Python and other text: P3 is a PPM's mark, Py another\n")
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    found, tally = search(tmp_path)
    assert found == ["a.jpg", "sub/deep/f.png", "sub/e.PNG"]
    line = (
        f"{tmp_path}: 5 files left out: 2 .txt, 1 .mp4, 1 without an ending, 1 neither file nor "
        "folder; 2 of 3 images lie in subfolders"
    )
    note = tally.note(tmp_path)
    assert sorted(note.replace(";", ",").split(", ")) == sorted(line.replace(";", ",").split(", "))
    assert note.startswith(f"{tmp_path}: 5 files left out: 2 .txt, ")


def test_a_note_is_one_printable_line(tmp_path):
    make(tmp_path, *(f"{i}.e{i}" for i in range(9)))
    for name in (b"x.\xff", b"y.a\nb"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    note = search(tmp_path)[1].note(tmp_path)
    assert note.encode() and "\n" not in note and note.endswith(", 6 others")


def test_links_are_followed_but_not_in_circles(tmp_path):
    elsewhere = make(tmp_path / "elsewhere", "in/x.png", "in/y.png")
    root = make(tmp_path / "set", "a/1.png", "a/sub/2.png", "b/3.png")
    (root / "a/linked").symlink_to(elsewhere / "in", target_is_directory=True)
    (root / "a/4.png").symlink_to(root / "b/3.png")
    (root / "a/gone.png").symlink_to(root / "nothere.png")  # named when it is read
    for name, target in (("up", ".."), ("self", "."), ("sub/up", "../..")):
        (root / "a" / name).symlink_to(target, target_is_directory=True)
    (elsewhere / "in/back").symlink_to(elsewhere, target_is_directory=True)
    found, tally = search(root / "a")
    expected = ["1.png", "4.png", "gone.png", "linked/x.png", "linked/y.png", "sub/2.png"]
    assert found == expected
    assert tally.told() == "4 files left out: 4 that lead to a folder above"
    # A class folder that is a link to the folder of all classes is a circle too.
    (root / "all").symlink_to(root, target_is_directory=True)
    assert search(root / "all")[0] == []


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    make(tmp_path, "a/1.png", "a/shut/2.png", "b/3.png")
    list_folder = os.scandir

    def scandir(path):
        if os.fsdecode(path).rstrip("/").endswith("shut"):  # root, too, cannot read it
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert find_files([str(tmp_path)])[1] == [
        f"{tmp_path}/a/shut: the folder cannot be read: Permission denied"
    ]
    dataset = datasets.open_dataset(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="a/shut cannot be read: Permission denied"):
        dataset.load("train", (8, 8))


def test_training_preparing_and_predicting_take_the_same(tmp_path, capsys):
    names = ["train/a/1.png", "train/a/x/2.tga", "train/a/x/y/3.webp", "train/b/4", "val/a/5.png"]
    root = make(tmp_path / "birds", *names, "train/a/1.txt", "train/b/z/t.mp4", "train/beside.jpg")
    (tmp_path / "more").mkdir()
    make(tmp_path / "more", "6.jp2")
    (root / "train/b/linked").symlink_to(tmp_path / "more", target_is_directory=True)
    dataset = datasets.open_dataset(f"folder:{root}")
    source = dataset.load("train", (8, 8))
    taken = {source.describe(i) for i in range(len(source))}
    assert taken == {f"{root}/{n}" for n in (*names[:4], "train/b/linked/6.jp2")}
    predicted, _, _ = find_files([f"{root}/train/a", f"{root}/train/b"])
    assert set(map(str, predicted)) == taken
    (note,) = dataset.notes
    assert note.startswith(f"{root}/train: 3 files left out: ") and "1 .mp4" in note
    assert "1 beside the class folders" in note
    assert note.endswith("; 3 of 5 images lie in subfolders of the class folders")
    capsys.readouterr()
    prepare.resize(f"folder:{root}", 8, str(tmp_path / "prepared"))
    assert f"note: {note}\n" in capsys.readouterr().out
    copy = datasets.open_dataset("birds_8", str(tmp_path / "prepared"))
    assert len(copy.load("train", (8, 8))) == 5


def test_the_order_of_records_is_that_of_earlier_versions(tmp_path):
    """Runs go on with it bit for bit: the first eight bytes of BLAKE2b of "class/name"."""
    files = [f"{c}/{i}.png" for c in "ab" for i in range(30)]
    make(tmp_path, *(f"train/{f}" for f in files), "val/a/1.png")
    source = datasets.open_dataset(f"folder:{tmp_path}").load("train", (8, 8))
    expected = sorted(files, key=lambda f: hashlib.blake2b(f.encode(), digest_size=8).digest())
    assert [source.describe(i) for i in range(60)] == [f"{tmp_path}/train/{f}" for f in expected]


def test_files_with_an_ending_are_not_opened(tmp_path, monkeypatch):
    make(tmp_path, *(f"{i}.jpg" for i in range(50)))
    monkeypatch.setattr(sys.modules["data.sources.image_search"], "is_image", None)
    assert len(search(tmp_path)[0]) == 50
