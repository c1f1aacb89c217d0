"""The choices that annotations list are those that the tables hold."""

import typing

import pytest

from data.augment import crops, erasing, mixing, randaugment
from data.augment import operations as ops


@pytest.mark.parametrize(
    ("function", "argument", "table"),
    [
        (crops.center_crop, "interpolation", crops.OPENCV | crops.PILLOW),
        (crops.random_resized_crop, "rule", crops.RULES),
        (crops.random_crop, "border", crops.BORDERS),
        (ops.rotate, "interpolation", {"nearest": None} | ops.PILLOW),
        (erasing.random_erasing, "placement", erasing.PLACEMENTS),
        (mixing.mixup_cutmix, "draw", mixing.DRAWS),
    ],
)
def test_annotation_and_table_agree(function, argument, table):
    assert typing.get_args(typing.get_type_hints(function)[argument]) == tuple(table)


def test_variants():
    for variant in typing.get_args(randaugment.Variant):
        assert randaugment.create_operations(variant)
