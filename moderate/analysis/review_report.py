"""What a review shows of the machine, of the reviewers, and of what the middle band costs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from moderate.analysis.bounds import interval
from moderate.policy.model import Policy
from moderate.policy.thresholds import DECISIONS, reaches
from moderate.results.read import Results
from moderate.review.agreement import Agreement, cohens_kappa
from moderate.review.journal import Entry, is_severe
from moderate.review.verdicts import Decisions, Verdict, decided_rows
from moderate.types import Decision

CONFIDENCE = 0.95

Outcome = Literal["approved", "blocked", "unsure"]

BANDS = ("near review", "middle", "near block", "block")
"""Where a score is: in the lower, middle or upper third from the threshold `review` to `block`, or
at or above `block`."""

BELOW, UNSCORED = "below review", "not scored"
"""Rows that no category sends anywhere, and those without any score."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of events with its exact interval at CONFIDENCE; value is None of nothing."""

    events: int
    total: int
    value: float | None
    low: float
    high: float

    @classmethod
    def of(cls, events: int, total: int) -> Rate:
        """From counts."""
        low, high = interval(events, total, CONFIDENCE)
        return cls(events, total, events / total if total else None, low, high)


@dataclass(frozen=True, slots=True)
class Band:
    """What people decided on the images of one band of a category, None for all categories.

    machine is what scores of the band ask for: approve, review or block.
    """

    category: str | None
    name: str
    machine: str
    approved: int
    blocked: int
    unsure: int

    @property
    def sure(self) -> int:
        """Images that were approved or blocked."""
        return self.approved + self.blocked

    @property
    def blocked_share(self) -> Rate:
        """How many of the images that people were sure of they blocked."""
        return Rate.of(self.blocked, self.sure)

    @property
    def overturned(self) -> Rate | None:
        """How often people decided against the scores; None where these leave it to people."""
        if self.machine == Decision.REVIEW.value:
            return None
        against = self.blocked if self.machine == Decision.APPROVE.value else self.approved
        return Rate.of(against, self.sure)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds on screen per decision: how many were timed, their quartiles and their sum.

    Decisions that were replaced or taken back later took their time, too.
    """

    count: int
    lower: float
    median: float
    upper: float
    total: float

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Pace | None:
        """That of the timed ones; None where there is none."""
        seconds = [e.seconds for e in entries if e.decision is not None and e.seconds > 0]
        if not seconds:
            return None
        lower, median, upper = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()
        return cls(len(seconds), lower, median, upper, sum(seconds))


@dataclass(frozen=True, slots=True)
class MiddleBand:
    """What the images that the machine left to people cost. Copies are not among them.

    hours_per_thousand is of the images decided so far, all looks at them counted; None where no
    decision was timed.
    """

    images: int
    decided: int
    hours_per_thousand: float | None

    @property
    def hours_left(self) -> float | None:
        """What the others will take at the same pace."""
        if self.hours_per_thousand is None:
            return None
        return (self.images - self.decided) * self.hours_per_thousand / 1000


@dataclass(frozen=True, slots=True)
class Reviewer:
    """One person's decisions: those that hold by what they are, and how many do not hold any more.

    severe is the number of severe images that they saw sharp.
    """

    name: str
    approved: int
    blocked: int
    unsure: int
    replaced: int
    pace: Pace | None
    severe: int


@dataclass(frozen=True, slots=True)
class Review:
    """The whole of it; against counts images by the machine's decision and people's outcome."""

    rows: int
    images: int
    copies: int
    disputed: int
    against: Mapping[str, Mapping[str, int]]
    bands: tuple[Band, ...]
    pace: Pace | None
    middle: MiddleBand
    agreement: Agreement | None
    reviewers: tuple[Reviewer, ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Counts:
    rows: int = 0
    images: int = 0
    copies: int = 0
    disputed: int = 0
    waiting: int = 0
    waiting_decided: int = 0
    against: Counter[tuple[str, str]] = field(default_factory=Counter)
    bands: Counter[tuple[str | None, str, str]] = field(default_factory=Counter)


def review_report(results: Results, policy: Policy, decisions: Decisions) -> Review:
    """What people's decisions on the rows of a file show. policy is whose thresholds count.

    Raises InputError for decisions on other results.
    """
    counts = _Counts()
    categories = [str(name) for name in results.categories if policy.limits(name)]
    for _, final, columns in decided_rows(results, decisions, categories):
        originals = columns["duplicate_of"].is_null()
        in_review = pc.equal(columns["decision"], Decision.REVIEW.value)
        waiting = pc.and_(originals, in_review).to_numpy(zero_copy_only=False)
        counts.rows += len(waiting)
        counts.waiting += int(waiting.sum())
        counts.copies += len(final.copies)
        looked_at = sorted(set(final.verdicts) - final.copies)
        counts.waiting_decided += int(waiting[looked_at].sum())
        bands = _bands(columns, policy, looked_at, categories)
        for place, index in enumerate(looked_at):
            verdict = final.verdicts[index]
            outcome = outcome_of(verdict)
            counts.images += 1
            counts.disputed += verdict.is_disputed
            counts.against[columns["decision"][index].as_py(), outcome] += 1
            for category, band in _bands_of(bands[:, place], categories):
                counts.bands[category, band, outcome] += 1
    return Review(
        rows=counts.rows,
        images=counts.images,
        copies=counts.copies,
        disputed=counts.disputed,
        against={
            decision.value: {name: counts.against[decision.value, name] for name in OUTCOMES}
            for decision in DECISIONS
        },
        bands=tuple(_counted_bands(counts.bands, categories)),
        pace=Pace.of(decisions.all),
        middle=_middle(counts, decisions),
        agreement=_agreement(decisions),
        reviewers=tuple(_reviewers(decisions)),
        notes=tuple(_notes(results, policy)),
    )


OUTCOMES: tuple[Outcome, ...] = ("approved", "blocked", "unsure")


def outcome_of(verdict: Verdict) -> Outcome:
    """Blocked where one person blocks it, approved where all approve it, else unsure."""
    answers = {entry.decision for entry in verdict.entries}
    if "block" in answers:
        return "blocked"
    return "approved" if answers == {"approve"} else "unsure"


def _bands(
    columns: Mapping[str, Any], policy: Policy, indices: Sequence[int], categories: Sequence[str]
) -> NDArray[np.int64]:
    """(categories, images): how many of the edges of BANDS a score reaches, -1: not scored."""
    bands = np.empty((len(categories), len(indices)), np.int64)
    for number, category in enumerate(categories):
        limits = policy.all_limits[category]
        scores = columns[category].to_numpy(zero_copy_only=False).astype(np.float32)[indices]
        third = (limits.block - limits.review) / 3
        edges = [limits.review, limits.review + third, limits.block - third, limits.block]
        reached = sum(reaches(scores, edge).astype(np.int64) for edge in edges)
        bands[number] = np.where(np.isnan(scores), -1, reached)
    return bands


def _bands_of(bands: NDArray[np.int64], categories: Sequence[str]) -> list[tuple[str | None, str]]:
    """Where an image is counted: under each category that does not approve it."""
    if (bands < 0).all():
        return [(None, UNSCORED)]
    over = [
        (category, BANDS[band - 1])
        for category, band in zip(categories, bands.tolist(), strict=True)
        if band > 0
    ]
    return [*over] if over else [(None, BELOW)]


def _counted_bands(
    counts: Counter[tuple[str | None, str, str]], categories: Sequence[str]
) -> Iterable[Band]:
    review, block = Decision.REVIEW.value, Decision.BLOCK.value
    places: list[tuple[str | None, str, str]] = [(None, BELOW, Decision.APPROVE.value)]
    for category in categories:
        places += [(category, name, block if name == block else review) for name in BANDS]
    places.append((None, UNSCORED, review))
    for category_name, name, machine in places:
        approved, blocked, unsure = (counts[category_name, name, each] for each in OUTCOMES)
        if approved or blocked or unsure:
            yield Band(category_name, name, machine, approved, blocked, unsure)


def _middle(counts: _Counts, decisions: Decisions) -> MiddleBand:
    entries = [e for e in decisions.all if e.machine_decision == Decision.REVIEW.value]
    timed = {entry.row for entry in entries if entry.seconds > 0 and entry.row in decisions.by_row}
    seconds = sum(entry.seconds for entry in entries if entry.row in timed)
    hours = seconds / 3600 / len(timed) * 1000 if timed else None
    return MiddleBand(counts.waiting, counts.waiting_decided, hours)


def _agreement(decisions: Decisions) -> Agreement | None:
    """Of the first two people on each image that two have judged."""
    return cohens_kappa(
        [
            (str(verdict.entries[0].decision), str(verdict.entries[1].decision))
            for verdict in decisions.by_row.values()
            if len(verdict.entries) > 1
        ]
    )


def _reviewers(decisions: Decisions) -> Iterable[Reviewer]:
    standing = Counter((entry.reviewer, entry.decision) for entry in decisions.entries)
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in decisions.all:
        entries[entry.reviewer].append(entry)
    for name, own in sorted(entries.items()):
        approved, blocked, unsure = (standing[name, d] for d in ("approve", "block", "unsure"))
        made = sum(entry.decision is not None for entry in own)
        yield Reviewer(
            name=name,
            approved=approved,
            blocked=blocked,
            unsure=unsure,
            replaced=made - approved - blocked - unsure,
            pace=Pace.of(own),
            severe=sum(map(is_severe, own)),
        )


def _notes(results: Results, policy: Policy) -> Iterable[str]:
    if results.mismatch:
        yield "the file is not the one that the audit facts beside it describe"
    if policy.override:
        yield "the policy has overrides: bands are those of its own thresholds"
