"""`moderate apply`: files get their places by what was decided, and go back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from moderate.cli import exit_codes
from moderate.cli.output import print_report
from moderate.cli.state import State, find_state_folder

if TYPE_CHECKING:
    from moderate.apply.operations import Kind

_FOLDER = "Folder for files decided {}."


def apply(
    results: Annotated[
        str | None,
        typer.Argument(metavar="RESULTS", help="Rows of a scan: .csv, .parquet or .jsonl."),
    ] = None,
    block_to: Annotated[
        str | None, typer.Option(metavar="DIR", help=_FOLDER.format("block"))
    ] = None,
    review_to: Annotated[
        str | None, typer.Option(metavar="DIR", help=_FOLDER.format("review"))
    ] = None,
    approve_to: Annotated[
        str | None, typer.Option(metavar="DIR", help=_FOLDER.format("approve"))
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the files; the default.")] = False,
    move: Annotated[bool, typer.Option("--move", help="Move the files.")] = False,
    link: Annotated[bool, typer.Option("--link", help="Make hard links to the files.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do it; without this, say what would be done.")
    ] = False,
    undo: Annotated[
        str | None,
        typer.Option(metavar="LOG", help="Bring back all that a log has; needs no --yes."),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder whose tree is kept; default: the input of the run where it is known, "
            "else what all files have in common.",
        ),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Log to undo and resume by; default: beside RESULTS, .jsonl."
        ),
    ] = None,
    max_listed: Annotated[
        int, typer.Option(min=0, metavar="N", help="How many files to list.")
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    state: State = None,
) -> int:
    """Copy, move or link files by what was decided.

    Says what would be done, unless --yes is given. Nothing is ever overwritten. A file is touched
    only if it still has the size and the sha256 of its row. Exits with 1 where something is not
    applicable, or could not be applied.
    """
    from moderate.errors import UsageError

    targets = {
        name: folder
        for name, folder in (("block", block_to), ("review", review_to), ("approve", approve_to))
        if folder is not None
    }
    if undo is not None:
        if results is not None or targets or copy or move or link or root or log:
            raise UsageError("--undo LOG stands alone: the log has all that is needed")
        return _undo(undo, max_listed, as_json=as_json)
    if results is None:
        raise UsageError("name the RESULTS to apply, or a log by --undo LOG")
    if not targets:
        raise UsageError("name a folder by --block-to, --review-to or --approve-to")
    if copy + move + link > 1:
        raise UsageError("--copy, --move and --link exclude each other")
    if any(not folder for folder in targets.values()):
        raise UsageError("a folder without a name")
    kind: Kind = "move" if move else "link" if link else "copy"
    return _apply(results, targets, kind, root, log, state, max_listed, act=yes, as_json=as_json)


def _apply(
    name: str,
    targets: Mapping[str, str],
    kind: Kind,
    root: str | None,
    log: str | None,
    state: str | None,
    max_listed: int,
    *,
    act: bool,
    as_json: bool,
) -> int:
    from moderate.apply.run import ApplyOptions
    from moderate.apply.run import apply as act_on
    from moderate.report.apply import report
    from moderate.results.read import open_results

    with open_results(name) as read:
        inputs = () if root is not None else _recorded_inputs(read.facts, state)
        options = ApplyOptions(targets, kind, root, log, act, inputs)
        applied = act_on(read, options, max_listed)
    print_report(report(applied), as_json=as_json)
    return exit_codes.DONE if applied.is_complete else exit_codes.FOUND


def _undo(log: str, max_listed: int, *, as_json: bool) -> int:
    from moderate.apply.run import undo
    from moderate.report.apply import undo_report

    undone = undo(log, max_listed)
    print_report(undo_report(undone), as_json=as_json)
    return exit_codes.DONE if undone.is_complete else exit_codes.FOUND


def _recorded_inputs(facts: Mapping[str, str], state: str | None) -> tuple[str, ...]:
    """The inputs of the run that wrote a file, as far as the state has them; else none."""
    from moderate.cli.state import is_there, readable_errors
    from moderate.errors import StateError
    from moderate.state.ledger import FILE, Ledger

    folder, run = find_state_folder(state), facts.get("run_id")
    if folder is None or not run:
        return ()
    try:
        if not is_there(folder / FILE):
            return ()
        with readable_errors():
            ledger = Ledger(folder)
            try:
                record = ledger.find(run)
            finally:
                ledger.close()
    except StateError:
        return ()
    return record.inputs if record.id == run else ()
