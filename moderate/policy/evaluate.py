"""One policy on a batch: bands, decisions, reasons and derived columns of all rows at once.

Numbers are compared by columns. A reason is made once for all rows that share its text, so that a
million rows cost little more than the arrays that hold them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moderate.levels import scale_labels
from moderate.policy.batch import Batch, Codes, Decided, Encoded, Indices
from moderate.policy.model import Policy
from moderate.policy.reasons import NEAR, comparison, error_reason, label_term
from moderate.policy.thresholds import UNSCORED_BAND, Mask, Severities, reaches, score_bands
from moderate.types import CATEGORIES, Decision, Warn

Scores32 = NDArray[np.float32]
Scores64 = NDArray[np.float64]

_APPROVE, _REVIEW, _BLOCK = range(len(Decision))
_UNSCORED_REASON = len(Decision)  # beside the reasons for a decision, by its severity
_SIGNS = ("< review", ">= review", ">= block")

_Texts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadyPolicy:
    """A policy with its thresholds as columns: of the categories, and then of its labels.

    terms are what reasons call them: the five, own categories, labels; count is how many of them
    are categories, and scored names those besides the five. review and block are float64 (terms).
    idle are the places of own categories without thresholds, which decide nothing. Each reason ends
    with `ending`. levels are the labels of a scale that is matched by description, the mildest
    first; none where rows do not have their scores.
    """

    policy: Policy
    terms: tuple[str, ...]
    count: int
    scored: tuple[str, ...]
    review: Scores64
    block: Scores64
    idle: tuple[int, ...] = ()
    ending: str = ""
    levels: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        policy: Policy,
        own: Sequence[str] = (),
        ending: str = "",
        there: Sequence[str] = (),
    ) -> ReadyPolicy:
        """Make a policy ready, once for all batches.

        own are the own categories whose bands are wanted, those of the policy at least. there are
        the labels that rows have.
        """
        own = tuple(dict.fromkeys([*own, *policy.own]))
        thresholds = [policy.limits(name) for name in (*CATEGORIES, *own)]
        idle = tuple(place for place, each in enumerate(thresholds) if each is None)
        thresholds += policy.labels.values()
        return cls(
            policy=policy,
            terms=(*CATEGORIES, *own, *map(label_term, policy.labels)),
            count=len(CATEGORIES) + len(own),
            scored=(*own, *policy.labels),
            review=np.array([each.review if each else np.inf for each in thresholds]),
            block=np.array([each.block if each else np.inf for each in thresholds]),
            idle=idle,
            ending=ending,
            levels=scale_labels(policy.described_levels, there),
        )

    def bands(self, scores: Scores32) -> Severities:
        """What each score asks for: int8 in the shape of scores, (terms, n) or fewer terms."""
        count = len(scores)
        return score_bands(scores, self.review[:count, np.newaxis], self.block[:count, np.newaxis])


def evaluate(ready: ReadyPolicy, batch: Batch) -> Decided:
    """The worst of what categories, labels, warnings and errors ask for, row by row, and why.

    The reasons are those of the final decision; an approval names the score that came closest to
    review. An image without scores of categories is never approved.
    """
    policy, failed, count = ready.policy, batch.failed, len(batch)
    scores = batch.all_scores(ready.scored)
    values = scores.astype(np.float64)
    asked = ready.bands(scores)
    unscored = asked == UNSCORED_BAND
    by_category = slice(ready.count)
    deciding = np.delete(np.arange(len(asked)), ready.idle) if ready.idle else slice(None)
    missing = unscored[deciding].any(axis=0)
    unscored[list(ready.idle)] = True
    unscored_everywhere = unscored[by_category].all(axis=0)
    warned = _Warned.of(ready, batch)

    severity: Severities = np.where(unscored, np.int8(_APPROVE), asked).max(axis=0)
    np.maximum(severity, warned.severity, out=severity)
    if policy.on_unscored == "review":
        severity[missing & (severity == _APPROVE)] = _REVIEW
    nothing = (severity == _APPROVE) & unscored_everywhere & ~failed
    severity[nothing] = _REVIEW
    severity[failed] = policy.on_error.severity

    reasons = _Reasons(count)
    _add_scores(reasons, ready, values, asked, np.where(failed, -1, severity))
    warned.add(reasons, severity, failed)
    _add_errors(reasons, ready, batch)
    none = reasons.text(("no category was scored" + ready.ending,))
    reasons.add(np.flatnonzero(nothing), np.full(int(nothing.sum()), none))
    nobody: Encoded[Any] = Encoded([], np.full(count, -1, np.int32))
    return Decided(
        severity=severity,
        bands=asked[by_category],
        reasons=reasons.joined(),
        **_derived(ready, scores[by_category], values[by_category], unscored_everywhere)
        | _described_rating(ready, batch),
        overridden_by=nobody,
        listed=nobody,
    )


class _Reasons:
    """Collects parts of the reasons of n rows, in the order in which they are told."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._texts: list[_Texts] = []
        self._rows: list[Indices] = []
        self._codes: list[NDArray[Any]] = []

    def text(self, texts: _Texts) -> int:
        """The number of a part."""
        self._texts.append(texts)
        return len(self._texts) - 1

    def add(self, rows: Indices, parts: NDArray[Any]) -> None:
        """Give these rows, each at most once, the parts of these numbers.

        A row may come again in a later call, or in a later stretch of ascending rows of the same.
        """
        if len(rows):
            self._rows.append(rows)
            self._codes.append(parts)

    def joined(self) -> Encoded[_Texts]:
        """All parts of each row: few distinct tuples, however many rows."""
        tuples: list[_Texts] = [(), *self._texts]
        codes = np.zeros(self._count, np.int64)
        if self._rows:
            rows, parts = np.concatenate(self._rows), np.concatenate(self._codes)
            codes[rows] = parts + 1  # all there is to do for a row of one part
            more = np.bincount(rows)[rows] > 1
            rows, parts = rows[more], parts[more]
        if self._rows and len(rows):
            order = np.argsort(rows, kind="stable")
            rows, parts = rows[order], parts[order]
            starts = np.flatnonzero(np.diff(rows, prepend=-1))
            place = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
            codes[rows[starts]] = parts[starts] + 1
            # Rows with the same parts so far share a number; the next part makes new ones of them.
            for nth in range(1, int(place.max()) + 1):
                at = place == nth
                keys = codes[rows[at]] * len(self._texts) + parts[at]
                distinct, which = np.unique(keys, return_inverse=True)
                codes[rows[at]] = len(tuples) + which
                pairs = [divmod(key, len(self._texts)) for key in distinct.tolist()]
                tuples += [tuples[before] + self._texts[part] for before, part in pairs]
        return Encoded(tuples, codes.astype(np.int32))


