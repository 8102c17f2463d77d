"""Files as the state knows them: what content each had, and what is known of that."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moderate.state.records import (
    FileStat,
    Outcome,
    ScoredContents,
    are_intact,
    unpack_outcome,
    unpack_scored,
    unpack_stat,
)


@dataclass(frozen=True, slots=True)
class Scopes:
    """What outcomes depend on besides the content: digests (32 bytes) for scores and errors."""

    scores: bytes
    errors: bytes


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What is known of a file by its path.

    outcome is None where its content is unknown under these scopes. stale says that the day of
    its last use is to be updated.
    """

    stat: FileStat
    sha256: bytes
    outcome: Outcome | None
    stale: bool


@dataclass(frozen=True, slots=True)
class UnchangedFiles:
    """Files that are as they were when their content was scored, by columns.

    places are those of the files among the ones that were asked for, in their order; stale is that
    of `KnownFile`.
    """

    places: Sequence[int]
    sha256: Sequence[bytes]
    stale: Sequence[bool]
    contents: ScoredContents

    def __len__(self) -> int:
        return len(self.places)

    def take(self, mask: Any) -> UnchangedFiles:
        """Those of a mask (booleans)."""
        return UnchangedFiles(
            list(compress(self.places, mask)),
            list(compress(self.sha256, mask)),
            list(compress(self.stale, mask)),
            self.contents.take(np.asarray(mask, bool)),
        )


class KnownFiles:
    """What the state knows of some files, by the digests of their paths.

    Most files of a second run are unchanged, and `unchanged` unpacks all of those at once; `get`
    is for each of the others.
    """

    def __init__(
        self,
        rows: Sequence[tuple[Any, ...]],
        ids: tuple[int, int],
        scopes: Scopes,
        wanted: Callable[[Outcome], bool] = lambda outcome: True,
    ) -> None:
        """rows are those of the database; an outcome that is not wanted is left out."""
        self._rows = {row[0]: row for row in rows}
        self._ids = ids
        self._scopes = scopes
        self._wanted = wanted
        self._today = day_of_use()

    def get(self, path: bytes) -> KnownFile | None:
        """What is known of one file; None for nothing."""
        row = self._rows.get(path)
        if row is None:
            return None
        _, digest, used, packed, scope, outcome_used, payload = row
        stat = unpack_stat(path, digest, packed)
        if stat is None:
            return None
        outcome = None
        if payload is not None:
            name = scope_of(scope, self._ids, self._scopes)
            outcome = unpack_outcome(digest, name, payload)
        stale = _is_before(used, self._today) or (
            outcome is not None and _is_before(outcome_used, self._today)
        )
        if outcome and not self._wanted(outcome):
            outcome = None
        return KnownFile(stat, digest, outcome, stale)

    def all(self) -> dict[bytes, KnownFile]:
        """What is known of each."""
        return {path: file for path in self._rows if (file := self.get(path))}

    def unchanged(
        self,
        paths: Sequence[bytes],
        stats: NDArray[np.int64],
        label_count: int,
        *,
        hashed: bool = False,
    ) -> UnchangedFiles:
        """Those of these files that have scores, so many of labels, and are as stats say.

        stats (n, 3) are those of `FileStat`. With hashed, only those that have a hash of the
        picture, too. What is out of the ordinary is not among the files: `get` says what is known
        of it.
        """
        known_rows, scored = self._rows, self._ids[0]
        rows = [row for path in paths if (row := known_rows.get(path)) is not None]
        if not _are_regular(rows, scored):
            rows = [row for row in rows if _are_regular([row], scored)]
        if not rows:
            return _NO_FILES
        keys, digests, used, packed, _, outcomes_used, payloads = zip(*rows, strict=True)
        places: Sequence[int] = range(len(paths))
        if len(rows) < len(paths):
            regular = set(keys)
            places = [place for place, path in enumerate(paths) if path in regular]
            stats = stats[places]
        usable = are_intact(keys, digests, stats, packed)
        contents, known = unpack_scored(digests, self._scopes.scores, payloads, label_count)
        usable &= known
        if hashed:
            usable &= np.array([each is not None for each in contents.hashes], bool)
        today = self._today
        stale = [False] * len(rows)
        if set(used) | set(outcomes_used) != {today}:
            stale = [
                _is_before(one, today) or _is_before(other, today)
                for one, other in zip(used, outcomes_used, strict=True)
            ]
        files = UnchangedFiles(places, digests, stale, contents)
        return files if usable.all() else files.take(usable)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as it was when it was read: digest of its path, digest of its bytes."""

    path: bytes
    sha256: bytes
    stat: FileStat


def path_digest(path: bytes, folder: bytes) -> bytes:
    """The key (16 bytes) of a local file: of its absolute path, `folder` being the working one."""
    return sha256(_absolute(path, folder)).digest()[:16]


def path_digests(start: bytes, names: Sequence[bytes], folder: bytes) -> list[bytes]:
    """`path_digest` of files whose paths are `start`, which ends a folder, and one of the names."""
    start = _absolute(start, folder)
    return [sha256(start + name).digest()[:16] for name in names]


def _absolute(path: bytes, folder: bytes) -> bytes:
    return path if path.startswith(b"/") else folder + b"/" + path.removeprefix(b"./")


def _are_regular(rows: Sequence[tuple[Any, ...]], scored: int) -> bool:
    """Whether rows of `ScoreStore.by_path` have scores, and the types that they should have."""
    if not rows:
        return True
    columns = list(zip(*rows, strict=True))
    types = {each for number in (1, 3, 6) for each in set(map(type, columns[number]))}
    return types == {bytes} and set(columns[4]) == {scored}


def scope_of(number: int, ids: tuple[int, int], scopes: Scopes) -> bytes:
    """The digest of a scope, given its row id and those of the run's two scopes."""
    return scopes.scores if number == ids[0] else scopes.errors


def _is_before(day: object, today: int) -> bool:
    """Whether a day of last use is past; True for a damaged one, so that it is written again."""
    return not isinstance(day, int) or day < today


def day_of_use() -> int:
    """Today in UTC as a proleptic ordinal, as days of last use are kept."""
    return datetime.datetime.now(datetime.UTC).toordinal()


_NO_FILES = UnchangedFiles((), (), (), unpack_scored((), b"", (), 0)[0])
