"""Reports as one HTML file each: nothing is loaded from elsewhere, plots as SVG.

A report with rows has a script in it, without which all but the list of rows is there; others have
none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from moderate.report import page
from moderate.report.model import (
    Bars,
    Fact,
    Facts,
    Figures,
    Paragraph,
    Part,
    Report,
    Rows,
    Segment,
    Sentences,
    Table,
    Tiles,
    Tone,
    share,
)
from moderate.report.svg import svg
from moderate.results.marks import MARK
from moderate.text import printable

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --quiet: #5d6770; --rule: #d9dee3;
  --one: #2463b4; --pale: #2463b455; --two: #b43a24; --good: #227a3c; --care: #8a6100;
  --page: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --quiet: #98a2ac; --rule: #3a434c;
  --one: #77aef2; --pale: #77aef255; --two: #f08d77; --good: #74c98c; --care: #e0b45c;
  --page: #15191d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2, caption { font-size: 1.1rem; font-weight: 600; }
h2 { margin: 2rem 0 .5rem; } .wide { overflow-x: auto; margin: 2rem 0 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
caption { text-align: left; padding: 0 0 .5rem; }
th, td { padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid var(--rule); }
thead th { font-weight: 600; color: var(--quiet); white-space: nowrap; }
tbody th { font-weight: 400; } .text { text-align: left; }
.strong, .alarm { font-weight: 600; } .quiet, .label { color: var(--quiet); }
.good { color: var(--good); } .warning { color: var(--care); } .bad, .alarm { color: var(--two); }
figure { display: inline-block; margin: 0 1rem 1rem 0; }
ul { padding-left: 1.2rem; font-size: .9rem; } .wide + ul { color: var(--quiet); }
li.more { list-style: none; } .label { display: inline-block; min-width: 6rem; }
svg text { font: 11px system-ui, sans-serif; fill: var(--quiet); text-anchor: middle; }
svg .title { font-weight: 600; font-size: 12px; fill: var(--ink); text-anchor: start; }
svg .side, svg text.end { text-anchor: end; } svg text.mark { fill: var(--two); }
svg text.mark:not(.end) { text-anchor: start; }
svg .grid { stroke: var(--rule); stroke-width: 1; fill: none; }
svg .diagonal { stroke: var(--quiet); stroke-dasharray: 4 4; fill: none; }
svg .line { stroke: var(--one); stroke-width: 2; fill: none; stroke-linejoin: round; }
svg .bar { fill: var(--pale); } svg .point { fill: var(--one); }
svg circle.mark { fill: var(--two); }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_CELLS: dict[str, Tone] = {
    **{"approve": "good", "review": "warning", "block": "bad"},
    **{"held": "good", "missed": "bad", "DRIFT": "bad"},
}
"""The tones of cells that hold nothing but one of these words."""


def to_html(report: Report) -> str:
    """A report as a page."""
    title = _text(report.title)
    with_rows = any(isinstance(part, Rows) for part in report.parts)
    style = _STYLE + page.style() if with_rows else _STYLE
    policy = page.security_policy(style) if with_rows else _POLICY
    body = [f"<h1>{title}</h1>"]
    if report.headline:
        body.append(f"<p><strong>{_text(report.headline)}</strong></p>")
    for part in report.parts:
        body += _lines(part)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta name="generator" content="{MARK}">',
            f"<title>{title}</title><style>{style}</style></head><body>",
            *body,
            "</body></html>",
            "",
        ]
    )


def _lines(part: Part) -> Iterator[str]:
    match part:
        case Table():
            yield from _table(part)
        case Facts():
            if part.title:
                status = f' <small class="{part.status_tone}">{_text(part.status)}</small>'
                yield f"<h2>{_text(part.title)}{status if part.status else ''}</h2>"
            yield _list([_fact(fact) for fact in part.items])
        case Sentences():
            yield _list([_item(each.text, each.tone) for each in part.items])
        case Paragraph():
            yield f"<p>{_text(part.text)}</p>"
        case Figures():
            yield f"<h2>{_text(part.title)}</h2>"
            yield from (f"<figure>{svg(plot)}</figure>" for plot in part.plots)
        case Bars():
            yield from _bars(part)
        case Tiles():
            yield '<ul class="tiles">'
            for item in part.items:
                yield f"<li{_class(item.tone)}><b>{item.count:,}</b> {_text(item.name)}</li>"
            yield "</ul>"
        case Rows():
            yield from page.section(part, list(_table(part.first)))


def _table(table: Table) -> Iterator[str]:
    yield '<div class="wide"><table>'
    if table.title:
        yield f"<caption>{_text(table.title)}</caption>"
    names = (
        f'<th scope="col"{_class("text" if index in table.text_columns else "")}>{_text(name)}</th>'
        for index, name in enumerate(table.header)
    )
    yield f"<thead><tr>{''.join(names)}</tr></thead><tbody>"
    for row in table.rows:
        cells = (_cell(cell, index, table) for index, cell in enumerate(row))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"
    if table.notes:
        yield _list([_item(note) for note in table.notes])


_BAR = 1000  # the width of a whole bar in units of its drawing


def _bars(bars: Bars) -> Iterator[str]:
    yield f"<h2>{_text(bars.title)}</h2>"
    if bars.legend:
        found = {each.name: each.tone for _, bar in bars.bars for each in bar}
        keys = (
            f"<span><span{_class('key', tone)}></span>{_text(name)}</span>"
            for name, tone in found.items()
        )
        yield f'<p class="legend">{" ".join(keys)}</p>'
    yield '<table class="chart"><tbody>'
    for name, segments in bars.bars:
        counts = ", ".join(
            f"<span>{_text(f'{each.name} {each.count:,}'.lstrip())} "
            f"({share(each.count, bars.whole)})</span>"
            for each in segments
            if each.count or len(segments) == 1
        )
        yield (
            f'<tr><th scope="row">{_text(name)}</th><td>{_bar(segments, bars.whole)}</td>'
            f'<td class="counts">{counts}</td></tr>'
        )
    yield "</tbody></table>"


def _bar(segments: Sequence[Segment], whole: int) -> str:
    left, parts = 0.0, []
    for each in segments:
        width = _BAR * each.count / whole if whole else 0.0
        if each.count:
            # A gap between the parts tells them apart without their colours, too.
            shown = max(width - 2, 5)
            tone = _class(each.tone or "quiet")
            parts.append(f'<rect{tone} x="{left:.1f}" width="{shown:.1f}" height="10"/>')
        left += width
    return (
        f'<svg viewBox="0 0 {_BAR} 10" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )


def _cell(text: str, index: int, table: Table) -> str:
    classes = ("text" if index in table.text_columns else "", _CELLS.get(text, ""))
    tag, scope = ("td", "") if index else ("th", ' scope="row"')
    return f"<{tag}{scope}{_class(*classes)}>{_text(text)}</{tag}>"


def _fact(fact: Fact) -> str:
    if not fact.label:
        return f'<li class="more">{_text(fact.value)}</li>'
    label = f'<span class="label">{_text(fact.label)}</span>'
    return f"<li{_class(fact.tone)}>{label} {_text(fact.value)}</li>"


def _item(text: str, tone: Tone = "") -> str:
    return f"<li{_class(tone)}>{_text(text)}</li>"


def _list(items: Sequence[str]) -> str:
    return "\n".join(["<ul>", *items, "</ul>"])


def _class(*names: str) -> str:
    named = " ".join(filter(None, names))
    return f' class="{named}"' if named else ""


def _text(text: str) -> str:
    return escape(printable(text))
