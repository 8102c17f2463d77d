"""`moderate eval`: how good stored scores and decisions are, by labels."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from moderate.cli import exit_codes
from moderate.cli.messages import say
from moderate.cli.output import Force, print_report, write_report
from moderate.own_categories import category_named, category_of
from moderate.types import Category

_GATE = "Exit 1 when missed."


def evaluate(
    results: Annotated[
        str,
        typer.Argument(metavar="RESULTS", help="Rows of a scan: .csv, .parquet or .jsonl."),
    ],
    labels: Annotated[
        str,
        typer.Option(
            metavar="FILE|DIR",
            help="Labels as .csv, .parquet or .jsonl: a column path or sha256, and columns named "
            "like categories (1, 0, empty: unknown), or decision. Or a folder with a folder per "
            "label, or cards.csv of testcards.",
        ),
    ],
    id_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of the labels that names the image: a path, a sha256, or what a column "
            "of that name in the results holds.",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Whose thresholds and decisions; else those of the run."
        ),
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option("--slice", metavar="COLUMN", help="Also for each value of a column."),
    ] = None,
    bootstrap: Annotated[
        int,
        typer.Option(min=0, max=100_000, metavar="N", help="Resamples for intervals; 0: none."),
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the resamples.")] = 0,
    worst: Annotated[
        int, typer.Option(min=0, metavar="N", help="Mistakes of each kind to name per category.")
    ] = 10,
    out: Annotated[
        list[str] | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Write a report: .json, .md or .html; repeatable."
        ),
    ] = None,
    min_recall: Annotated[
        list[str] | None,
        typer.Option(metavar="CATEGORY=X", help=f"Least recall at review. {_GATE}"),
    ] = None,
    min_precision: Annotated[
        list[str] | None,
        typer.Option(metavar="CATEGORY=X", help=f"Least precision at review. {_GATE}"),
    ] = None,
    max_false_block: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="X", help=f"Highest share of negatives blocked. {_GATE}"
        ),
    ] = None,
    max_missed: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="X", help=f"Highest share of positives approved. {_GATE}"
        ),
    ] = None,
    force: Force = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only missed gates and errors.")
    ] = False,
) -> None:
    """Measure scores and decisions against labels.

    Prints metrics with intervals, the worst mistakes, and gates for CI.
    """
    from moderate.analysis.evaluation import Wanted
    from moderate.analysis.evaluation import evaluate as hold
    from moderate.analysis.labels import read_labels
    from moderate.report.evaluation import report
    from moderate.results.read import read_results
    from moderate.results.targets import check_overwriting, check_reports, read_identities

    wanted = Wanted(
        _limits("--min-recall", min_recall),
        _limits("--min-precision", min_precision),
        max_false_block,
        max_missed,
    )
    targets = out or []
    check_reports("--out", targets, local=True)
    check_overwriting([], targets, read_identities([results, labels, policy]), force=force)
    read = read_results(results)
    for option, gates in (
        ("--min-recall", wanted.min_recall),
        ("--min-precision", wanted.min_precision),
    ):
        for name in gates:
            category_named(option, name, read.categories)
    evaluation = hold(
        read,
        read_labels(labels, id_column, read.own_categories),
        wanted,
        policy=policy,
        slices=slices or (),
        resamples=bootstrap,
        seed=seed,
        worst=worst,
    )
    shown = report(evaluation)
    write_report(shown, targets)
    if not quiet:
        print_report(shown, as_json=False)
        sys.stdout.flush()
    for gate in evaluation.gates:
        if not gate.passed:
            say("error", "gate", gate.line, gate=gate.name, wanted=gate.wanted)
    if not evaluation.passed:
        raise typer.Exit(exit_codes.FOUND)


def _limits(option: str, values: Sequence[str] | None) -> dict[str, float]:
    """Limits by category, one of the five or an own one, from CATEGORY=X. Raises UsageError."""
    from moderate.errors import UsageError
    from moderate.text import one_line

    limits: dict[str, float] = {}
    for text in values or ():
        name, _, number = text.partition("=")
        try:
            category, limit = category_of(name.strip()), float(number)
            if not 0 <= limit <= 1:
                raise ValueError
        except ValueError:
            raise UsageError(
                f"{option} {one_line(text, 60)}: write CATEGORY=X, as nudity=0.95, X from 0 to 1; "
                f"categories are {', '.join(Category)}"
            ) from None
        if category in limits:
            raise UsageError(f"{option}: {category} is given twice")
        limits[category] = limit
    return limits
