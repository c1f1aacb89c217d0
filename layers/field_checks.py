"""What the fields of a model and the sides of its images may be.

Checks of fields take plain values as `field=value`. Every check raises a ValueError in one form,
which is also that of the errors of a config (harness/arguments.py):

    depth=0: wrong; allowed: a positive integer
    gelu='exct': unknown; did you mean 'exact'? allowed: tanh, exact
"""

import difflib
import typing
from collections.abc import Callable, Iterable
from typing import Any

from flax import linen as nn


def is_number(value: object) -> bool:
    """Returns whether a value is a Python number; NumPy's would promote bfloat16 to float32."""
    return type(value) in (int, float)


def is_count(value: object) -> bool:
    """Returns whether a value is a positive integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_counts(value: object) -> bool:
    """Returns whether a value is a non-empty tuple of positive integers."""
    return isinstance(value, tuple) and len(value) > 0 and all(map(is_count, value))


def is_sides(value: object) -> bool:
    """Returns whether a value is the side of a square or the (height, width) of a rectangle."""
    return is_count(value) or (is_counts(value) and len(value) == 2)


def height_and_width(sides: int | tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width), which for a square may be given as one number."""
    return (sides, sides) if isinstance(sides, int) else sides


def field_error(field: str, value: object, what: str, allowed: str = "") -> ValueError:
    """Returns the error "field=value: what is wrong; allowed: ..."."""
    return ValueError(f"{field}={value!r}: {what}{f'; allowed: {allowed}' if allowed else ''}")


def check_choices(module: nn.Module) -> None:
    """Checks that each field of a module that is annotated as a Literal has one of its values."""
    for field, annotation in typing.get_type_hints(type(module)).items():
        if typing.get_origin(annotation) is not typing.Literal:
            continue
        value, choices = getattr(module, field), typing.get_args(annotation)
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{field}={value!r}: unknown; {hint}allowed: {', '.join(choices)}")


def check_fields(is_allowed: Callable[[Any], bool], allowed: str, /, **fields: Any) -> None:
    """Checks that each value is allowed; `allowed` says in words what is."""
    for field, value in fields.items():
        if not is_allowed(value):
            raise field_error(field, value, "wrong", allowed)


def check_counts(**fields: Any) -> None:
    """Checks that values are positive integers."""
    check_fields(is_count, "a positive integer", **fields)


def check_optional_counts(**fields: Any) -> None:
    """Checks that values are positive integers or None."""
    check_fields(
        lambda value: value is None or is_count(value), "a positive integer or None", **fields
    )


def check_rates(**fields: Any) -> None:
    """Checks that values are numbers in [0, 1)."""
    check_fields(
        lambda value: is_number(value) and 0 <= value < 1,
        "a number, at least 0 and below 1",
        **fields,
    )


def check_positive(**fields: Any) -> None:
    """Checks that values are finite numbers above 0."""
    check_fields(
        lambda value: is_number(value) and 0 < value < float("inf"),
        "a finite number above 0",
        **fields,
    )


def check_tuples(per: str, /, **fields: Any) -> None:
    """Checks that values are tuples of positive integers with one entry per level, stage, ..."""
    check_fields(is_counts, f"a tuple of positive integers, one per {per}", **fields)
    (first, value), *others = fields.items()
    if any(len(other) != len(value) for _, other in others):
        listed = ", ".join(f"{field}={other}" for field, other in others)
        raise field_error(
            first, value, f"differs in length from {listed}", f"one entry per {per} in each"
        )


def check_divisor(total: int, what: str, /, **fields: int) -> None:
    """Checks that each value divides `total`, which is `what`: "dim=12"."""
    for field, value in fields.items():
        if total % value:
            raise field_error(field, value, f"does not divide {what}", f"divisors of {total}")


def check_mlp_ratio(mlp_ratio: Any, dims: Iterable[int]) -> None:
    """Checks that `mlp_ratio` leaves a hidden channel at every width in `dims`."""
    check_positive(mlp_ratio=mlp_ratio)
    for dim in dims:
        if int(dim * mlp_ratio) < 1:
            what = f"leaves no hidden channel at width {dim}"
            raise field_error("mlp_ratio", mlp_ratio, what, f"at least 1/{dim}")


def check_image_size(
    image_size: tuple[int, int],
    steps: int | tuple[int, int],
    rule: str,
    *,
    smallest: int | None = None,
) -> None:
    """Checks that both sides of an image are `smallest`, or that plus a multiple of a step.

    Args:
        image_size: (height, width) in pixels.
        steps: of both, or of (height, width), in pixels.
        rule: what is allowed, in the model's words: "height and width multiples of ...".
        smallest: side in pixels; None: the step.

    Raises:
        ValueError: if the image does not fit, with the rule and the nearest sizes that do.
    """
    near = [
        nearest_sizes(size, step, smallest)
        for size, step in zip(image_size, height_and_width(steps), strict=True)
    ]
    if any(sizes != (size,) for sizes, size in zip(near, image_size, strict=True)):
        height, width = (
            f"{size} (fits)" if sizes == (size,) else " or ".join(map(str, sizes))
            for sizes, size in zip(near, image_size, strict=True)
        )
        nearest = f"nearest height: {height}, nearest width: {width}"
        raise field_error("image_size", tuple(image_size), "does not fit", f"{rule}; {nearest}")


def nearest_sizes(size: int, step: int, smallest: int | None = None) -> tuple[int, ...]:
    """Returns `size` alone if it is `smallest` plus a multiple of `step`, else its neighbours."""
    smallest = step if smallest is None else smallest
    if size < smallest:
        return (smallest,)
    below = smallest + (size - smallest) // step * step
    return (size,) if below == size else (below, below + step)
