"""How commands hand over their reports: to files, as JSON, or to the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moderate.exports.catalogue import REPORTS, SHAPES
from moderate.results.partition_columns import PARTITION_COLUMNS

if TYPE_CHECKING:
    from moderate.report.model import Report

FORCE_HELP = "Replace existing files, whoever wrote them."
PARTITION_BY_HELP = f"Divide --out DIR/ by columns: {', '.join(PARTITION_COLUMNS)}."
CSV_RAW_HELP = "Text of CSV as it is, without the ' before what a spreadsheet would run."
CSV_BOM_HELP = "Start CSV with a byte order mark, so that Excel reads it as UTF-8."
REPORT_HELP = f"For other programs: {', '.join(REPORTS)}. May be repeated."
SHAPE_HELP = f"Rows of --out FILE.jsonl as a hosted service gives them: {', '.join(SHAPES)}."
SHAPE_DOCUMENT_HELP = "With --shape: one document for the run, to --out FILE.json."
THUMBNAILS_HELP = "Show the most severe images on the HTML page, small and blurred."
BASELINE_HELP = "Earlier results, or a sarif or gitlab report: what they have fails no check again."

# Options that mean the same in every command that writes rows anew from stored ones.
Force = Annotated[bool, typer.Option("--force", help=FORCE_HELP)]
RowTargets = Annotated[
    list[str] | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="Rows to .csv, .parquet or .jsonl; - for CSV on stdout. May be repeated.",
    ),
]
PartitionBy = Annotated[
    str | None, typer.Option("--partition-by", metavar="COLUMN,...", help=PARTITION_BY_HELP)
]
SummaryTargets = Annotated[
    list[str] | None,
    typer.Option(
        "--summary", metavar="FILE", help="Summary to .json, .md or .html. May be repeated."
    ),
]
FailOn = Annotated[
    Literal["never", "review", "block"],
    typer.Option(
        "--fail-on",
        help="Exit with 1 when a decision is at or above this, and list the images on stderr.",
    ),
]
MaxListed = Annotated[
    int,
    typer.Option(
        "--max-listed",
        min=0,
        metavar="N",
        help="Images that --fail-on lists, the worst decisions first.",
    ),
]
CsvRaw = Annotated[bool, typer.Option("--csv-raw", help=CSV_RAW_HELP)]
CsvBom = Annotated[bool, typer.Option("--csv-bom", help=CSV_BOM_HELP)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and warnings only.")]


def write_report(report: Report, targets: Sequence[str]) -> None:
    """Write a report to each target, in the format that its suffix names. Raises OutputError."""
    from moderate.report.files import render
    from moderate.results.targets import write_text

    for target in targets:
        write_text(target, render(report, target))


def print_report(report: Report, *, as_json: bool, ascii_only: bool = False) -> None:
    """Print a report on standard output."""
    from moderate.report.files import to_json
    from moderate.report.terminal import show

    if as_json:
        typer.echo(to_json(report, ascii_only=ascii_only), nl=False)
    else:
        show(report, sys.stdout)


def print_fact(label: str, value: str, *, label_width: int) -> None:
    """Print a label and a value on standard output; a terminal has the value wrapped beside it."""
    from moderate.report.model import Fact, Facts, Report
    from moderate.report.terminal import show

    wrapped = sys.stdout is not None and sys.stdout.isatty()
    facts = Facts(
        (Fact(label, value),), layout="lines" if wrapped else "whole", label_width=label_width
    )
    show(Report("", (facts,), None), sys.stdout)
