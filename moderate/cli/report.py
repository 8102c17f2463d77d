"""`moderate report`: the summary of stored results, and volumes over time."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from moderate.cli import exit_codes
from moderate.cli.state import State, is_there, readable_errors, state_folder
from moderate.errors import StateError, UsageError
from moderate.text import printable

if TYPE_CHECKING:
    from moderate.report.trend import Trend
    from moderate.state.ledger import RunRecord


def report(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="RESULTS...", help="Rows of scans: .csv, .parquet or .jsonl."),
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
        str | None, typer.Option(metavar="FILE.json|.md", help="Else the terminal.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    state: State = None,
) -> int:
    """Sum up a results file, or show decisions and categories over time."""
    from moderate.analysis.decide import check_distinct
    from moderate.report import stored
    from moderate.report import trend as over_time
    from moderate.results.open import check_place
    from moderate.results.read import read_results

    if not trend and (ledger or fail_on_drift):
        raise UsageError("--ledger and --fail-on-drift go with --trend")
    if not trend and len(files or ()) != 1:
        raise UsageError("name one results file, or several with --trend")
    if trend and not files and not ledger:
        raise UsageError("--trend: name results files, or add --ledger")
    if out is not None:
        if os.path.splitext(out)[1].lower() not in stored.FORMATS:
            raise UsageError(
                f"--out {printable(out)}: the suffix decides the format; "
                f"use one of {', '.join(stored.FORMATS)}"
            )
        check_place(out)
        check_distinct([], [out], files or [])
    if not trend:
        summary = stored.summarise(read_results((files or [])[0]))
        _give(summary, stored.FORMATS, stored.show, stored.as_json, out, as_json)
        return exit_codes.DONE
    limits = over_time.Limits(alpha, min_effect, min_effect)
    over_time.check_limits(limits)
    counting = over_time.Counting(by)
    for file in files or ():
        counting.add_results(read_results(file))
    for record in _runs(state) if ledger else ():
        counting.add_run(record)
    shown: Trend = counting.finish(limits)
    _give(shown, over_time.FORMATS, over_time.show, over_time.as_json, out, as_json)
    return exit_codes.FOUND if fail_on_drift and shown.drifted else exit_codes.DONE


def _give(
    value: Any,
    formats: Mapping[str, Callable[[Any], str]],
    show: Callable[[Any, Any], None],
    plain: Callable[[Any], Any],
    out: str | None,
    as_json: bool,
) -> None:
    """To a file of the format that its suffix says, or to standard output."""
    from moderate.results.atomic import write_atomic

    if out is not None:
        text = formats[os.path.splitext(out)[1].lower()](value)
        write_atomic(out, text.encode("utf-8", "backslashreplace"))
    if as_json:
        typer.echo(json.dumps(plain(value), indent=2))
    elif out is None:
        show(value, sys.stdout)


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
