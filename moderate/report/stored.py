"""The summary of a results file, as far as the file keeps what a scan's summary shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moderate.analysis.stored import Stored
from moderate.classify.coverage import Coverage
from moderate.report.listing import page_parts
from moderate.report.model import Part, Report, sentences
from moderate.report.summary import count_tables, problem_tables, rating_table
from moderate.run.listing import Listing
from moderate.run.summary import SCHEMA_VERSION
from moderate.types import Decision

_FACTS = (
    *("weights", "weights_sha256", "weights_fit_for", "policy", "policy_file", "policy_sha256"),
    *("config", "config_sha256", "device", "precision", "backend", "started", "ended"),
    *("run_id", "version", "only", "left_out"),
)


def report(stored: Stored, listing: Listing | None = None) -> Report:
    """All counts of a file, with charts and its rows where there is a listing."""
    coverage = Coverage.of_facts(stored.facts).lines()
    page: tuple[Part, ...] = ()
    if listing is not None:
        page = tuple(page_parts(listing, stored.decisions, stored.bands, stored.error_codes))
    parts: tuple[Part, ...] = (
        *page,
        *count_tables(stored.decisions, stored.rows, stored.bands, coverage),
        *([rating_table(stored.ratings, stored.rows)] if stored.ratings else []),
        *problem_tables(stored.error_codes, stored.error_examples, stored.warnings),
        sentences(list(_closing(stored))),
    )
    headline = f"{stored.rows - stored.errors} scored + {stored.errors} errors = {stored.rows} rows"
    return Report("moderate: summary", parts, _data(stored), headline)


def _closing(stored: Stored) -> Iterator[str]:
    """The audit facts of the file, and notes."""
    yield f"copies: {stored.duplicates}"
    if stored.origins:
        yield f"origins: {', '.join(f'{count} {name}' for name, count in stored.origins.items())}"
    for name in _FACTS:
        if name in stored.facts:
            yield f"{name}: {stored.facts[name]}"
    yield from (f"note: {note}" for note in stored.notes)


def _data(stored: Stored) -> dict[str, Any]:
    """The counts, with the keys of a scan's summary as far as they are known."""
    return {
        "schema": SCHEMA_VERSION,
        "audit": dict(stored.facts),
        "rows": stored.rows,
        "scored": stored.rows - stored.errors,
        "errors": stored.errors,
        "duplicates": stored.duplicates,
        "origins": dict(stored.origins),
        "decisions": {d.value: stored.decisions.get(d.value, 0) for d in Decision},
        "categories": {name: dict(bands) for name, bands in stored.bands.items()},
        **({"ratings": dict(stored.ratings)} if stored.ratings else {}),
        "coverage": Coverage.of_facts(stored.facts).as_json(),
        "error_codes": dict(stored.error_codes),
        "error_examples": dict(stored.error_examples),
        "warnings": dict(stored.warnings),
        "notes": list(stored.notes),
    }
