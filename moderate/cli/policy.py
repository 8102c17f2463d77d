"""`moderate policy`: the presets, any policy's text, and whether a file is valid."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="List, show and check policies.", rich_markup_mode=None)

_Policy = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A preset or a TOML file.")]


@app.command("list")
def list_policies() -> None:
    """Print the presets, one a line."""
    from moderate.policy.load import PRESETS, load_policy

    for name in PRESETS:
        typer.echo(f"{name:<12} {load_policy(name).policy.description}")


@app.command()
def show(policy: _Policy) -> None:
    """Print a policy's TOML: a preset's is a good start for a file of your own."""
    from moderate.policy.load import load_policy

    typer.echo(load_policy(policy).text, nl=False)


@app.command()
def check(policy: _Policy) -> None:
    """Say whether a policy is valid; exit code 2, key and reason where it is not."""
    from moderate.policy.load import load_policy
    from moderate.text import printable

    loaded = load_policy(policy)
    typer.echo(
        f"{printable(policy)}: valid ({printable(loaded.policy.name)}, sha256 {loaded.sha256[:12]})"
    )
