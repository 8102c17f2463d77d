"""What a report shows of a listing of rows: figures, charts, and the rows themselves."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from moderate.policy.model import Policy
from moderate.policy.thresholds import score_bands
from moderate.report.model import (
    Bars,
    Figures,
    Part,
    Rows,
    Segment,
    Table,
    Tiles,
    Tone,
    counted,
)
from moderate.report.svg import Bar, Plot
from moderate.run.listing import BINS, NUMBER, Listing, Thumbnails
from moderate.text import printable
from moderate.types import Decision

_FIRST = 20
"""Rows that a reader without scripts sees."""

_CODES = 12
"""Error codes that have a bar of their own."""

_MOST_FOR_DICTIONARY = 0.5  # distinct values in a row: above it a column is a plain list

_TONES: dict[str, Tone] = {
    Decision.APPROVE: "good",
    Decision.REVIEW: "warning",
    Decision.BLOCK: "bad",
    "not scored": "quiet",
}
_TEXTS = (
    *("path", "decision", "reasons", "format", "highest_at", "embedded", "sha256"),
    *("duplicate_of", "warnings", "error_code", "error_message"),
)
_NUMBERS = ("width", "height", "frames", "bytes")


def page_parts(
    listing: Listing,
    decisions: Mapping[str, int],
    bands: Mapping[str, Mapping[str, int]],
    error_codes: Mapping[str, int],
) -> Iterator[Part]:
    """Figures and charts of all rows, listed or not, and the rows that are listed."""
    rows = listing.rows
    worst_first = [decision.value for decision in reversed(Decision)]
    errors = sum(error_codes.values())
    tiles = [Segment(name, decisions.get(name, 0), _TONES[name]) for name in worst_first]
    yield Tiles((*tiles, Segment("errors", errors), Segment("rows", rows)))
    bars = ((name, (Segment("", decisions.get(name, 0), _TONES[name]),)) for name in worst_first)
    yield Bars("Decisions", tuple(bars), rows)
    names = (*worst_first, "not scored")
    yield Bars(
        "Categories",
        tuple(
            (
                _label(category),
                tuple(
                    Segment(name, of["unscored" if name == "not scored" else name], _TONES[name])
                    for name in names
                ),
            )
            for category, of in bands.items()
        ),
        rows - errors,
        legend=True,
    )
    if error_codes:
        ranked = sorted(error_codes.items(), key=lambda pair: (-pair[1], pair[0]))
        most = tuple((code, (Segment("", count),)) for code, count in ranked[:_CODES])
        if other := sum(count for _, count in ranked[_CODES:]):
            most += (("other codes", (Segment("", other),)),)
        yield Bars("Errors by code", most, rows)
    yield _rows(listing)
    plots = tuple(
        _histogram(category, listing)
        for category, counts in listing.histograms.items()
        if counts.any()
    )
    if plots:
        yield Figures("Scores", plots)


def _rows(listing: Listing) -> Rows:
    """The rows of a listing for the script of a page."""
    table = listing.table()
    policy = listing.policy
    names = tuple(listing.histograms)
    scores = {name: table[name].to_numpy().astype(np.float32) for name in names}
    # Categories that no row has a score in would only take up room.
    shown = [name for name in names if not np.isnan(scores[name]).all()]
    texts = {name: _texts(table[name].to_pylist()) for name in _TEXTS}
    thumbnails = listing.thumbnails
    data = {
        "total": listing.rows,
        "listed": len(table),
        "categories": [_category(name, policy) for name in shown],
        "columns": {
            **texts,
            **{name: table[name].to_pylist() for name in (*_NUMBERS, NUMBER)},
        },
        "scores": {name: _ten_thousandths(scores[name]) for name in shown},
        "bands": {name: _bands(scores[name], policy, name) for name in shown},
    }
    return Rows(
        title="Images",
        data=data,
        first=_first(table.slice(0, _FIRST).to_pylist(), shown),
        notes=tuple(_notes(listing, len(table))),
        thumbnails=None if thumbnails is None else _encoded(thumbnails),
    )


def _notes(listing: Listing, listed: int) -> Iterator[str]:
    if listed < listing.rows:
        yield (
            f"These are the {listed:,} most severe of {listing.rows:,} rows; the others are in the "
            "results alone. Figures and charts count all rows."
        )
    if listing.policy.override:
        yield "The policy has overrides: the thresholds drawn are its own, without them."
    thumbnails = listing.thumbnails
    if thumbnails is not None:
        note = (
            f"Thumbnails are shown of {len(thumbnails.images):,} of the {thumbnails.asked:,} most "
            "severe rows, blurred and grey until revealed by a click or the key v; of an animation "
            "they show the first frame."
        )
        why = ", ".join(f"{reason} ({count:,})" for reason, count in thumbnails.missing.items())
        yield f"{note} Without one: {why}." if why else note


def _first(rows: list[dict[str, Any]], shown: list[str]) -> Table:
    lines = tuple(
        (
            row["path"],
            row["decision"],
            *("-" if row[name] is None else f"{row[name]:.3f}" for name in shown),
        )
        for row in rows
    )
    header = ("image", "decision", *map(_label, shown))
    title = f"The first {counted(len(rows), 'row')}"
    return Table(title, header, lines, text_columns=(0, 1))


def _category(name: str, policy: Policy) -> dict[str, Any]:
    limits = policy.limits(name)
    return {
        "name": name,
        "label": _label(name),
        "review": limits and limits.review,
        "block": limits and limits.block,
    }


def _label(name: str) -> str:
    return str(name).replace("_", " ")


def _texts(cells: list[str | None]) -> list[str | None] | dict[str, list[Any]]:
    """A column as it is, or as its distinct values and the place of each cell's among them."""
    distinct = dict.fromkeys(cells)
    if len(distinct) > max(1, len(cells) * _MOST_FOR_DICTIONARY):
        return [cell if cell is None else printable(cell) for cell in cells]
    places = {cell: place for place, cell in enumerate(distinct)}
    return {
        "of": [cell if cell is None else printable(cell) for cell in distinct],
        "at": [places[cell] for cell in cells],
    }


