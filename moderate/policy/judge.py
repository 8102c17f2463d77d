"""A policy in its context: which row is held to which thresholds, what is cleared, what blocked.

The first override whose condition holds gives a row its policy. An image on the block list is
blocked, whatever else holds; one on the ignore list is approved if it was scored, also by the
second weights where these were asked; everything else is decided by its scores. Scores and derived
columns are the same on a list or off it. A list has files by their SHA-256, and pictures by their
PDQ hash, which versions of them are near to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any, NamedTuple, Self

import numpy as np

from moderate.levels import Scale
from moderate.policy.batch import Batch, Decided, Encoded, Indices, Judged, Listed, Subject, encoded
from moderate.policy.evaluate import ReadyPolicy, evaluate
from moderate.policy.lists import Clearance, Lists
from moderate.policy.load import LoadedPolicy, resolve
from moderate.policy.model import Override, Policy
from moderate.policy.perceptual import Match, Perceptual, PerceptualList
from moderate.policy.reasons import BLOCK_LIST, CLEARED, as_part, by_override
from moderate.policy.thresholds import Severities
from moderate.policy.when import ColumnCondition, Condition, column_text, parse_when
from moderate.text import printable
from moderate.types import CATEGORIES, Decision, ImageError, Labels, PdqHash, Scores, Warn

_MORE = frozenset(
    {
        Warn.ANIMATED,
        Warn.MULTI_PICTURE,
        Warn.PARTLY_SCORED,
        Warn.EMBEDDED_CONTENT,
        Warn.ALPHA_AMBIGUOUS,
    }
)
"""Warnings of files that may show something else than the picture which is hashed."""


class _Case(NamedTuple):
    """An override made ready."""

    condition: Condition
    ready: ReadyPolicy
    label: str


class _Entry(NamedTuple):
    """What a list says of a file."""

    listed: Listed
    decision: Decision
    reason: str


class Judge:
    """Decides on batches by one policy; made once per run.

    base is the folder that names of files in the policy start from, today the day (in UTC) that
    counts for the ignore list, columns the names of what rows carry, labels_there those of the
    labels whose scores rows may have: a rating scale that matches by description is found among
    them. Raises PolicyError where a file that the policy names cannot be read. `Judge.of` takes a
    policy that was loaded with all its files.
    """

    def __init__(
        self,
        policy: Policy,
        base: str | None = None,
        today: date | None = None,
        *,
        columns: Sequence[str] = (),
        labels_there: Sequence[str] = (),
        lists: Lists | None = None,
    ) -> None:
        if lists is None and policy.in_context:
            policy, lists, _ = resolve(policy, base, printable(policy.name))
        known = lists or Lists()
        self.policy = policy
        self.columns = tuple(columns)
        self.today = today or datetime.now(UTC).date()
        applied = [override.applied(policy) for override in policy.override]
        self.own = tuple(dict.fromkeys(name for each in (policy, *applied) for name in each.own))
        """The own categories that the policy, or one of an override, has thresholds for."""
        self._ready = ReadyPolicy.of(policy, self.own, there=labels_there)
        self._cases = [
            _ready(override, each, self.own, labels_there)
            for override, each in zip(policy.override, applied, strict=True)
        ]
        self._entries: dict[str, _Entry] = {
            sha256: _clearance(entry)
            for sha256, entry in known.cleared.items()
            if not entry.is_expired(self.today)
        }
        still_cleared = {
            digits: each
            for digits, each in known.cleared_pdq.items()
            if not each.entry.is_expired(self.today)
        }
        self._expired = len(known.cleared) - len(self._entries)
        self._expired += len(known.cleared_pdq) - len(still_cleared)
        self._list_notes = known.notes
        self._blocked = _Perceptual.of(
            {
                digits: Perceptual(
                    each.distance,
                    each.quality,
                    _Entry("block", Decision.BLOCK, BLOCK_LIST + as_part(each.entry)),
                )
                for digits, each in known.blocked_pdq.items()
            }
        )
        self._cleared = _Perceptual.of(
            {
                digits: Perceptual(each.distance, each.quality, _clearance(each.entry))
                for digits, each in still_cleared.items()
            }
        )
        for sha256, reason in known.blocked.items():
            text = BLOCK_LIST + as_part(reason)
            self._entries[sha256] = _Entry("block", Decision.BLOCK, text)
        conditions = [case.condition for case in self._cases]
        named = [each.column for each in conditions if isinstance(each, ColumnCondition)]
        self._by_path = len(named) < len(conditions)
        self.columns_needed = tuple(dict.fromkeys(named))
        """The carried columns that decisions depend on, whether rows carry them or not."""

    @classmethod
    def of(
        cls,
        loaded: LoadedPolicy,
        today: date | None = None,
        columns: Sequence[str] = (),
        labels_there: Sequence[str] = (),
    ) -> Self:
        """For a loaded policy, whose files are not read again."""
        lists = loaded.lists
        return cls(
            loaded.policy, today=today, columns=columns, labels_there=labels_there, lists=lists
        )

    @property
    def compares_hashes(self) -> bool:
        """Whether decisions depend on the perceptual hashes of pictures."""
        return bool(self._blocked or self._cleared)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels whose scores the policy, or one of an override, depends on.

        Those of a rating scale by description are among them where rows have them.
        """
        every = (*self.threshold_labels, *self.level_labels)
        return tuple(dict.fromkeys(every))

    @property
    def threshold_labels(self) -> tuple[str, ...]:
        """The labels that the policy, or one of an override, has thresholds for."""
        return tuple(dict.fromkeys(name for ready in self._every for name in ready.policy.labels))

    @property
    def scored(self) -> tuple[str, ...]:
        """The own categories and labels whose scores decisions depend on."""
        return (*self.own, *self.labels)

    @property
    def level_labels(self) -> tuple[str, ...]:
        """The labels of rating scales by description, where rows have them."""
        return tuple(dict.fromkeys(name for ready in self._every for name in ready.levels))

    @property
    def described_scales(self) -> tuple[Scale, ...]:
        """The rating scales by description of the policy and its overrides, each once."""
        scales = [ready.policy.described_levels for ready in self._every]
        return tuple(dict.fromkeys(scale for scale in scales if scale))

    @property
    def _every(self) -> list[ReadyPolicy]:
        return [self._ready, *(case.ready for case in self._cases)]

    def decide(self, batch: Batch) -> Decided:
        """What becomes of these rows, in their order. One without scores is never approved."""
        decided = self._by_override(batch) if self._cases else evaluate(self._ready, batch)
        if self._entries or self.compares_hashes:
            return self._by_lists(batch, decided)
        return decided

    def judge(
        self,
        subject: Subject,
        scores: Scores,
        warnings: Sequence[Warn],
        error: ImageError | None,
        labels: Labels | None = None,
        unseen: float | None = None,
    ) -> Judged:
        """What becomes of one image alone."""
        by_name = labels or {}
        batch = Batch(
            scores=np.array([[scores[category]] for category in CATEGORIES], np.float32),
            unseen=np.array([unseen], np.float32),
            warnings=encoded([tuple(warnings) or None]),
            errors=encoded([str(error.code) if error else None]),
            paths=lambda: [subject.path],
            sha256=lambda: [subject.sha256],
            carried=lambda name: [subject.columns.get(name)],
            labels=lambda name: np.array([by_name.get(name)], np.float32),
            hashes=lambda: [subject.pdq],
        )
        return self.decide(batch).rows()[0]

    def bands(self, batch: Batch) -> Severities:
        """`Decided.bands` alone."""
        scores = batch.all_scores(self.own)
        bands = np.empty(scores.shape, np.int8)
        for case, indices in self._groups(batch):
            ready = case.ready if case else self._ready
            bands[:, indices] = ready.bands(scores[:, indices])
        return bands

    def policy_for(self, subject: Subject) -> Policy:
        """The policy whose thresholds count for a row; the same object for the same override."""
        case = self._case(subject)
        return case.ready.policy if case else self.policy

    def notes(self) -> list[str]:
        """What a reader of the results should know of the lists and overrides, as sentences."""
        notes = []
        if self._expired:
            entries = "1 entry" if self._expired == 1 else f"{self._expired:,} entries"
            verb = "has" if self._expired == 1 else "have"
            notes.append(f"{entries} of the ignore list {verb} expired: without effect.")
        notes += self._list_notes
        for case in self._cases:
            if isinstance(asked := case.condition, ColumnCondition):
                if asked.column in self.columns:
                    continue
                notes.append(
                    f"Override {case.label} asks for a column {asked.column}, which no input "
                    f"carries: name it with --keep {asked.column}."
                )
        return notes

    def _case(self, subject: Subject) -> _Case | None:
        for case in self._cases:
            if case.condition.holds(subject.path, subject.columns):
                return case
        return None

    def _by_override(self, batch: Batch) -> Decided:
        parts = []
        for case, indices in self._groups(batch):
            part = evaluate(case.ready if case else self._ready, batch.take(indices))
            if case:
                label = Encoded([case.label], np.zeros(len(indices), np.int32))
                part = replace(part, overridden_by=label)
            parts.append((indices, part))
        return _in_order(parts) if parts else evaluate(self._ready, batch)

    def _groups(self, batch: Batch) -> Iterator[tuple[_Case | None, Indices]]:
        """The rows that each override is for, and those that none is for, where there are any."""
        if not self._cases:
            yield None, np.arange(len(batch))
            return
        names = self.columns_needed
        columns = [batch.carried(name) for name in names]
        paths = batch.paths() if self._by_path else [b""] * len(batch)
        groups: dict[str | None, tuple[_Case | None, list[int]]] = {}
        known: dict[tuple[str, ...], _Case | None] = {}
        for index, (path, *values) in enumerate(zip(paths, *columns, strict=True)):
            carried = dict(zip(names, values, strict=True))
            if self._by_path:  # paths do not come twice
                case = self._case(Subject(path, carried, None))
            else:  # few values, many rows
                key = tuple(map(column_text, values))
                if key not in known:
                    known[key] = self._case(Subject(path, carried, None))
                case = known[key]
            groups.setdefault(case.label if case else None, (case, []))[1].append(index)
        for case, indices in groups.values():
            yield case, np.array(indices, np.int64)

    def _by_lists(self, batch: Batch, decided: Decided) -> Decided:
        """Decide on images that are on a list by what it says of them."""
        unscored: Any = np.isnan(batch.all_scores(self.own)).all(axis=0)
        severity, codes = decided.severity.copy(), decided.reasons.codes.copy()
        reasons, listed = list(decided.reasons.values), np.full(len(batch), -1, np.int32)
        kinds: tuple[Listed, ...] = ("block", "ignore")
        hashes: Sequence[PdqHash | None] = [None] * len(batch)
        if self.compares_hashes and batch.hashes:
            hashes = batch.hashes()
        warnings = batch.warnings
        more = {n for n, each in enumerate(warnings.values) if not _MORE.isdisjoint(each)}
        # What the deciding weights did not see stays unseen; the file may even be another by now.
        unseen = {n for n, each in enumerate(warnings.values) if Warn.NO_SECOND_OPINION in each}
        for index, (sha256, hashed, code) in enumerate(
            zip(batch.sha256(), hashes, warnings.codes.tolist(), strict=True)
        ):
            entry = self._entries.get(sha256.lower()) if sha256 else None
            if hashed and (entry is None or entry.listed == "ignore"):
                entry = self._looks_like(hashed, entry, alone=code not in more)
            if entry is None:
                continue
            if entry.listed == "ignore" and (unscored[index] or code in unseen):
                continue
            severity[index], codes[index] = entry.decision.severity, len(reasons)
            reasons.append((entry.reason,))
            listed[index] = kinds.index(entry.listed)
        return replace(
            decided,
            severity=severity,
            reasons=Encoded(reasons, codes),
            listed=Encoded(kinds, listed),
        )

    def _looks_like(self, hashed: PdqHash, entry: _Entry | None, *, alone: bool) -> _Entry | None:
        """The entry for a picture with this hash, of which its file has this one already, if any.

        alone says that the file shows nothing else, which nobody has cleared.
        """
        if self._blocked and (found := self._blocked.entry(hashed)):
            return found
        if entry is None and alone and self._cleared:
            return self._cleared.entry(hashed)
        return entry


