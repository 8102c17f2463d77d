"""The files that a command is to write: checked before any work, opened and committed together."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

from moderate import stopping
from moderate.errors import OutputError, UsageError
from moderate.mounts import is_mount_point
from moderate.regular import file_identity
from moderate.results.atomic import (
    folder_problem,
    open_whole,
    output_error,
    shared_folder_problem,
    what_it_is,
    write_atomic,
)
from moderate.results.existing import Kind, check_facts_replaceable, check_replaceable
from moderate.results.folders import (
    check_folder_replaceable,
    check_partition_by,
    is_folder_target,
)
from moderate.results.interface import CsvForm, ResultWriter
from moderate.results.marks import sign
from moderate.results.remote import is_remote, shown_target, target_name
from moderate.results.text_writers import CsvWriter, JsonlWriter, metadata_path
from moderate.text import printable

SUFFIXES = (".csv", ".parquet", ".jsonl")
REPORT_SUFFIXES = (".json", ".md", ".html")

_OPEN_FILES = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")

_GUARDED = CsvForm()

FileIdentity = tuple[int, int]
"""Device and inode."""


class _Discardable(Protocol):
    def discard(self) -> None: ...


_File = TypeVar("_File", bound=_Discardable)
_Target = TypeVar("_Target")


# Checks -------------------------------------------------------------------------------------------


def to_stdout(target: str) -> bool:
    """Whether a target means standard output: `-` (CSV), `-.csv` or `-.jsonl`."""
    return target in {"-", "-.csv", "-.jsonl"}


def has_metadata(target: str) -> bool:
    """Whether a results file of this name has its audit facts in a file beside it."""
    return not target_name(target).lower().endswith((".parquet", "/"))


def check_targets(targets: Sequence[str], partition_by: Sequence[str] = ()) -> None:
    """Refuse targets for results that could not be written; partition_by is for those of folders.

    Raises UsageError or OutputError.
    """
    check_partition_by(targets, partition_by)
    files = [each for each in targets if not (to_stdout(each) or is_folder_target(each))]
    rule = f"{_by_suffix(SUFFIXES)} or - for standard output"
    for target in files:
        if not is_remote(target):
            _check_is_file(target, hint="; use - for standard output")
    check_files("--out", files, SUFFIXES, rule)
    for target in filter(has_metadata, files):
        check_place(metadata_path(target))
    check_stdout(targets)


def check_stdout(targets: Sequence[str]) -> None:
    """Refuse several targets on standard output, and any where there is none.

    Raises UsageError or OutputError.
    """
    count = sum(map(to_stdout, targets))
    if count > 1:
        raise UsageError("only one file can go to standard output")
    if count and sys.stdout is None:
        raise OutputError("standard output is closed")


def check_reports(option: str, targets: Sequence[str], *, local: bool = False) -> None:
    """Refuse targets for reports that could not be written; `local` refuses URIs, too.

    Raises UsageError or OutputError.
    """
    for target in targets if local else ():
        if is_remote(target):
            raise UsageError(f"{option} {shown_target(target)}: reports are written to local files")
    check_files(option, targets, REPORT_SUFFIXES, _by_suffix(REPORT_SUFFIXES))


def is_page(target: str) -> bool:
    """Whether a target of a report is an HTML page."""
    return target_name(target).lower().endswith(".html")


def check_files(option: str, targets: Sequence[str], suffixes: tuple[str, ...], rule: str) -> None:
    """Refuse targets that could not be written. `rule` explains the suffixes of `option`.

    Raises UsageError or OutputError.
    """
    for target in targets:
        if not is_remote(target):
            _check_is_file(target)
        if not target_name(target).lower().endswith(suffixes):
            raise UsageError(f"{option} {shown_target(target)}: {rule}")
        check_place(target)


def check_place(target: str) -> None:
    """Raises OutputError where a file can never be written under that name."""
    if is_remote(target):
        from moderate.fetch.store import check_target

        check_target(target)
        return
    _check_is_file(target)
    path = os.path.realpath(target)
    folder = os.path.dirname(path)
    reason: str | None
    if problem := folder_problem(folder):
        reason = problem
    elif is_mount_point(path):
        reason = (
            "it is mounted by itself, so that it cannot be replaced as a whole; "
            "mount the folder that it is in"
        )
    else:
        reason = shared_folder_problem(target, path)
    if reason is not None:
        raise OutputError(f"cannot write {printable(target)}: {reason}")


def _check_is_file(target: str, hint: str = "") -> None:
    """Raises OutputError where something other than a regular file has the name."""
    if "\0" in target:  # as configuration files can have it
        raise OutputError(f"cannot write {printable(target)}: its name holds a NUL")
    try:
        status = os.stat(target)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise output_error(target, error) from None
    reason = None
    if os.path.abspath(target).startswith(_OPEN_FILES):
        reason = "it stands for an open file"
    elif not stat.S_ISREG(status.st_mode):
        reason = what_it_is(status)
    if reason is not None:
        raise OutputError(f"cannot write {printable(target)}: {reason}{hint}")


def check_overwriting(
    results: Sequence[str],
    files: Sequence[str],
    inputs: Collection[FileIdentity],
    *,
    force: bool,
    kind: Kind = "report",
    exports: Sequence[str] = (),
) -> None:
    """Refuse to write a target twice, over an input, or over what may be a person's work.

    results are targets of rows, whose audit facts may be written beside them; exports have such
    facts beside them, too; files are all others, of this kind. force allows the last of the three,
    which otherwise only files of the same kind are that this tool wrote. Raises UsageError and
    OutputError.
    """
    # An object's options stand behind its name; without them it is the same object.
    rows = [target_name(target) for target in (*results, *exports) if not to_stdout(target)]
    beside = [metadata_path(name) for name in rows if has_metadata(name)]
    written = [*rows, *map(target_name, files), *beside]
    real = [shown_target(name) if is_remote(name) else os.path.realpath(name) for name in written]
    for name, path in zip(written, real, strict=True):
        if real.count(path) > 1:
            raise UsageError(f"{shown_target(name)} would be written twice")
        if not is_remote(name) and file_identity(name) in inputs:
            raise UsageError(f"{shown_target(name)} is an input; write the results elsewhere")
    folders = [target for target in results if is_folder_target(target)]
    for target in folders:
        inside = os.path.join(os.path.realpath(target), "")
        if any(path.startswith(inside) for path in real):
            raise UsageError(f"--out {shown_target(target)}: another file would be written into it")
        check_folder_replaceable(target, force=force)
    if force:
        return
    for target in results:
        if not to_stdout(target) and target not in folders:
            check_replaceable(target, "results")
    for target in exports:
        if not to_stdout(target):
            check_replaceable(target, "export")
    for target in (*filter(has_metadata, results), *exports):
        if not to_stdout(target):
            check_facts_replaceable(target)
    for target in files:
        check_replaceable(target, kind)


def identities(paths: Iterable[str | bytes]) -> frozenset[FileIdentity]:
    """Those of the files that exist under these names."""
    return frozenset(identity for path in paths if (identity := file_identity(path)))


def read_identities(paths: Iterable[str | None]) -> frozenset[FileIdentity]:
    """Those of the files that a command reads, and of audit facts beside them; None is no file."""
    names = [path for path in paths if path is not None]
    return identities([*names, *map(metadata_path, names)])


def _by_suffix(suffixes: tuple[str, ...]) -> str:
    return f"the suffix decides the format; use one of {', '.join(suffixes)}"


# Files --------------------------------------------------------------------------------------------


class TextFile:
    """A text that stands under its name when it is whole, as results do. Raises OutputError."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._file = open_whole(target)

    def seal(self, text: str) -> None:
        """Write all of it. Raises OutputError."""
        try:
            self._file.file.write(sign(text))
        except OSError as error:
            raise output_error(self.target, error) from error
        self._file.seal()

    def commit(self) -> dict[str, str]:
        """Put it under its name. The SHA-256 (hex) by its absolute path or URI.

        Raises OutputError.
        """
        return {self._file.name: self._file.commit()}

    def discard(self) -> None:
        """Leave nothing behind. Does nothing after `commit`."""
        self._file.discard()


