"""The summary as a file: JSON for programs, Markdown for pull requests and mail."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence

from moderate.errors import UsageError
from moderate.report.tables import Table, facts, headline, tables
from moderate.results.atomic import open_whole, output_error
from moderate.results.open import check_place
from moderate.results.remote import shown_target, target_name
from moderate.run.summary import Summary, as_json
from moderate.text import printable

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#!|])")


def to_json(summary: Summary) -> str:
    """The summary as JSON text."""
    return json.dumps(as_json(summary), indent=2, ensure_ascii=False) + "\n"


def to_markdown(summary: Summary) -> str:
    """The summary as Markdown tables."""
    lines = ["# moderate: summary", "", f"**{_plain(headline(summary))}**", ""]
    for table in tables(summary):
        lines += [f"## {_plain(table.title)}", "", _line(table.header)]
        lines.append("|" + "|".join(["---", *("---:" for _ in table.header[1:])]) + "|")
        lines += [_line(row) for row in table.rows]
        lines += _under(table)
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


class SummaryFile:
    """One summary on its way; like the rows, it stands under its name when it is whole."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._file = open_whole(target)

    def seal(self, summary: Summary) -> None:
        """Write it all. Raises OutputError."""
        suffix = os.path.splitext(target_name(self._target))[1].lower()
        text = FORMATS[suffix](summary)
        try:
            self._file.file.write(text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise output_error(self._target, error) from error
        self._file.seal()

    def commit(self) -> dict[str, str]:
        """Put it under its name. The SHA-256 (hex) by its absolute path or URI.

        Raises OutputError.
        """
        return {self._file.name: self._file.commit()}

    def discard(self) -> None:
        """Leave nothing behind. Does nothing after `commit`."""
        self._file.discard()


@contextlib.contextmanager
def open_summaries(targets: Sequence[str]) -> Iterator[list[SummaryFile]]:
    """A file per target; whatever was not committed when the block ends is discarded."""
    files: list[SummaryFile] = []
    try:
        for target in targets:
            files.append(SummaryFile(target))
        yield files
    finally:
        for file in files:
            file.discard()


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: a name must not become a link, a cell or a line."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def _under(table: Table) -> list[str]:
    return ["", *(f"- {_plain(line)}" for line in table.under)] if table.under else []


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"
