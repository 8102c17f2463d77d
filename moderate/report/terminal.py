"""The summary for a terminal: legible at 80 columns, without colour and when piped."""

from __future__ import annotations

from typing import IO

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from moderate.report.summary import Summary
from moderate.report.tables import Table, facts, headline, tables

_GAP = 2  # blanks between columns
_COLOURS = {"approve": "green", "review": "yellow", "block": "red"}


def console(stream: IO[str]) -> Console:
    """A console on `stream`: colour on terminals unless NO_COLOR is set, never narrower than 80."""
    plain = Console(file=stream, highlight=False, soft_wrap=False)
    if plain.is_terminal and plain.width >= 80:
        return plain
    return Console(file=stream, highlight=False, width=max(plain.width, 80))


def show(summary: Summary, stream: IO[str]) -> None:
    """Print the whole summary to `stream`."""
    out = console(stream)
    for table in tables(summary):
        out.print(Text(table.title, style="bold"))
        out.print(_rich_table(table, out.width))
        _print_under(table, out)
        out.print()
    out.print(Text(headline(summary), style="bold"))
    for label, value in facts(summary):
        out.print(Text(f"{label:<8} {value}"))
    for note in summary.all_notes():
        out.print(Text(f"note     {note}", style="yellow"))


def _print_under(table: Table, out: Console) -> None:
    for line in table.under:
        out.print(Text(line, style="dim"))


def _rich_table(table: Table, width: int) -> RichTable:
    shown = RichTable(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    widths = [
        max(len(row[i]) for row in (table.header, *table.rows)) for i in range(len(table.header))
    ]
    for index, name in enumerate(table.header):
        example = name == "for example"
        if example:  # where there is too little room, the example gives way
            widths[index] = max(width - sum(widths[:index]) - _GAP * index - 1, len(name))
        shown.add_column(
            Text(name, style="dim"),
            justify="left" if index == 0 or example else "right",
            overflow="ellipsis",
            no_wrap=True,
            min_width=None if example else widths[index],
            max_width=widths[index],
        )
    for row in table.rows:
        shown.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    return shown
