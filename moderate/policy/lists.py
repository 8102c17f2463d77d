"""Images that are cleared or blocked by their SHA-256, from a policy and the files it names."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Literal, NamedTuple, TypeVar

from moderate.errors import InputError, PolicyError
from moderate.policy.model import ListFile, Policy, sha256_digits
from moderate.regular import read_regular
from moderate.tables.csv import strict_records
from moderate.text import one_line, printable

_Entry = TypeVar("_Entry")
_Key = Literal["ignore_file", "block_file"]
_MAX_REASON = 200  # characters
_MAX_LIST_BYTES = 256 << 20  # some two million entries


class Clearance(NamedTuple):
    """Why an image is cleared, and the day from which it no longer is."""

    reason: str
    expires: date

    def is_expired(self, today: date) -> bool:
        """Whether it is without effect on this day."""
        return today >= self.expires


@dataclass(frozen=True, slots=True)
class Lists:
    """Entries by SHA-256 in lower case: clearances, also expired ones, and reasons for a block."""

    cleared: Mapping[str, Clearance] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)


def read_lists(policy: Policy, base: str | None) -> tuple[Lists, dict[_Key, ListFile]]:
    """The lists of a policy with those of its files, and what those files were.

    base is the folder that relative file names start from. Raises PolicyError, without the policy's
    name, for what cannot be read, is not an entry, or contradicts another entry.
    """
    files: dict[_Key, ListFile] = {}
    cleared = {entry.sha256: Clearance(entry.reason, entry.expires) for entry in policy.ignore}
    blocked = {entry.sha256: entry.reason for entry in policy.block}
    if policy.ignore_file:
        data = _read("ignore_file", policy.ignore_file, base)
        clearances = _entries("ignore_file", policy.ignore_file, data, ("expires",), _clearance)
        files["ignore_file"] = _take(cleared, clearances, data)
    if policy.block_file:
        data = _read("block_file", policy.block_file, base)
        blocks = _entries("block_file", policy.block_file, data, (), _reason)
        files["block_file"] = _take(blocked, blocks, data)
    for key, was in policy.list_files.items():
        if files.get(key) != was:
            raise PolicyError(f"{key} changed since the policy was loaded")
    return Lists(cleared, blocked), files


def beside(name: str, base: str | None) -> str:
    """The path of a file that a policy names. Raises PolicyError where it could be any."""
    if base is None and not os.path.isabs(name):
        raise PolicyError(
            f"{printable(name)!r} is relative to the policy's file, which is not known"
        )
    return os.path.join(base or "", name)


def _read(key: str, name: str, base: str | None) -> bytes:
    try:
        return read_regular(beside(name, base), _MAX_LIST_BYTES)
    except OSError as error:
        reason = f"{printable(name)}: {error.strerror}"
        raise PolicyError(f"{key} cannot be read: {reason}") from None
    except PolicyError as error:
        raise PolicyError(f"{key} cannot be read: {error}") from None


def _entries(
    key: str,
    name: str,
    data: bytes,
    more: tuple[str, ...],
    entry: Callable[[Mapping[str, str]], _Entry],
) -> Iterator[tuple[str, str, _Entry]]:
    """Place, SHA-256 and entry of each record of a CSV file that has the columns asked for."""
    where = f"{key} {printable(name)}"
    wanted = ("sha256", "reason", *more)
    try:
        records = strict_records(io.BytesIO(data), printable(name))
        header = [cell.strip().lower() for cell in next(records, (0, ()))[1]]
        if missing := [column for column in wanted if header.count(column) != 1]:
            raise PolicyError(
                f"{where}: the first line must name the columns {', '.join(wanted)} once each; "
                f"see {', '.join(missing)}"
            )
        indexes = [(column, header.index(column)) for column in wanted]
        for line, record in records:
            place = f"{where}, line {line}"
            cells = {column: record[index].strip() for column, index in indexes}
            try:
                yield place, sha256_digits(cells["sha256"]), entry(cells)
            except ValueError as error:
                raise PolicyError(f"{place}: {error}") from None
    except InputError as error:
        raise PolicyError(f"{where}: {error}") from None


def _take(
    entries: dict[str, _Entry], records: Iterator[tuple[str, str, _Entry]], data: bytes
) -> ListFile:
    count = 0
    for place, digest, entry in records:
        count += 1
        if entries.setdefault(digest, entry) != entry:
            raise PolicyError(f"{place}: contradicts another entry for {digest}")
    return ListFile(sha256=hashlib.sha256(data).hexdigest(), entries=count)


def _reason(cells: Mapping[str, str]) -> str:
    reason = one_line(cells["reason"], _MAX_REASON)
    if not reason:
        raise ValueError("there is no reason")
    return reason


def _clearance(cells: Mapping[str, str]) -> Clearance:
    return Clearance(_reason(cells), _day(cells["expires"]))


@lru_cache(maxsize=1024)
def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"expires: a date is 2027-01-31, not {one_line(text, 40)!r}") from None
