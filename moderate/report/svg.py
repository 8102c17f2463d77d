"""Small plots of the unit square as SVG: two axes from 0 to 1, lines, bars and marked points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from moderate.text import printable

_SIDE, _LEFT, _TOP, _BELOW, _RIGHT = 220, 46, 26, 40, 14  # px: the square, and room around it
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_RULE = 'fill="none" stroke="#98a2ac"'
_LINE = 'fill="none" stroke="#2463b4" stroke-width="2"'

Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bar:
    """From x `low` to `high`, from 0 up to `height`; `says` is shown where a pointer rests."""

    low: float
    high: float
    height: float
    says: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A point with a name beside it."""

    at: Place
    name: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot; all coordinates are from 0 to 1. diagonal draws the line x = y for comparison.

    limits are places on the x axis with names, drawn as lines upwards. y_ticks are the texts of the
    five lines across where the scale of y is not linear.
    """

    title: str
    x: str
    y: str
    line: Sequence[Place] = ()
    bars: Sequence[Bar] = ()
    points: Sequence[Place] = ()
    marks: Sequence[Mark] = ()
    diagonal: bool = False
    limits: Sequence[tuple[float, str]] = ()
    y_ticks: Sequence[str] = ()


def svg(plot: Plot) -> str:
    """The plot as an `<svg>` element. The page's classes give colours for light and dark.

    Attributes say the same where a viewer does not apply a page's style to what is drawn.
    """
    width, height = _LEFT + _SIDE + _RIGHT, _TOP + _SIDE + _BELOW
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{_text(plot.title)}" font-size="11" text-anchor="middle">',
        f'<text class="title" text-anchor="start" x="{_LEFT}" y="15">{_text(plot.title)}</text>',
    ]
    y_ticks = plot.y_ticks or [f"{tick:g}" for tick in _TICKS]
    for tick, text in zip(_TICKS, y_ticks, strict=True):
        x, y = _place((tick, tick))
        parts.append(
            f'<path class="grid" {_RULE} d="M{x} {_TOP}V{_TOP + _SIDE}M{_LEFT} {y}h{_SIDE}"/>'
        )
        parts.append(f'<text class="tick" x="{x}" y="{_TOP + _SIDE + 14}">{tick:g}</text>')
        side = f'class="tick side" text-anchor="end" x="{_LEFT - 5}" y="{y + 4:g}"'
        parts.append(f"<text {side}>{_text(text)}</text>")
    parts += [_bar(bar) for bar in plot.bars]
    for at_x, name in plot.limits:
        x, _ = _place((at_x, 0.0))
        parts.append(
            f'<path class="limit" stroke="#1d2329" stroke-dasharray="3 3" '
            f'd="M{x} {_TOP}V{_TOP + _SIDE}"><title>{_text(name)}</title></path>'
        )
    if plot.diagonal:
        parts.append(f'<path class="diagonal" {_RULE} d="M{_pair((0, 0))}L{_pair((1, 1))}"/>')
    if plot.line:
        parts.append(f'<polyline class="line" {_LINE} points="{" ".join(map(_pair, plot.line))}"/>')
    for at in plot.points:
        x, y = _place(at)
        parts.append(f'<circle class="point" fill="#2463b4" cx="{x}" cy="{y}" r="3"/>')
    for mark in plot.marks:
        x, y = _place(mark.at)
        to_the_left = mark.at[0] > 0.75
        where = f'x="{x - 7 if to_the_left else x + 7:g}" y="{y + (14 if y < _TOP + 20 else -6):g}"'
        kind, anchor = ("mark end", "end") if to_the_left else ("mark", "start")
        parts.append(f'<circle class="mark" fill="#b43a24" cx="{x}" cy="{y}" r="4.5"/>')
        parts.append(
            f'<text class="{kind}" text-anchor="{anchor}" {where}>{_text(mark.name)}</text>'
        )
    middle = _TOP + _SIDE / 2
    parts += [
        f'<text class="axis" x="{_LEFT + _SIDE / 2:g}" y="{height - 8}">{_text(plot.x)}</text>',
        f'<text class="axis" transform="translate(12 {middle:g}) rotate(-90)">{_text(plot.y)}'
        "</text>",
        "</svg>",
    ]
    return "\n".join(parts)


def _bar(bar: Bar) -> str:
    left, top = _place((bar.low, bar.height))
    right, bottom = _place((bar.high, 0.0))
    size = f'width="{max(right - left - 1, 0):g}" height="{max(bottom - top, 1):g}"'
    return (
        f'<rect class="bar" fill="#a9c1e0" x="{left + 0.5:g}" y="{min(top, bottom - 1):g}" {size}>'
        f"<title>{_text(bar.says)}</title></rect>"
    )


def _place(at: Place) -> Place:
    """A place in the unit square in pixels, y downwards."""
    return round(_LEFT + at[0] * _SIDE, 2), round(_TOP + (1 - at[1]) * _SIDE, 2)


def _pair(at: Place) -> str:
    x, y = _place(at)
    return f"{x:g},{y:g}"


def _text(text: str) -> str:
    return escape(printable(text))
