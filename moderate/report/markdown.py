"""Reports as Markdown, for pull requests and mail."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from moderate.report.model import ONLY_HTML, Facts, Paragraph, Part, Report, Sentences, Table
from moderate.results.marks import MARK
from moderate.text import printable

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#!|])")


def to_markdown(report: Report) -> str:
    """A report as a Markdown document."""
    lines = [f"# {_text(report.title)}", "", f"<!-- {MARK} -->", ""]
    if report.headline:
        lines += [f"**{_text(report.headline)}**", ""]
    for part in report.parts:
        if lines[-1] and not isinstance(part, (Sentences, *ONLY_HTML)):
            lines.append("")
        lines += _lines(part)
    return "\n".join(lines) + "\n"


def _lines(part: Part) -> Iterator[str]:
    match part:
        case Table():
            yield from _table(part)
        case Facts():
            if part.title:
                status = f" ({part.status})" if part.status else ""
                yield from (f"## {_text(part.title + status)}", "")
            for fact in part.items:
                value = _text(fact.value)
                yield f"- {_text(fact.label)}: {value}" if fact.label else f"  - {value}"
        case Sentences():
            yield from (f"- {_text(sentence.text)}" for sentence in part.items)
        case Paragraph():
            yield from (_text(part.text), "")
        case _:
            pass  # ONLY_HTML


def _table(table: Table) -> Iterator[str]:
    if table.title:
        yield from (f"## {_text(table.title)}", "")
    yield _row(table.header)
    yield "|" + "|".join(["---", *("---:" for _ in table.header[1:])]) + "|"
    yield from map(_row, table.rows)
    if table.notes:
        yield from ("", *(f"- {_text(note)}" for note in table.notes))
    yield ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_text, cells)) + " |"


def _text(text: str) -> str:
    """Text that Markdown shows as it is: a name must not become a link, a cell or a line."""
    return _SPECIAL.sub(r"\\\1", printable(text))
