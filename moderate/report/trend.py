"""Decisions and categories over time, and what the test says of the latest period."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from moderate.analysis.trend import METHOD, Trend, categories_of
from moderate.report.model import Part, Report, Table, sentences, share
from moderate.types import Decision

_DECISIONS = tuple(decision.value for decision in Decision)


def report(trend: Trend) -> Report:
    """The whole trend."""
    closing = sentences(list(_closing(trend)), {"drift:": "alarm"})
    parts: tuple[Part, ...] = (*_tables(trend), closing)
    return Report("moderate: trend", parts, _data(trend), ascii_json=True)


def _data(trend: Trend) -> dict[str, Any]:
    """The whole trend as JSON values."""
    return {
        "schema": 1,
        "by": trend.by,
        "test": METHOD,
        "limits": asdict(trend.limits),
        "periods": [
            {
                "period": period.name,
                "sources": period.sources,
                "images": period.images,
                "errors": period.errors,
                "decisions": {name: period.decisions[name] for name in _DECISIONS},
                "bands": {
                    category: {name: bands[name] for name in _DECISIONS}
                    for category, bands in period.bands.items()
                },
            }
            for period in trend.periods
        ],
        "latest": trend.periods[-1].name,
        "tests": [asdict(test) for test in trend.tests],
        "coverage": trend.coverage.as_json(),
        "drift": trend.drifted,
        "notes": list(trend.notes),
    }


def _tables(trend: Trend) -> Iterator[Table]:
    """The trend as tables of text."""
    yield Table(
        f"Decisions by {trend.by}",
        (trend.by, "images", *_DECISIONS, "errors"),
        tuple(
            (
                period.name,
                str(period.images),
                *(share(period.decisions[name], period.images) for name in _DECISIONS),
                share(period.errors, period.images),
            )
            for period in trend.periods
        ),
    )
    for category in categories_of(trend.periods):
        counted = [period for period in trend.periods if category in period.bands]
        if counted:
            yield Table(
                f"{category} by {trend.by}",
                (trend.by, "scored", *_DECISIONS),
                tuple(
                    (
                        period.name,
                        str(bands.total()),
                        *(share(bands[name], bands.total()) for name in _DECISIONS),
                    )
                    for period in counted
                    for bands in (period.bands[category],)
                ),
                trend.coverage.lines([category]),
            )
    tested = [test for test in trend.tests if test.p is not None]
    if tested:
        yield Table(
            f"{trend.periods[-1].name} against all before",
            ("what", "chi-squared", "df", "p (Holm)", "effect", "drift from", "drift"),
            tuple(
                (
                    test.what,
                    f"{test.statistic:.1f}",
                    str(test.degrees),
                    f"{test.p_holm:.2g}",
                    f"{test.effect_name} {test.effect:.3f}",
                    f"{test.effect_name} {test.limit:g}",
                    "DRIFT" if test.drift else "no",
                )
                for test in tested
            ),
        )


def _closing(trend: Trend) -> Iterator[str]:
    """The sentences under the tables."""
    limits = trend.limits
    drifted = ", ".join(trend.drifted)
    if any(test.p is not None for test in trend.tests):
        yield f"drift: {drifted}" if drifted else "no drift"
        yield (
            f"test: {METHOD} (alpha {limits.alpha:g}, w {limits.min_w:g}, PSI {limits.min_psi:g})"
        )
    for test in trend.tests:
        if test.merged:
            yield f"note: {test.what}: taken together, being rare: {test.merged}"
    yield from (f"note: {note}" for note in trend.notes)
