"""The ledger's records, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain, repeat
from typing import Any

from moderate.report.model import Fact, Facts, Report, Table, Tone, sentences
from moderate.state.ledger import RunRecord
from moderate.text import shell_word
from moderate.types import Decision

SHORT_ID = 8
"""Digits of an id that tell runs apart."""

_TONES: dict[str, Tone] = {
    **{"completed": "good", "interrupted": "warning", "failed": "bad", "died": "bad"}
}
_FACTS = ("weights", "policy", "config")  # each with a digest beside it
_KINDS = (
    ("decisions", "decisions"),
    ("errors", "error_codes"),
    ("warnings", "warnings"),
    ("rows", "origins"),
)


def as_json(record: RunRecord) -> dict[str, Any]:
    """A record as JSON values; seconds is what it took until its end, or until now."""
    return {**asdict(record), "seconds": round(_seconds(record), 3)}


def list_report(records: Sequence[RunRecord], *, more: bool) -> Report:
    """One row per run. more: there are older ones, which were not asked for."""
    table = Table(
        "",
        ("run", "started (UTC)", "status", "time", "images", "review", "block", "errors"),
        tuple(map(_row, records)),
        text_columns=(0, 1, 2),
        # A number is never cut: with a hundred million images, a line is wider than the terminal.
        wide=True,
        space_after=False,
    )
    older = sentences(["older runs are not shown; add --limit N"] if more else [])
    return Report("moderate: runs", (table, older), list(map(as_json, records)), ascii_json=True)


def run_report(record: RunRecord) -> Report:
    """All that is known of one run; names and digests are never cut short."""
    status = _TONES.get(record.status.value, "")
    facts = (
        Fact(label, value, status if label == "status" else "") for label, value in _lines(record)
    )
    parts = (Facts(tuple(facts), layout="columns"),)
    return Report("moderate: run", parts, as_json(record), ascii_json=True)


def duration(seconds: float) -> str:
    """Two units at most, in six characters: `4.2s`, `5m03s`, `3h12m`, `2d07h`, `100d`."""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole >= 100 * 86_400:
        return f"{whole // 86_400}d"
    for size, unit, part, below in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{below}"
    return f"{whole // 60}m{whole % 60:02d}s"


def size(nbytes: int) -> str:
    """`512 B`, `3.4 MB`: a size for people, in powers of 1024 as the options take them."""
    amount, unit = float(nbytes), "B"
    for larger in ("KB", "MB", "GB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{nbytes} B" if unit == "B" else f"{amount:.1f} {unit}"


def _row(record: RunRecord) -> tuple[str, ...]:
    decisions = _counts(record.counts.get("decisions"))
    numbers = (
        record.counts.get("rows", 0),
        *(decisions.get(decision.value, 0) for decision in (Decision.REVIEW, Decision.BLOCK)),
        record.counts.get("errors", 0),
    )
    return (
        record.id[:SHORT_ID],
        _minute(record.started),
        "died" if record.died else record.status.value,
        duration(_seconds(record)),
        *map(str, numbers),
    )


def _lines(record: RunRecord) -> Iterator[tuple[str, str]]:
    facts, counts = record.facts, record.counts
    yield "run", record.id
    yield "command", " ".join(map(shell_word, record.command))
    yield "status", f"{record.status.value}: {record.message}" if record.message else record.status
    took = duration(_seconds(record))
    yield "started", record.started
    if record.ended:
        last_seen = ", when it was last heard of" if record.died else ""
        yield "ended", f"{record.ended}{last_seen}"
        yield "time", took
    else:
        yield "time", f"{took} so far; last heard of at {record.updated}"
    user = f"{record.user}@" if record.user else ""
    yield "process", f"{user}{record.host}, process {record.pid}"
    versions = (f"{name} {facts[name]}" for name in ("torch", "timm") if facts.get(name))
    yield "versions", ", ".join((f"moderate {record.version}", *versions))
    device = [facts[name] for name in ("device", "precision", "backend") if name in facts]
    if device:
        yield "device", ", ".join(device)
    for name in _FACTS:
        if name in facts:
            yield name, facts[name]
        if file := facts.get(f"{name}_file"):
            yield "file", file
        if digest := facts.get(f"{name}_sha256"):
            yield "sha256", digest
    yield from zip(chain(["inputs"], repeat("")), record.inputs, strict=False)
    yield from _outputs(record)
    # The same sum as under the summary, as far as it goes.
    yield (
        "images",
        ", ".join(f"{counts.get(name, 0)} {name}" for name in ("rows", "errors", "skipped")),
    )
    yield from _speed(counts.get("speed"))
    for label, name in _KINDS:
        of_kind = [f"{count} {kind}" for kind, count in _counts(counts.get(name)).items() if count]
        if of_kind:
            yield label, ", ".join(of_kind)


def _speed(measured: Any) -> Iterator[tuple[str, str]]:
    """Nothing for a run that has not decoded anything, or has no record of its speed."""
    images, seconds = (_counts(measured).get(name) for name in ("images", "seconds"))
    if isinstance(images, int) and isinstance(seconds, int | float) and images and seconds > 0:
        yield "speed", f"{images / seconds:.1f} images/s over {images:,} images"


def _outputs(record: RunRecord) -> Iterator[tuple[str, str]]:
    """What was asked for, and the digest of what was written."""
    label = "outputs"
    for target in dict.fromkeys((*record.targets, *record.outputs)):
        digest = record.outputs.get(target)
        missing = "" if digest else " (not written)" if record.ended else " (not yet written)"
        yield label, f"{target}{missing}"
        if digest:
            yield "sha256", digest
        label = ""


def _counts(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _seconds(record: RunRecord) -> float:
    ended = datetime.fromisoformat(record.ended) if record.ended else datetime.now(UTC)
    return max((ended - datetime.fromisoformat(record.started)).total_seconds(), 0.0)


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")
