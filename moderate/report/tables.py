"""The summary as titled tables of text: what the terminal and Markdown both show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from moderate.decode.sandbox import missing
from moderate.run.summary import Summary
from moderate.text import printable
from moderate.types import Decision, Origin

_PLURALS = {Origin.DUPLICATE: "duplicates"}


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a header and rows of cells; every column but the first holds numbers.

    under holds sentences that belong below the rows.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    under: tuple[str, ...] = ()


def share(part: int, whole: int) -> str:
    """`part` of `whole` as a percentage, `-` of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def tables(summary: Summary) -> Iterator[Table]:
    """Every part of the summary that has something to say, in reading order."""
    yield Table(
        "Decisions",
        ("decision", "images", "share"),
        tuple(
            (
                d.value,
                str(summary.decisions[d.value]),
                share(summary.decisions[d.value], summary.rows),
            )
            for d in Decision
        ),
    )
    yield Table(
        "Categories (scored images per band)",
        ("category", "approve", "review", "block", "not scored"),
        tuple(
            (name, *(str(bands[b]) for b in ("approve", "review", "block", "unscored")))
            for name, bands in summary.bands.items()
        ),
        summary.audit.coverage.lines(),
    )
    if summary.errors:
        yield Table(
            "Errors (no score, never approved)",
            ("code", "images", "for example"),
            tuple(
                (code, str(count), printable(summary.error_examples[code][0]))
                for code, count in sorted(summary.error_codes.items())
            ),
        )
    if summary.warnings:
        yield _counts("Warnings (scored all the same)", "warning", summary.warnings)
    if summary.skipped:
        yield _counts("Skipped (no row)", "reason", summary.skipped)


def headline(summary: Summary) -> str:
    """The sum that has to come out even."""
    return (
        f"{summary.scored} scored + {summary.errors} errors + {summary.skipped.total()} skipped "
        f"= {summary.found} found"
    )


def facts(summary: Summary) -> Iterator[tuple[str, str]]:
    """Label and value of what ran, how fast and for how much."""
    audit = summary.audit
    yield (
        "images",
        ", ".join(f"{summary.origins[o.value]} {_PLURALS.get(o, o.value)}" for o in Origin),
    )
    yield "weights", f"{audit.weights} ({audit.weights_sha256[:12]})"
    if len(audit.weights_models) > 1:
        yield from (("", model) for model in audit.weights_models)
    if audit.coverage.fit_for:
        yield "", printable(audit.coverage.fit_for)
    yield "policy", f"{printable(audit.policy)} ({audit.policy_sha256[:12]})"
    if audit.config:
        yield "config", f"{printable(audit.config.path)} ({printable(audit.config.sha256[:12])})"
    yield "device", f"{audit.device}, {audit.precision}, {audit.backend}"
    yield "decoders", _sandbox(audit.sandbox)
    yield (
        "speed",
        f"{summary.images_per_second:.1f} images/s; {summary.seconds:.1f} s in all, "
        f"{summary.startup_seconds:.1f} s of it starting up",
    )
    if summary.cost is not None and summary.rows:
        per_thousand = summary.cost / summary.rows * 1000
        yield "cost", f"{summary.cost:.4f} for this run, {per_thousand:.4f} per 1,000 images"
    yield "run", f"{audit.run_id}, moderate {audit.version}"


def _sandbox(active: tuple[str, ...] | None) -> str:
    if active is None:
        return "not started: nothing was to be decoded"
    lacking = ", ".join(missing(active))
    return (
        f"sandboxed in part, without {lacking}; see 'moderate doctor'" if lacking else "sandboxed"
    )


def _counts(title: str, header: str, counts: dict[str, int]) -> Table:
    rows = tuple((name, str(count)) for name, count in sorted(counts.items()))
    return Table(title, (header, "images"), rows)
