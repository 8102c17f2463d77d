"""What the policy takes and gives: many rows at once, by columns."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from moderate.policy.thresholds import BANDS, DECISIONS, Severities
from moderate.types import (
    CATEGORIES,
    Decision,
    ImageError,
    ImageFacts,
    ImageRef,
    Labels,
    Origin,
    PdqHash,
    Places,
    Scores,
    Views,
    Warn,
)

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)

Codes = NDArray[np.int32]
Indices = NDArray[np.int64]
Listed = Literal["block", "ignore"]

UNKNOWN_ERROR = "unknown"
"""The code of an error in a file that lacks the column."""

_all_scores = itemgetter(*CATEGORIES)


@dataclass(frozen=True, slots=True)
class Encoded(Generic[T]):
    """A column of n rows with few distinct values.

    codes are int32 (n): which of the values a row has, -1 for none.
    """

    values: Sequence[T]
    codes: Codes

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, indices: Indices) -> Encoded[T]:
        """The rows of these indices."""
        return Encoded(self.values, self.codes[indices])

    def to_list(self) -> list[T | None]:
        """The value of each row; None for none."""
        with_none = [*self.values, None]
        return [with_none[code] for code in self.codes.tolist()]


def encoded(values: Iterable[H | None]) -> Encoded[H]:
    """A column of these values; None becomes no value."""
    known: dict[H, int] = {}
    codes = [-1 if v is None else known.setdefault(v, len(known)) for v in values]
    return Encoded(list(known), np.array(codes, np.int32))


class Subject(NamedTuple):
    """What a row is known by: its path as shown, what it carries, its file's SHA-256 if known.

    pdq is the hash of its picture, where there is one.
    """

    path: bytes
    columns: Mapping[str, Any]
    sha256: str | None
    pdq: PdqHash | None = None


class UndecidedRow(NamedTuple):
    """A row of a run before the policy: all that is known of one input.

    content is the SHA-256 of the bytes that were scored, of a frame of a video, too.
    """

    ref: ImageRef
    facts: ImageFacts
    scores: Scores
    error: ImageError | None = None
    labels: Labels = {}
    duplicate_of: bytes | None = None
    origin: Origin = Origin.NEW
    scored_at: datetime | None = None
    places: Places = {}
    content: bytes | None = None


@dataclass(frozen=True)
class Batch:
    """What decisions on n rows depend on.

    scores are float32 (categories, n), in the order of CATEGORIES, NaN for what was not scored.
    unseen is float32 (n), the share of each picture that the model did not see, NaN or 0 for none.
    warnings holds the warnings that the closed list knows, errors the error codes, of rows without
    scores alone. The callables give what only some policies ask for: paths as shown, SHA-256 in
    hex, the values of a carried column (None in rows that do not have it), the scores of an own
    category or a label (float32, NaN as above), the perceptual hashes.
    """

    scores: NDArray[np.float32]
    unseen: NDArray[np.float32]
    warnings: Encoded[tuple[Warn, ...]]
    errors: Encoded[str]
    paths: Callable[[], Sequence[bytes]]
    sha256: Callable[[], Sequence[str | None]]
    carried: Callable[[str], Sequence[Any]]
    labels: Callable[[str], NDArray[np.float32]] | None = None
    hashes: Callable[[], Sequence[PdqHash | None]] | None = None

    def __len__(self) -> int:
        return len(self.errors)

    @cached_property
    def failed(self) -> NDArray[np.bool_]:
        """Which rows have no scores for an error."""
        failed: NDArray[np.bool_] = self.errors.codes >= 0
        return failed

    def all_scores(self, labels: Sequence[str]) -> NDArray[np.float32]:
        """Scores of the five categories and of these own ones and labels; NaN in errors.

        float32 (5 + labels, n).
        """
        rows = list(self.scores)
        for name in labels:
            rows.append(self.labels(name) if self.labels else np.full(len(self), np.nan))
        return np.where(self.failed, np.float32(np.nan), np.array(rows, np.float32))

    def take(self, indices: Indices) -> Batch:
        """The rows of these indices."""
        labels, hashes = self.labels, self.hashes

        def taken(values: Sequence[Any]) -> Sequence[Any]:
            return [values[index] for index in indices.tolist()]

        return Batch(
            scores=self.scores[:, indices],
            unseen=self.unseen[indices],
            warnings=self.warnings.take(indices),
            errors=self.errors.take(indices),
            paths=lambda: taken(self.paths()),
            sha256=lambda: taken(self.sha256()),
            carried=lambda name: taken(self.carried(name)),
            labels=(lambda name: labels(name)[indices]) if labels else None,
            hashes=(lambda: taken(hashes())) if hashes else None,
        )

    @classmethod
    def of(cls, rows: Sequence[UndecidedRow], columns: Sequence[str] = ()) -> Batch:
        """Rows of a run, whose refs carry values of these columns."""
        scores = np.array([_all_scores(row.scores) for row in rows], np.float32)

        def carried(name: str) -> list[Any]:
            place = columns.index(name) if name in columns else None
            return [
                None if place is None or not row.ref.carried else row.ref.carried[place]
                for row in rows
            ]

        return cls(
            scores=scores.reshape(len(rows), len(CATEGORIES)).T,
            unseen=np.array([row.facts.unseen for row in rows], np.float32),
            warnings=encoded(row.facts.warnings or None for row in rows),
            errors=encoded(str(row.error.code) if row.error else None for row in rows),
            paths=lambda: [row.ref.display for row in rows],
            sha256=lambda: [row.facts.sha256 for row in rows],
            carried=carried,
            labels=lambda name: np.array([row.labels.get(name) for row in rows], np.float32),
            hashes=lambda: [row.facts.pdq for row in rows],
        )


class Judged(NamedTuple):
    """One row's decision with its reasons and derived columns.

    bands are what its categories ask for: the five, and then those of `Judge.own`. overridden_by is
    the label of the override whose policy counted, listed the list that decided.
    """

    decision: Decision
    reasons: tuple[str, ...]
    views: Views
    bands: tuple[str, ...]
    overridden_by: str | None = None
    listed: Listed | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """What a policy makes of n rows.

    severity is the decision's, 0 approve to 2 block. bands are int8 (categories, n), what each
    category, the five and then the judge's own, asks for by its number in BANDS; `unscored` in rows
    with an error. The derived columns
    have the names that results give them; their scores are float64 (n), NaN where nothing was
    scored, is_nsfw is False there. rating_probability is float64 (n), NaN where the rating does not
    come from descriptions. overridden_by and listed are those of `Judged`.
    """

    severity: Severities
    bands: Severities
    reasons: Encoded[tuple[str, ...]]
    label: Encoded[str]
    nsfw_score: NDArray[np.float64]
    safe_score: NDArray[np.float64]
    confidence: NDArray[np.float64]
    risk: Encoded[str]
    is_nsfw: NDArray[np.bool_]
    rating: Encoded[str]
    rating_probability: NDArray[np.float64]
    overridden_by: Encoded[str]
    listed: Encoded[Listed]

    def __len__(self) -> int:
        return len(self.severity)

    def rows(self) -> list[Judged]:
        """Row by row."""
        derived = zip(
            self.label.to_list(),
            self.nsfw_score.tolist(),
            self.safe_score.tolist(),
            self.confidence.tolist(),
            self.risk.to_list(),
            self.is_nsfw.tolist(),
            self.rating.to_list(),
            [None if number != number else number for number in self.rating_probability.tolist()],
            strict=True,
        )
        views = [
            Views(*each)
            if each[0] is not None
            else Views(rating=each[-2], rating_probability=each[-1])
            for each in derived
        ]
        return [
            Judged(DECISIONS[severity], reasons or (), view, _band_names(numbers), by, listed)
            for severity, reasons, view, numbers, by, listed in zip(
                self.severity.tolist(),
                self.reasons.to_list(),
                views,
                map(bytes, np.ascontiguousarray(self.bands.T)),
                self.overridden_by.to_list(),
                self.listed.to_list(),
                strict=True,
            )
        ]


@lru_cache(maxsize=4096)  # few combinations, many rows
def _band_names(numbers: bytes) -> tuple[str, ...]:
    return tuple(BANDS[number] for number in numbers)
