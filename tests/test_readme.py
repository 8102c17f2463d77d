"""The README, the pages that it links to, and the code agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from moderate.cli import exit_codes
from moderate.cli.commands import all_commands
from moderate.results.schema import COLUMNS
from moderate.stopping import exit_code, signals
from moderate.types import CATEGORIES, ErrorCode, Origin, Warn

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def test_every_code_warning_and_column_stands_in_the_reference() -> None:
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs" / "reference").iterdir())
    for line in expected_lines():
        assert line in pages, f"missing in docs/reference: {line}"


def expected_lines() -> list[str]:
    rows = [f"| `{column.name}` | {column.type} | {column.meaning} |" for column in COLUMNS]
    rows += [f"| `{warning}` | {warning.meaning} |" for warning in Warn]
    rows += [f"| `{code}` | {code.meaning} |" for code in ErrorCode]
    rows += [f"| `{origin}` | {origin.meaning} |" for origin in Origin]
    return rows


def test_every_exit_code_has_a_meaning() -> None:
    codes = {exit_codes.DONE, exit_codes.FOUND, exit_codes.ERROR, exit_codes.PIPE_CLOSED}
    assert set(exit_codes.MEANINGS) == codes | {exit_code(number) for number in signals()} | {129}


def test_the_two_commands_stand_in_the_readme_and_ci_runs_the_second() -> None:
    first = "pip install . && moderate weights pull starter && moderate scan sample_images"
    assert README.index(f"{first} --weights starter") < README.index("--weights testcard")
    assert "pip install '.[test]' && pytest -n auto" in README
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install --quiet '.[test]'\npytest -n auto" in ci


def test_the_readme_is_one_page() -> None:
    assert 150 <= len(README.splitlines()) <= 220


def test_the_readme_names_every_command_and_category() -> None:
    for command in typer.main.get_command(all_commands()).commands:
        assert f"| `moderate {command}` |" in README
    for category in CATEGORIES:
        assert f"| `{category}` |" in README


def test_every_page_is_in_the_index_and_in_the_sites_navigation() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    navigation = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/**/*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert f'"{name}"' in navigation
        assert name == "index.md" or f"({name})" in index


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, anchor in LINK.findall(text):
        if "://" in target:
            continue
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The fragments that GitHub and the site give a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
