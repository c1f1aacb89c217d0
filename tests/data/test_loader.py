"""Worker processes, parts of batches, unreadable images, repeated augmentation, memory."""

import gc
import itertools
import json
import multiprocessing
import os

import cv2
import numpy as np
import pytest

from data import loading
from data.bad_images import BadImages, TooManyBadImages
from data.batches import PART_BYTES
from data.pipeline import Data
from workdirs.results import BadImagesFile

ROW_BYTES = 16 * 16 * 3 + 4  # the image and its label
FLIP = {"flip": {"probability": 0.5}}


def write_folder(path, num_images=40, size=24, bad=()):
    """A folder of two classes, image i of grey level 3 * i; those in `bad` are cut off."""
    for split, count in (("train", num_images), ("val", 11)):
        for index in range(count):
            folder = path / split / ("even" if index % 2 == 0 else "odd")
            folder.mkdir(parents=True, exist_ok=True)
            image = np.full((size, size, 3), 3 * index % 256, np.uint8)
            encoded = cv2.imencode(".png", image)[1].tobytes()
            name = f"{index:03d}.png"
            (folder / name).write_bytes(encoded[:40] if (split, index) in bad else encoded)
    return f"folder:{path}"


def open_folder(name, **kwargs):
    options = {"image_size": 16, "batch_size": 8, "eval_batch_size": 8, "eval_split": "validation"}
    return Data(name=name, **{**options, **kwargs}).open()


def take(batches, count):
    result = list(itertools.islice(batches, count))
    if hasattr(batches, "close"):
        batches.close()
    return result


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for key in ("image", "label", "mask"):
            np.testing.assert_array_equal(a[key], b[key])


# --- worker processes -----------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_change_nothing_and_resume_in_epoch_two(tmp_path, num_workers, monkeypatch):
    # Parts of three images: several workers make one batch.
    monkeypatch.setattr("data.batches.PART_BYTES", 3 * ROW_BYTES)
    name = write_folder(tmp_path)
    whole = take(open_folder(name, augment=FLIP, num_threads=0).train_batches(), 11)
    data = open_folder(name, augment=FLIP, num_workers=num_workers, num_threads=1)
    batches = data.train_batches()
    for batch in whole[:6]:  # an epoch has 5 batches
        assert_same([next(batches)], [batch])
    state = json.loads(json.dumps(batches.get_state()))
    batches.close()
    assert state == {"batches": 6}
    # At each batch of epoch two, in other runs with and without workers.
    for k in range(5, 11):
        resumed = open_folder(name, augment=FLIP, num_workers=0).train_batches()
        resumed.set_state({"batches": k})
        assert_same(take(resumed, 11 - k), whole[k:])
    resumed = open_folder(name, augment=FLIP, num_workers=num_workers, num_threads=1)
    for k in (5, 9) if num_workers == 2 else (6, 7, 8, 10):
        assert_same(take(resumed.train_batches(start=k), 11 - k), whole[k:])
    assert_same(list(data.eval_batches()), list(open_folder(name).eval_batches()))


def test_an_error_in_a_worker_reaches_the_caller(tmp_path):
    name = write_folder(tmp_path, bad={("train", 4)})
    batches = open_folder(name, num_workers=1, bad_images="raise").train_batches()
    with pytest.raises(TooManyBadImages, match=r"004\.png.*data.bad_images=replace"):
        take(batches, 6)


@pytest.mark.parametrize("images_in_a_part", [1, 3, 8, 100])
def test_parts_of_batches_change_nothing(tmp_path, monkeypatch, images_in_a_part):
    name = write_folder(tmp_path)
    expected = open_folder(name, augment=FLIP)
    assert PART_BYTES > 40 * ROW_BYTES  # all in one part
    whole, evaluated = take(expected.train_batches(), 6), list(expected.eval_batches())
    monkeypatch.setattr("data.batches.PART_BYTES", images_in_a_part * ROW_BYTES)
    data = open_folder(name, augment=FLIP, num_threads=3)
    assert_same(take(data.train_batches(), 6), whole)
    assert_same(take(data.train_batches(start=3), 3), whole[3:])
    assert_same(list(data.eval_batches()), evaluated)


