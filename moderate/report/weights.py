"""The catalogue and what is installed: one block per entry, which has too much for a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moderate.report.model import Fact, Facts, Report


def report(listed: Sequence[Mapping[str, Any]]) -> Report:
    """What `moderate.weights.listing.list_weights` gave."""
    return Report("moderate: weights", tuple(map(_entry, listed)), listed)


def _entry(item: Mapping[str, Any]) -> Facts:
    status = ""
    if item["installed"]:
        status = f"installed ({item['problem'] or 'digest: ' + str(item['digest'])})"
    return Facts(
        tuple(Fact(label, value) for label, value in _lines(item)),
        layout="columns",
        gap=4,
        title=item["name"],
        status=status,
        status_tone="bad" if item["problem"] else "good",
    )


def _lines(item: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "title", item["title"]
    yield "fit for", item["fit_for"]
    yield from _covers(item)
    yield "licence", item["licence"]
    yield "size", item["size"] or "-"
    yield "claim", f"{item['claim']} - {item['claimed_by']}" if item["claim"] else "none"
    yield "verified", item["verified"] or "not by this project"


def _covers(item: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    label = "covers"
    for name in item["categories"]:
        text = item["covers"].get(name)
        yield label, f"{name}: {text}" if text else name
        label = ""
    if not item["categories"]:
        yield label, ""
