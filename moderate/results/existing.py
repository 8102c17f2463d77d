"""Which existing files a command replaces without being asked to: those of its own kind.

What this tool wrote, and nobody has changed since, is replaced: a nightly job needs that. Anything
else may be a person's work, and is replaced with `--force` alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Literal

from moderate.errors import InputError, ModerateError, OutputError
from moderate.regular import read_regular
from moderate.results.marks import is_marked, is_unchanged
from moderate.results.remote import is_remote, shown_target
from moderate.results.text_writers import metadata_path

Kind = Literal["results", "report", "labels", "policy"]
"""What a command writes. People fill in labels and edit policies: those are never replaced."""

MAX_REPORT_BYTES = 256 << 20

_CHANGED = "was changed since moderate wrote it"


def check_replaceable(target: str, kind: Kind, *, force: bool) -> None:
    """Raises OutputError where a file stands under the name that may be a person's work."""
    if force or is_remote(target):
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
        raise OutputError(
            f"{shown_target(target)} exists and {reason}; "
            "add --force to replace it, or name another file"
        )


def check_facts_replaceable(target: str, *, force: bool) -> None:
    """`check_replaceable` for the file of the audit facts beside a target of rows."""
    from moderate.results.read import facts_in

    beside = metadata_path(target)
    if force or is_remote(target) or not os.path.lexists(beside):
        return
    try:
        if not os.path.getsize(beside) or facts_in(beside).get("tool") == "moderate":
            return
    except (InputError, OSError):
        pass
    raise OutputError(
        f"{shown_target(beside)} exists and is not a file of audit facts of moderate; "
        "add --force to replace it, or name another file"
    )


def _why_not_results(target: str) -> str | None:
    from moderate.results.read import read_results

    try:
        results = read_results(target)
    except ModerateError:
        return "is not a results file of moderate"
    is_text = results.schema is None
    if results.facts.get("tool") != "moderate":
        is_gone = is_text and not results.facts
        where = f", as there is no {shown_target(metadata_path(target))}" if is_gone else ""
        return f"is not known to be a results file of moderate{where}"
    if is_text:
        return None if "sha256" in results.facts and not results.mismatch else _CHANGED
    # Other programs keep the metadata of a file that they write anew; pandas adds to it.
    return _CHANGED if b"pandas" in (results.schema.metadata or {}) else None


def _why_not_report(target: str) -> str | None:
    data = read_regular(target, MAX_REPORT_BYTES)
    if is_unchanged(data):
        return None
    return _CHANGED if is_marked(data) else "is not a report of moderate"


_CHECKS: dict[Kind, Callable[[str], str | None]] = {
    "results": _why_not_results,
    "report": _why_not_report,
    "labels": lambda _: "may hold labels that somebody filled in",
    "policy": lambda _: "may be a policy that somebody wrote",
}
