"""What README, CONTRIBUTING, CHANGELOG and docs/ say of the code is true."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PATH = re.compile(r"(?<![\w/.*-])(?:[\w.-]+/)+[\w-]+\.(?:py|md|txt|svg|png|yml)\b")
INVENTED = {"toy/model.py", "configs/digits_toy.py"}  # of "Add your own model"


def rooms() -> dict[str, str]:
    """Returns folder -> first line of its docstring, for every folder of product code."""
    files = [*ROOT.glob("*/__init__.py"), *ROOT.glob("*/*/__init__.py")]
    lines = {}
    for path in files:
        folder = path.parent.relative_to(ROOT)
        if folder.parts[0] != "tests" and not folder.parts[0].startswith((".", "venv", "runs")):
            text = ast.get_docstring(ast.parse(path.read_text()))
            lines[f"{folder.as_posix()}/"] = text.splitlines()[0]
    return lines


def test_readme_fits_on_one_screen():
    lines = README.read_text().splitlines()
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 120] == []


def test_readme_lists_the_rooms_in_their_own_words():
    section = README.read_text().split("## The rooms")[1].split("\n## ")[0]
    assert dict(re.findall(r"^\| `(.+/)` \| (.+) \|$", section, re.M)) == rooms()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    named = set(PATH.findall(page.read_text())) - INVENTED
    folders = (ROOT, page.parent)
    missing = [name for name in named if not any((at / name).exists() for at in folders)]
    assert sorted(missing) == []


def test_readme_links_exist():
    text = README.read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    links = re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)|src="([^":]+)"', text)
    assert len(links) > 10
    for link in (inline or image for inline, image in links):
        assert (ROOT / link).exists(), link


def test_changelog_says_where_modules_moved():
    text = (ROOT / "CHANGELOG.md").read_text()
    moves = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", text, re.M)
    assert len(moves) > 50
    for old, new in moves:
        assert (ROOT / f"{new.replace('.', '/')}.py").is_file(), f"{old} -> {new}"
        assert not (ROOT / f"{old.replace('.', '/')}.py").is_file(), old
