"""`moderate review`: a local page on which people work through the queue, and what comes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from moderate.cli.help import Commands, DefaultGroup
from moderate.cli.messages import say
from moderate.cli.output import Force
from moderate.errors import UsageError
from moderate.installing import how_to_install
from moderate.text import one_line

app = Commands(
    cls=DefaultGroup,
    help="Work through the queue in a browser, and use what was decided.\n\n"
    "Without the name of a command, it is 'page': moderate review RESULTS.",
)

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@app.command()
def page(
    results: Annotated[
        str,
        typer.Argument(
            metavar="RESULTS",
            help="Rows of a scan: .csv, .parquet or .jsonl; or labels.csv of 'moderate sample'.",
        ),
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
        str | None,
        typer.Option(
            metavar="CATEGORY",
            help="Only rows that this category, which may be your own, sends here.",
        ),
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
    approve_is_no: Annotated[
        bool,
        typer.Option(
            "--approve-is-no",
            help="Of labels: to approve says no to every category without an answer.",
        ),
    ] = False,
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

    A template of 'moderate sample' is labelled on the same page: answers for categories go into its
    empty cells, too. Lines with a label are done.
    """
    from contextlib import ExitStack

    from moderate.arrow import leave_out_pandas

    leave_out_pandas()
    from moderate.analysis.policies import DECIDE_AGAIN, policy_of
    from moderate.fetch.options import HttpOptions
    from moderate.policy.load import load_policy
    from moderate.results.read import open_results
    from moderate.review.access import Access
    from moderate.review.journal import beside
    from moderate.review.labelling import is_template, label_session
    from moderate.review.queue import Selection, parse_kind
    from moderate.review.rows import Copies, read_rows
    from moderate.review.session import Session
    from moderate.review.verdicts import check_decisions
    from moderate.stopping import Stopped
    from moderate.text import printable
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
    journal = decisions or beside(results)
    labelling = is_template(results)
    if labelling and selection != Selection():
        raise UsageError(
            "a template is labelled as a whole: choose its images in 'moderate sample'"
        )
    if approve_is_no and not labelling:
        raise UsageError("--approve-is-no goes with a template of labels")
    http = HttpOptions(allow_private=allow_private_network)
    copies: Mapping[str, Copies] = {}
    with ExitStack() as stack:
        listener = stack.enter_context(listening(host, port))
        pictures = stack.enter_context(Pictures(Limits(), http))
        if labelling:
            policy = load_policy("balanced").policy  # there are no scores to hold against it
            session = label_session(results, journal, second_look, approve_is_no=approve_is_no)
        else:
            read = stack.enter_context(open_results(results))
            policy = policy_of(read, advice=DECIDE_AGAIN)
            check_decisions(read, journal)
            rows = read_rows(read, policy, selection)
            if not len(rows):
                say("info", "review", "the queue is empty: no row of the results is in it")
                return
            leases = journal.with_name(journal.name + ".leases")
            session = Session(rows, journal, leases, second_look)
            copies = rows.copies
        bound = listener.getsockname()[1]
        access = Access(host_names(host, bound), tokens)
        title = os.path.basename(results)
        app = application(session, pictures, access, policy, title, copies)

        def ready() -> None:
            shown = f"[{host}]" if ":" in host else host
            link = f"http://{shown}:{bound}/?token={access.invite(name)}"
            progress = session.progress(name)
            typer.echo(f"queue    {progress.total - progress.decided} of {progress.total} images")
            typer.echo(f"records  {journal}")
            typer.echo(f"open     {link}")
            if tokens:
                typer.echo(f"         or http://{shown}:{bound}/?token=TOKEN of {token_file}")
            typer.echo("end      Ctrl-C")

        try:
            serve(app, listener, ready)
        except Stopped as stopped:
            stopped.add_note(f"what was decided is in {printable(str(journal))}")
            raise
        session.close()


