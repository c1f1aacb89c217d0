"""A folder of images with COCO-style JSON files that say what lies where.

    coco/annotations/instances_train2017.json      birds/train/_annotations.coco.json
    coco/train2017/000000000009.jpg                birds/train/a.jpg
    coco/annotations/instances_val2017.json        birds/valid/_annotations.coco.json
    coco/val2017/000000000139.jpg                  birds/valid/b.jpg

On the left as COCO publishes it: a file of `annotations` belongs to the folder of its name. Right:
one JSON file beside the images. A name that begins with train, val or test is that split.

Reference: https://cocodataset.org/#format-data
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.annotations.annotated import Annotations, objects_of
from data.sources.arrays import Record, check_index
from harness.arguments import problem
from harness.errors import BadImage, printable

_ANNOTATIONS = "annotations"
_PREFIX = "instances_"
# COCO's other files, of the same images.
_OTHERS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
_SPLIT = re.compile(r"(train|test|val)", re.IGNORECASE)
_WHOLE = {"train": "train", "val": "validation", "test": "test"}
MAX_ID = 2**31 - 1  # batches hold int32


class CocoSource:
    """The images of one JSON file, in the order of their ids."""

    def __init__(self, root: Path, files: list[str], labels: list[Annotations]):
        self._root = root
        self._files = files
        self._labels = labels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        check_index(index, len(self))
        encoded = read_image(self._root / self._files[index])
        return {"image": encoded, "label": self._labels[index]}

    def check_count(self, most: int) -> None:
        """Raises ValueError if an image has more objects than config.data.max_objects."""
        fullest = max(self._labels, key=lambda label: len(label.objects))
        if (count := len(fullest.objects)) > most:
            what = f"{self._root}: image {fullest.image_id} has {count} objects"
            raise ValueError(problem("config.data.max_objects", most, what, f"from {count} on"))

    def describe(self, index: int) -> str:
        check_index(index, len(self))
        return str(self._root / self._files[index])


@dataclass(frozen=True)
class CocoFolder:
    """What is known before a split is loaded.

    Attributes:
        class_names: in the order of the labels, which is that of the categories' ids.
        sources: split -> its images.
    """

    class_names: tuple[str, ...]
    sources: dict[str, CocoSource]


def read_image(path: Path) -> bytes:
    """Returns the contents of a file; raises BadImage if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImage(f"the file cannot be read: {error.strerror or error}") from error


def split_of(name: str) -> str:
    """Returns "train", "validation" or "test" for names that begin so, others as they are."""
    match = _SPLIT.match(name)
    return _WHOLE[match[1].lower()] if match else re.sub(r"\W", "_", name)


def open_coco(path: Path) -> CocoFolder:
    """Reads the JSON files of a folder.

    Args:
        path: laid out as above.

    Raises:
        ValueError: there is no such file, its split is there twice, two categories have one name,
            or what it says is not in COCO's form: names the file and the annotation.
    """
    found, categories = {}, {}
    for file, images in _files_of(path):
        split = split_of(file.parent.name if images == file.parent else images.name)
        if split in found:
            raise ValueError(f"{path}: the split {split!r} is there twice: {found[split]}, {file}")
        found[split] = file, images
    if not found:
        raise ValueError(
            f"{path}: no COCO-style JSON file; it should be annotations/{_PREFIX}NAME.json beside "
            "a folder NAME of images, or one .json file beside the images of each split"
        )
    contents = {}
    for split, (file, _) in found.items():
        contents[split], categories[split] = _read(file)
    (first, names), *others = categories.items()
    for split, theirs in others:
        if theirs != names:
            what = f"other categories in {found[split][0]} than in {found[first][0]}"
            raise ValueError(f"{path}: {what}")
    names = _called_once(found[first][0], names, contents.values())
    sources = {
        split: _source(file, images, contents.pop(split), list(names))
        for split, (file, images) in found.items()
    }
    return CocoFolder(tuple(names.values()), sources)


