"""The summary of a scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, timedelta

from moderate.decode.sandbox import missing
from moderate.policy.load import shown_name
from moderate.policy.thresholds import BANDS
from moderate.report.listing import page_parts
from moderate.report.model import Fact, Facts, Part, Report, Table, counted, share
from moderate.results.targets import is_page, to_stdout
from moderate.run.summary import Summary, as_json, left_out_text
from moderate.types import Decision, Origin

_INPUTS_SHOWN = 3
_PLURALS = {Origin.DUPLICATE: "duplicates"}


def report(summary: Summary, *, with_rows: bool = False) -> Report:
    """The whole summary; `with_rows` adds charts and the rows, where they were kept for a page."""
    notes = (Fact("note", note, "warning") for note in summary.all_notes())
    page = _page(summary) if with_rows else ()
    parts: tuple[Part, ...] = (*page, *tables(summary), Facts((*_facts(summary), *notes)))
    return Report("moderate: summary", parts, as_json(summary), headline(summary))


def as_text(summary: Summary, target: str) -> str:
    """The whole summary in the format of a target, which its suffix decides."""
    from moderate.report.files import render  # which a terminal needs nothing of

    return render(report(summary, with_rows=is_page(target)), target)


def _page(summary: Summary) -> Iterator[Part]:
    if summary.listing is not None:
        codes = dict(sorted(summary.error_codes.items()))
        yield from page_parts(summary.listing, summary.decisions, summary.bands, codes)


def headline(summary: Summary) -> str:
    """The sum that has to come out even."""
    left_out = f"{summary.left_out.total()} left out + " if summary.only else ""
    return (
        f"{summary.scored} scored + {summary.errors} errors + {left_out}"
        f"{summary.skipped.total()} skipped = {summary.found} found"
    )


def tables(summary: Summary) -> Iterator[Table]:
    """Every part of the summary that has something to say, in reading order."""
    coverage = summary.audit.coverage.lines()
    yield from count_tables(summary.decisions, summary.rows, summary.bands, coverage)
    if summary.levels:
        yield rating_table(summary.rating_counts, summary.rows)
    codes = dict(sorted(summary.error_codes.items()))
    yield from problem_tables(codes, summary.error_examples, dict(sorted(summary.warnings.items())))
    if summary.skipped:
        yield skipped_table(summary.skipped, summary.highlights.skipped)
    if summary.highlights.worst:
        yield worst_table(summary)


def skipped_table(counts: Mapping[str, int], examples: Mapping[str, list[str]]) -> Table:
    """Files without a row by reason, the first of each by name."""
    lines: list[tuple[str, ...]] = []
    for reason, count in sorted(counts.items()):
        first, *others = examples.get(reason) or [""]
        lines.append((reason, str(count), first))
        lines += [("", "", name) for name in others]
    header = ("reason", "files", "for example")
    return Table("Skipped (no row)", header, tuple(lines), text_columns=(0, 2), shortened=2)


def worst_table(summary: Summary) -> Table:
    """The images with the highest scores among those with the most severe decision."""
    lines = tuple(
        (f"{each.score:.3f}", each.category, each.decision.value, each.path)
        for each in summary.highlights.worst
    )
    header = ("score", "category", "decision", "image")
    return Table("Worst images", header, lines, text_columns=(1, 2, 3), wide=True)


def count_tables(
    decisions: Mapping[str, int],
    rows: int,
    bands: Mapping[str, Mapping[str, int]],
    coverage: tuple[str, ...],
) -> Iterator[Table]:
    """Rows by decision, and by category and band."""
    counts = [(decision.value, decisions.get(decision.value, 0)) for decision in Decision]
    yield Table(
        "Decisions",
        ("decision", "rows", "share"),
        tuple((name, str(count), share(count, rows)) for name, count in counts),
    )
    yield Table(
        "Categories (scored rows per band)",
        ("category", "approve", "review", "block", "not scored"),
        tuple((name, *(str(of[band]) for band in BANDS)) for name, of in bands.items()),
        coverage,
    )


def rating_table(ratings: Mapping[str, int], rows: int) -> Table:
    """Rows by rating, in the order that these have."""
    lines = tuple((name, str(count), share(count, rows)) for name, count in ratings.items())
    return Table("Ratings (best fitting description)", ("level", "rows", "share"), lines)


def problem_tables(
    error_codes: Mapping[str, int],
    error_examples: Mapping[str, list[str]],
    warnings: Mapping[str, int],
) -> Iterator[Table]:
    """Rows by error code and by warning, in the order that these have."""
    if error_codes:
        yield Table(
            "Errors (no score, never approved)",
            ("code", "rows", "for example"),
            tuple(
                (code, str(count), error_examples[code][0]) for code, count in error_codes.items()
            ),
            text_columns=(0, 2),
            shortened=2,
        )
    if warnings:
        yield _counts("Warnings (scored all the same)", "warning", warnings)


def _facts(summary: Summary) -> Iterator[Fact]:
    """What ran, how fast and for how much."""
    audit = summary.audit
    yield from _run_facts(summary)
    origins = (f"{summary.origins[o.value]} {_PLURALS.get(o, o.value)}" for o in Origin)
    yield Fact("origins", ", ".join(origins))
    if summary.only:
        only = ",".join(summary.only)
        yield Fact(
            "left out", f"{left_out_text(summary)} (--only {only}): no row, not counted above"
        )
    yield Fact("weights", f"{audit.weights} ({audit.weights_sha256[:12]})")
    if len(audit.weights_models) > 1:
        yield from (Fact("", model) for model in audit.weights_models)
    if audit.coverage.fit_for:
        yield Fact("", audit.coverage.fit_for)
    for each in summary.second_opinions:
        yield Fact("second opinion", f"{each.weights} {each.opinion.band} ({each.sha256[:12]})")
        yield Fact("", each.text(summary.rows))
    policy = shown_name(audit.policy, audit.policy_file)
    yield Fact("policy", f"{policy} ({audit.policy_sha256[:12]})")
    if audit.config:
        yield Fact("config", f"{audit.config.path} ({audit.config.sha256[:12]})")
    yield Fact("device", f"{audit.device}, {audit.precision}, {audit.backend}")
    yield Fact("decoders", _sandbox(audit.sandbox))
    with_start = "" if summary.is_rate_steady else ", starting up included"
    yield Fact(
        "speed",
        f"{summary.images_per_second:.1f} images/s{with_start}; {summary.seconds:.1f} s in all, "
        f"{summary.startup_seconds:.1f} s of it starting up",
    )
    if summary.cost is not None and summary.rows:
        per_thousand = summary.cost / summary.rows * 1000
        cost = f"{summary.cost:.4f} for this run, {per_thousand:.4f} per 1,000 images"
        yield Fact("cost", cost)
    yield Fact("run", f"{audit.run_id}, moderate {audit.version}")


def _run_facts(summary: Summary) -> Iterator[Fact]:
    """What went in and came out, when, and how many images the rows are."""
    highlights = summary.highlights
    if highlights.inputs:
        shown = ", ".join(highlights.inputs[:_INPUTS_SHOWN])
        more = highlights.input_count - _INPUTS_SHOWN
        yield Fact("inputs", f"{shown} and {more:,} more" if more > 0 else shown)
    written = ["standard output" if to_stdout(name) else name for name in highlights.outputs]
    if written:
        yield Fact("written", ", ".join(written))
    took = timedelta(seconds=round(summary.seconds))
    yield Fact("when", f"{summary.audit.started.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, for {took}")
    if highlights.images == summary.rows:
        yield Fact("rows", f"{summary.rows:,}, one per image")
        return
    parts = [counted(highlights.images, "image")]
    if highlights.copies:
        parts.append(f"{counted(highlights.copies, 'copy', 'copies')} of them")
    if highlights.frames:
        parts.append(f"{counted(highlights.frames, 'frame')} of videos")
    yield Fact("rows", f"{summary.rows:,}: {', '.join(parts)}")


def _sandbox(active: tuple[str, ...] | None) -> str:
    if active is None:
        return "not started: nothing was to be decoded"
    lacking = ", ".join(missing(active))
    return (
        f"sandboxed in part, without {lacking}; see 'moderate doctor'" if lacking else "sandboxed"
    )


def _counts(title: str, header: str, counts: Mapping[str, int]) -> Table:
    rows = tuple((name, str(count)) for name, count in counts.items())
    return Table(title, (header, "rows"), rows)
