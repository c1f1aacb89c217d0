"""Numbers of papers and ours as text, how far they are apart, and whether they agree."""

from collections.abc import Sequence
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal
from typing import Any

from paper_tables.results import Ours
from paper_tables.tables import UNITS, Column, Published

MINUS = "\N{MINUS SIGN}"
MULTIPLY_ADDS_APART = 0.02  # counters differ in what they count besides products


def published_text(cell: Sequence[Published]) -> str:
    """Returns published numbers as printed; a question mark follows an unverified one."""
    return "; ".join(map(_published_text, cell)) or "–"


def _published_text(one: Published) -> str:
    text = str(one.value)
    if isinstance(one.value, Decimal) and 0 < abs(one.value) < Decimal("1e-4"):
        text = f"{float(one.value):g}"
    elif isinstance(one.value, Decimal | int) and abs(one.value) >= 10_000:
        text = f"{one.value:,}"
    return f"{text}?" if one.certainty == "unverified" else text


def ours_text(ours: Ours, column: Column) -> str:
    """Returns our number, several runs as mean ± standard deviation and their number."""
    if isinstance(ours.value, bool) or not isinstance(ours.value, int | float):
        return str(ours.value)
    if not column.unit and isinstance(ours.value, int):
        return f"{ours.value:,}" if ours.value >= 10_000 else str(ours.value)
    if not column.unit and column.computed == "setting":
        return f"{ours.value:g}"
    text = f"{ours.value:,.{column.decimals}f}"
    if ours.device:
        return f"{text} ({ours.device})"
    if ours.count > 1:
        return f"{text} ± {ours.spread:.{column.decimals}f} (n={ours.count})"
    return f"{text} (n=1)" if column.metric else text


def difference(cell: Published | None, ours: Ours | None) -> float | None:
    """Returns ours minus the paper's, in the column's unit; None where one is no number.

    Speeds are of different devices, and have none.
    """
    if cell is None or ours is None or ours.device or isinstance(ours.value, str | bool):
        return None
    if not isinstance(cell.value, Decimal | int) or not isinstance(ours.value, int | float):
        return None
    return float(ours.value) - float(cell.value)


def signed(value: float, decimals: int) -> str:
    """Returns a difference with its sign."""
    text = f"{abs(value):,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        return f"±{text}"
    return f"{'+' if value > 0 else MINUS}{text}"


def in_unit(value: Any, column: Column) -> Any:
    """Returns a computed number in its column's unit; words stay."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not column.unit:
        return value
    return value / UNITS[column.unit]


def agree(cell: Published, ours: Ours, column: Column) -> bool:
    """Returns whether our computed number is the paper's.

    Ours is rounded or cut to the printed digits, as papers do either; multiply-adds may also be 2 %
    apart.
    """
    if not isinstance(cell.value, Decimal | int) or not isinstance(ours.value, int | float):
        return str(cell.value) == str(ours.value)
    printed = Decimal(cell.value)
    step, exact = Decimal(1).scaleb(printed.as_tuple().exponent), Decimal(repr(ours.value))
    if printed in (exact.quantize(step, how) for how in (ROUND_HALF_EVEN, ROUND_DOWN)):
        return True
    is_count = (column.computed or "").endswith("multiply_adds")
    return is_count and abs(exact / printed - 1) <= Decimal(MULTIPLY_ADDS_APART)