@app.command()
def export(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="The rows that were reviewed.")],
    decisions: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Else RESULTS.decisions.jsonl. May be repeated."),
    ] = None,
    cleared: Annotated[
        str | None,
        typer.Option(metavar="FILE.csv", help="Approved images, for a policy's ignore_file."),
    ] = None,
    blocked: Annotated[
        str | None,
        typer.Option(metavar="FILE.csv", help="Blocked images, for a policy's block_file."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="FILE.csv", help="Answers for categories, for eval and tune."),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Why the images are on a list; lists need it."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="When clearances end (2027-01-31); --cleared needs it."),
    ] = None,
    force: Force = False,
) -> None:
    """Write what people decided as lists for a policy, and as labels.

    Images that somebody was unsure of and nobody blocked are on no list.
    """
    from moderate.analysis import review_export
    from moderate.results.read import read_results
    from moderate.results.targets import finishing, open_texts
    from moderate.review.journal import beside
    from moderate.review.verdicts import read_decisions

    lists = [target for target in (cleared, blocked) if target is not None]
    targets = [*lists, *([labels] if labels is not None else [])]
    if not targets:
        raise UsageError("name what to write: --cleared, --blocked, --labels, or several of them")
    why, last_day = _of_lists(lists, cleared, reason, expires)
    files = decisions or [str(beside(results))]
    _check_targets(lists, labels, [results, *files], force=force)
    read = read_results(results)
    exported = review_export.export(read, read_decisions(files))
    texts = {}
    if cleared is not None:
        assert last_day
        texts[cleared] = review_export.cleared_csv(exported.cleared, why, last_day)
    if blocked is not None:
        texts[blocked] = review_export.blocked_csv(exported.blocked, why)
    if labels is not None:
        texts[labels] = review_export.labels_csv(exported.labels, read.own_categories)
    with open_texts(targets) as opened:
        for file in opened:
            file.seal(texts[file.target])
        with finishing(targets):
            for file in opened:
                file.commit()
    counts = {
        "cleared": len(exported.cleared),
        "blocked": len(exported.blocked),
        "undecided": exported.undecided,
        "labelled": exported.labelled,
    }
    text = ", ".join(f"{count} {name}" for name, count in counts.items())
    say("info", "exported", f"{text} images", **counts)
    if exported.unnamed and lists:
        say("warning", "unnamed", f"{exported.unnamed} decisions are on files without a digest: "
            "they are on no list")  # fmt: skip
    if labels is not None and not exported.labelled:
        say("warning", "labels", "no reviewer answered for a category: the labels are all empty")


def _of_lists(
    lists: list[str], cleared: str | None, reason: str | None, expires: str | None
) -> tuple[str, date | None]:
    """The reason and the last day of entries. Raises UsageError where lists lack them."""
    why = (reason or "").strip()
    if lists and not why:
        raise UsageError("--cleared and --blocked need --reason TEXT: a list says why")
    if cleared is None:
        return why, None
    if expires is None:
        raise UsageError("--cleared needs --expires DATE: no clearance is for ever")
    try:
        day = date.fromisoformat(expires)
    except ValueError:
        raise UsageError(f"--expires {one_line(expires, 40)!r}: a date is 2027-01-31") from None
    if day <= datetime.now(UTC).date():
        raise UsageError(f"--expires {day}: entries would be without effect from the start")
    return why, day


def _check_targets(lists: list[str], labels: str | None, inputs: list[str], *, force: bool) -> None:
    from moderate.results.targets import check_files, check_overwriting, read_identities

    labelled = [labels] if labels is not None else []
    check_files("--cleared, --blocked", lists, (".csv",), "a list is a .csv file")
    check_files("--labels", labelled, (".csv",), "labels are a .csv file")
    read = read_identities(inputs)
    check_overwriting([], [*lists, *labelled], read, force=True)
    check_overwriting([], lists, read, force=force, kind="list")
    check_overwriting([], labelled, read, force=force, kind="labels")


def _check_server_is_there() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UsageError(
            f"the review page needs its web server: {how_to_install('review')}"
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
