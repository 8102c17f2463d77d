"""What a report consists of. One renderer per format makes text of it; see `files` and `terminal`.

Text may be of untrusted origin: the renderers make it safe to show, whoever builds the report need
not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from moderate.report.svg import Plot

Tone = Literal["", "strong", "quiet", "good", "warning", "bad", "alarm"]
"""How a reader is to take a text; the terminal and HTML give each a colour."""


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a header and rows of cells; the columns that hold text are left-justified.

    notes are sentences below the rows. The other fields concern the terminal alone: `shortened` is
    the column that is cut where there is too little room; `min_width` is the least width of all
    columns but the last; a `wide` table is never cut, however narrow the terminal. Where
    `name_last` has the widths of all columns but the first, the first comes last and whole, so that
    it can be copied, and the header is left out.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    text_columns: tuple[int, ...] = (0,)
    shortened: int | None = None
    min_width: int = 0
    wide: bool = False
    name_last: tuple[int, ...] = ()
    space_after: bool = True


@dataclass(frozen=True, slots=True)
class Fact:
    """A value under a label; one without a label continues the one before."""

    label: str
    value: str
    tone: Tone = ""
    label_tone: Tone = "quiet"


@dataclass(frozen=True, slots=True)
class Facts:
    """Labels and values, under a title with a status beside it where they have one.

    The layout is that of the terminal: `lines` are padded labels and wrapped values, `whole` is the
    same without wrapping, and `columns` keeps folded values under each other, `gap` blanks from the
    labels.
    """

    items: tuple[Fact, ...]
    layout: Literal["lines", "whole", "columns"] = "lines"
    label_width: int = 8
    gap: int = 2
    title: str = ""
    status: str = ""
    status_tone: Tone = ""
    space_after: bool = False


@dataclass(frozen=True, slots=True)
class Sentence:
    """One line of text."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Sentences:
    """A list of sentences: what is to be known besides the tables."""

    items: tuple[Sentence, ...]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A text between other parts."""

    text: str


@dataclass(frozen=True, slots=True)
class Figures:
    """Plots under a title, which only HTML shows."""

    title: str
    plots: tuple[Plot, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A count in a bar; the tone is the colour of what it counts."""

    name: str
    count: int
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar per name, divided by counts, which only HTML shows.

    A bar is as long as the sum of its counts is of `whole`. legend explains the colours.
    """

    title: str
    bars: tuple[tuple[str, tuple[Segment, ...]], ...]
    whole: int
    legend: bool = False


@dataclass(frozen=True, slots=True)
class Tiles:
    """The figures to be seen first, which only HTML shows."""

    items: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that a reader filters and sorts, which only HTML shows, by a script in the page.

    data is what the script takes, as JSON values whose texts are safe to show; thumbnails are
    base64 of JPEG files by the place of their row, None where none were asked for. notes are
    sentences under the title. first is a table of the first rows for a reader without scripts.
    """

    title: str
    data: Mapping[str, Any]
    first: Table
    notes: tuple[str, ...] = ()
    thumbnails: Mapping[str, str] | None = None


Part = Table | Facts | Sentences | Paragraph | Figures | Bars | Tiles | Rows
ONLY_HTML = (Figures, Bars, Tiles, Rows)
"""The parts that no other format shows."""


@dataclass(frozen=True, slots=True)
class Report:
    """A report, in reading order; `data` is all of it as JSON values.

    On a terminal the headline follows the tables, near the prompt, unless it is to come first.
    `terminal_parts` is what the terminal shows where that is not what documents show. ascii_json
    has JSON escape what is not ASCII.
    """

    title: str
    parts: tuple[Part, ...]
    data: Any
    headline: str | None = None
    headline_first: bool = False
    terminal_parts: tuple[Part, ...] | None = None
    ascii_json: bool = False


def sentences(lines: Sequence[str], tones: dict[str, Tone] | None = None) -> Sentences:
    """Sentences that have the tone of their start; a note is a warning everywhere."""
    by_start: dict[str, Tone] = {"note:": "warning"} if tones is None else tones

    def tone(line: str) -> Tone:
        return next((tone for start, tone in by_start.items() if line.startswith(start)), "")

    return Sentences(tuple(Sentence(line, tone(line)) for line in lines))


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun, such as 1 image and 2,000 images."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {plural or noun + 's'}"


def share(part: int, whole: int) -> str:
    """`part` of `whole` as a percentage, `-` of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"
