"""What a review shows, in tables and in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from moderate.analysis.review_report import CONFIDENCE, OUTCOMES, Band, Pace, Rate, Review
from moderate.report.model import Part, Report, Table, counted, sentences, share
from moderate.review.agreement import Agreement

MOST_REVIEWERS = 50
"""Reviewers that a table names; the data has all."""


def report(review: Review) -> Report:
    """The whole of it."""
    parts: list[Part] = [_against(review), _overturned(review), _asked(review)]
    if review.reviewers:
        parts.append(_reviewers(review))
    parts.append(sentences(list(_closing(review))))
    people = counted(len(review.reviewers), "reviewer")
    headline = f"{counted(review.images, 'image')} of {review.rows:,} rows decided by {people}"
    return Report("moderate: review", tuple(parts), _data(review), headline)


def _against(review: Review) -> Table:
    rows = []
    for decision, counts in review.against.items():
        whole = sum(counts.values())
        cells = (f"{counts[name]} ({share(counts[name], whole)})" for name in OUTCOMES)
        rows.append((decision, *cells, str(whole)))
    title = "Decisions: the machine (rows) and people (columns)"
    return Table(title, ("", *OUTCOMES, "in all"), tuple(rows))


def _overturned(review: Review) -> Table:
    rows = tuple(
        (
            band.category or "no category",
            band.name,
            str(band.sure),
            str(rate.events),
            rate_text(rate),
        )
        for band in review.bands
        if (rate := band.overturned) is not None
    )
    return Table(
        "Where people overturned the scores",
        ("category", "band", "sure", "overturned", f"share ({CONFIDENCE:.0%})"),
        rows,
        (
            "Images that the scores approve or block and that people were sure of; one counts "
            "under each category that blocks it.",
        ),
        text_columns=(0, 1),
    )


def _asked(review: Review) -> Table:
    rows = tuple(
        (
            band.category or "no category",
            band.name,
            str(band.approved),
            str(band.blocked),
            str(band.unsure),
            rate_text(band.blocked_share),
        )
        for band in review.bands
        if band.overturned is None
    )
    return Table(
        "What people decided where the scores ask them",
        ("category", "band", "approved", "blocked", "unsure", f"blocked ({CONFIDENCE:.0%})"),
        rows,
        (
            "The bands are thirds of the way from review to block; an image counts under each "
            "category that asks. Shares are of the images that people were sure of.",
        ),
        text_columns=(0, 1),
    )


def _reviewers(review: Review) -> Table:
    rows = tuple(
        (
            each.name,
            str(each.approved),
            str(each.blocked),
            str(each.unsure),
            str(each.replaced),
            "-" if each.pace is None else f"{each.pace.median:.1f} s",
            str(each.severe),
        )
        for each in review.reviewers[:MOST_REVIEWERS]
    )
    header = ("reviewer", "approved", "blocked", "unsure", "changed", "median", "severe seen")
    more = len(review.reviewers) - len(rows)
    return Table(
        "Reviewers",
        header,
        rows,
        (f"{more} more are not shown.",) if more else (),
        shortened=0,
    )


def rate_text(rate: Rate) -> str:
    """A share with its interval; `-` of nothing."""
    if rate.value is None:
        return "-"
    return f"{rate.value:.1%} ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def _closing(review: Review) -> Iterator[str]:
    if review.copies:
        yield f"copies: {review.copies:,} rows have the decision of their image"
    yield f"time: {_pace(review.pace)}"
    middle = review.middle
    text = f"middle band: {middle.decided:,} of {counted(middle.images, 'image')} decided"
    if middle.hours_per_thousand is not None:
        text += f"; {middle.hours_per_thousand:.2f} hours per 1,000 images"
        text += f", {middle.hours_left:.2f} hours for the rest"
    yield text
    yield f"second looks: {_agreement(review.agreement)}"
    if review.disputed:
        yield f"disputed: {counted(review.disputed, 'image')}, where the strictest decision holds"
    yield f"exposure: {sum(each.severe for each in review.reviewers):,} severe images seen sharp"
    yield from (f"note: {note}" for note in review.notes)


def _pace(pace: Pace | None) -> str:
    if pace is None:
        return "no decision was timed"
    quartiles = f"quartiles {pace.lower:.1f} to {pace.upper:.1f} s"
    return f"median {pace.median:.1f} s per decision, {quartiles}, {pace.count:,} timed"


def _agreement(agreement: Agreement | None) -> str:
    if agreement is None:
        return "none yet"
    text = f"{counted(agreement.count, 'image')}, {agreement.alike:.1%} alike"
    if agreement.kappa is None:
        return f"{text}; Cohen's kappa is not defined, as all answers are the same"
    interval = "too few for an interval"
    if agreement.low is not None and agreement.high is not None:
        interval = f"{agreement.low:.2f} to {agreement.high:.2f}"
    return f"{text}; Cohen's kappa {agreement.kappa:.2f} ({interval})"


def _data(review: Review) -> dict[str, Any]:
    return {
        "schema": 1,
        "confidence": CONFIDENCE,
        "rows": review.rows,
        "images": review.images,
        "copies": review.copies,
        "disputed": review.disputed,
        "decisions": {name: dict(counts) for name, counts in review.against.items()},
        "bands": [_band(band) for band in review.bands],
        "seconds_per_decision": review.pace and asdict(review.pace),
        "middle_band": {**asdict(review.middle), "hours_left": review.middle.hours_left},
        "second_looks": review.agreement and asdict(review.agreement),
        "reviewers": [asdict(each) for each in review.reviewers],
        "severe_seen": sum(each.severe for each in review.reviewers),
        "notes": list(review.notes),
    }


def _band(band: Band) -> dict[str, Any]:
    return {
        **asdict(band),
        "blocked_share": asdict(band.blocked_share),
        "overturned": band.overturned and asdict(band.overturned),
    }
