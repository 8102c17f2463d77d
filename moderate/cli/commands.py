"""The subcommands of `moderate`, of which only those are loaded that a command line needs."""

from __future__ import annotations

from functools import cache
from typing import Annotated

import typer

from moderate.cli import help
from moderate.cli.configuration import ConfiguredCommand
from moderate.cli.scan import scan


def application(arguments: list[str]) -> typer.Typer:
    """The application that understands these arguments.

    `moderate scan` gets one that knows scan alone: importing the other commands and building their
    options costs a noticeable part of a scan of one image.
    """
    return _only_scan() if arguments[:1] == ["scan"] else all_commands()


@cache
def all_commands() -> help.Commands:
    """The application with every command, in the order of the help."""
    from moderate.cli.apply import apply
    from moderate.cli.bench import bench
    from moderate.cli.decide import decide
    from moderate.cli.diff import diff
    from moderate.cli.doctor import doctor
    from moderate.cli.eval import evaluate
    from moderate.cli.explain import explain
    from moderate.cli.merge import merge
    from moderate.cli.policy import app as policy_app
    from moderate.cli.report import report
    from moderate.cli.review import app as review_app
    from moderate.cli.runs import app as runs_app
    from moderate.cli.sample import sample
    from moderate.cli.state import app as state_app
    from moderate.cli.testcards import testcards
    from moderate.cli.train import train
    from moderate.cli.tune import tune
    from moderate.cli.weights import app as weights_app

    app = _only_scan()
    app.add_typer(policy_app, name="policy", rich_help_panel=help.TUNING)
    app.add_typer(weights_app, name="weights", rich_help_panel=help.INSTALLATION)
    app.add_typer(runs_app, name="runs", rich_help_panel=help.HISTORY)
    app.add_typer(state_app, name="state", rich_help_panel=help.HISTORY)
    app.command(rich_help_panel=help.SCANNING)(testcards)
    app.command(rich_help_panel=help.INSTALLATION)(bench)
    app.command(rich_help_panel=help.INSTALLATION)(doctor)
    app.command(rich_help_panel=help.RESULTS)(merge)
    app.command(rich_help_panel=help.RESULTS)(explain)
    app.command(rich_help_panel=help.RESULTS)(decide)
    app.command(rich_help_panel=help.RESULTS)(diff)
    app.command(name="eval", rich_help_panel=help.TUNING)(evaluate)
    app.command(rich_help_panel=help.RESULTS)(report)
    app.add_typer(review_app, name="review", rich_help_panel=help.RESULTS)
    app.command(rich_help_panel=help.RESULTS)(apply)
    app.command(rich_help_panel=help.TUNING)(sample)
    app.command(rich_help_panel=help.TUNING)(tune)
    app.command(rich_help_panel=help.TUNING)(train)
    return app


def _only_scan() -> help.Commands:
    """The application with scan as its only command, to which others can be added."""
    app = help.Commands(
        name="moderate",
        help="Moderate piles of images on your own machine: scores, decisions, one row per image.",
    )
    app.callback()(_root)
    # The prefix turns every option of scan into an environment variable: MODERATE_POLICY, ...
    app.command(
        cls=ConfiguredCommand,
        context_settings={"auto_envvar_prefix": "MODERATE"},
        rich_help_panel=help.SCANNING,
    )(scan)
    return app


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    from moderate.classify.device import gpu_name
    from moderate.libraries import installed_version
    from moderate.version import __version__

    device = gpu_name() or "cpu"
    versions = (
        f"{name} {installed_version(name) or 'not installed'}" for name in ("torch", "timm")
    )
    typer.echo(f"moderate {__version__}, {', '.join(versions)}, device {device}")
    raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print the versions of moderate, torch and timm, and the device.",
        ),
    ] = False,
) -> None:
    pass
