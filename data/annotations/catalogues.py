"""The data sets that detection and segmentation can name.

digits_scenes       ships with the code (data/annotations/digits_scenes.py)
"""

from data.annotations.digits_scenes import Scenes, digits_scenes_source
from data.datasets import Catalogue, Dataset
from harness.arguments import problem

_DIGITS = tuple("0123456789")


def _digits_scenes(class_names: tuple[str, ...], scenes: Scenes) -> Dataset:
    return Dataset(
        name="digits_scenes",
        num_classes=len(class_names),
        num_channels=1,
        load=lambda split, image_size: digits_scenes_source(split, image_size, scenes),
        aliases={"validation": "test"},
        class_names=class_names,
    )


def _no_such_set(name: str, data_dir: str | None, exif_orientation: bool) -> Dataset:
    raise ValueError(problem("config.data.name", name, "has no boxes"))


BOXES = Catalogue(
    built_in={"digits_scenes": lambda scenes: _digits_scenes(_DIGITS, scenes)},
    paths={},
    from_tfds=_no_such_set,
    usual=(),
)
SEGMENTS = Catalogue(
    built_in={"digits_scenes": lambda scenes: _digits_scenes(("background", *_DIGITS), scenes)},
    paths={},
    from_tfds=_no_such_set,
    usual=(),
)
