"""Images that are cleared or blocked by their hashes, from a policy and the files it names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeVar

from moderate.errors import PolicyError
from moderate.policy.list_files import Listing, read_listing
from moderate.policy.model import ListFile, Policy
from moderate.policy.perceptual import Perceptual
from moderate.regular import read_regular
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
    """Entries by SHA-256 in lower case: clearances, also expired ones, and reasons for a block.

    The same by PDQ hash (64 digits). notes are sentences on what in the files is not compared.
    """

    cleared: Mapping[str, Clearance] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
    cleared_pdq: Mapping[str, Perceptual[Clearance]] = field(default_factory=dict)
    blocked_pdq: Mapping[str, Perceptual[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_lists(policy: Policy, base: str | None) -> tuple[Lists, dict[_Key, ListFile]]:
    """The lists of a policy with those of its files, and what those files were.

    base is the folder that relative file names start from. Raises PolicyError, without the policy's
    name, for what cannot be read, is not an entry, or contradicts another entry.
    """
    files: dict[_Key, ListFile] = {}
    notes: list[str] = []
    cleared = {e.sha256: Clearance(e.reason, e.expires) for e in policy.ignore if e.sha256}
    blocked = {e.sha256: e.reason for e in policy.block if e.sha256}
    cleared_pdq = {
        e.pdq: Perceptual(e.distance, e.quality, Clearance(e.reason, e.expires))
        for e in policy.ignore
        if e.pdq
    }
    blocked_pdq = {
        e.pdq: Perceptual(e.distance, e.quality, e.reason) for e in policy.block if e.pdq
    }
    if policy.ignore_file:
        data = _read("ignore_file", policy.ignore_file, base)
        listing = read_listing("ignore_file", policy.ignore_file, data, _clearance, ("expires",))
        files["ignore_file"] = _take(cleared, cleared_pdq, listing, data, notes)
    if policy.block_file:
        data = _read("block_file", policy.block_file, base)
        reasons = read_listing("block_file", policy.block_file, data, _reason)
        files["block_file"] = _take(blocked, blocked_pdq, reasons, data, notes)
    for key, was in policy.list_files.items():
        if files.get(key) != was:
            raise PolicyError(f"{key} changed since the policy was loaded")
    return Lists(cleared, blocked, cleared_pdq, blocked_pdq, tuple(notes)), files


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


def _take(
    entries: dict[str, _Entry],
    perceptual: dict[str, Perceptual[_Entry]],
    listing: Listing[_Entry],
    data: bytes,
    notes: list[str],
) -> ListFile:
    count = 0
    for place, record in listing:
        count += 1
        kept: Any = record.entry
        if record.sha256:
            known: Any = entries.setdefault(record.sha256, kept)
            _check(known, kept, record.sha256, place, shared=listing.shared)
        if record.pdq:
            kept = Perceptual(record.distance, record.quality, kept)
            known = perceptual.setdefault(record.pdq, kept)
            _check(known, kept, record.pdq, place, shared=listing.shared)
    notes += listing.notes()
    return ListFile(
        sha256=hashlib.sha256(data).hexdigest(), entries=count, not_compared=listing.not_compared
    )


def _check(known: object, entry: object, digits: str, place: str, *, shared: bool) -> None:
    """Refuse entries that contradict each other; of a shared list, the first one counts."""
    if known != entry and not shared:
        raise PolicyError(f"{place}: contradicts another entry for {digits}")


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
