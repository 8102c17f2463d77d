"""`moderate explain`: why an image got the decision that it has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moderate.cli.output import print_report
from moderate.cli.state import State, find_state_folder, is_there, readable_errors
from moderate.errors import StateError
from moderate.text import printable

if TYPE_CHECKING:
    from moderate.analysis.explain import Kept
    from moderate.state.ledger import Ledger, RunRecord


def explain(
    results: Annotated[
        str,
        typer.Argument(
            metavar="RESULTS",
            help="Rows of a scan: .csv, .parquet or .jsonl; also of a bucket (s3://, gs://).",
        ),
    ],
    image: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A file name, a path, a URL, 8 or more digits of a sha256, or row:N.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    state: State = None,
) -> None:
    """Show why an image was decided as it was, by what, and when."""
    from moderate.analysis.explain import explain as look_up
    from moderate.report.explain import report
    from moderate.results.read import open_results

    with open_results(results) as read:
        explained = look_up(read, image, _kept(find_state_folder(state), read.facts))
    print_report(report(explained), as_json=as_json)


def _kept(folder: Path | None, facts: Mapping[str, str]) -> Kept:
    """What the ledger in `folder` has of the run that wrote a file; never raises for want of it."""
    from moderate.analysis.explain import Kept
    from moderate.folders import no_home
    from moderate.state.ledger import FILE, Ledger

    if folder is None:
        return Kept(missing=no_home())
    where = printable(str(folder))
    run, policy = facts.get("run_id"), facts.get("policy_sha256")
    try:
        if not is_there(folder / FILE):
            return Kept(missing=f"no runs are recorded in {where}")
        with readable_errors():
            ledger = Ledger(folder)
            try:
                kept = ledger.policy(policy) if policy else None
                text = kept[1] if kept else None
                record = _find(ledger, run) if run else None
            finally:
                ledger.close()
    except StateError as error:
        return Kept(missing=str(error))
    missing = None if record else f"the run has no record in {where}"
    return Kept(record, text, missing)


def _find(ledger: Ledger, run: str) -> RunRecord | None:
    try:
        record = ledger.find(run)
    except StateError:
        return None
    return record if record.id == run else None
