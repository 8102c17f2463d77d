"""The part of a page that lists rows: its script, its style, and what the script finds.

The rows are in the page as JSON, column by column, and the script shows them some at a time. The
page's own policy lets a browser run this one script and style, known by their digests, and load
nothing at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from moderate.report.model import Rows
from moderate.text import printable

_ESCAPED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})

_SIZES = (25, 50, 100, 250, 1000)
_KEYS = (
    ("/", "search"),
    ("j k", "next and previous row (↓ ↑ in the list)"),
    ("Enter", "details of the row"),
    ("n p", "next and previous page (→ ← in the list)"),
    ("Home End", "first and last row of the page"),
    ("Esc", "clear the search, then leave it"),
)
_REVEAL = ("v", "reveal the thumbnail of the row, or blur it again")


@cache
def script() -> str:
    """The script of a page with rows."""
    return _read("page.js")


@cache
def style() -> str:
    """The style that a page with rows has after that of every report."""
    return _read("page.css")


def security_policy(styles: str) -> str:
    """The Content-Security-Policy of a page with rows whose whole style is `styles`."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_digest(script())}",
            f"style-src {_digest(styles)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def section(rows: Rows, first: Sequence[str]) -> Iterator[str]:
    """The lines of the part; `first` are those of the table for a reader without scripts."""
    yield f"<h2>{_text(rows.title)}</h2>"
    yield from (f'<p class="quiet">{_text(note)}</p>' for note in rows.notes)
    yield "<noscript>"
    yield "<p>Without scripts only the first rows are shown, and none can be searched for.</p>"
    yield from first
    yield "</noscript>"
    yield f'<section id="images" aria-label="{_text(rows.title)}" hidden>'
    yield from _controls()
    yield '<p id="count" role="status"></p>'
    yield from _table(rows)
    yield from _pages()
    keys = [*_KEYS, _REVEAL] if rows.thumbnails is not None else _KEYS
    yield '<details class="keys"><summary>Keys</summary><ul>'
    for names, meaning in keys:
        shown = " ".join(f"<kbd>{name}</kbd>" for name in names.split())
        yield f"<li>{shown} {_text(meaning)}</li>"
    yield "</ul></details></section>"
    yield _data("data", rows.data)
    if rows.thumbnails is not None:
        yield _data("thumbnails", rows.thumbnails)
    yield f"<script>{script()}</script>"


def _controls() -> Iterator[str]:
    yield '<form id="filters" role="search" autocomplete="off">'
    yield (
        '<label class="search">Search <input id="text" type="search" '
        'aria-keyshortcuts="/" placeholder="name, reason, warning, sha256"></label>'
    )
    for name, label in (("decision", "Decision"), ("category", "Category"), ("error", "Error")):
        yield (
            f'<label>{label} <select id="{name}"><option value="">all rows</option></select>'
            "</label>"
        )
    yield (
        '<label>Sort by <select id="sort"><option value="severity">most severe first</option>'
        '<option value="number">order of the results</option>'
        '<option value="path">name</option></select></label>'
    )
    sizes = (
        f'<option{" selected" if size == 50 else ""} value="{size}">{size:,}</option>'
        for size in _SIZES
    )
    yield f'<label>Rows per page <select id="size">{"".join(sizes)}</select></label>'
    yield '<button type="reset">Clear filters</button></form>'


def _table(rows: Rows) -> Iterator[str]:
    heads = [_head("decision", "Decision", "severity")]
    if rows.thumbnails is not None:
        heads.append(_head("picture", "Thumbnail"))
    heads.append(_head("image", "Image", "path"))
    heads += [_head("score", each["label"], each["name"]) for each in rows.data["categories"]]
    yield f'<table id="rows"><thead><tr id="heads">{"".join(heads)}</tr></thead>'
    yield '<tbody id="body"></tbody></table>'


def _head(name: str, label: str, sort: str = "") -> str:
    if not sort:
        return f'<th scope="col" class="{name}">{_text(label)}</th>'
    button = f'<button type="button">{_text(label)}</button>'
    return f'<th scope="col" class="{name}" data-sort="{_text(sort)}">{button}</th>'


def _pages() -> Iterator[str]:
    yield '<nav aria-label="Pages">'
    for name, label in (("first", "First"), ("previous", "Previous")):
        yield f'<button type="button" id="{name}">{label}</button>'
    yield '<span id="page"></span>'
    for name, label in (("next", "Next"), ("last", "Last")):
        yield f'<button type="button" id="{name}">{label}</button>'
    yield "</nav>"


def _data(name: str, values: Mapping[str, Any]) -> str:
    """Values for the script, in a block that no browser takes for markup or runs."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f'<script type="application/json" id="{name}">{text.translate(_ESCAPED)}</script>'


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _read(name: str) -> str:
    return (files("moderate.report") / name).read_text(encoding="utf-8")


def _text(text: str) -> str:
    return escape(printable(text))
