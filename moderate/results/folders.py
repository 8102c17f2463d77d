"""Folders of results: which targets are such, by what they are divided, which may be replaced."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from moderate.errors import OutputError, UsageError
from moderate.fetch.local import FetchError, open_regular
from moderate.mounts import is_mount_point
from moderate.results.atomic import folder_problem, shared_folder_problem, what_it_is
from moderate.results.pages import pages_digest
from moderate.results.partition_columns import PARTITION_COLUMNS
from moderate.results.remote import is_remote, shown_target
from moderate.text import nearest, one_line, printable

PART = "moderate_part"
"""Key in the metadata of each file: which file of a folder of results it is, by its name.

There is no other file that says so: some readers refuse a folder with anything else in it.
"""

NULL_VALUE = "__HIVE_DEFAULT_PARTITION__"

_OURS = re.compile(r"part-\d{4,}\.parquet")
_MAX_FOOTER_BYTES = 256 << 20


def is_folder_target(target: str) -> bool:
    """Whether a target of rows is a folder of files: its name ends with a slash."""
    return target.endswith("/")


def parse_partition_by(text: str | None) -> tuple[str, ...]:
    """The columns of --partition-by COLUMN,COLUMN. Raises UsageError."""
    return () if text is None else tuple(name.strip() for name in text.split(","))


def check_partition_by(targets: Sequence[str], by: Sequence[str]) -> None:
    """Refuse columns and folders that do not go together. Raises UsageError or OutputError."""
    for number, name in enumerate(by):
        if name not in PARTITION_COLUMNS:
            meant = nearest(name, PARTITION_COLUMNS)
            hint = f"did you mean {meant!r}?" if meant else f"use {', '.join(PARTITION_COLUMNS)}"
            raise UsageError(f"--partition-by: {one_line(name, 40)!r} is none of them; {hint}")
        if name in by[:number]:
            raise UsageError(f"--partition-by: {name} is there twice")
    folders = [target for target in targets if is_folder_target(target)]
    if by and not folders:
        raise UsageError("--partition-by goes with a folder, --out DIR/ with a slash at its end")
    for target in folders:
        if not by:
            raise UsageError(
                f"--out {shown_target(target)}: rows go into a folder with --partition-by, "
                "as in --partition-by decision,date"
            )
        if is_remote(target):
            raise UsageError(f"--out {shown_target(target)}: folders are written to local disks")
        _check_place(target)


def _check_place(target: str) -> None:
    if "\0" in target:
        raise OutputError(f"cannot write {printable(target)}: its name holds a NUL")
    path = os.path.realpath(target)
    above = os.path.dirname(path)
    reason = None
    if os.path.lexists(path) and not os.path.isdir(path):
        is_file = os.path.isfile(path)
        reason = "it is a file" if is_file else what_it_is(os.stat(path))
    elif problem := folder_problem(above):
        reason = problem
    elif path == "/" or is_mount_point(path):
        reason = "it is mounted by itself, so that it cannot be replaced as a whole"
    else:
        reason = shared_folder_problem(target.rstrip("/"), path)
    if reason is not None:
        raise OutputError(f"cannot write {printable(target)}: {reason}")


def check_folder_replaceable(target: str, *, force: bool) -> None:
    """Raises OutputError where a folder holds what may be a person's work.

    force allows to replace files of ours that were changed, as far as they still say that they are
    ours. A folder with other files in it is never replaced, as they would be gone.
    """
    path = os.path.realpath(target)
    if not os.path.isdir(path):
        return
    if reason := why_not_ours(path):
        raise OutputError(f"{printable(target)} exists and {reason}; name another folder")
    if force:
        return
    for name in _names(path):
        file = os.path.join(path, name)
        digest = pages_digest(file)
        if digest is None or digest.encode() not in _footer(file):
            shown = one_line(printable(name), 100)
            raise OutputError(
                f"{printable(target)} exists and {shown} in it was changed since moderate wrote "
                "it; add --force to replace it, or name another folder"
            )


def why_not_ours(path: str) -> str | None:
    """Why a folder holds more than files that a run wrote there; None where it does not.

    An empty folder holds nothing more.
    """
    for name in _names(path):
        if part_mark(name).encode() not in _footer(os.path.join(path, name)):
            reason = f"holds what moderate did not write there: {one_line(printable(name), 100)}"
            if _OURS.fullmatch(os.path.basename(name)):
                # Most programs that write a file anew leave nothing of its metadata.
                reason += " (or another program wrote it anew)"
            return reason
    return None


def part_mark(name: str) -> str:
    """What the metadata of a file of this name below a folder of results has under PART."""
    return f"[{name}] of a folder of results"


def _footer(path: str) -> bytes:
    """The end of a Parquet file, which holds its metadata; not parsed, as it may be anybody's.

    Empty for what is no regular file, or no Parquet file.
    """
    try:
        with os.fdopen(open_regular(os.fsencode(path)).fd, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - 8, 0))
            tail = file.read(8)
            size = int.from_bytes(tail[:4], "little")
            if tail[4:] != b"PAR1" or size > min(end - 8, _MAX_FOOTER_BYTES):
                return b""
            file.seek(end - 8 - size)
            return file.read(size)
    except (FetchError, OSError):
        return b""


def _names(path: str) -> list[str]:
    """All files, links and whatever else is no folder, below a folder."""
    names: list[str] = []
    for folder, folders, files in os.walk(path):
        below = os.path.relpath(folder, path)
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        names += [os.path.normpath(os.path.join(below, name)) for name in [*files, *links]]
    return sorted(names)
