"""A policy in its context: which row is held to which thresholds, what is cleared, what blocked.

The first override whose condition holds gives a row its policy. A picture on the block list is
blocked, whatever else holds; one on the ignore list is approved if it was scored; everything else
is decided by its scores. Scores and derived columns are the same on a list or off it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple, Self

from moderate.policy.decide import _NO_LABELS, decide, views
from moderate.policy.lists import Lists
from moderate.policy.load import LoadedPolicy, resolve
from moderate.policy.model import Override, Policy
from moderate.policy.when import ColumnCondition, Condition, parse_when
from moderate.text import printable
from moderate.types import (
    Decision,
    ImageError,
    ImageFacts,
    ImageRef,
    Labels,
    Scores,
    Views,
    Warn,
)

BLOCK_LIST = "block list: "
CLEARED = "cleared until "
"""What the reason of a decision by a list starts with."""

_OVERRIDE = " (override "

_Listed = Literal["block", "ignore"]


class Subject(NamedTuple):
    """What a row is known by: its path as shown, what it carries, its file's SHA-256 if known."""

    path: bytes
    columns: Mapping[str, Any]
    sha256: str | None


class Judged(NamedTuple):
    """A decision with its reasons and derived columns.

    overridden_by is the label of the override whose policy counted, listed the list that decided.
    """

    decision: Decision
    reasons: tuple[str, ...]
    views: Views
    overridden_by: str | None = None
    listed: _Listed | None = None


class _Case(NamedTuple):
    """An override made ready."""

    condition: Condition
    policy: Policy
    label: str


class Judge:
    """Decides on rows by one policy; made once a run.

    base is the folder that names of files in the policy start from, today the day (in UTC) that
    counts for the ignore list, columns the names of what an `ImageRef` carries. Raises PolicyError
    where a file that the policy names cannot be read. `Judge.of` takes a policy that was loaded
    with all its files.
    """

    def __init__(
        self,
        policy: Policy,
        base: str | None = None,
        today: date | None = None,
        *,
        columns: Sequence[str] = (),
        lists: Lists | None = None,
    ) -> None:
        if lists is None and policy.in_context:
            policy, lists, _ = resolve(policy, base, printable(policy.name))
        known = lists or Lists()
        self.policy = policy
        self.columns = tuple(columns)
        self.today = today or datetime.now(UTC).date()
        self._cases = [_ready(override, policy) for override in policy.override]
        self._blocked = known.blocked
        self._cleared = {
            sha256: f"{CLEARED}{entry.expires}: {_as_part(entry.reason)}"
            for sha256, entry in known.cleared.items()
            if not entry.is_expired(self.today)
        }
        self._expired = len(known.cleared) - len(self._cleared)
        self.plain = not (self._cases or self._blocked or self._cleared)

    @classmethod
    def of(
        cls, loaded: LoadedPolicy, today: date | None = None, columns: Sequence[str] = ()
    ) -> Self:
        """For a loaded policy, whose files are not read again."""
        return cls(loaded.policy, today=today, columns=columns, lists=loaded.lists)

    def judge(
        self,
        subject: Subject,
        scores: Scores,
        warnings: Sequence[Warn],
        error: ImageError | None,
        labels: Labels = _NO_LABELS,
    ) -> Judged:
        """What becomes of an image. One without scores is never approved."""
        if self.plain:
            decision, reasons = decide(self.policy, scores, warnings, error, labels)
            return Judged(decision, reasons, views(self.policy, scores))
        case = self._case(subject)
        policy, label = (case.policy, case.label) if case else (self.policy, None)
        derived = views(policy, scores)
        sha256 = subject.sha256.lower() if subject.sha256 else ""
        if (why := self._blocked.get(sha256)) is not None:
            reasons = (BLOCK_LIST + _as_part(why),)
            return Judged(Decision.BLOCK, reasons, derived, label, "block")
        if (why := self._cleared.get(sha256)) is not None and error is None and _scored(scores):
            return Judged(Decision.APPROVE, (why,), derived, label, "ignore")
        decision, reasons = decide(policy, scores, warnings, error, labels)
        if label is not None:
            reasons = tuple(f"{reason}{_OVERRIDE}{_as_part(label)})" for reason in reasons)
        return Judged(decision, reasons, derived, label)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the policy, or one of an override, has thresholds for."""
        policies = [self.policy, *(case.policy for case in self._cases)]
        return tuple(dict.fromkeys(name for policy in policies for name in policy.labels))

    def policy_for(self, subject: Subject) -> Policy:
        """The policy whose thresholds count for a row; the same object for the same override."""
        case = self._case(subject)
        return case.policy if case else self.policy

    def row(
        self,
        ref: ImageRef,
        facts: ImageFacts,
        scores: Scores,
        error: ImageError | None,
        labels: Labels = _NO_LABELS,
    ) -> tuple[Decision, tuple[str, ...], Views]:
        """What `judge` says of the row of a run, as cheap as can be: rows may cost nothing else."""
        if self.plain:
            decision, reasons = decide(self.policy, scores, facts.warnings, error, labels)
            return decision, reasons, views(self.policy, scores)
        subject = self.subject(ref, facts)
        return self.judge(subject, scores, facts.warnings, error, labels)[:3]

    def policy_of(self, ref: ImageRef, facts: ImageFacts) -> Policy:
        """`policy_for` for the row of a run."""
        if not self._cases:
            return self.policy
        return self.policy_for(self.subject(ref, facts))

    def notes(self) -> list[str]:
        """What a reader of the results should know of the lists and overrides, as sentences."""
        notes = []
        if self._expired:
            entries = "1 entry" if self._expired == 1 else f"{self._expired:,} entries"
            verb = "has" if self._expired == 1 else "have"
            notes.append(f"{entries} of the ignore list {verb} expired: without effect.")
        for case in self._cases:
            if isinstance(asked := case.condition, ColumnCondition):
                if asked.column in self.columns:
                    continue
                notes.append(
                    f"Override {case.label} asks for a column {asked.column}, which no input "
                    f"carries: name it with --keep {asked.column}."
                )
        return notes

    def subject(self, ref: ImageRef, facts: ImageFacts) -> Subject:
        """What the row of a run is known by."""
        return Subject(ref.display, dict(zip(self.columns, ref.carried)), facts.sha256)  # noqa: B905

    def _case(self, subject: Subject) -> _Case | None:
        for case in self._cases:
            if case.condition.holds(subject.path, subject.columns):
                return case
        return None


def at_time(reason: str, time: str) -> str:
    """A reason with the place in a video that it is about; what it ends with stays the end."""
    what, override, label = reason.partition(_OVERRIDE)
    return f"{what} at {time}{override}{label}"


def _ready(override: Override, policy: Policy) -> _Case:
    return _Case(parse_when(override.when), override.applied(policy), override.label)


def _scored(scores: Scores) -> bool:
    return any(score is not None for score in scores.values())


def _as_part(text: str) -> str:
    """Reasons are joined with `; `, which so never stands in one of them."""
    return text.replace("; ", ", ")
