"""docs/tables.md and docs/tables_digits.md: every table, from committed results alone."""

import re
from pathlib import Path

from harness.files import write_text
from paper_tables.filled import fill
from paper_tables.show import render
from paper_tables.table_files import has_edition, read_table, table_names
from paper_tables.tables import ROOT

PAGES = {"paper": ROOT / "docs" / "tables.md", "digits": ROOT / "docs" / "tables_digits.md"}
MARKS = re.compile(r"(<!-- tables -->\n).*(<!-- end -->)", re.DOTALL)


def page(edition: str) -> str:
    """Returns a page with its tables as they are now; what stands around them is kept.

    Args:
        edition: "paper" or "digits".
    """
    names = [name for name in table_names() if has_edition(name, edition)]
    shown = (fill(read_table(name, edition), None) for name in names)
    body = "\n".join(render(one, "markdown") for one in shown)
    text = PAGES[edition].read_text(encoding="utf-8")
    return MARKS.sub(lambda match: f"{match[1]}\n{body}\n{match[2]}", text)


def write() -> list[Path]:
    """Writes the pages; returns their paths."""
    for edition, path in PAGES.items():
        write_text(path, page(edition))
    return list(PAGES.values())
