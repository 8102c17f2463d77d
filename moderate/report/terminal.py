"""The summary for a terminal: legible at 80 columns, without colour and when piped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from moderate.report.tables import Table, facts, headline, tables
from moderate.run.summary import Summary
from moderate.terminal import unguarded
from moderate.text import for_terminal, printable

_GAP = 2  # blanks between columns
_COLOURS = {"approve": "green", "review": "yellow", "block": "red"}


class SafeConsole(Console):
    """A console whose only escape sequences are its own: those in what it prints are escaped."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """See `Console.render`, which everything that is printed passes."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=for_terminal(segment.text))


def console(stream: IO[str]) -> Console:
    """A console on `stream`: colour on terminals unless NO_COLOR is set, never narrower than 80."""
    file = unguarded(stream)
    plain = SafeConsole(file=file, highlight=False, soft_wrap=False)
    if plain.is_terminal and plain.width >= 80:
        return plain
    return SafeConsole(file=file, highlight=False, width=max(plain.width, 80))


def safe_text(text: str, style: str = "") -> Text:
    """Text to print on one line, whatever characters it has."""
    return Text(printable(text), style=style)


def show(summary: Summary, stream: IO[str]) -> None:
    """Print the whole summary to `stream`."""
    out = console(stream)
    for table in tables(summary):
        out.print(safe_text(table.title, "bold"))
        out.print(_rich_table(table, out.width))
        _print_under(table, out)
        out.print()
    out.print(safe_text(headline(summary), "bold"))
    for label, value in facts(summary):
        out.print(safe_text(f"{label:<8} {value}"))
    for note in summary.all_notes():
        out.print(safe_text(f"note     {note}", "yellow"))


def _print_under(table: Table, out: Console) -> None:
    for line in table.under:
        out.print(Text(line, style="dim"))


def _rich_table(table: Table, width: int) -> RichTable:
    header = tuple(map(printable, table.header))
    rows = [tuple(map(printable, row)) for row in table.rows]
    shown = RichTable(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for index, name in enumerate(header):
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
    for row in rows:
        shown.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    return shown
