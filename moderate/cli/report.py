"""`moderate report`: the summary of stored results, and volumes over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moderate.cli import exit_codes
from moderate.cli.findings import list_findings
from moderate.cli.messages import say
from moderate.cli.output import (
    BASELINE_HELP,
    REPORT_HELP,
    SHAPE_DOCUMENT_HELP,
    SHAPE_HELP,
    THUMBNAILS_HELP,
    Force,
    print_report,
    write_report,
)
from moderate.cli.state import State, is_there, readable_errors, state_folder
from moderate.errors import StateError, UsageError
from moderate.text import printable
from moderate.types import MOST_LISTED

if TYPE_CHECKING:
    from moderate.report.model import Report
    from moderate.results.read import Results
    from moderate.run.listing import Listing
    from moderate.state.ledger import RunRecord


def report(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="RESULTS...", help="Rows of scans: .csv, .parquet or .jsonl."),
    ] = None,
    decisions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Of what people decided in 'moderate review' instead: where they overturned the "
            "scores, and what it cost. May be repeated.",
        ),
    ] = None,
    trend: Annotated[
        bool,
        typer.Option("--trend", help="Shares by day over several files, and whether they drift."),
    ] = False,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="With --trend: the runs recorded in the state, too.")
    ] = False,
    by: Annotated[
        Literal["day", "week"], typer.Option(help="With --trend: the periods, in UTC.")
    ] = "day",
    alpha: Annotated[
        float, typer.Option(metavar="P", help="With --trend: p, corrected, that drift needs.")
    ] = 0.05,
    min_effect: Annotated[
        float,
        typer.Option(metavar="W", help="With --trend: effect (Cohen's w, PSI) that drift needs."),
    ] = 0.1,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="With --trend: exit 1 when there is some.")
    ] = False,
    out: Annotated[
        list[str] | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.json|.md|.html",
            help="The summary; else the terminal. May be repeated.",
        ),
    ] = None,
    reports: Annotated[
        list[str] | None, typer.Option("--report", metavar="FORMAT:FILE", help=REPORT_HELP)
    ] = None,
    shape: Annotated[str | None, typer.Option("--shape", metavar="NAME", help=SHAPE_HELP)] = None,
    shape_document: Annotated[
        bool, typer.Option("--shape-document", help=SHAPE_DOCUMENT_HELP)
    ] = False,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help=THUMBNAILS_HELP)] = False,
    fail_on: Annotated[
        Literal["never", "review", "block"],
        typer.Option(help="Exit with 1 when a stored decision is at or above this, and list them."),
    ] = "never",
    baseline: Annotated[str | None, typer.Option(metavar="FILE", help=BASELINE_HELP)] = None,
    max_listed: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Images that --fail-on lists, the worst decisions first."
        ),
    ] = MOST_LISTED,
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    state: State = None,
) -> int:
    """Sum up or convert a results file, or show its review or trend."""
    from moderate.analysis.gate import check_results
    from moderate.analysis.stored import summarise
    from moderate.analysis.trend import Counting, Limits, check_limits
    from moderate.exports.baseline import read_baseline
    from moderate.exports.forms import check_exports, parse_report, split_shaped, write_exports
    from moderate.exports.interface import ExportOptions
    from moderate.report import stored
    from moderate.report import trend as over_time
    from moderate.results.read import read_results
    from moderate.results.targets import (
        check_overwriting,
        check_reports,
        check_stdout,
        is_page,
        read_identities,
    )
    from moderate.run.summary import baseline_note

    if not trend and (ledger or fail_on_drift):
        raise UsageError("--ledger and --fail-on-drift go with --trend")
    if not trend and len(files or ()) != 1:
        raise UsageError("name one results file, or several with --trend")
    if trend and not files and not ledger:
        raise UsageError("--trend: name results files, or add --ledger")
    if trend and (fail_on != "never" or baseline):
        raise UsageError("--fail-on and --baseline go with one results file, without --trend")
    if decisions and (trend or reports or shape or baseline or thumbnails or fail_on != "never"):
        raise UsageError("--decisions goes with one results file, --out and --json alone")
    if trend and (reports or shape):
        raise UsageError("--report and --shape are made of one results file, without --trend")
    if thumbnails and (trend or not any(map(is_page, out or ()))):
        raise UsageError("--thumbnails goes with --out FILE.html, without --trend")
    targets, shaped = split_shaped(out or [], shape, document=shape_document)
    exports = [*shaped, *map(parse_report, reports or ())]
    check_reports("--out", targets)
    check_exports(exports)
    check_stdout([each.target for each in exports])
    known = read_baseline(baseline) if baseline else None
    check_overwriting(
        [],
        targets,
        read_identities([*(files or ()), *(decisions or ()), *(known.files if known else ())]),
        force=force,
        exports=[each.target for each in exports],
    )
    drifted, gate, shown = False, None, None
    if trend:
        limits = Limits(alpha, min_effect, min_effect)
        check_limits(limits)
        counting = Counting(by)
        for file in files or ():
            counting.add_results(read_results(file))
        for record in _runs(state) if ledger else ():
            counting.add_run(record)
        counted = counting.finish(limits)
        drifted = bool(counted.drifted)
        shown = over_time.report(counted)
    elif decisions:
        shown = _of_review((files or [])[0], decisions)
    else:
        results = read_results((files or [])[0])
        # Where there is something to sum up: exports alone may be had of rows without their facts.
        asked = bool(targets or as_json or not exports)
        summary = summarise(results) if asked else None
        for note in write_exports(results, exports, ExportOptions(shape_document, known)):
            say("warning", "report_cut", note)
        if known or fail_on != "never":
            gate = check_results(results, known, max_listed)
        if summary and known and gate:
            note = baseline_note(known, gate.decisions, gate.unchanged)
            summary = replace(summary, notes=(*summary.notes, note))
        listing = _listing(results, thumbnails) if any(map(is_page, targets)) else None
        shown = stored.report(summary, listing) if summary else None
    if shown:
        write_report(shown, targets)
        if as_json or not (targets or exports):
            print_report(shown, as_json=as_json, ascii_only=True)
    if gate:
        if known:
            say("info", "baseline", baseline_note(known, gate.decisions, gate.unchanged))
        list_findings(gate, fail_on)
        return exit_codes.of_decisions(gate, fail_on)
    return exit_codes.FOUND if fail_on_drift and drifted else exit_codes.DONE


def _listing(results: Results, thumbnails: bool) -> Listing:
    """The rows for a page, and thumbnails of files that are still as they were."""
    from moderate.analysis.policies import DECIDE_AGAIN, policy_of
    from moderate.run.listing import Listing
    from moderate.types import Limits

    listing = Listing.of_results(results, policy_of(results, advice=DECIDE_AGAIN))
    if thumbnails:
        from moderate.run.thumbnails import make_thumbnails

        listing.thumbnails = make_thumbnails(listing, Limits())
    return listing


def _of_review(file: str, decisions: Sequence[str]) -> Report:
    """The report on what people decided. Raises InputError."""
    from moderate.analysis.policies import DECIDE_AGAIN, policy_of
    from moderate.analysis.review_report import review_report
    from moderate.report.review import report as of_review
    from moderate.results.read import read_results
    from moderate.review.verdicts import read_decisions

    results = read_results(file)
    policy = policy_of(results, advice=DECIDE_AGAIN)
    return of_review(review_report(results, policy, read_decisions(decisions)))


def _runs(state: str | None) -> Sequence[RunRecord]:
    """All runs of the ledger. Raises StateError where there is none."""
    from moderate.state.ledger import FILE, Ledger

    folder: Path = state_folder(state)
    if not is_there(folder / FILE):
        raise StateError(f"no runs are recorded in {printable(str(folder))} yet")
    with readable_errors():
        ledger = Ledger(folder)
        try:
            return ledger.runs()
        finally:
            ledger.close()
