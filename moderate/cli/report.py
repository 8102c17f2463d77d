"""`moderate report`: the summary of stored results, and volumes over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moderate.cli import exit_codes
from moderate.cli.output import (
    REPORT_HELP,
    SHAPE_DOCUMENT_HELP,
    SHAPE_HELP,
    Force,
    print_report,
    write_report,
)
from moderate.cli.state import State, is_there, readable_errors, state_folder
from moderate.errors import StateError, UsageError
from moderate.text import printable

if TYPE_CHECKING:
    from moderate.report.model import Report
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
        str | None,
        typer.Option(
            "--out", "-o", metavar="FILE.json|.md|.html", help="The summary; else the terminal."
        ),
    ] = None,
    reports: Annotated[
        list[str] | None, typer.Option("--report", metavar="FORMAT:FILE", help=REPORT_HELP)
    ] = None,
    shape: Annotated[str | None, typer.Option("--shape", metavar="NAME", help=SHAPE_HELP)] = None,
    shape_document: Annotated[
        bool, typer.Option("--shape-document", help=SHAPE_DOCUMENT_HELP)
    ] = False,
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    state: State = None,
) -> int:
    """Sum up or convert a results file, or show its review or trend."""
    from moderate.analysis.stored import summarise
    from moderate.analysis.trend import Counting, Limits, check_limits
    from moderate.exports.forms import check_exports, parse_report, split_shaped, write_exports
    from moderate.exports.interface import ExportOptions
    from moderate.report import stored
    from moderate.report import trend as over_time
    from moderate.results.read import read_results
    from moderate.results.targets import (
        check_overwriting,
        check_reports,
        check_stdout,
        read_identities,
    )

    if not trend and (ledger or fail_on_drift):
        raise UsageError("--ledger and --fail-on-drift go with --trend")
    if not trend and len(files or ()) != 1:
        raise UsageError("name one results file, or several with --trend")
    if trend and not files and not ledger:
        raise UsageError("--trend: name results files, or add --ledger")
    if decisions and (trend or reports or shape):
        raise UsageError("--decisions goes with one results file, without --trend or an export")
    if trend and (reports or shape):
        raise UsageError("--report and --shape are made of one results file, without --trend")
    targets, shaped = split_shaped([] if out is None else [out], shape, document=shape_document)
    exports = [*shaped, *map(parse_report, reports or ())]
    check_reports("--out", targets)
    check_exports(exports)
    check_stdout([each.target for each in exports])
    check_overwriting(
        [],
        targets,
        read_identities([*(files or []), *(decisions or [])]),
        force=force,
        exports=[each.target for each in exports],
    )
    drifted = False
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
        write_exports(results, exports, ExportOptions(document=shape_document))
        shown = stored.report(summarise(results))
    write_report(shown, targets)
    if as_json or not (targets or exports):
        print_report(shown, as_json=as_json, ascii_only=True)
    return exit_codes.FOUND if fail_on_drift and drifted else exit_codes.DONE


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
