"""A writer for each target that the user named; the suffix decides the format."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from moderate.errors import OutputError, UsageError
from moderate.results.interface import ResultWriter
from moderate.results.remote import is_remote, shown_target, target_name
from moderate.results.text_writers import CsvWriter, JsonlWriter
from moderate.text import printable

SUFFIXES = (".csv", ".parquet", ".jsonl")


def to_stdout(target: str) -> bool:
    """Whether a target means standard output: `-` (CSV), `-.csv` or `-.jsonl`."""
    return target in {"-", "-.csv", "-.jsonl"}


def check_targets(targets: Sequence[str]) -> None:
    """Refuse, before any work, what could not be written. Raises UsageError or OutputError."""
    for target in targets:
        if to_stdout(target):
            continue
        if not target_name(target).lower().endswith(SUFFIXES):
            raise UsageError(
                f"--out {shown_target(target)}: the suffix decides the format; "
                f"use one of {', '.join(SUFFIXES)} or - for standard output"
            )
        check_place(target)
    if sum(to_stdout(target) for target in targets) > 1:
        raise UsageError("--out: only one of them can go to standard output")
    if any(map(to_stdout, targets)) and sys.stdout is None:
        raise OutputError("standard output is closed")


def check_place(target: str) -> None:
    """Raises OutputError where a file can never be written under that name."""
    if is_remote(target):
        from moderate.fetch.store import check_target

        check_target(target)
        return
    if "\0" in target:  # as configuration files can have it
        raise OutputError(f"cannot write {printable(target)}: its name holds a NUL")
    folder = os.path.dirname(os.path.abspath(target))
    if not os.path.isdir(folder):
        raise OutputError(
            f"cannot write {printable(target)}: there is no folder {printable(folder)}"
        )
    if os.path.isdir(target):
        raise OutputError(f"cannot write {printable(target)}: it is a folder")


def has_metadata(target: str) -> bool:
    """Whether a results file of this name has its audit facts in a file beside it."""
    return not target_name(target).lower().endswith(".parquet")


@contextlib.contextmanager
def open_writers(targets: Sequence[str]) -> Iterator[list[ResultWriter]]:
    """A writer per target; whatever was not committed when the block ends is discarded."""
    writers: list[ResultWriter] = []
    try:
        for target in targets:
            writers.append(_open(target))
        yield writers
    finally:
        for writer in writers:
            writer.discard()


def _open(target: str) -> ResultWriter:
    file = None if to_stdout(target) else target
    name = target_name(target).lower()
    if name.endswith(".parquet"):
        from moderate.results.parquet_writer import ParquetResultWriter

        return ParquetResultWriter(target)
    return JsonlWriter(file) if name.endswith(".jsonl") else CsvWriter(file)