def _add_scores(
    reasons: _Reasons,
    ready: ReadyPolicy,
    values: Scores64,
    asked: Severities,
    severity: NDArray[Any],
) -> None:
    """The reasons that scores give, in the order of the terms; severity is -1 in errors."""
    kinds = np.full(asked.shape, -1, np.int8)
    approved = np.flatnonzero(severity == _APPROVE)
    room = np.where(asked == _APPROVE, ready.review[:, np.newaxis] - values, np.inf)
    kinds[room.argmin(axis=0)[approved], approved] = _APPROVE
    np.copyto(kinds, asked, where=(asked == severity) & (severity > _APPROVE))
    if ready.policy.on_unscored == "review":
        unscored = asked == UNSCORED_BAND
        unscored[list(ready.idle)] = False
        kinds[unscored & (severity == _REVIEW)] = _UNSCORED_REASON
    terms, rows = np.nonzero(kinds >= 0)
    if not len(rows):
        return
    kind, score = kinds[terms, rows], values[terms, rows]
    limits = np.where(kind == _BLOCK, ready.block[terms], ready.review[terms])
    near = np.abs(score - limits) <= NEAR  # False for NaN
    # A float32 times 100 is exact in float64, and both round halves to even: two digits are those
    # of `:.2f`. A score near its limit may need all of its digits: it is told apart by its bits.
    hundredths = np.rint(np.nan_to_num(score) * 100).astype(np.int64)
    bits = score.astype(np.float32).view(np.uint32).astype(np.int64)
    number = (kind.astype(np.int64) * len(ready.terms) + terms) << 33
    keys = number + np.where(near, bits + (1 << 32), hundredths)
    _, examples, which = np.unique(keys, return_index=True, return_inverse=True)
    parts = []
    for asks, place, each, limit in zip(
        kind[examples].tolist(),
        terms[examples].tolist(),
        score[examples].tolist(),
        limits[examples].tolist(),
        strict=True,
    ):
        term = ready.terms[place]
        if asks == _UNSCORED_REASON:
            text = f"{term} not scored: on_unscored review"
        else:
            text = comparison(term, each, _SIGNS[asks], limit, reached=asks != _APPROVE)
        parts.append(reasons.text((text + ready.ending,)))
    reasons.add(rows, np.array(parts)[which])


