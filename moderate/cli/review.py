"""`moderate review`: a local page on which people work through the queue."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from moderate.cli.messages import say
from moderate.errors import UsageError
from moderate.types import Category

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def review(
    results: Annotated[
        str, typer.Argument(metavar="RESULTS", help="Rows of a scan: .csv, .parquet or .jsonl.")
    ],
    queue: Annotated[
        str,
        typer.Option(
            metavar="review|block|errors|all|approve-sample:N",
            help="Which rows: those of a decision, errors, all, or N approved ones by chance.",
        ),
    ] = "review",
    order: Annotated[
        Literal["uncertain", "severe", "input"],
        typer.Option(help="Nearest to a threshold first, highest score first, or as they are."),
    ] = "uncertain",
    category: Annotated[
        Category | None,
        typer.Option(metavar="CATEGORY", help="Only rows that this category sends here."),
    ] = None,
    warning: Annotated[
        str | None, typer.Option(metavar="WARNING", help="Only rows with this warning.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Only rows whose path starts so.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="COLUMN=TEXT", help="Only rows whose column says that.")
    ] = None,
    reviewer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who decides; else the user's name.")
    ] = None,
    second_look: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, metavar="SHARE", help="Show this share to a second person, too."
        ),
    ] = 0.0,
    decisions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where decisions go; else RESULTS.decisions.jsonl."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: a free one.")] = 0,
    host: Annotated[
        str, typer.Option(help="Other than this machine's own: needs --token-file.")
    ] = "127.0.0.1",
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Lines of NAME TOKEN: who may come in, again and again."),
    ] = None,
    allow_private_network: Annotated[
        bool,
        typer.Option("--allow-private-network", help="URLs may lead to private addresses."),
    ] = False,
) -> None:
    """Work through the queue in a browser, picture by picture.

    Every decision is on the disk before the next picture comes. Ctrl-C ends it; the same command
    goes on where you were.
    """
    from moderate.analysis.policies import DECIDE_AGAIN, policy_of
    from moderate.fetch.options import HttpOptions
    from moderate.results.read import open_results
    from moderate.review.access import Access
    from moderate.review.journal import beside
    from moderate.review.queue import Selection, parse_kind, row_numbers
    from moderate.review.session import Session
    from moderate.review.shown import find_copies
    from moderate.types import Limits

    _check_server_is_there()
    from moderate.review.pictures import Pictures
    from moderate.review.run import host_names, listening, serve
    from moderate.review.server import application

    kind, sample = parse_kind(queue)
    selection = Selection(kind, sample, category, warning, source, _column(where), order)
    tokens = _tokens(token_file)
    if host not in _LOOPBACK and not tokens:
        raise UsageError(
            f"--host {host} shows the pictures to everybody who can reach it and has a link: "
            "name those who may come in with --token-file FILE"
        )
    if host in ("0.0.0.0", "::"):  # noqa: S104 - what is refused here
        raise UsageError(f"--host {host}: use the address or name that the reviewers open")
    name = reviewer or _user()
    with open_results(results) as read:
        policy = policy_of(read, advice=DECIDE_AGAIN)
        journal = decisions or beside(results)
        numbers = row_numbers(read, policy, selection)
        if not len(numbers):
            say("info", "review", "the queue is empty: no row of the results is in it")
            return
        session = Session(
            read, numbers, journal, journal.with_name(journal.name + ".leases"), second_look
        )
        http = HttpOptions(allow_private=allow_private_network)
        with listening(host, port) as listener, Pictures(Limits(), http) as pictures:
            bound = listener.getsockname()[1]
            access = Access(host_names(host, bound), tokens)
            title = os.path.basename(results)
            copies = find_copies(read, session.paths)
            app = application(session, pictures, access, policy, title, copies)

            def ready() -> None:
                shown = f"[{host}]" if ":" in host else host
                link = f"http://{shown}:{bound}/?token={access.invite(name)}"
                progress = session.progress(name)
                typer.echo(
                    f"queue    {progress.total - progress.decided} of {progress.total} images"
                )
                typer.echo(f"records  {journal}")
                typer.echo(f"open     {link}")
                if tokens:
                    typer.echo(f"         or http://{shown}:{bound}/?token=TOKEN of {token_file}")
                typer.echo("end      Ctrl-C")

            serve(app, listener, ready)
        session.close()


def _check_server_is_there() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UsageError(
            "the review page needs its web server: pip install 'moderate[review]'"
        ) from None


def _column(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UsageError("--where: write COLUMN=TEXT")
    return name, value


def _tokens(path: Path | None) -> dict[str, str]:
    from moderate.review.access import parse_tokens
    from moderate.text import printable

    if path is None:
        return {}
    try:
        return parse_tokens(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"--token-file {printable(str(path))}: {reason}") from None
    except ValueError as error:
        raise UsageError(f"--token-file {printable(str(path))}: {error}") from None


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return f"user {os.getuid()}"