def test_waiting_time_is_counted(tmp_path):
    batches = open_folder(write_folder(tmp_path)).train_batches()
    assert batches.seconds_waited == 0
    next(batches)
    first = batches.seconds_waited
    next(batches)
    assert 0 < first < batches.seconds_waited < 60
    batches.close()


# --- unreadable images ----------------------------------------------------------------------------


def test_unreadable_images_are_replaced_from_their_index_alone(tmp_path):
    clean = open_folder(write_folder(tmp_path / "clean"))
    damaged = {("train", 4), ("train", 31)}
    name = write_folder(tmp_path / "damaged", bad=damaged)
    data = open_folder(name)
    bad = {
        index
        for index in range(len(data.train_source))
        if any(f"{i:03d}.png" in data.train_source.describe(index) for _, i in damaged)
    }
    assert len(bad) == 2
    for start in (0, 5):  # two epochs, in other orders
        expected = take(clean.train_batches(start), 5)
        batches = take(data.train_batches(start), 5)
        order = [
            int(i)
            for i in np.concatenate([b["image"][:, 0, 0, 0] for b in expected]).astype(int) // 3
        ]
        pixels = np.concatenate([b["image"][:, 0, 0, 0] for b in batches]).astype(int) // 3
        labels = np.concatenate([b["label"] for b in batches])
        changed = [old for old, new in zip(order, pixels, strict=True) if old != new]
        assert sorted(changed) == [4, 31]
        # The label is that of the replacing image, and the replacement the same each time.
        np.testing.assert_array_equal(labels, pixels % 2)
        replaced = {old: new for old, new in zip(order, pixels, strict=True) if old != new}
        if start == 0:
            first = replaced
        assert replaced == first
    assert len(data.bad) == 2


def test_replacement_depends_on_its_arguments_alone():
    draws = [loading.replacement(17, attempt, 1000) for attempt in range(1, 6)]
    assert draws == [loading.replacement(17, attempt, 1000) for attempt in range(1, 6)]
    assert len(set(draws)) > 3 and all(0 <= draw < 1000 for draw in draws)
    assert draws != [loading.replacement(18, attempt, 1000) for attempt in range(1, 6)]


def test_evaluation_leaves_unreadable_images_out(tmp_path):
    name = write_folder(tmp_path, bad={("val", 3), ("val", 10)})
    data = open_folder(name, eval_batch_size=4)
    batches = list(data.eval_batches())
    mask = np.concatenate([batch["mask"] for batch in batches])
    pixels = np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches]).astype(int) // 3
    assert sorted(pixels[mask == 1]) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert len(data.bad) == 2


def test_unreadable_images_are_listed_once_and_counted_over_runs(tmp_path):
    name = write_folder(tmp_path / "images", bad={("train", 4), ("train", 5), ("val", 3)})
    path = tmp_path / "bad_images.jsonl"
    data = open_folder(name, max_bad=3)
    data.bad.keep_in(BadImagesFile(path))
    take(data.train_batches(), 15)  # three epochs
    list(data.eval_batches())
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(entry["name"][-7:] for entry in entries) == ["003.png", "004.png", "005.png"]
    assert {entry["split"] for entry in entries} == {"train", "validation"}
    assert all(entry["reason"] for entry in entries)
    # A second run in the same folder goes on counting and lists nothing twice.
    again = open_folder(name, max_bad=3)
    again.bad.keep_in(BadImagesFile(path))
    take(again.train_batches(), 5)
    assert len(path.read_text().splitlines()) == 3 and len(again.bad) == 3


def test_too_many_unreadable_images_stop_the_run(tmp_path):
    name = write_folder(tmp_path / "images", bad={("train", i) for i in (1, 4, 9)})
    path = tmp_path / "bad_images.jsonl"
    data = open_folder(name, max_bad=2)
    data.bad.keep_in(BadImagesFile(path))
    with pytest.raises(TooManyBadImages) as error:
        take(data.train_batches(), 5)
    message = str(error.value)
    assert "config.data.max_bad=2: 3 images cannot be read" in message
    assert str(path) in message and ".png" in message and "\n" not in message


