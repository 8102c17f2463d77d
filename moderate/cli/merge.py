"""`moderate merge`: the results of all shares of a scan as those of one run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from moderate.cli import exit_codes
from moderate.cli.findings import list_findings, report_errors
from moderate.cli.messages import say
from moderate.cli.output import (
    REPORT_HELP,
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
from moderate.types import MOST_LISTED


def merge(
    shards: Annotated[
        list[str],
        typer.Argument(
            metavar="SHARD...",
            help="Results of 'moderate scan --shard I/N', of each share from 1 to N: .csv, "
            ".parquet, .jsonl, or folders of --partition-by.",
        ),
    ],
    out: RowTargets = None,
    partition_by: PartitionBy = None,
    summary: SummaryTargets = None,
    reports: Annotated[
        list[str] | None, typer.Option("--report", metavar="FORMAT:FILE", help=REPORT_HELP)
    ] = None,
    fail_on: FailOn = "never",
    max_listed: MaxListed = MOST_LISTED,
    max_error_rate: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Exit with 2 when a larger share of rows are errors."),
    ] = 1.0,
    force: Force = False,
    csv_raw: CsvRaw = False,
    csv_bom: CsvBom = False,
    quiet: Quiet = False,
) -> int:
    """Put the results of all shares of a scan together.

    The shares have to be all of one scan: of the same inputs, weights, policy, options and version
    of moderate. Rows come in the order of the input, as one run would have written them, and images
    that are copies across shares are marked as such.
    """
    from moderate.analysis.merge import MergeOptions
    from moderate.analysis.merge import merge as merge_shards
    from moderate.exports.forms import parse_report
    from moderate.report.summary import as_text, report
    from moderate.report.terminal import show
    from moderate.results.folders import parse_partition_by
    from moderate.results.interface import CsvForm
    from moderate.results.targets import to_stdout

    options = MergeOptions(
        tuple(shards),
        tuple(out or ()),
        tuple(summary or ()),
        tuple(map(parse_report, reports or ())),
        max_listed,
        force,
        CsvForm(csv_raw, csv_bom),
        parse_partition_by(partition_by),
    )
    merged = merge_shards(options, as_text)
    if not quiet:
        on_stdout = any(map(to_stdout, options.row_targets))
        show(report(merged), sys.stderr if on_stdout else sys.stdout)
        if not options.row_targets:
            typer.echo("rows     not written; add --out results.csv to keep them", err=True)
    for note in merged.export_notes:
        say("warning", "report_cut", note)
    list_findings(merged, fail_on)
    report_errors(merged, max_error_rate)
    return exit_codes.of_scan(merged, fail_on, max_error_rate)