def _ten_thousandths(scores: Any) -> list[int | None]:
    known = np.nan_to_num(np.round(scores * 10_000), nan=-1).astype(int).tolist()
    return [None if value < 0 else value for value in known]


def _bands(scores: Any, policy: Policy, name: str) -> str:
    """A digit per row: what its score asks for, by the rule of the policy itself."""
    limits = policy.limits(name)
    review, block = (limits.review, limits.block) if limits else (np.inf, np.inf)
    bands = score_bands(scores, review, block)
    return bytes(bands.astype(np.uint8) + ord("0")).decode("ascii")


def _histogram(category: str, listing: Listing) -> Plot:
    """Shares by score; the scale is that of square roots, so that rare high scores are seen."""
    counts = listing.histograms[category]
    total = int(counts.sum())
    limits = listing.policy.limits(category)
    label = _label(category)
    bars = [
        Bar(
            place / BINS,
            (place + 1) / BINS,
            (int(count) / total) ** 0.5,
            f"{label} {place / BINS:.2f} to {(place + 1) / BINS:.2f}: {counted(int(count), 'row')}",
        )
        for place, count in enumerate(counts)
        if count
    ]
    return Plot(
        title=label,
        x="score; lines: review and block" if limits else "score; the policy has no thresholds",
        y="% of scored rows",
        bars=bars,
        limits=(
            (limits.review, f"review {limits.review:g}"),
            (limits.block, f"block {limits.block:g}"),
        )
        if limits
        else (),
        y_ticks=("0", "6", "25", "56", "100"),  # the squares of a quarter, a half, ...
    )


def _encoded(thumbnails: Thumbnails) -> dict[str, str]:
    return {
        str(place): base64.b64encode(image).decode("ascii")
        for place, image in sorted(thumbnails.images.items())
    }