def test_running_again_does_not_get_past_the_limit(tmp_path):
    name = write_folder(tmp_path / "images", bad={("train", i) for i in (1, 4, 9)})
    path = tmp_path / "bad_images.jsonl"
    for _ in range(4):
        data = open_folder(name, max_bad=2)
        data.bad.keep_in(BadImagesFile(path))
        with pytest.raises(
            TooManyBadImages, match="config.data.max_bad=2: 3 images cannot be read"
        ):
            take(data.train_batches(), 5)
    for _ in range(4):
        data = open_folder(name, bad_images="raise")
        data.bad.keep_in(BadImagesFile(path))
        with pytest.raises(TooManyBadImages, match="data.bad_images=replace"):
            take(data.train_batches(), 5)
    data = open_folder(name, max_bad=3)
    data.bad.keep_in(BadImagesFile(path))
    take(data.train_batches(), 5)
    assert len(path.read_text().splitlines()) == 3


def test_nothing_but_unreadable_images(tmp_path):
    name = write_folder(tmp_path, bad={("train", i) for i in range(40)})
    with pytest.raises(ValueError, match="train_split='train': no image can be read: "):
        open_folder(name, max_bad=1000)


def test_the_list_survives_a_line_cut_off_by_a_crash(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"split": "train", "index": 3, "name": "a", "reason": "b"}\n{"split": "tr')
    bad = BadImages("replace", 5)
    bad.keep_in(BadImagesFile(path))
    assert len(bad) == 1
    bad.add("train", [(3, "a", "b"), (4, "c", "d")])
    assert len(bad) == 2


# --- repeated augmentation ------------------------------------------------------------------------


def test_repeated_augmentation(tmp_path):
    name = write_folder(tmp_path, num_images=40)
    data = open_folder(name, repeats=3, augment={"random_crop": {"padding": 6}})
    batches = take(data.train_batches(), 10)  # two epochs of 40 positions
    labels = np.concatenate([batch["label"] for batch in batches])
    images = np.concatenate([batch["image"] for batch in batches])
    level = images.reshape(80, -1).max(1) // 3  # of the image under its black border
    for epoch in (level[:40], level[40:]):
        groups = [set(epoch[i : i + 3]) for i in range(0, 39, 3)]
        assert all(len(group) == 1 for group in groups)
        assert len(set(epoch)) == 14  # 13 images three times and one once
    assert set(level[:40]) != set(level[40:])
    np.testing.assert_array_equal(labels[level > 0], (level % 2)[level > 0])
    # Copies of an image are augmented differently.
    different = [not np.array_equal(images[i], images[i + 1]) for i in range(0, 39, 3)]
    assert np.mean(different) > 0.8
    assert_same(take(data.train_batches(start=6), 4), batches[6:])
    np.testing.assert_array_equal(
        level, np.concatenate([b["image"].reshape(8, -1).max(1) // 3 for b in batches])
    )


# --- memory ---------------------------------------------------------------------------------------


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children_bytes():
    """Resident memory of this process's worker processes."""
    total = 0
    for child in multiprocessing.active_children():
        with open(f"/proc/{child.pid}/statm") as file:
            total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


@pytest.mark.linux
@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_memory_does_not_grow_over_three_epochs(tmp_path, num_workers):
    # An epoch decodes 96 MB and makes 24 MB of batches: keeping a tenth of it would show.
    write_folder(tmp_path, num_images=200, size=400)
    data = open_folder(
        f"folder:{tmp_path}",
        **{"image_size": 200, "batch_size": 10, "augment": FLIP},
        **{"num_threads": 2, "num_workers": num_workers},
    )
    batches = data.train_batches()
    sizes = []
    for _ in range(5):
        for _ in range(20):
            next(batches)
        gc.collect()
        sizes.append(resident_bytes() + children_bytes())
    batches.close()
    # What is kept shows in every epoch; buffers, the allocator's pools, and threads that earlier
    # tests left in this process, only in some.
    grown = np.diff(sizes)
    assert np.median(grown) < 3e6, sizes
