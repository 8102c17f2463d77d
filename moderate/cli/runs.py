"""`moderate runs`: what ran, and what became of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moderate.cli.state import State, is_there, readable_errors, state_folder
from moderate.errors import StateError
from moderate.text import printable

if TYPE_CHECKING:
    from moderate.state.ledger import Ledger

app = typer.Typer(help="List and show past runs and those in progress.", rich_markup_mode=None)

_AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command("list")
def list_runs(
    as_json: _AsJson = False,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="How many, the newest.")] = 20,
    state: State = None,
) -> None:
    """Print the runs, newest first."""
    from moderate.report import runs as report

    folder = state_folder(state)
    with _ledger(folder) as ledger:
        records = ledger.runs(limit + 1) if ledger else []
    if as_json:
        listed = [report.as_json(record) for record in records[:limit]]
        typer.echo(json.dumps(listed, indent=2))
    elif not records:
        typer.echo(f"no runs are recorded in {printable(str(folder))} yet")
    else:
        report.show_list(records[:limit], len(records) > limit, sys.stdout)


@app.command()
def show(
    run: Annotated[str, typer.Argument(metavar="ID", help="The start of a run's id, or last.")],
    as_json: _AsJson = False,
    state: State = None,
) -> None:
    """Print one run in full; of one in progress, the counts so far."""
    from moderate.report import runs as report

    folder = state_folder(state)
    with _ledger(folder) as ledger:
        if not ledger:
            raise StateError(f"no runs are recorded in {printable(str(folder))} yet")
        record = ledger.find(run)
    if as_json:
        typer.echo(json.dumps(report.as_json(record), indent=2))
    else:
        report.show_run(record, sys.stdout)


@contextmanager
def _ledger(folder: Path) -> Iterator[Ledger | None]:
    """The ledger of a state folder; None where there is none, and none is made."""
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