@dataclass(frozen=True, slots=True)
class _Warned:
    """What warnings ask for: few distinct ones, many rows.

    texts has, for each of `warnings.values`, the reasons of each severity.
    """

    warnings: Encoded[Any]
    texts: tuple[tuple[_Texts, ...], ...]
    severity: Severities

    @classmethod
    def of(cls, ready: ReadyPolicy, batch: Batch) -> _Warned:
        wanted = {str(name): decision for name, decision in ready.policy.on_warning.items()}
        # What the second weights were to decide and did not see is approved by no policy.
        silent = str(Warn.NO_SECOND_OPINION) not in wanted
        if silent:
            wanted[str(Warn.NO_SECOND_OPINION)] = Decision.REVIEW
        warned: Encoded[Any] = batch.warnings
        if Warn.PARTLY_SEEN in wanted:
            warned = _with_shares(warned, batch.unseen, ready.policy.partly_seen_from)
        texts = tuple(
            tuple(
                tuple(
                    f"warning {warning}: {_asked_by(warning, silent)}{decision}{ready.ending}"
                    for warning in warnings
                    if wanted.get(warning.partition(" ")[0]) == decision
                )
                for decision in Decision
            )
            for warnings in warned.values
        )
        worst = [max((n for n, parts in enumerate(each) if parts), default=0) for each in texts]
        of_row = np.array([*worst, _APPROVE], np.int8)[warned.codes]  # -1 is the last
        return cls(warned, texts, of_row)

    def add(self, reasons: _Reasons, severity: Severities, failed: Mask) -> None:
        """The reasons of rows that are decided as their warnings ask."""
        codes = self.warnings.codes
        parts = np.full((len(self.texts) + 1, len(Decision)), -1, np.int64)
        for code, each in enumerate(self.texts):
            for asked, texts in enumerate(each):
                if texts:
                    parts[code, asked] = reasons.text(texts)
        if parts.max() >= 0:
            of_row = np.where(failed, -1, parts[codes, severity])
            rows = np.flatnonzero(of_row >= 0)
            reasons.add(rows, of_row[rows])


def _asked_by(warning: str, silent: bool) -> str:
    return "" if silent and warning == Warn.NO_SECOND_OPINION else "on_warning "


def _with_shares(
    warnings: Encoded[tuple[Warn, ...]], unseen: Scores32, from_share: float
) -> Encoded[Any]:
    """The warnings of each row as texts, `partly_seen` with its share, and only from a share on.

    A row that has the warning and no share was written by something else: the warning counts.
    """
    concerned = [Warn.PARTLY_SEEN in each for each in warnings.values]
    rows = np.flatnonzero(np.array([*concerned, False])[warnings.codes])
    values: list[tuple[str, ...]] = list(warnings.values)
    codes = warnings.codes.copy()
    known: dict[tuple[int, str | None], int] = {}
    for row, code, share in zip(
        rows.tolist(), codes[rows].tolist(), unseen[rows].tolist(), strict=True
    ):
        text: str | None = str(Warn.PARTLY_SEEN)
        if share == share:
            below = not reaches(np.float32(share), np.float64(from_share))
            text = None if below else f"{Warn.PARTLY_SEEN} {share:.0%}"
        if (code, text) not in known:
            known[code, text] = len(values)
            changed = (text if each == Warn.PARTLY_SEEN else each for each in values[code])
            values.append(tuple(each for each in changed if each is not None))
        codes[row] = known[code, text]
    return Encoded(values, codes)


