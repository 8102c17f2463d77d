"""Which existing files a command replaces without being asked to: those of its own kind.

What this tool wrote, and nobody has changed since, is replaced: a nightly job needs that. Anything
else may be a person's work, and is replaced with `--force` alone.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from typing import BinaryIO, Literal

from moderate.errors import InputError, ModerateError, OutputError
from moderate.regular import read_regular, sha256_of
from moderate.results.marks import is_marked, is_unchanged
from moderate.results.remote import is_remote, receive, shown_target, target_name
from moderate.results.text_writers import metadata_path
from moderate.scratch import scratch_folder
from moderate.types import ErrorCode

Kind = Literal["results", "export", "report", "labels", "policy", "list"]
"""What a command writes. People fill in labels, edit policies, keep lists: never replaced."""

MAX_REPORT_BYTES = 256 << 20
_MAX_FOOTER_BYTES = 256 << 20
_MAX_EXPORT_BYTES = 1 << 40  # an object per image, of millions of images

_CHANGED = "was changed since moderate wrote it"


def check_replaceable(target: str, kind: Kind) -> None:
    """Raises OutputError where a file stands under the name that may be a person's work."""
    if is_remote(target):
        _check_object(target, kind)
        return
    try:
        status = os.stat(target)
        is_file = stat.S_ISREG(status.st_mode) and status.st_size > 0
        # Twice: another run may have been putting rows and facts under their names just now.
        reason = (_CHECKS[kind](target) and _CHECKS[kind](target)) if is_file else None
    except FileNotFoundError:
        return
    except OSError as error:
        reason = f"cannot be read to see what it is ({error.strerror})"
    if reason is not None:
        raise _refusal(target, reason)


def check_facts_replaceable(target: str) -> None:
    """`check_replaceable` for the file of the audit facts beside a target of rows."""
    beside = metadata_path(target)
    if is_remote(target) or not os.path.lexists(beside):
        return
    from moderate.results.read import facts_in  # it imports pyarrow

    try:
        if not os.path.getsize(beside) or facts_in(beside).get("tool") == "moderate":
            return
    except (InputError, OSError):
        pass
    raise _refusal(beside, "is not a file of audit facts of moderate")


def _refusal(target: str, reason: str) -> OutputError:
    return OutputError(
        f"{shown_target(target)} exists and {reason}; "
        "add --force to replace it, or name another file"
    )


def _check_object(target: str, kind: Kind) -> None:
    """`check_replaceable` for an object in a store.

    Rows may be many: of those, it is their facts that are looked at, not whether they are as they
    were written.
    """
    from moderate.fetch.local import FetchError
    from moderate.fetch.store import open_input

    try:
        with open_input(target) as source, scratch_folder("target") as folder:
            size = source.seek(0, os.SEEK_END)
            reason = _why_not_object(target, kind, source, str(folder)) if size else None
    except FetchError as error:
        if error.error.code == ErrorCode.NOT_FOUND:
            return
        shown, problem = shown_target(target), error.error.message
        raise OutputError(
            f"{shown} cannot be looked at, and may be somebody's work: {problem}; add --force"
        ) from None
    except OSError as error:
        raise OutputError(f"cannot look at {shown_target(target)}: {error.strerror}") from None
    if reason is not None:
        raise _refusal(target, reason)


def _why_not_object(target: str, kind: Kind, source: BinaryIO, folder: str) -> str | None:
    from moderate.results.read import facts_in

    copy = os.path.join(folder, f"copy{os.path.splitext(target_name(target))[1].lower()}")
    if kind == "export" or (kind == "results" and not copy.endswith(".parquet")):
        with contextlib.suppress(FileNotFoundError, InputError):
            receive(metadata_path(target), copy)
            if facts_in(copy).get("tool") == "moderate":
                return None
        return f"has no audit facts of moderate beside it ({shown_target(metadata_path(target))})"
    with open(copy, "xb") as file:
        if kind == "results":
            file.write(_parquet_footer(source))
        else:
            source.seek(0)
            file.write(source.read(MAX_REPORT_BYTES))
    return _why_not_ours(copy) if kind == "results" else _CHECKS[kind](copy)


def _parquet_footer(source: BinaryIO) -> bytes:
    """A Parquet file without its pages: what is read for the schema and metadata alone."""
    magic = b"PAR1"
    end = source.seek(0, os.SEEK_END)
    source.seek(max(end - 8, 0))
    tail = source.read(8)
    size = int.from_bytes(tail[:4], "little")
    if tail[4:] != magic or size > min(end - 8, _MAX_FOOTER_BYTES):
        return tail
    source.seek(end - 8 - size)
    return magic + source.read(size) + tail


def _why_not_results(target: str) -> str | None:
    from moderate.results.read import read_results

    reason = _why_not_ours(target)
    if reason is None and not read_results(target).is_as_written:
        return _CHANGED
    return reason


def _why_not_ours(target: str) -> str | None:
    """Why results are not known to be of this tool, as far as their facts say."""
    from moderate.results.read import read_results

    try:
        results = read_results(target)
    except ModerateError:
        return "is not a results file of moderate"
    if results.facts.get("tool") != "moderate":
        is_gone = results.schema is None and not results.facts
        where = f", as there is no {shown_target(metadata_path(target))}" if is_gone else ""
        return f"is not known to be a results file of moderate{where}"
    return None


def _why_not_export(target: str) -> str | None:
    """An export has the form of another program: the facts beside it say whose it is."""
    from moderate.results.read import facts_in

    try:
        facts = facts_in(metadata_path(target))
    except (InputError, OSError):
        facts = {}
    if facts.get("tool") != "moderate" or "export" not in facts:
        return f"is not known to be an export of moderate, by {shown_target(metadata_path(target))}"
    digest = sha256_of(target, _MAX_EXPORT_BYTES)
    return None if facts.get("sha256") == digest else _CHANGED


def _why_not_report(target: str) -> str | None:
    data = read_regular(target, MAX_REPORT_BYTES)
    if is_unchanged(data):
        return None
    return _CHANGED if is_marked(data) else "is not a report of moderate"


_CHECKS: dict[Kind, Callable[[str], str | None]] = {
    "results": _why_not_results,
    "export": _why_not_export,
    "report": _why_not_report,
    "labels": lambda _: "may hold labels that somebody filled in",
    "policy": lambda _: "may be a policy that somebody wrote",
    "list": lambda _: "may be a list that somebody wrote",
}
