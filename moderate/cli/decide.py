"""`moderate decide`: decisions again, by another policy or by people, from stored scores."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from moderate.cli import exit_codes
from moderate.cli.findings import list_findings
from moderate.cli.messages import say
from moderate.cli.output import (
    CsvBom,
    CsvRaw,
    FailOn,
    Force,
    MaxListed,
    PartitionBy,
    Quiet,
    RowTargets,
    SummaryTargets,
)
from moderate.errors import UsageError
from moderate.types import MOST_LISTED


def decide(
    results: Annotated[
        str,
        typer.Argument(metavar="RESULTS", help="Rows of a scan: .csv, .parquet or .jsonl."),
    ],
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="A preset or a TOML file: the policy to decide by; without it, with --decisions, "
            "the machine's decisions stay.",
        ),
    ] = None,
    decisions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="What people decided in 'moderate review' (RESULTS.decisions.jsonl). "
            "May be repeated.",
        ),
    ] = None,
    out: RowTargets = None,
    partition_by: PartitionBy = None,
    summary: SummaryTargets = None,
    fail_on: FailOn = "never",
    max_listed: MaxListed = MOST_LISTED,
    force: Force = False,
    csv_raw: CsvRaw = False,
    csv_bom: CsvBom = False,
    quiet: Quiet = False,
) -> int:
    """Decide again from stored scores, by a policy or as people did.

    No image and no weights are needed. Scores, carried columns and everything else stay as they
    are. Nothing is written over RESULTS.

    With --decisions, rows get the columns final_decision, decided_by and decided_at, null where
    nobody decided. Summaries and --fail-on count the final decisions.
    """
    from moderate.analysis.decide import DecideOptions, redecide
    from moderate.report.decide import report
    from moderate.report.files import render
    from moderate.report.terminal import show
    from moderate.results.folders import parse_partition_by
    from moderate.results.interface import CsvForm
    from moderate.results.targets import to_stdout

    if policy is None and not decisions:
        raise UsageError("Missing option '--policy' or '--decisions'")
    options = DecideOptions(
        results,
        policy,
        tuple(out or ()),
        tuple(summary or ()),
        max_listed,
        force,
        CsvForm(csv_raw, csv_bom),
        parse_partition_by(partition_by),
        tuple(decisions or ()),
    )
    redecided = redecide(options, lambda done, target: render(report(done), target))
    for note in redecided.notes:
        say("warning", "source", note)
    if not quiet:
        show(report(redecided), sys.stderr if any(map(to_stdout, options.out)) else sys.stdout)
        if not out:
            typer.echo("rows     not written; add --out results.csv to keep them", err=True)
    list_findings(redecided.summary, fail_on)
    return exit_codes.of_decisions(redecided.summary, fail_on)
