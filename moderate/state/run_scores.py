"""The scores of earlier runs as one run uses them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from moderate.state.database import BusyError, UnavailableError
from moderate.state.known_files import FileRecord, KnownFile, KnownFiles, Scopes
from moderate.state.records import Outcome
from moderate.state.scores import ScopeFacts, ScoreStore
from moderate.types import ImageError

log = logging.getLogger(__name__)

T = TypeVar("T")

_FILES_AT_ONCE = 1024
_MOST_WAITING = 100_000  # records, while another process writes
_PATIENCE_AT_START, _PATIENCE_AT_END = 60.0, 15.0  # seconds, for a vacuum of a large file


class RunScores:
    """The store as one run uses it, for its scopes. It never stops the run.

    Where the store becomes unusable, one warning says so and the run goes on without it: lookups
    return nothing, and nothing is stored. Reading threads look up; the caller's thread records.
    """

    def __init__(
        self,
        store: ScoreStore,
        scopes: Scopes,
        *,
        rescore: bool,
        retry_errors: bool,
        hashed: bool = False,
        read_only: bool = False,
    ) -> None:
        """With read_only, nothing is to be added; with hashed, scores without a hash do not count.

        Those of an earlier run that asked for no hashes: the images are looked at once more.
        """
        self._store = store
        self._scopes = scopes
        self._rescore = rescore
        self._retry_errors = retry_errors
        self._hashed = hashed
        self._ids: tuple[int, int] | None = None
        self._outcomes: list[tuple[bytes, Outcome]] = []
        self._files: list[FileRecord] = []
        self._used: list[tuple[bytes, bytes]] = []
        # What this run finds out itself, `Contents` knows.
        self._empty = False
        try:
            ids_of = store.known_scope_ids if read_only else store.scope_ids
            self._ids = _patiently(lambda: ids_of(scopes), _PATIENCE_AT_START)
            self._empty = store.is_empty()
        except UnavailableError as error:
            self._give_up(error)

    def look_up(self, paths: Sequence[bytes]) -> KnownFiles | None:
        """See `ScoreStore.by_path`; outcomes that are to be computed again are left out.

        None where nothing can be known.
        """
        ids = self._ids
        if ids is None or self._empty:
            return None
        try:
            return self._store.by_path(paths, ids, self._scopes, self._wanted)
        except UnavailableError as error:
            self._failed(error)
            return None

    def by_path(self, paths: Sequence[bytes]) -> dict[bytes, KnownFile]:
        """What is known of each of these files, see `look_up`."""
        known = self.look_up(paths)
        return known.all() if known else {}

    @property
    def hashed(self) -> bool:
        """Whether only scores count that have a hash of the picture beside them."""
        return self._hashed

    @property
    def recomputes(self) -> bool:
        """Whether no outcome of an earlier run counts."""
        return self._rescore

    def by_content(self, digest: bytes) -> Outcome | None:
        """The outcome of this content, unless it is to be computed again."""
        ids = self._ids
        if ids is None or self._empty:
            return None
        try:
            outcome = self._store.by_content([digest], ids, self._scopes).get(digest)
        except UnavailableError as error:
            self._failed(error)
            return None
        return outcome if outcome and self._wanted(outcome) else None

    def facts(self, now: ScopeFacts | None = None) -> ScopeFacts | None:
        """How these scores were computed; stores `now` as how they are from now on."""
        ids = self._ids
        if ids is not None:
            try:
                if now is not None:
                    self._store.set_facts(ids[0], now)
                return self._store.facts(ids[0])
            except UnavailableError as error:
                self._failed(error)
        return now

    def add(
        self,
        file: FileRecord | None,
        outcome: tuple[bytes, Outcome] | None = None,
        used: tuple[bytes, bytes] | None = None,
    ) -> None:
        """Add records for the next `commit`."""
        if file:
            self._files.append(file)
        if outcome:
            self._outcomes.append(outcome)
        if used:
            self._used.append(used)

    def commit(self, *, everything: bool = False) -> None:
        """Store what was added. What cannot be written now, because others write, waits.

        Outcomes are stored at once, so that no image is scored again. Losing which file had which
        content costs only reading it: that is written in fewer, cheaper batches, or with
        `everything`.
        """
        try:
            self._commit(everything)
        except BusyError:
            if len(self._files) + len(self._outcomes) + len(self._used) >= _MOST_WAITING:
                self._drop()

    def finish(self) -> None:
        """The last commit, which waits some time for other processes."""
        try:
            _patiently(lambda: self._commit(everything=True), _PATIENCE_AT_END)
        except BusyError:
            self._drop()

    def _commit(self, everything: bool) -> None:
        waiting = len(self._files) + len(self._used)
        files, used = (
            (self._files, self._used) if everything or waiting >= _FILES_AT_ONCE else ([], [])
        )
        ids, kept = self._ids, (self._outcomes, files, used)
        if not any(kept):
            return
        if ids is not None:
            try:
                self._store.record(*kept, ids, self._scopes)
            except BusyError:
                raise
            except UnavailableError as error:
                self._give_up(error)
        self._outcomes = []
        if files or used:
            self._files, self._used = [], []

    def _drop(self) -> None:
        count = len(self._outcomes)
        log.warning("the state is kept busy by other runs; %d scores were not kept", count)
        self._outcomes, self._files, self._used = [], [], []

    def _wanted(self, outcome: Outcome) -> bool:
        if self._rescore:
            return False
        if isinstance(outcome.result, ImageError):
            return not self._retry_errors
        return outcome.facts.pdq is not None or not self._hashed

    def _failed(self, error: UnavailableError) -> None:
        if not isinstance(error, BusyError):
            self._give_up(error)

    def _give_up(self, error: UnavailableError) -> None:
        if not self._store.given_up:
            self._store.given_up = True
            log.warning(
                "the state cannot be used any more (%s); the run goes on, but could not be resumed",
                error,
            )
        self._ids = None


def _patiently(work: Callable[[], T], seconds: float) -> T:
    """The result of `work`, tried again while the state is busy. Raises UnavailableError."""
    end = time.monotonic() + seconds
    while True:
        try:
            return work()
        except BusyError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)
