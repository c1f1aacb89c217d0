"""A table as a person reads it: the paper's number, ours, the difference, how to run it."""

import csv
import io
from collections.abc import Sequence
from textwrap import wrap
from typing import Literal

from benchmarks.tables import markdown
from paper_tables.filled import NONE, Cell, Shown
from paper_tables.formatting import agree, difference, published_text, signed
from paper_tables.tables import Column, Published, Row, Table, recipe_of

Format = Literal["markdown", "csv", "terminal"]
CSV_HEADER = (
    *("table", "edition", "row", "quantity", "unit", "paper", "certainty", "source"),
    *("ours", "standard deviation", "runs", "device", "difference", "how to run", "remark"),
)


def render(shown: Shown, form: Format) -> str:
    """Returns the table as text, with a newline at its end."""
    if form == "csv":
        return as_csv([shown])
    header, rows = _grid(shown)
    above, below = _above(shown.table), _below(shown)
    if form == "terminal":
        body = _aligned(header, [[_plain(cell) for cell in line] for line in rows])
        return "\n".join([*map(_plain, above), "", body, "", *map(_plain, below)]) + "\n"
    title, *rest = above
    parts = [
        f"## {title}",
        "\n".join(f"{line}  " for line in rest).rstrip(),
        markdown(header, rows),
    ]
    return "\n\n".join([*parts, *below]) + "\n"


def _above(table: Table) -> list[str]:
    title = table.title + (", on the digits" if table.edition == "digits" else "")
    lines = [title, f"`{table.name}`. Source: {table.source}."]
    if table.edition == "digits":
        common = " ".join(f"`{key}={text}`" for key, text in table.overrides.items())
        return [
            title,
            f"`{table.name}`. {table.protocol}",
            *([f"All rows: {common}"] if common else []),
        ]
    return [*lines, *([f"To expect: {table.expect}."] if table.expect else [])]


def _below(shown: Shown) -> list[str]:
    table, lines = shown.table, []
    for row, cells in shown.lines:
        for cell in cells:
            for why in (one.why for one in cell.published if one.why):
                lines.append(f"{row.name}, {cell.column.title}: {why}.")
    if table.edition == "paper":
        lines += table.notes
        lines += [f"Sources: {sources}."] if (sources := _sources(shown)) else []
    elif places := sorted({place for place in _references(shown) if place is not None}):
        names = " or ".join(f"“{shown.lines[place][0].name}”" for place in places)
        lines.append(f"Differences are from {names}.")
    if table.conclusion:
        lines.append(f"**Does the paper's ordering hold?** {table.conclusion}")
    if table.records:
        lines.append(f"Results: `{table.records}`.")
    elif table.trains or any(column.measured for column in table.columns):
        edition = "" if table.edition == "paper" else f" --edition={table.edition}"
        lines.append(f"`python tools/tables.py run {table.name}{edition}`")
    return lines


def _grid(shown: Shown) -> tuple[list[str], list[list[str]]]:
    """Returns header and lines; columns that would be empty are left out."""
    table = shown.table
    header, columns = [""], [[row.name for row, _ in shown.lines]]
    if shown.compared is not None:
        published = [row.published.get(shown.compared.key, ()) for row, _ in shown.lines]
        header.append(f"paper: {_titled(shown.compared)}")
        columns.append(list(map(published_text, published)))
        if apart := _from_reference(
            shown, [cell[0].value if cell else None for cell in published], 1
        ):
            header.append("difference")
            columns.append(apart)
    for number, column in enumerate(table.columns):
        cells = [cells[number] for _, cells in shown.lines]
        is_same = _is_same(cells)
        if table.edition == "paper":
            header.append(_titled(column) + (" (ours too)" if is_same else ""))
            columns.append([published_text(cell.published) for cell in cells])
        if column.has_ours and not is_same:
            header.append("ours" if table.edition == "paper" else _titled(column))
            columns.append([cell.text for cell in cells])
        if column.has_ours and table.edition == "paper" and not _all_agree(cells):
            apart = [difference(next(iter(cell.published), None), cell.ours) for cell in cells]
            if any(value is not None for value in apart):
                header.append("difference")
                columns.append([_signed(value, column) for value in apart])
        if column.metric and table.edition == "digits":
            means = [cell.ours and cell.ours.value for cell in cells]
            if apart := _from_reference(shown, means, column.decimals):
                header.append("difference")
                columns.append(apart)
    if any(row.published for row, _ in shown.lines) and (
        table.edition == "paper" or shown.compared is not None
    ):
        header.append("certainty")
        columns.append([_certainty(shown, row) for row, _ in shown.lines])
    if any(_recipes(table, row) for row, _ in shown.lines):
        header.append("how to run")
        columns.append([_how(table, row) for row, _ in shown.lines])
    return header, [list(line) for line in zip(*columns, strict=True)]


def _is_same(cells: Sequence[Cell]) -> bool:
    """Returns whether ours are computed and would repeat the papers', in every row."""
    pairs = [
        (published_text(cell.published), cell.text) for cell in cells if cell.ours or cell.published
    ]
    return bool(cells[0].column.computed and pairs) and all(
        theirs == ours for theirs, ours in pairs
    )