def _clearance(entry: Clearance) -> _Entry:
    reason = f"{CLEARED}{entry.expires}: {as_part(entry.reason)}"
    return _Entry("ignore", Decision.APPROVE, reason)


class _Perceptual(NamedTuple):
    """The perceptual hashes of a list with what it says of each."""

    hashes: PerceptualList
    entries: Mapping[str, Perceptual[_Entry]]

    @classmethod
    def of(cls, entries: Mapping[str, Perceptual[_Entry]]) -> _Perceptual | None:
        return cls(PerceptualList(entries), entries) if entries else None

    def entry(self, hashed: PdqHash) -> _Entry | None:
        """What the list says of a picture, and which hash says so; None for nothing."""
        match = self.hashes.match(hashed)
        if match is None:
            return None
        entry = self.entries[match.digits].entry
        return entry._replace(reason=f"{entry.reason} ({_shown(match)})")


def _shown(match: Match) -> str:
    return f"PDQ {match.digits[:16]}, distance {match.distance} of {match.limit}"


def _in_order(parts: Sequence[tuple[Indices, Decided]]) -> Decided:
    """The parts of a batch as one, each row at its index."""
    back = np.argsort(np.concatenate([indices for indices, _ in parts]), kind="stable")

    def whole(values: list[Any]) -> Any:
        if not isinstance(values[0], Encoded):
            return np.concatenate(values, axis=-1)[..., back]
        every: list[Any] = []
        codes = []
        for column in values:
            codes.append(np.where(column.codes < 0, -1, column.codes + len(every)))
            every += column.values
        return Encoded(every, np.concatenate(codes)[back].astype(np.int32))

    names = Decided.__dataclass_fields__
    return Decided(**{name: whole([getattr(part, name) for _, part in parts]) for name in names})


def _ready(
    override: Override, applied: Policy, own: Sequence[str], labels_there: Sequence[str]
) -> _Case:
    ready = ReadyPolicy.of(applied, own, by_override(override.label), labels_there)
    return _Case(parse_when(override.when), ready, override.label)
