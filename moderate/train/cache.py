"""Features of images that were extracted before, by content, network and preprocessing.

They lie in the cache folder and not in the state: some kilobytes an image, which can always be had
again from the image. The state, which is copied, merged and backed up, stays small, and whoever
empties caches loses nothing but time.
"""

from __future__ import annotations

import datetime
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from moderate.folders import user_cache
from moderate.state.database import Database, UnavailableError

log = logging.getLogger(__name__)

FILE = "features.sqlite3"

_UNUSED_DAYS = 90
_AT_ONCE = 500  # keys of one query

_MIGRATIONS = (
    """
    CREATE TABLE features (
        sha256 BLOB NOT NULL, scope BLOB NOT NULL, used INTEGER NOT NULL, payload BLOB NOT NULL,
        PRIMARY KEY (sha256, scope)
    )
    """,
)


class FeatureCache:
    """Features under one scope: a digest (32 bytes) of all that they depend on but the content.

    A file that cannot be used is done without, which costs time alone.
    """

    def __init__(self, database: Database | None, scope: bytes) -> None:
        self._database = database
        self._scope = scope
        self._today = datetime.datetime.now(datetime.UTC).toordinal()

    def find(self, digests: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """What is kept for these contents: F values each."""
        found: dict[str, NDArray[np.float32]] = {}
        for first in range(0, len(digests), _AT_ONCE):
            keys = [bytes.fromhex(digest) for digest in digests[first : first + _AT_ONCE]]
            marks = ",".join("?" * len(keys))

            def work(
                connection: sqlite3.Connection, keys: list[bytes] = keys, marks: str = marks
            ) -> list[tuple[bytes, bytes]]:
                where = f"scope = ? AND sha256 IN ({marks})"
                connection.execute(
                    f"UPDATE features SET used = ? WHERE {where}",  # noqa: S608 - marks alone
                    (self._today, self._scope, *keys),
                )
                query = f"SELECT sha256, payload FROM features WHERE {where}"  # noqa: S608 - same
                return connection.execute(query, (self._scope, *keys)).fetchall()

            if self._database is None:
                break
            try:
                rows = self._database.write(work)
            except UnavailableError as error:
                self._give_up(error)
                break
            for digest, payload in rows:
                if isinstance(payload, bytes) and payload and not len(payload) % 4:
                    values = np.frombuffer(payload, "<f4").astype(np.float32)
                    if np.isfinite(values).all():
                        found[digest.hex()] = values
        return found

    def keep(self, features: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep the features of these contents."""
        if self._database is None or not features:
            return
        rows = [
            (bytes.fromhex(digest), self._scope, self._today, values.astype("<f4").tobytes())
            for digest, values in features.items()
        ]
        try:
            self._database.write(
                lambda connection: connection.executemany(
                    "INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?)", rows
                )
            )
        except UnavailableError as error:
            self._give_up(error)

    def sweep(self) -> None:
        """Forget what has not been used for a while."""
        if self._database is None:
            return
        day = (self._today - _UNUSED_DAYS,)
        try:
            self._database.write(
                lambda connection: connection.execute("DELETE FROM features WHERE used < ?", day)
            )
        except UnavailableError as error:
            self._give_up(error)

    def _give_up(self, error: UnavailableError) -> None:
        log.warning("features are not kept for another training: %s", error)
        self._database = None


@contextmanager
def feature_cache(scope: bytes) -> Iterator[FeatureCache]:
    """The user's cache of features, which keeps nothing where there is no place for it."""
    folder = user_cache()
    database = None
    if folder is not None:
        try:
            database = Database(folder / FILE, _MIGRATIONS)
        except UnavailableError as error:
            log.warning("features are not kept for another training: %s", error)
    cache = FeatureCache(database, scope)
    try:
        cache.sweep()
        yield cache
    finally:
        if database is not None:
            database.close()
