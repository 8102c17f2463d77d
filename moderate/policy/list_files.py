"""Files of lists: our own form, and those in which hashes are shared between services.

Our own has the columns `sha256`, `pdq` or both, `reason`, and for clearances `expires`; beside a
`pdq` there may be its `distance` and `quality`. Shared lists have no `reason`. They name the kind
of a hash in a column of its own, as exports of ThreatExchange do (`type`, `indicator`, `tags`), or
have a column for each kind, as lists for reports to NCMEC do (`md5`, `sha1`, `sha256`, `pdq`).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from moderate.errors import InputError, PolicyError
from moderate.policy.model import pdq_digits, sha256_digits
from moderate.policy.perceptual import DISTANCE, QUALITY
from moderate.tables.csv import strict_records
from moderate.text import one_line, printable

_Entry = TypeVar("_Entry")

_COMPARED = ("sha256", "pdq")
_NOT_COMPARED = ("md5", "sha1", "photodna", "pdna", "phash", "tmk", "vpdq")
_VALUES = ("hash", "indicator", "raw_indicator", "signal_str", "value")
_KINDS = ("type", "indicator_type", "signal_type", "hash_type", "algorithm")
_REASONS = ("tags", "description", "classification", "category")
_MOST_LIMIT = {"distance": 256, "quality": 100}


class ListRecord(NamedTuple, Generic[_Entry]):
    """One entry: its hashes in lower case, how near a picture has to be, and what it says."""

    sha256: str | None
    pdq: str | None
    distance: int
    quality: int
    entry: _Entry


@dataclass(slots=True)
class Listing(Generic[_Entry]):
    """The entries of a file, read once: the place of each, and what it says.

    shared says that the file is of a form in which services share hashes. left_out counts the
    entries of which no hash is compared, by the kinds that they have; it is complete at the end.
    """

    where: str
    shared: bool
    records: Iterator[tuple[str, ListRecord[_Entry]]]
    left_out: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[tuple[str, ListRecord[_Entry]]]:
        return self.records

    @property
    def not_compared(self) -> int:
        """How many entries have no hash that is compared."""
        return self.left_out.total()

    def notes(self) -> list[str]:
        """What to say of the entries that have no effect."""
        if not self.left_out:
            return []
        count = self.not_compared
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in self.left_out.most_common(5))
        entries, have = ("1 entry", "has") if count == 1 else (f"{count:,} entries", "have")
        return [
            f"{self.where}: {entries} {have} no SHA-256 and no PDQ hash and so no effect ({kinds})."
        ]


def read_listing(
    key: str,
    name: str,
    data: bytes,
    entry: Callable[[Mapping[str, str]], _Entry],
    more: Sequence[str] = (),
) -> Listing[_Entry]:
    """The entries of a CSV file; `more` are columns that it must have, too.

    `entry` makes an entry of the cells and raises ValueError. Raises PolicyError, also while the
    entries are read.
    """
    where = f"{key} {printable(name)}"
    try:
        records = strict_records(io.BytesIO(data), printable(name))
        header = [cell.strip().lower() for cell in next(records, (0, ()))[1]]
    except InputError as error:
        raise PolicyError(f"{where}: {error}") from None
    value, kind = _one_of(header, _VALUES), _one_of(header, _KINDS)
    typed = value is not None and kind is not None
    known = [each for each in (*_COMPARED, *_NOT_COMPARED) if each in header]
    shared = "reason" not in header and (typed or any(each != "sha256" for each in known))
    wanted = [*(() if shared else ("reason",)), *more]
    if not (typed or known):
        wanted.insert(0, "sha256")
    single = [*wanted, *known, *(each for each in _MOST_LIMIT if each in header)]
    if missing := [column for column in dict.fromkeys(single) if header.count(column) != 1]:
        names = wanted if "sha256" in wanted else [*_column_names(known, value, kind), *wanted]
        raise PolicyError(
            f"{where}: the first line must name the columns {', '.join(names)} once each; "
            f"see {', '.join(missing)}"
        )
    listing: Listing[_Entry] = Listing(where, shared, iter(()))
    reader = _Reader(listing, header, known, value if typed else None, kind, entry, printable(name))
    listing.records = reader.read(records)
    return listing


@dataclass(frozen=True, slots=True)
class _Reader(Generic[_Entry]):
    listing: Listing[_Entry]
    header: Sequence[str]
    known: Sequence[str]
    value: str | None
    kind: str | None
    entry: Callable[[Mapping[str, str]], _Entry]
    name: str

    def read(
        self, records: Iterator[tuple[int, Sequence[str]]]
    ) -> Iterator[tuple[str, ListRecord[_Entry]]]:
        where = self.listing.where
        try:
            for line, cells in records:
                place = f"{where}, line {line}"
                try:
                    record = self._record(
                        dict(zip(self.header, map(str.strip, cells), strict=True))
                    )
                except ValueError as error:
                    raise PolicyError(f"{place}: {error}") from None
                if record is not None:
                    yield place, record
        except InputError as error:
            raise PolicyError(f"{where}: {error}") from None

    def _record(self, cells: dict[str, str]) -> ListRecord[_Entry] | None:
        """What a line says; None where none of its hashes is compared. Raises ValueError."""
        hashes = {name: cells[name] for name in self.known if cells[name]}
        if self.value is not None and self.kind is not None and cells[self.value]:
            hashes.setdefault(_plain_kind(cells[self.kind]), cells[self.value])
        if not (self.known and self.listing.shared) and not hashes:
            # Our own form, in which a line without a hash is a mistake.
            hashes["sha256"] = ""
        if not any(name in hashes for name in _COMPARED):
            self.listing.left_out[", ".join(hashes) or "no hash"] += 1
            return None
        sha256, pdq = hashes.get("sha256"), hashes.get("pdq")
        distance = _limit(cells, "distance", DISTANCE, pdq)
        quality = _limit(cells, "quality", QUALITY, pdq)
        if self.listing.shared:
            reason = next((cells[each] for each in _REASONS if cells.get(each)), "")
            cells["reason"] = reason or f"listed in {self.name}"
        return ListRecord(
            None if sha256 is None else sha256_digits(sha256),
            None if pdq is None else pdq_digits(pdq),
            distance,
            quality,
            self.entry(cells),
        )


def _one_of(header: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in header), None)


def _column_names(known: Sequence[str], value: str | None, kind: str | None) -> list[str]:
    return list(known) or [each for each in (value, kind) if each]


def _plain_kind(text: str) -> str:
    """`pdq` for `HASH_PDQ`, `sha256` for `SHA-256`; others in the same way."""
    kind = text.lower().removeprefix("hash_").replace("-", "")
    return one_line(kind, 40) or "no type"


def _limit(cells: Mapping[str, str], name: str, default: int, pdq: str | None) -> int:
    """A number beside a PDQ hash. Raises ValueError."""
    text = cells.get(name, "")
    if not text:
        return default
    if pdq is None:
        raise ValueError(f"{name} goes with a pdq")
    most = _MOST_LIMIT[name]
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= most):
        raise ValueError(f"{name}: use 0 to {most}, not {one_line(text, 40)!r}")
    return int(text)
