"""`moderate diff`: what changed between two results, or what another policy would change."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from moderate.cli import exit_codes


def diff(
    results: Annotated[
        str,
        typer.Argument(metavar="A", help="Rows of a scan: .csv, .parquet or .jsonl."),
    ],
    other: Annotated[
        str | None, typer.Argument(metavar="[B]", help="Rows to compare with; or give --policy.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Given twice: compare two policies on A's scores; once: with A's own decisions.",
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(min=0, max=100_000, metavar="N", help="How many rows to list.")
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    out: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Report to .md or .json. May be repeated."),
    ] = None,
    fail_on_change: Annotated[
        bool, typer.Option("--fail-on-change", help="Exit with 1 when any decision changed.")
    ] = False,
) -> int:
    """Compare the decisions of two results files, row by row, or those of two policies.

    Rows are matched by path, and where a path comes more than once, by their order.
    """
    from moderate.analysis.decide import check_distinct
    from moderate.analysis.diff import compare_policies, compare_results
    from moderate.errors import UsageError
    from moderate.report import diff as report
    from moderate.report.decide import write_report

    policies = policy or []
    if (other is None) == (not policies) or len(policies) > 2:
        raise UsageError("give two results files, or one and --policy once or twice")
    targets = out or []
    report.check_targets(targets)
    check_distinct([], targets, [results, *([other] if other is not None else []), *policies])
    if other is not None:
        found = compare_results(results, other, top)
    else:
        found = compare_policies(results, policies, top)
    for target in targets:
        write_report(target, report.text_for(found, target))
    if as_json:
        typer.echo(report.to_json(found), nl=False)
    elif not targets:
        report.show(found, sys.stdout)
    return exit_codes.FOUND if fail_on_change and found.changed else exit_codes.DONE
