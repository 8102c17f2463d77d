"""The summary as a file: JSON for programs, Markdown for pull requests and mail."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence

from moderate.errors import UsageError
from moderate.report.summary import Summary, as_json
from moderate.report.tables import facts, headline, tables
from moderate.results.atomic import write_atomic
from moderate.results.open import check_place
from moderate.results.remote import is_remote, send, shown_target, target_name

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#!|])")


def to_json(summary: Summary) -> str:
    """The summary as JSON text."""
    return json.dumps(as_json(summary), indent=2, ensure_ascii=False) + "\n"


def to_markdown(summary: Summary) -> str:
    """The summary as Markdown tables."""
    lines = ["# moderate: summary", "", f"**{headline(summary)}**", ""]
    for table in tables(summary):
        lines += [f"## {table.title}", "", _line(table.header)]
        lines.append("|" + "|".join(["---", *("---:" for _ in table.header[1:])]) + "|")
        lines += [_line(row) for row in table.rows]
        lines.append("")
    lines += [
        f"- {label}: {_plain(value)}" if label else f"  - {_plain(value)}"
        for label, value in facts(summary)
    ]
    lines += [f"- note: {_plain(note)}" for note in summary.all_notes()]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[Summary], str]] = {".json": to_json, ".md": to_markdown}


def check_summary_targets(targets: Sequence[str]) -> None:
    """Refuse before any work what could not be written. Raises UsageError or OutputError."""
    for target in targets:
        if not target_name(target).lower().endswith(tuple(FORMATS)):
            raise UsageError(
                f"--summary {shown_target(target)}: the suffix decides the format; "
                f"use one of {', '.join(FORMATS)}"
            )
        check_place(target)


def write_summary(summary: Summary, target: str) -> None:
    """Write the summary whole or not at all. Raises OutputError."""
    suffix = os.path.splitext(target_name(target))[1].lower()
    text = FORMATS[suffix](summary).encode("utf-8", "backslashreplace")
    if not is_remote(target):
        write_atomic(target, text)
        return
    with tempfile.NamedTemporaryFile(prefix="moderate-summary-") as file:
        file.write(text)
        file.flush()
        send(file.name, target)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: a name must not become a link, an image or a cell."""
    return _MARKDOWN.sub(r"\\\1", text)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"