def _add_errors(reasons: _Reasons, ready: ReadyPolicy, batch: Batch) -> None:
    rows = np.flatnonzero(batch.failed)
    if len(rows):
        on_error = ready.policy.on_error
        texts = [
            reasons.text((error_reason(code, on_error) + ready.ending,))
            for code in batch.errors.values
        ]
        reasons.add(rows, np.array(texts)[batch.errors.codes[rows]])


def _derived(
    ready: ReadyPolicy, scores: Scores32, values: Scores64, unscored_everywhere: Mask
) -> dict[str, Any]:
    """The derived columns of `Decided`. Cuts of the bands are compared in float64, as written."""
    cuts = ready.policy.bands
    names = ready.terms[: ready.count]
    counted = [row for row, name in enumerate(names) if name in cuts.categories]
    nsfw = np.fmax.reduce(values[counted], axis=0)
    nothing = np.isnan(nsfw)
    safe = 1.0 - nsfw
    is_nsfw = nsfw > cuts.nsfw_above
    risk = np.where(nsfw < cuts.risk_mid_from, 0, np.where(nsfw > cuts.risk_high_above, 2, 1))
    return {
        "label": Encoded(("safe", "nsfw"), np.where(nothing, -1, is_nsfw).astype(np.int32)),
        "nsfw_score": nsfw,
        "safe_score": safe,
        "confidence": np.where(is_nsfw, nsfw, safe),
        "risk": Encoded(("low", "mid", "high"), np.where(nothing, -1, risk).astype(np.int32)),
        "is_nsfw": is_nsfw,
        "rating": _rating(ready.policy, names, scores, unscored_everywhere),
        "rating_probability": np.full(len(nsfw), np.nan),
    }


def _rating(
    policy: Policy, names: Sequence[str], scores: Scores32, unscored_everywhere: Mask
) -> Encoded[str]:
    # That of a scale by description does not come from the categories.
    lowest = 0 if policy.rating and not policy.described_levels else -1
    levels: Codes = np.where(unscored_everywhere, -1, lowest).astype(np.int32)
    rated = levels >= 0
    # From the lowest up, so that the highest that is reached stays.
    for number, level in enumerate(policy.rating[1:], 1):
        reached = rated.copy()
        if level.any:
            reached &= _reached(level.any, names, scores).any(axis=0)
        if level.all:
            reached &= _reached(level.all, names, scores).all(axis=0)
        levels[reached] = number
    return Encoded([level.value for level in policy.rating], levels)


def _described_rating(ready: ReadyPolicy, batch: Batch) -> dict[str, Any]:
    """The rating by descriptions and its probability; nothing where rows do not have the scores."""
    if not ready.levels:
        return {}
    probabilities = batch.all_scores(ready.levels)[-len(ready.levels) :]
    rated = ~np.isnan(probabilities).any(axis=0)
    highest = probabilities.argmax(axis=0)  # of equals the first, which is the mildest
    return {
        "rating": Encoded(
            [level.value for level in ready.policy.rating],
            np.where(rated, highest, -1).astype(np.int32),
        ),
        "rating_probability": np.where(rated, probabilities.max(axis=0), np.nan).astype(np.float64),
    }


def _reached(condition: Mapping[str, float], names: Sequence[str], scores: Scores32) -> Mask:
    """Which scores are as high as a level asks for: (categories of the condition, n)."""
    rows = [names.index(category) for category in condition]
    reached: Mask = reaches(scores[rows], np.array([*condition.values()])[:, np.newaxis])
    return reached
