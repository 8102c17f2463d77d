"""`moderate doctor`: is this machine fit to run, and does it compute what it should?"""

from __future__ import annotations

from typing import Annotated

import typer

from moderate.cli import exit_codes
from moderate.cli.output import print_fact
from moderate.cli.state import State, find_state_folder


def doctor(
    weights: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="Test these alone; default: all here.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N|:all]")] = "auto",
    precision: Annotated[str, typer.Option(metavar="auto|fp32|bf16|fp16")] = "auto",
    state: State = None,
) -> int:
    """Check this machine: versions, codecs, device, disk, self-tests.

    Exit code 2 when something is wrong.
    """
    from moderate.run.doctor import examine

    problems = 0
    for finding in examine(weights, device, precision, find_state_folder(state)):
        problems += finding.problem
        mark = "PROBLEM " if finding.problem else ""
        print_fact(finding.label, mark + finding.value, label_width=11)
    if problems:
        typer.echo(f"moderate: error: {problems} problem(s), marked above", err=True)
        return exit_codes.ERROR
    typer.echo("all well")
    return exit_codes.DONE
