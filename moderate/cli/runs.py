"""`moderate runs`: what ran, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moderate.cli.help import Commands
from moderate.cli.output import print_report
from moderate.cli.state import State, is_there, readable_errors, state_folder
from moderate.errors import StateError
from moderate.text import printable

if TYPE_CHECKING:
    from moderate.state.ledger import Ledger

app = Commands(help="List and show past runs and those in progress.")

_AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command("list")
def list_runs(
    as_json: _AsJson = False,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="How many, the newest.")] = 20,
    state: State = None,
) -> None:
    """Print the runs, newest first."""
    from moderate.report.runs import list_report

    folder = state_folder(state)
    with _ledger(folder) as ledger:
        records = ledger.runs(limit + 1) if ledger else []
    if not records and not as_json:
        typer.echo(f"no runs are recorded in {printable(str(folder))} yet")
        return
    listed = list_report(records[:limit], more=len(records) > limit)
    print_report(listed, as_json=as_json)


@app.command()
def show(
    run: Annotated[str, typer.Argument(metavar="ID", help="The start of a run's id, or last.")],
    as_json: _AsJson = False,
    state: State = None,
) -> None:
    """Print one run in full; of one in progress, the counts so far."""
    from moderate.report.runs import run_report

    folder = state_folder(state)
    with _ledger(folder) as ledger:
        if not ledger:
            raise StateError(f"no runs are recorded in {printable(str(folder))} yet")
        record = ledger.find(run)
    print_report(run_report(record), as_json=as_json)


@contextmanager
def _ledger(folder: Path) -> Iterator[Ledger | None]:
    """The ledger of a state folder; None where there is none: it is not created."""
    from moderate.state.ledger import FILE, Ledger

    if not is_there(folder / FILE):
        yield None
        return
    with readable_errors():
        ledger = Ledger(folder)
        try:
            yield ledger
        finally:
            ledger.close()
