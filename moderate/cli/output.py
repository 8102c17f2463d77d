"""How commands hand over their reports: to files, as JSON, or to the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

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
Force = Annotated[bool, typer.Option("--force", help=FORCE_HELP)]


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
