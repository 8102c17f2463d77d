"""The reference pages are what the code gives."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_reference", DOCS / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES: dict[str, str] = load_generator().pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_is_what_the_code_gives(name: str) -> None:
    stored = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert stored == PAGES[name], "run: python docs/generate.py"


def test_there_are_no_other_reference_pages() -> None:
    assert {page.name for page in (DOCS / "reference").iterdir()} == set(PAGES)


def test_own_categories_are_in_the_reference() -> None:
    assert "own categories" in PAGES["columns.md"]
    assert "own.NAME" in PAGES["cli.md"]