def open_texts(targets: Sequence[str]) -> contextlib.AbstractContextManager[list[TextFile]]:
    """A file per target; whatever was not committed when the block ends is discarded."""
    return opened(targets, TextFile)


def open_writers(
    targets: Sequence[str], csv: CsvForm = _GUARDED, partition_by: Sequence[str] = ()
) -> contextlib.AbstractContextManager[list[ResultWriter]]:
    """A writer per target; whatever was not committed when the block ends is discarded."""
    return opened(targets, partial(_open_writer, csv, partition_by))


def write_text(target: str, text: str) -> None:
    """Write the whole of a text at once. Raises OutputError."""
    write_atomic(target, sign(text))


def finishing(targets: Iterable[str]) -> contextlib.AbstractContextManager[None]:
    """A block that puts sealed files under their names; signals come too late for it.

    Not so where one of the targets is remote: an upload may hang, and must not be waited for
    against the user's will.
    """
    return contextlib.nullcontext() if any(map(is_remote, targets)) else stopping.finishing()


@contextlib.contextmanager
def opened(
    targets: Sequence[_Target], open_target: Callable[[_Target], _File]
) -> Iterator[list[_File]]:
    """A file per target, opened one by one; all are discarded when the block ends."""
    files: list[_File] = []
    with contextlib.ExitStack() as stack:
        for target in targets:
            file = open_target(target)
            stack.callback(file.discard)
            files.append(file)
        yield files


def _open_writer(csv: CsvForm, partition_by: Sequence[str], target: str) -> ResultWriter:
    if is_folder_target(target):
        from moderate.results.partitioned import PartitionedWriter

        return PartitionedWriter(target, partition_by)
    file = None if to_stdout(target) else target
    name = target_name(target).lower()
    if name.endswith(".parquet"):
        from moderate.results.parquet_writer import ParquetResultWriter

        return ParquetResultWriter(target)
    return JsonlWriter(file) if name.endswith(".jsonl") else CsvWriter(file, csv)
