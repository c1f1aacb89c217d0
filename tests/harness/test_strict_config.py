"""What the strict checker allows, and the form of its errors."""

from typing import Literal

import pytest

from harness import arguments
from harness.errors import ConfigError
from harness.strict_config import check_arguments, check_section, wrong_type

Color = Literal["red", "green"]


def function(
    *,
    rate: float,
    count: int | None = None,
    color: Color = "red",
    colors: Color | tuple[Color, ...] = (),
    sizes: tuple[int, ...] = (),
    is_on: bool = False,
):
    """Is never called."""


def test_defaults_are_filled_in():
    assert check_section({"rate": 0.5, "colors": "green"}, function, "config.f") == {
        "rate": 0.5,
        "count": None,
        "color": "red",
        "colors": "green",
        "sizes": (),
        "is_on": False,
    }


def test_numbers_and_lists_become_what_is_annotated():
    checked = check_section({"rate": 1, "sizes": [1, 2], "count": 3}, function, "config.f")
    assert type(checked["rate"]) is float and checked["sizes"] == (1, 2)
    assert type(checked["count"]) is int


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "config.f: missing rate"),
        ({"rate": 1.0, "colour": "red"}, "config.f.colour: unknown; did you mean 'color'? allowed"),
        ({"rate": "1"}, "config.f.rate='1': of type str; allowed: float"),
        ({"rate": True}, "config.f.rate=True: of type bool; allowed: float"),
        ({"rate": None}, "config.f.rate=None: of type NoneType; allowed: float"),
        ({"rate": 1.0, "count": 2.0}, "config.f.count=2.0: of type float; allowed: int or None"),
        ({"rate": 1.0, "is_on": 2}, "config.f.is_on=2: of type int; allowed: bool"),
        (
            {"rate": 1.0, "color": "gren"},
            "config.f.color='gren': unknown; did you mean 'green'? allowed: red, green",
        ),
        ({"rate": 1.0, "color": "blue"}, "config.f.color='blue': unknown; allowed: red, green"),
        (
            {"rate": 1.0, "colors": ("red", "gren")},
            "config.f.colors=('red', 'gren'): unknown; did you mean 'green'? allowed: red, green",
        ),
        (
            {"rate": 1.0, "sizes": (1, 2, "3")},  # not only the first item is looked at
            "config.f.sizes=(1, 2, '3'): of type tuple; allowed: tuple[int, ...]",
        ),
    ],
)
def test_errors(section, message):
    with pytest.raises(ConfigError) as error:
        check_section(section, function, "config.f")
    assert str(error.value).startswith(message)


def test_unions_with_none():
    assert wrong_type(None, Color | None) is None
    assert wrong_type("red", Color | None) is None
    assert wrong_type("x", Color | None) == "unknown; allowed: red, green"


def test_ranges():
    arguments.check_range("config.f.rate", 0.0, 0, 1)
    for value in (-1, 2, float("nan")):
        with pytest.raises(ValueError, match=r"config.f.rate=.*: out of range; allowed: 0 to 1"):
            arguments.check_range("config.f.rate", value, 0, 1)
    with pytest.raises(ValueError, match="config.f.rate=0: out of range; allowed: at least 1"):
        arguments.check_range("config.f.rate", 0, 1)
    arguments.check_range("config.f.rate", 0.0, 0, below=1)
    with pytest.raises(ValueError, match=r"=1.0: out of range; allowed: at least 0 and below 1$"):
        arguments.check_range("config.f.rate", 1.0, 0, below=1)
    with pytest.raises(ValueError, match=r"=0: out of range; allowed: above 0 and at most 1$"):
        arguments.check_range("config.f.rate", 0, most=1, above=0)
    with pytest.raises(ValueError, match=r"=inf: out of range; allowed: above 0 and finite$"):
        arguments.check_range("config.f.rate", float("inf"), above=0)


def test_arguments_of_a_function():
    check_arguments(function, color="green", count=None)
    with pytest.raises(ValueError, match=r"^color='gren': unknown; did you mean 'green'\? allowed"):
        check_arguments(function, count=None, color="gren")
    with pytest.raises(ValueError, match=r"^count='3': of type str; allowed: int | None"):
        check_arguments(function, count="3")
