"""What the fields of a model and the sides of its images may be.

Every check raises a ValueError that names the field, its value and what is allowed.
"""

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


def check_fields(
    model: nn.Module, fields: Iterable[str], is_allowed: Callable[[Any], bool], allowed: str
) -> None:
    """Checks that the value of each field is allowed; `allowed` completes "must be ..."."""
    for field in fields:
        value = getattr(model, field)
        if not is_allowed(value):
            raise ValueError(f"{field}={value!r} must be {allowed}")


def check_counts(model: nn.Module, *fields: str) -> None:
    """Checks that fields are positive integers."""
    check_fields(model, fields, is_count, "a positive integer")


def check_optional_counts(model: nn.Module, *fields: str) -> None:
    """Checks that fields are positive integers or None."""
    check_fields(
        model, fields, lambda value: value is None or is_count(value), "a positive integer or None"
    )


def check_rates(model: nn.Module, *fields: str) -> None:
    """Checks that fields are numbers in [0, 1)."""
    check_fields(
        model,
        fields,
        lambda value: is_number(value) and 0 <= value < 1,
        "a number, at least 0 and below 1",
    )


def check_positive(model: nn.Module, *fields: str) -> None:
    """Checks that fields are finite numbers above 0."""
    check_fields(
        model,
        fields,
        lambda value: is_number(value) and 0 < value < float("inf"),
        "a finite number above 0",
    )


def check_tuples(model: nn.Module, *fields: str, per: str) -> None:
    """Checks that fields are tuples of positive integers with one entry per level, stage, ..."""
    check_fields(model, fields, is_counts, f"a tuple of positive integers, one per {per}")
    if len({len(getattr(model, field)) for field in fields}) > 1:
        values = ", ".join(f"{field}={getattr(model, field)}" for field in fields)
        raise ValueError(f"{', '.join(fields)} must each have one entry per {per}: {values}")


def check_choices(model: nn.Module, **choices: Iterable[str]) -> None:
    """Checks that each field is one of its choices (field=choices)."""
    for field, allowed in choices.items():
        value = getattr(model, field)
        if value not in allowed:
            raise ValueError(f"{field}={value!r} does not exist; choose from {', '.join(allowed)}")


def check_mlp_ratio(model: nn.Module, dims: Iterable[int]) -> None:
    """Checks that `mlp_ratio` leaves a hidden channel at every width in `dims`."""
    check_positive(model, "mlp_ratio")
    for dim in dims:
        if int(dim * model.mlp_ratio) < 1:
            raise ValueError(
                f"mlp_ratio={model.mlp_ratio!r} leaves no hidden channel at width {dim}"
            )


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
        rule: the sentence that says so in the model's words: "height and width must be ...".
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
        raise ValueError(
            f"image size {image_size[0]}x{image_size[1]} does not fit: {rule}; "
            f"nearest height: {height}, nearest width: {width}"
        )


def nearest_sizes(size: int, step: int, smallest: int | None = None) -> tuple[int, ...]:
    """Returns `size` alone if it is `smallest` plus a multiple of `step`, else its neighbours."""
    smallest = step if smallest is None else smallest
    if size < smallest:
        return (smallest,)
    below = smallest + (size - smallest) // step * step
    return (size,) if below == size else (below, below + step)