def read_ids(file: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Returns name -> id of the categories of a file, and of its images, without their folders.

    Raises:
        ValueError: it is not in COCO's form, or a name is there twice.
    """
    content, categories = _read(file)
    categories = _called_once(file, categories, [content])
    results = []
    images = {number: Path(name).name for number, name in _names(file, content).items()}
    for kind, names in (("categories", categories), ("images", images)):
        ids = {name: number for number, name in names.items()}
        if len(ids) < len(names):
            twice = next(name for number, name in names.items() if ids[name] != number)
            raise ValueError(f"{file}: two {kind} are called {twice!r}")
        results.append(ids)
    return results[0], results[1]


def _read(file: Path) -> tuple[Any, dict[int, str]]:
    """Returns what a file has, and id -> name of its categories."""
    try:
        content = json.loads(file.read_bytes())  # with or without a byte-order mark
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    return content, _categories(file, content)


def _files_of(path: Path) -> list[tuple[Path, Path]]:
    """Returns each JSON file with the folder of its images."""
    found = []
    for file in sorted((path / _ANNOTATIONS).glob("*.json")):
        if not file.name.startswith(_OTHERS):
            name = file.stem.removeprefix(_PREFIX)
            folders = (path / name, path / "images" / name)
            found.append((file, next((f for f in folders if f.is_dir()), folders[0])))
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and folder.name != _ANNOTATIONS:
            found += [(file, folder) for file in sorted(folder.glob("*.json"))]
    return found


def _categories(file: Path, content: Any) -> dict[int, str]:
    """Returns id -> name, in rising order of the ids."""
    try:
        rows = sorted((row["id"], str(row["name"])) for row in content["categories"])
        names = dict(rows)
        for key in ("images", "annotations"):
            _ = content[key][:0]
    except (AttributeError, KeyError, TypeError) as error:
        what = f"COCO's form has images, annotations and categories ({error!r})"
        raise ValueError(f"{file}: {what}") from None
    if len(names) < len(rows) or not rows:
        raise ValueError(f"{file}: its categories are {'none' if not rows else 'not unique'}")
    return {number: printable(name) for number, name in rows}


def _called_once(file: Path, names: dict[int, str], contents: Iterable[Any]) -> dict[int, str]:
    """Returns id -> name of the categories without those that only repeat a name.

    Roboflow writes one above the others, often under the name of one of them, that no annotation
    uses. Results of classes go by their names: of two that are used one's would be lost.

    Args:
        file: for the error.
        names: id -> name.
        contents: of the files of all splits.
    """
    count = Counter(names.values())
    if len(count) == len(names):
        return names
    rows = (row for content in contents for row in content["annotations"] if isinstance(row, dict))
    used = {number for row in rows if isinstance(number := row.get("category_id"), int | str)}
    kept = {number: name for number, name in names.items() if count[name] == 1 or number in used}
    for name, total in count.items():
        if total > 1 and list(kept.values()).count(name) != 1:
            ids = " and ".join(str(number) for number in names if names[number] == name)
            what = f"the categories {ids} are {'both' if total == 2 else 'all'} called {name!r}"
            raise ValueError(f"{file}: {what}; rename all but one, or all but one that are used")
    return kept


def _names(file: Path, content: Any) -> dict[int, str]:
    """Returns id -> file_name of the images."""
    try:
        names = {row["id"]: str(row["file_name"] or "") for row in content["images"]}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: an image lacks its id or file_name ({error!r})") from None
    if len(names) < len(content["images"]):
        raise ValueError(f"{file}: two images have the same id")
    if not names:
        raise ValueError(f"{file}: it lists no images")
    for number, name in names.items():
        if type(number) is not int or not 0 <= number <= MAX_ID:
            raise ValueError(f"{file}: an image's id is {number!r}; allowed: 0 to {MAX_ID}")
        if not name:
            raise ValueError(f"{file}: image {number} has no file_name")
    return names


def _source(file: Path, images: Path, content: Any, categories: list[int]) -> CocoSource:
    label_of = {number: label for label, number in enumerate(categories)}
    names = _names(file, content)
    sizes = {row["id"]: (row.get("height"), row.get("width")) for row in content["images"]}
    rows = defaultdict(list)
    for row in content["annotations"]:
        image, *columns = _object(file, row, names, label_of)
        rows[image].append(columns)
    ids = sorted(names)
    return CocoSource(
        images,
        [names[number] for number in ids],
        [
            Annotations(number, objects_of(*zip(*rows[number], strict=True)), size=size)
            for number, size in ((number, _stated(sizes[number])) for number in ids)
        ],
    )


def _stated(size: tuple[Any, Any]) -> tuple[int, int] | None:
    """Returns (height, width) if a file states them, as whole numbers of any type."""
    numbers = _finite(size)
    if numbers is None or any(side <= 0 or side % 1 for side in numbers):
        return None
    return int(numbers[0]), int(numbers[1])


def _object(file: Path, row: Any, names: dict, label_of: dict) -> tuple:
    """Returns id of the image, box, label, area and whether it is a crowd."""
    if not isinstance(row, dict):
        raise ValueError(f"{file}: an annotation is {row!r:.80}; it must be an object of JSON")
    about = f"{file}: annotation {row.get('id')}"
    image, category = row.get("image_id"), row.get("category_id")
    if type(image) is not int or image not in names:
        raise ValueError(f"{about}: there is no image {image!r}")
    if not isinstance(category, int | str) or category not in label_of:
        raise ValueError(f"{about}: there is no category {category!r}")
    numbers = _finite(row.get("bbox"))
    if numbers is None or len(numbers) != 4:
        raise ValueError(f"{about}: bbox={row.get('bbox')!r}; it must be left, top, width, height")
    left, top, width, height = numbers
    if width < 0 or height < 0:
        raise ValueError(f"{about}: bbox={row['bbox']!r}: a side is negative")
    area = _finite([row.get("area", width * height)])
    if area is None or area[0] < 0:
        raise ValueError(f"{about}: area={row['area']!r}; it must be a number of pixels")
    if (crowd := row.get("iscrowd", 0)) not in (0, 1):
        raise ValueError(f"{about}: iscrowd={crowd!r}; allowed: 0, 1")
    box = (left, top, left + width, top + height)
    return image, box, label_of[category], *area, bool(crowd)


def _finite(values: Any) -> list[float] | None:
    """Returns the values as numbers, None if they are none."""
    try:
        numbers = list(map(float, values))
    except (OverflowError, TypeError, ValueError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
