"""The catalogue and what is installed: one line per entry, and all that is known of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moderate.report.model import Fact, Facts, Paragraph, Part, Report, Table
from moderate.types import CATEGORIES, Category

_LETTERS: Mapping[str, str] = {
    Category.NUDITY: "N",
    Category.SEXUAL_ACTIVITY: "A",
    Category.SUGGESTIVE: "S",
    Category.VIOLENCE: "V",
    Category.DRUG_USE: "D",
}
_SHORT_SIZE = 12
_HOW_TO_READ = (
    "covers: N nudity, A sexual activity, S suggestive, V violence, D drug use",
    "tried: this project has compared its scores with the original's",
    "installed: where its digests are from; a first pull's are checked ever since",
    "'moderate weights show NAME' says more, 'moderate weights pull NAME' installs",
)

_OWN = "; + a category of their own"


def report(listed: Sequence[Mapping[str, Any]]) -> Report:
    """What `moderate.weights.listing.list_weights` gave."""
    covers = _HOW_TO_READ[0] + (_OWN if any(map(_own, listed)) else "")
    table = Table(
        "",
        ("name", "covers", "size", "tried", "installed"),
        tuple(tuple(_cells(item)) for item in listed),
        notes=(covers, *_HOW_TO_READ[1:]),
        text_columns=(0, 1, 2, 3, 4),
        shortened=4,
    )
    advice = tuple(Fact(item["name"], item["advice"]) for item in listed if item["advice"])
    taken = Facts(advice, layout="columns", title="Which to take", space_after=True)
    problems = tuple(
        Paragraph(f"{item['name']}: {item['problem']}") for item in listed if item["problem"]
    )
    parts: tuple[Part, ...] = (taken, table, *problems)
    return Report("moderate: weights", parts, listed)


def entry_report(item: Mapping[str, Any]) -> Report:
    """All that `moderate.weights.listing.describe` gave of an entry that is not installed."""
    facts = Facts(
        tuple(Fact(label, value) for label, value in _lines(item)),
        layout="columns",
        gap=4,
        title=item["name"],
        status="not installed",
        status_tone="quiet",
    )
    return Report("moderate: weights", (facts,), item)


def _cells(item: Mapping[str, Any]) -> Iterator[str]:
    yield item["name"]
    letters = [_LETTERS[c] if c in item["categories"] else "." for c in CATEGORIES]
    own = _own(item)
    yield " ".join([*letters, *(f"+{name}" for name in own[:2]), *(["..."] if own[2:] else [])])
    size = str(item["size"] or "").replace("parameters", "params")
    yield size if size and len(size) <= _SHORT_SIZE else "-"
    yield "yes" if item["verified"] else "-"
    if item["problem"]:
        yield "PROBLEM"
    else:
        yield item["digest"] or "-"


def _own(item: Mapping[str, Any]) -> list[str]:
    """The categories of their own that weights feed."""
    return [name for name in item["categories"] if name not in CATEGORIES]


def _lines(item: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "title", item["title"]
    yield "fit for", item["fit_for"]
    yield from _covers(item)
    if item["composite_of"]:
        yield "made of", ", ".join(item["composite_of"])
    if item["source"]:
        yield "source", item["source"]
    yield "licence", item["licence"]
    yield "size", item["size"]
    yield "claim", f"{item['claim']} - {item['claimed_by']}"
    yield "verified", item["verified"] or "not by this project"
    yield "install", f"moderate weights pull {item['name']}"


def _covers(item: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    label = "covers"
    for name in item["categories"]:
        text = item["covers"].get(name)
        yield label, f"{name}: {text}" if text else name
        label = ""
