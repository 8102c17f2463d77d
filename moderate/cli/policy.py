"""`moderate policy`: the presets, any policy's text, and whether a file is valid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from moderate.cli.help import Commands

if TYPE_CHECKING:
    from moderate.policy.load import LoadedPolicy

MOST_EXPIRED = 20
"""Expired entries that `check` names."""

app = Commands(help="List, show and check policies.")

_Policy = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A preset or a TOML file.")]


@app.command("list")
def list_policies() -> None:
    """Print the presets, one per line."""
    from moderate.policy.load import PRESETS, load_policy

    for name in PRESETS:
        typer.echo(f"{name:<12} {load_policy(name).policy.description}")


@app.command()
def show(policy: _Policy) -> None:
    """Print a policy's TOML, as a start for one of your own."""
    from moderate.policy.load import load_policy

    typer.echo(load_policy(policy).text, nl=False)


@app.command()
def check(policy: _Policy) -> None:
    """Check that a policy is valid.

    Exit code 2, with key and reason, where it is not.
    """
    from moderate.policy.load import load_policy
    from moderate.text import printable

    loaded = load_policy(policy)
    typer.echo(
        f"{printable(policy)}: valid ({printable(loaded.policy.name)}, sha256 {loaded.sha256[:12]})"
    )
    for line in (*_context(loaded), *_rating(loaded)):
        typer.echo(line)


def _rating(loaded: LoadedPolicy) -> Iterator[str]:
    """What rating scales that match by description need, those of overrides included."""
    from moderate.policy.described import HOW_TO_BUILD, ONE_SCALE
    from moderate.policy.judge import Judge

    scales = Judge.of(loaded).described_scales
    for scale in scales:
        values = ", ".join(level.value for level in scale)
        yield f"rating: {len(scale)} levels by description: {values}"
    if len(scales) == 1:
        yield f"  needs weights that were built for them: {HOW_TO_BUILD}"
    elif scales:
        yield f"  these are {len(scales)} scales; {ONE_SCALE}"


def _context(loaded: LoadedPolicy) -> Iterator[str]:
    """What stands beside the thresholds: overrides in their order, lists, and what has expired."""
    from datetime import UTC, datetime

    policy, lists = loaded.policy, loaded.lists
    if policy.override:
        yield f"overrides: {len(policy.override):,}; the first that matches a row applies"
    for number, override in enumerate(policy.override, 1):
        named = f" ({override.name})" if override.name else ""
        what = override.policy or "values of its own"
        yield f"  {number}. {override.when}{named}: {what}"
    for number, opinion in enumerate(policy.second_opinion, 1):
        yield f"second opinion {number}: {opinion.weights} {opinion.band}"
    if lists.cleared:
        today = datetime.now(UTC).date()
        expired = [(e.expires, sha, e.reason) for sha, e in lists.cleared.items()
                   if e.is_expired(today)]  # fmt: skip
        yield f"ignore list: {_entries(len(lists.cleared))}, {len(expired):,} expired"
        for expires, sha256, reason in sorted(expired)[:MOST_EXPIRED]:
            yield f"  expired {expires}: {sha256} {reason}"
        if len(expired) > MOST_EXPIRED:
            yield f"  and {len(expired) - MOST_EXPIRED:,} more"
    if lists.cleared_pdq:
        clearances = [each.entry for each in lists.cleared_pdq.values()]
        expired_count = sum(each.is_expired(datetime.now(UTC).date()) for each in clearances)
        yield f"ignore list by PDQ: {_entries(len(clearances))}, {expired_count:,} expired"
    if lists.blocked:
        both = len(lists.cleared.keys() & lists.blocked.keys())
        also = f", {both:,} of them on the ignore list too, where it has no effect" if both else ""
        yield f"block list: {_entries(len(lists.blocked))}{also}"
    if lists.blocked_pdq:
        both = len(lists.cleared_pdq.keys() & lists.blocked_pdq.keys())
        also = f", {both:,} of them on the ignore list too, where it has no effect" if both else ""
        yield f"block list by PDQ: {_entries(len(lists.blocked_pdq))}{also}"
    yield from lists.notes


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count:,} entries"