def _all_agree(cells: Sequence[Cell]) -> bool:
    """Returns whether ours are computed, and all the papers' to the digits that they print."""
    pairs = [(one, cell.ours) for cell in cells if cell.ours for one in cell.published]
    column = cells[0].column
    return bool(column.computed) and all(
        column.computed == "setting" or agree(*pair, column) for pair in pairs
    )


def _titled(column: Column) -> str:
    return f"{column.title}, {column.unit}" if column.unit else column.title


def _signed(value: float | None, column: Column) -> str:
    return NONE if value is None else signed(value, column.decimals)


def _from_reference(shown: Shown, values: Sequence, decimals: int) -> list[str]:
    """Returns each value minus that of its reference row; [] if there is none to compare with."""
    texts = []
    for value, own in zip(values, _references(shown), strict=True):
        reference = values[own] if own is not None else None
        known = value is not None and reference is not None
        texts.append(signed(float(value) - float(reference), decimals) if known else NONE)
    return texts if any(text != NONE for text in texts) else []


def _references(shown: Shown) -> list[int | None]:
    """Returns the number of each row's reference: the last one above it, else the first below."""
    keys = [row.key for row, _ in shown.lines]
    places = [number for number, key in enumerate(keys) if key in shown.table.references]
    above = [[place for place in places if place <= number] for number in range(len(keys))]
    return [before[-1] if before else next(iter(places), None) for before in above]


def _certainty(shown: Shown, row: Row) -> str:
    """Returns how certain a row's numbers are: of most of them, then of the others."""
    titles = _titles(shown)
    groups: dict[str, list[str]] = {}
    for key, cell in row.published.items():
        for one in cell if key in titles else ():
            if titles[key] not in groups.setdefault(one.certainty, []):
                groups[one.certainty].append(titles[key])
    if not groups:
        return NONE
    most = max(groups, key=lambda certainty: len(groups[certainty]))
    others = [f"{', '.join(groups[other])}: {other}" for other in groups if other != most]
    return "; ".join([most, *others])


def _titles(shown: Shown) -> dict[str, str]:
    """Returns the titles of the columns whose published numbers are shown."""
    if shown.table.edition == "digits":
        return {shown.compared.key: shown.compared.title} if shown.compared else {}
    return {column.key: column.title for column in shown.table.columns}


def _sources(shown: Shown) -> str:
    """Returns where those numbers are from that say so themselves."""
    titles, found = _titles(shown), {}
    for row, _ in shown.lines:
        for key, cell in row.published.items():
            for source in (one.source for one in cell if one.source and key in titles):
                if titles[key] not in found.setdefault(source, []):
                    found[source].append(titles[key])
    return "; ".join(f"{source}: {', '.join(columns)}" for source, columns in found.items())


def _how(table: Table, row: Row) -> str:
    """Returns the recipes, and the overrides that tell this row from the others."""
    recipes = _recipes(table, row)
    if not recipes:
        return NONE
    own = [f"{k}={v}" for k, v in row.overrides.items() if (k, v) not in table.overrides.items()]
    own += [f"{key} of “{name}”" for key, name in row.needs.items()]
    own += [row.setting] if row.setting else []
    return " ".join(f"`{text}`" for text in (*recipes, *own))


def _recipes(table: Table, row: Row) -> list[str]:
    """Returns the recipes that give our numbers of a row: those trained, if there are any."""
    trained = [recipe_of(row, column) for column in table.columns if column.metric]
    others = [recipe_of(row, column) for column in table.columns if column.has_ours]
    return list(dict.fromkeys(filter(None, trained))) or list(dict.fromkeys(filter(None, others)))


def as_csv(tables: Sequence[Shown]) -> str:
    """Returns tables as CSV, a line for each number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for shown in tables:
        for row, cells in shown.lines:
            for cell in cells:
                published = cell.published
                if shown.compared is not None and cell.column.metric:
                    published = row.published.get(shown.compared.key, ())
                if published or cell.ours or cell.is_open:
                    for one in published or (None,):
                        writer.writerow(_csv_line(shown, row, cell, one))
    return text.getvalue()


def _csv_line(shown: Shown, row: Row, cell: Cell, published: Published | None) -> list:
    ours, is_same_data = cell.ours, bool(cell.published)
    apart = difference(published, ours) if is_same_data else None
    return [
        *(shown.table.name, shown.table.edition, row.name, cell.column.title, cell.column.unit),
        *((published.value, published.certainty, published.source) if published else ("", "", "")),
        *((ours.value, ours.spread, ours.count, ours.device) if ours else (cell.text, "", "", "")),
        "" if apart is None else apart,
        _how(shown.table, row).replace("`", ""),
        published.why if published else "",
    ]


def _plain(text: str) -> str:
    return text.replace("`", "").replace("**", "")


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns the rows in columns, numbers to the right; headers take the lines that they need."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    wrapped = [wrap(text, max(width, 12)) for text, width in zip(header, widths, strict=True)]
    height = max(map(len, wrapped))
    above = zip(*([""] * (height - len(lines)) + lines for lines in wrapped), strict=True)
    lines = [*above, *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        pairs = enumerate(zip(cells, widths, strict=True))
        return "  ".join(
            cell.ljust(width) if number == 0 or width > 24 else cell.rjust(width)
            for number, (cell, width) in pairs
        ).rstrip()

    texts = list(map(line, lines))
    return "\n".join([*texts[:height], "-" * max(map(len, texts)), *texts[height:]])
