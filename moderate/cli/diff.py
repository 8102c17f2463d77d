"""`moderate diff`: what changed between two results, or what another policy would change."""

from __future__ import annotations

from typing import Annotated

import typer

from moderate.cli import exit_codes
from moderate.cli.output import Force, print_report, write_report


def diff(
    results: Annotated[
        str,
        typer.Argument(metavar="A", help="Rows of a scan: .csv, .parquet or .jsonl."),
    ],
    other: Annotated[
        str | None, typer.Argument(metavar="B", help="Rows to compare with; or give --policy.")
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
        typer.Option(
            "--out", "-o", metavar="FILE", help="Report to .json, .md or .html. May be repeated."
        ),
    ] = None,
    force: Force = False,
    fail_on_change: Annotated[
        bool, typer.Option("--fail-on-change", help="Exit with 1 when any decision changed.")
    ] = False,
) -> int:
    """Compare two results files, or two policies on the same scores.

    Rows are matched by path, and where a path comes more than once, by their order.
    """
    from moderate.analysis.diff import compare_policies, compare_results
    from moderate.errors import UsageError
    from moderate.report.diff import report
    from moderate.results.targets import check_overwriting, check_reports, read_identities

    policies = policy or []
    if (other is None) == (not policies) or len(policies) > 2:
        raise UsageError("give two results files, or one and --policy once or twice")
    targets = out or []
    check_reports("--out", targets)
    check_overwriting([], targets, read_identities([results, other, *policies]), force=force)
    if other is not None:
        difference = compare_results(results, other, top)
    else:
        difference = compare_policies(results, policies, top)
    shown = report(difference)
    write_report(shown, targets)
    if as_json or not targets:
        print_report(shown, as_json=as_json)
    return exit_codes.FOUND if fail_on_change and difference.changed else exit_codes.DONE
