"""Reports on a terminal: legible at 80 columns, without colour and when piped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from moderate.errors import ReaderGoneError
from moderate.report.model import Facts, Paragraph, Part, Report, Sentences, Table, Tone
from moderate.terminal import unguarded
from moderate.text import for_terminal, printable

_GAP = 2  # blanks between columns
_STYLES: dict[Tone, str] = {
    "": "",
    "strong": "bold",
    "quiet": "dim",
    "good": "green",
    "warning": "yellow",
    "bad": "red",
    "alarm": "bold red",
}
_CELLS: dict[str, Tone] = {
    **{"approve": "good", "review": "warning", "block": "bad"},
    **{"completed": "good", "interrupted": "warning", "failed": "bad", "died": "bad"},
}
"""The tones of cells that hold nothing but one of these words."""


class SafeConsole(Console):
    """A console whose only escape sequences are its own: those in what it prints are escaped."""

    def on_broken_pipe(self) -> None:
        """See `Console.on_broken_pipe`, which ends the process as if something had been found."""
        raise ReaderGoneError("standard output was closed by its reader")

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


def show(report: Report, stream: IO[str]) -> None:
    """Print a report to `stream`."""
    out = console(stream)
    headline = report.headline
    if headline and report.headline_first:
        out.print(_text(headline, "strong"))
        out.print()
        headline = None
    for part in report.parts if report.terminal_parts is None else report.terminal_parts:
        if headline and isinstance(part, Facts | Sentences):
            out.print(_text(headline, "strong"))
            headline = None
        _print(part, out)
    if headline:
        out.print(_text(headline, "strong"))


def _print(part: Part, out: Console) -> None:
    match part:
        case Table():
            _print_table(part, out)
        case Facts():
            _print_facts(part, out)
        case Sentences():
            for sentence in part.items:
                _print_hanging("", sentence.text, sentence.tone, out)
        case Paragraph():
            out.print(_text(part.text))
            out.print()
        case _:
            pass  # ONLY_HTML


def _text(text: str, tone: Tone = "") -> Text:
    """Text to print on one line, whatever characters it has."""
    return Text(printable(text), style=_STYLES[tone])


def _print_hanging(label: str, text: str, tone: Tone, out: Console) -> None:
    """Wrap a text so that its further lines stand below its first, or are indented a little."""
    indent = len(printable(label)) or _GAP
    width = max(_text_width(out) - indent, 20)
    first, *others = _text(text, tone).wrap(out, width) or [Text()]
    out.print(_text(label, tone).append_text(first))
    for line in others:
        out.print(Text(" " * indent).append_text(line))


def _text_width(out: Console) -> int:
    """Text, unlike tables, fits a terminal that is narrower than 80 columns."""
    return min(out.width, Console(file=out.file).width) if out.is_terminal else out.width


def _print_table(table: Table, out: Console) -> None:
    if table.title:
        out.print(_text(table.title, "strong"))
    if table.name_last:
        for name, *cells in table.rows:
            padded = map(str.ljust, cells, table.name_last)
            out.print(_text(" ".join((*padded, name))), soft_wrap=True)
    else:
        grid = _rich_table(table, out.width)
        if table.wide:
            unbounded = out.options.update(max_width=1_000)
            usual = out.width
            out.width = max(usual, out.measure(grid, options=unbounded).maximum)
            out.print(grid)
            out.width = usual
        else:
            out.print(grid)
    for note in table.notes:
        _print_hanging("", note, "quiet", out)
    if table.space_after:
        out.print()


def _rich_table(table: Table, width: int) -> RichTable:
    header = tuple(map(printable, table.header))
    rows = [tuple(map(printable, row)) for row in table.rows]
    grid = RichTable(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    widths = [max(len(row[index]) for row in (header, *rows)) for index in range(len(header))]
    widths[:-1] = [max(width, table.min_width) for width in widths[:-1]]
    for index, name in enumerate(header):
        shortened = index == table.shortened
        if shortened:
            widths[index] = max(width - sum(widths[:index]) - _GAP * index - 1, len(name))
        grid.add_column(
            Text(name, style="dim"),
            justify="left" if index in table.text_columns else "right",
            overflow="ellipsis",
            no_wrap=True,
            min_width=None if shortened else widths[index],
            max_width=widths[index],
        )
    for row in rows:
        grid.add_row(*(Text(cell, style=_STYLES[_CELLS.get(cell, "")]) for cell in row))
    return grid


def _print_facts(facts: Facts, out: Console) -> None:
    if facts.title:
        title = _text(facts.title, "strong")
        if facts.status:
            title.append(f"  {printable(facts.status)}", style=_STYLES[facts.status_tone])
        out.print(title)
    if facts.layout == "columns":
        grid = RichTable.grid(padding=(0, facts.gap, 0, 0))
        grid.add_column(no_wrap=True, min_width=facts.label_width)
        grid.add_column(overflow="fold")
        for fact in facts.items:
            grid.add_row(_text(fact.label, fact.label_tone), _text(fact.value, fact.tone))
        out.print(grid)
    else:
        for fact in facts.items:
            label = f"{fact.label:<{facts.label_width}} "
            if facts.layout == "whole":
                out.print(_text(label + fact.value, fact.tone), soft_wrap=True)
            else:
                _print_hanging(label, fact.value, fact.tone, out)
    if facts.space_after:
        out.print()
