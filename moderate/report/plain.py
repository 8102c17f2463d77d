"""Tables of text for a terminal and in Markdown, for every report that is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

from rich.console import Console

from moderate.report.files import _line, _plain, _under
from moderate.report.tables import Table
from moderate.report.terminal import _print_under, _rich_table, console, safe_text


def print_tables(tables: Sequence[Table], stream: IO[str]) -> Console:
    """Print tables under their titles; the console, for what comes after them."""
    out = console(stream)
    for table in tables:
        out.print(safe_text(table.title, "bold"))
        out.print(_rich_table(table, out.width))
        _print_under(table, out)
        out.print()
    return out


def markdown(
    title: str, headline: str | None, tables: Sequence[Table], closing: Sequence[str]
) -> str:
    """A Markdown document of tables, with sentences under them."""
    lines = [f"# {_plain(title)}", ""]
    if headline:
        lines += [f"**{_plain(headline)}**", ""]
    for table in tables:
        lines += [f"## {_plain(table.title)}", "", _line(table.header)]
        lines.append("|" + "|".join(["---", *("---:" for _ in table.header[1:])]) + "|")
        lines += [_line(row) for row in table.rows]
        lines += _under(table)
        lines.append("")
    return "\n".join([*lines, *(f"- {_plain(line)}" for line in closing)]) + "\n"
