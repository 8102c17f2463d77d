"""Headings of the pages stand by themselves, as every Markdown reader needs them."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_blank_line_stands_before_each_heading(page: Path) -> None:
    in_code, previous = False, ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        in_code ^= line.startswith("```")
        is_heading = not in_code and line.startswith("#")
        assert not (is_heading and previous.strip()), f"{page.name}:{number}: {line}"
        previous = line
