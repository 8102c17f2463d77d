"""`moderate state`: what is kept between runs, and how it is kept small."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from moderate.cli.configuration import configured_state
from moderate.cli.help import Commands
from moderate.errors import StateError, UsageError
from moderate.text import printable

if TYPE_CHECKING:
    from moderate.state.ledger import Ledger
    from moderate.state.scores import ScoreStore

T = TypeVar("T")

app = Commands(help="Show, prune, vacuum, merge and clear what is kept between runs.")

State = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="DIR",
        envvar="MODERATE_STATE",
        show_envvar=False,
        help="The state folder; default: as scan has it.",
    ),
]
_KeepRuns = Annotated[
    bool, typer.Option("--keep-runs", help="Leave the records of runs as they are.")
]
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def state_folder(option: str | None) -> Path:
    """The state folder: as `option` has it, else the nearest configuration file, else the default.

    Raises ConfigError, and StateError for a user without a home.
    """
    from moderate.folders import no_home

    folder = find_state_folder(option)
    if folder is None:
        raise StateError(f"there is no folder for the state: {no_home()}; use --state DIR")
    return folder


def find_state_folder(option: str | None) -> Path | None:
    """The same; None for a user without a home."""
    from moderate.state.database import default_folder

    folder = option or configured_state()
    return Path(folder) if folder else default_folder()


def is_there(path: Path) -> bool:
    """Whether there is a file of that name. Raises StateError where nobody can tell."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StateError(f"--state {printable(str(path.parent))}: {reason}") from error
    return True


@contextmanager
def readable_errors() -> Iterator[None]:
    """A state that cannot be used becomes a StateError, the one line that a user reads."""
    from moderate.state.database import BusyError, UnavailableError

    try:
        yield
    except BusyError as error:
        raise StateError(f"{error}; another process is writing, try again") from error
    except UnavailableError as error:
        raise StateError(f"the state cannot be used: {error}") from error


@app.command()
def info(
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """How much is kept, since when, and how large it is."""
    from moderate.report.runs import size

    folder = state_folder(state)
    with _kept(folder) as kept:
        scores = kept.scores.info() if kept.scores else None
        runs = kept.ledger.info() if kept.ledger else None
    if as_json:
        known = {
            "folder": str(folder),
            "scores": scores and asdict(scores),
            "runs": runs and asdict(runs),
        }
        typer.echo(json.dumps(known, indent=2))
        return
    if not scores and not runs:
        _say_nothing(folder)
        return
    typer.echo(f"folder   {printable(str(folder))}")
    if scores:
        typer.echo(f"scores   {scores.outcomes} of {scores.images} images, {scores.errors} errors")
        typer.echo(f"         by {scores.scorers} scorers, for {scores.files} files")
        if scores.outcomes:
            typer.echo(f"         last used {scores.oldest_used} to {scores.newest_used}")
        typer.echo(f"         {size(scores.nbytes)}")
    if runs:
        typer.echo(f"runs     {runs.runs}, {runs.alive} of them in progress")
        if runs.oldest and runs.newest:
            typer.echo(f"         started {runs.oldest[:10]} to {runs.newest[:10]}")
        typer.echo(f"         {size(runs.nbytes)}")


@app.command()
def prune(
    older_than: Annotated[
        str,
        typer.Option(
            metavar="AGE", help="12h, 90d or 8w. Of scores, the day of the last use counts."
        ),
    ],
    keep_runs: _KeepRuns = False,
    state: State = None,
) -> None:
    """Forget scores last used, and runs ended, before some time."""
    from moderate.text import utc

    folder = state_folder(state)
    before = datetime.now(UTC) - _age(older_than)
    with _kept(folder) as kept:
        if not kept:
            _say_nothing(folder)
            return
        outcomes = kept.scores.prune(before.date()) if kept.scores else 0
        runs = kept.ledger.prune(utc(before)) if kept.ledger and not keep_runs else 0
    typer.echo(f"forgot {_number(outcomes, 'score')} and {_number(runs, 'run')}")
    if outcomes or runs:
        typer.echo("moderate state vacuum gives their room back to the disk")


@app.command()
def vacuum(state: State = None) -> None:
    """Give the room of what was forgotten back to the disk."""
    from moderate.report.runs import size

    folder = state_folder(state)
    with _kept(folder) as kept:
        if not kept:
            _say_nothing(folder)
            return
        before = kept.nbytes()
        for part in (kept.scores, kept.ledger):
            if part:
                part.vacuum()
        after = kept.nbytes()
    typer.echo(f"{size(before)} before, {size(after)} now")


@app.command()
def clear(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    keep_runs: _KeepRuns = False,
    state: State = None,
) -> None:
    """Forget everything: the next run scores every image anew."""

    folder = state_folder(state)
    with _kept(folder) as kept:
        if not kept:
            _say_nothing(folder)
            return
        alive = kept.ledger.info().alive if kept.ledger else 0
        if alive:
            raise StateError(
                f"{_number(alive, 'run')} in progress, nothing was removed; "
                "see 'moderate runs list'"
            )
        what = "all scores" if keep_runs else "all scores and all records of runs"
        if not yes and not _agreed(f"Remove {what} in {printable(str(folder))}?"):
            typer.echo("nothing was removed")
            return
        outcomes = kept.scores.clear() if kept.scores else 0
        runs = kept.ledger.clear() if kept.ledger and not keep_runs else 0
    typer.echo(f"forgot {_number(outcomes, 'score')} and {_number(runs, 'run')}")


@app.command()
def merge(
    states: Annotated[
        list[Path],
        typer.Argument(metavar="STATE...", help="State folders, as of the shares of a scan."),
    ],
    into: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="The state folder that they are added to; created where missing."
        ),
    ],
) -> None:
    """Add the scores and runs of other states to one.

    The others are only read. Where two have another outcome for the same content, the one in DIR
    stays, and of those that are added the first.
    """
    from moderate.state.merging import MergedState, check_state, merge_state

    merged = MergedState()
    with readable_errors():
        for folder in states:  # all or none, where one of them is no state
            check_state(folder, into)
        for folder in states:
            merged.add(merge_state(folder, into))
    typer.echo(merged.text)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The two files of a state folder, None where there is none; false where there is neither."""

    scores: ScoreStore | None
    ledger: Ledger | None

    def __bool__(self) -> bool:
        return bool(self.scores or self.ledger)

    def nbytes(self) -> int:
        return sum(part.info().nbytes for part in (self.scores, self.ledger) if part)


@contextmanager
def _kept(folder: Path) -> Iterator[_Kept]:
    """What is kept in `folder`, opened; nothing is created."""
    from moderate.state import ledger, scores

    def opened(file: str, opening: Callable[[Path], T]) -> T | None:
        return opening(folder) if is_there(folder / file) else None

    with readable_errors():
        found_scores = opened(scores.FILE, scores.ScoreStore.open)
        try:
            found_ledger = opened(ledger.FILE, ledger.Ledger)
            try:
                yield _Kept(found_scores, found_ledger)
            finally:
                if found_ledger:
                    found_ledger.close()
        finally:
            if found_scores:
                found_scores.close()


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,5})([hdw])", text.strip().lower(), re.ASCII)
    if not match:
        raise UsageError(f"--older-than {text!r} is no age; write 12h, 90d or 8w")
    return int(match[1]) * _UNITS[match[2]]


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("clear asks before it removes anything; without a terminal, add --yes")
    return typer.confirm(question)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _say_nothing(folder: Path) -> None:

    typer.echo(f"nothing is kept in {printable(str(folder))} yet")
