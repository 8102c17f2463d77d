"""What `moderate scan` says of a run, and of one that is only planned."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from moderate.cli import exit_codes
from moderate.cli.messages import say, say_error, speaks_json
from moderate.errors import OutputError, ReaderGoneError

if TYPE_CHECKING:
    from moderate.run.interface import Job
    from moderate.run.summary import Summary


def look_ahead(job: Job, max_error_rate: float, *, quiet: bool) -> int:
    """What the scan would find and cost, on standard output unless rows would go there."""
    from moderate.report.dry_run import headline, report
    from moderate.report.terminal import show
    from moderate.results.targets import to_stdout
    from moderate.run import dry_run

    found = dry_run.look_ahead(job)
    if not quiet:
        made = report(found, job)
        stream = sys.stderr if any(map(to_stdout, job.options.targets)) else sys.stdout
        if speaks_json():
            say("info", "dry_run_finished", headline(found), summary=made.data)
        elif stream is not None:
            show(made, stream)
    problems = exit_codes.problems(found, max_error_rate)
    for event, message in problems:
        say_error(event, message)
    return exit_codes.ERROR if problems else exit_codes.DONE


def say_waiting(line: str) -> None:
    """That another run has to end first."""
    say("info", "waiting", line)


def tell(result: Summary, out: Sequence[str]) -> None:
    """What came of the run: the summary, on stderr where the rows take stdout."""
    from moderate.report.summary import headline, report
    from moderate.report.terminal import show
    from moderate.results.targets import to_stdout
    from moderate.run.summary import as_json

    if speaks_json():
        say("info", "run_finished", headline(result), summary=as_json(result), outputs=list(out))
        return
    stream = sys.stderr if any(map(to_stdout, out)) else sys.stdout
    try:
        if stream is not None:
            show(report(result), stream)
        if not out and sys.stderr is not None:
            typer.echo("rows     not written; add --out results.csv to keep them", err=True)
    except (ReaderGoneError, BrokenPipeError) as error:
        if not out:  # with the rows in a file, nobody misses anything
            raise ReaderGoneError("the output was closed by its reader") from error
    except OSError as error:  # the terminal was closed, or the disk behind it is full
        failed = f"cannot print the summary: {error.strerror or error}"
        if not out:
            raise OutputError(failed) from error
        say("warning", "summary", f"{failed}; the rows are written")
