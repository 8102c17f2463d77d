"""Decisions, reasons and derived views of many rows at once, the same as those of row by row.

A million rows are decided in the time that the row path takes for some ten thousand: numbers are
compared by columns, and a reason's text is made once for all rows that have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moderate.policy.decide import _compare, _Condition, _Limit, _rules
from moderate.policy.judge import Judge, Subject
from moderate.policy.load import LoadedPolicy
from moderate.policy.model import Policy
from moderate.policy.when import ColumnCondition, column_text, parse_when
from moderate.types import CATEGORIES, Decision, ErrorCode, ImageError, Labels, Scores, Warn

Severities = NDArray[np.int8]
Mask = NDArray[np.bool_]

DECISIONS = tuple(Decision)
"""A decision by its severity."""

BANDS = ("approve", "review", "block", "unscored")
"""What a category asks for, by its number in `Columns.bands`."""

VIEWS = ("label", "nsfw_score", "safe_score", "confidence", "risk", "is_nsfw", "rating")

_UNSCORED = len(BANDS) - 1
_APPROVE, _REVIEW, _BLOCK = range(len(DECISIONS))
_NEAR = 0.01  # closer to a limit than this, a score's text depends on all its digits
_KNOWN_WARNINGS = {warning.value: warning for warning in Warn}


@dataclass(frozen=True, slots=True)
class Rows:
    """What decisions on n rows depend on.

    scores are float32 (categories, n), in the order of CATEGORIES, NaN for what was not scored.
    labels gives those of a label by its name. warnings are texts joined with `; `, null for none.
    failed says which rows have no scores for
    an error, errors their codes. paths and sha256 give a row's subject; carried gives the values of
    a carried column, an empty sequence for one that the rows do not have.
    """

    scores: NDArray[np.float32]
    warnings: Any
    failed: Mask
    errors: Any
    paths: Callable[[], Sequence[bytes]]
    sha256: Any
    carried: Callable[[str], Sequence[Any]]
    labels: Callable[[str], NDArray[np.float32]] | None = None

    def __len__(self) -> int:
        return len(self.failed)


@dataclass(slots=True)
class Columns:
    """What a policy made of n rows.

    severity is the decision's, 0 approve to 2 block. bands are (categories, n), what each category
    asks for by number; `unscored` in rows with an error. reasons is an Arrow array of text, views
    has one of each of VIEWS.
    """

    severity: Severities
    bands: Severities
    reasons: Any
    views: dict[str, Any]

    def decisions(self) -> Any:
        """The decisions as an Arrow array of text."""
        return _texts([decision.value for decision in DECISIONS], self.severity)


class ColumnJudge:
    """`Judge` for columns: made once a policy, with the names of the columns that rows carry."""

    def __init__(
        self, loaded: LoadedPolicy, columns: Sequence[str] = (), today: date | None = None
    ) -> None:
        self.judge = Judge.of(loaded, today=today, columns=columns)
        conditions = [parse_when(override.when) for override in loaded.policy.override]
        asked = [each.column for each in conditions if isinstance(each, ColumnCondition)]
        self._asked = tuple(dict.fromkeys(name for name in asked if name in columns))
        self._by_path = len(asked) < len(conditions)
        listed = [*loaded.lists.blocked, *loaded.lists.cleared]
        self._listed = pa.array(listed, pa.string()) if listed else None

    def decide(self, rows: Rows) -> Columns:
        """What becomes of these rows, in their order."""
        policy = self.judge.policy
        if not policy.override:
            made = decide_columns(
                policy, _scores(policy, rows), rows.warnings, rows.failed, rows.errors
            )
        else:
            made = self._by_override(rows)
        if self._listed is not None:
            self._take_lists(rows, made)
        return made

    def bands(self, rows: Rows) -> Severities:
        """`Columns.bands` alone."""
        values = _values(rows.scores, rows.failed)  # of categories alone
        if not self.judge.policy.override:
            return _bands(self.judge.policy, values)
        made = np.empty(values.shape, np.int8)
        for indices in self._groups(rows):
            policy = self.judge.policy_for(self.subject(rows, int(indices[0])))
            made[:, indices] = _bands(policy, values[:, indices])
        return made

    @property
    def columns(self) -> tuple[str, ...]:
        """The carried columns that the policy asks for."""
        return self._asked

    def subject(self, rows: Rows, index: int) -> Subject:
        """What the row of this index is known by."""
        columns = {name: rows.carried(name)[index] for name in self._asked}
        return Subject(rows.paths()[index], columns, rows.sha256[index].as_py())

    def _by_override(self, rows: Rows) -> Columns:
        groups = self._groups(rows)
        parts: list[tuple[NDArray[np.int64], Columns]] = []
        for indices in groups:
            first = self.subject(rows, int(indices[0]))
            taken = pa.array(indices)
            policy = self.judge.policy_for(first)
            part = decide_columns(
                policy,
                _scores(policy, rows)[:, indices],
                rows.warnings.take(taken),
                rows.failed[indices],
                rows.errors.take(taken),
                self._ending(first),
            )
            parts.append((indices, part))
        if not parts:
            policy = self.judge.policy
            return decide_columns(
                policy, _scores(policy, rows), rows.warnings, rows.failed, rows.errors
            )
        # In the order of the groups, then back in that of the rows.
        back = np.argsort(np.concatenate([indices for indices, _ in parts]), kind="stable")
        found = [part for _, part in parts]

        def whole(arrays: list[Any]) -> Any:
            return pa.concat_arrays(arrays).take(pa.array(back))

        return Columns(
            severity=np.concatenate([part.severity for part in found])[back],
            bands=np.concatenate([part.bands for part in found], axis=1)[:, back],
            reasons=whole([part.reasons for part in found]),
            views={name: whole([part.views[name] for part in found]) for name in VIEWS},
        )

    def _groups(self, rows: Rows) -> list[NDArray[np.int64]]:
        """The indices of the rows that the same policy is for."""
        columns = [rows.carried(name) for name in self._asked]
        paths = rows.paths() if self._by_path else [b""] * len(rows)
        found: dict[int, list[int]] = {}
        policy_for, names = self.judge.policy_for, self._asked
        known: dict[Any, int] = {}
        for index, (path, *values) in enumerate(zip(paths, *columns, strict=True)):
            key = (path, *map(column_text, values)) if values else path
            which = known.get(key)
            if which is None:
                carried = dict(zip(names, values, strict=True))
                which = id(policy_for(Subject(path, carried, None)))
                if not self._by_path:  # few values, many rows; paths do not come twice
                    known[key] = which
            found.setdefault(which, []).append(index)
        return [np.array(indices, np.int64) for indices in found.values()]

    def _ending(self, subject: Subject) -> str:
        """What reasons end with in the rows that are held to the same policy as this one."""
        known = subject._replace(sha256=None)  # no list has it
        code = ErrorCode.NOT_FOUND
        judged = self.judge.judge(known, dict.fromkeys(CATEGORIES), (), ImageError(code, ""))
        plain = f"error {code}: on_error {judged.decision}"
        return judged.reasons[0].removeprefix(plain)

    def _take_lists(self, rows: Rows, made: Columns) -> None:
        """Decide on pictures that are on a list one by one."""
        on_list = pc.is_in(pc.utf8_lower(rows.sha256), self._listed)
        indices = np.flatnonzero(on_list.to_numpy(zero_copy_only=False))
        if not len(indices):
            return
        changed = []
        for index in map(int, indices):
            labels = labels_of(rows, index, self.judge.labels)
            judged = self.judge.judge(self.subject(rows, index), *row_of(rows, index), labels)
            made.severity[index] = judged.decision.severity
            changed.append("; ".join(judged.reasons))
        made.reasons = pc.replace_with_mask(made.reasons, on_list, pa.array(changed, pa.string()))


def row_of(rows: Rows, index: int) -> tuple[Scores, tuple[Warn, ...], ImageError | None]:
    """A row's scores, warnings and error as the row path takes them."""
    error = None
    scores: dict[Any, float | None] = dict.fromkeys(CATEGORIES)
    if rows.failed[index]:
        # A code that is not, or no longer, one of ours is told as it is.
        error = ImageError(cast(ErrorCode, rows.errors[index].as_py() or UNKNOWN_ERROR), "")
    else:
        for category, score in zip(CATEGORIES, rows.scores[:, index].tolist(), strict=True):
            scores[category] = None if score != score else score
    return scores, _warnings(rows.warnings[index].as_py()), error


def labels_of(rows: Rows, index: int, names: Sequence[str]) -> Labels:
    """A row's scores of these labels as the row path takes them."""
    if rows.labels is None:
        return {}
    found = {name: float(rows.labels(name)[index]) for name in names}
    return {name: None if score != score else score for name, score in found.items()}


def _scores(policy: Policy, rows: Rows) -> NDArray[np.float32]:
    """The scores of the categories, and then those of the labels that the policy names."""
    if not policy.labels:
        return rows.scores
    if rows.labels is None:
        labels = np.full((len(policy.labels), len(rows)), np.nan, np.float32)
    else:
        labels = np.stack([rows.labels(name) for name in policy.labels])
    return np.concatenate([rows.scores, labels])


UNKNOWN_ERROR = "unknown"
"""The code of an error in a file that lacks the column."""


def decide_columns(
    policy: Policy,
    scores: NDArray[np.float32],
    warnings: Any,
    failed: Mask,
    errors: Any,
    ending: str = "",
) -> Columns:
    """`decide`, `asked` and `views` of n rows; see `Rows`. Each reason ends with `ending`.

    scores are float32 (categories and the labels of the policy, n).
    """
    values = _values(scores, failed)
    unscored = np.isnan(values)
    bands = _bands(policy, values)
    worst: Severities = np.where(unscored, np.int8(_APPROVE), bands).max(axis=0)
    gap = np.full(values.shape[1], np.inf)
    nearest = np.full(values.shape[1], -1, np.int16)
    for row, (_, review, _) in enumerate(_rules(policy).limits):
        distance = np.where(bands[row] == _APPROVE, review.value - values[row], np.inf)
        closer = distance < gap
        gap[closer], nearest[closer] = distance[closer], row
    if policy.on_unscored == "review":
        worst[unscored.any(axis=0)] |= 1
        np.minimum(worst, _BLOCK, out=worst)
    told = _Warned(policy, warnings)
    np.maximum(worst, told.severity, out=worst)
    categories = slice(len(CATEGORIES))
    nothing = (worst == _APPROVE) & unscored[categories].all(axis=0)
    worst[nothing] = _REVIEW
    worst[failed] = policy.on_error.severity
    scored = ~failed
    parts = [
        _category_reasons(policy, row, values[row], bands[row], worst, nearest == row, scored,
                          ending)
        for row in range(len(values))
    ]  # fmt: skip
    parts.append(told.reasons(worst, scored, ending))
    parts.append(_error_reasons(policy, errors, failed, ending))
    parts.append(_texts(["no category was scored" + ending], _where(nothing & scored)))
    present = [part for part in parts if part.null_count < len(part)]
    return Columns(
        severity=worst,
        bands=bands[categories],
        reasons=_joined(present, len(worst)),
        views=_views(policy, values[categories], unscored[categories]),
    )


def _values(scores: NDArray[np.float32], failed: Mask) -> NDArray[np.float64]:
    values = scores.astype(np.float64)
    values[:, failed] = np.nan
    return values


def _bands(policy: Policy, values: NDArray[np.float64]) -> Severities:
    """What each category, and each label where there are scores of those, asks for.

    By its number in BANDS.
    """
    bands = np.full(values.shape, _UNSCORED, np.int8)
    limits = _rules(policy).limits[: len(values)]
    for band, score, (_, review, block) in zip(bands, values, limits, strict=True):
        band[score < review.least] = _APPROVE
        band[score >= review.least] = _REVIEW
        band[score >= block.least] = _BLOCK
    return bands


class _Warned:
    """What warnings ask for: few texts, many rows."""

    def __init__(self, policy: Policy, warnings: Any) -> None:
        encoded = warnings.dictionary_encode()
        self._codes = _codes(encoded.indices)
        self._reasons: list[dict[int, list[str]]] = []
        worst = [_APPROVE]
        for text in encoded.dictionary.to_pylist():
            asked: dict[int, list[str]] = {_REVIEW: [], _BLOCK: []}
            for warning in _warnings(text):
                if (wanted := policy.on_warning.get(warning)) is not None:
                    asked[wanted.severity].append(f"warning {warning}: on_warning {wanted}")
            self._reasons.append(asked)
            worst.append(max((severity for severity in asked if asked[severity]), default=0))
        self.severity = np.array(worst, np.int8)[self._codes + 1]

    def reasons(self, worst: Severities, scored: Mask, ending: str) -> Any:
        """The texts of the reasons in rows whose decision they are of."""
        texts: list[str] = []
        codes = np.full(len(worst), -1, np.int32)
        for code, asked in enumerate(self._reasons):
            for severity, reasons in asked.items():
                if reasons:
                    codes[(self._codes == code) & (worst == severity) & scored] = len(texts)
                    texts.append("; ".join(reason + ending for reason in reasons))
        return _texts(texts, codes)


def _category_reasons(
    policy: Policy,
    row: int,
    score: NDArray[np.float64],
    band: Severities,
    worst: Severities,
    nearest: Mask,
    scored: Mask,
    ending: str,
) -> Any:
    """The reasons of one category; null in rows that it decides nothing of."""
    category, review, block = _rules(policy).limits[row]
    texts: list[str] = []
    codes = np.full(len(score), -1, np.int32)

    def tell(chosen: Mask, sign: str, limit: _Limit) -> None:
        indices = np.flatnonzero(chosen & scored)
        if not len(indices):
            return
        some = score[indices]
        near = np.abs(some - limit.value) <= _NEAR
        # A float32 times 100 is exact in float64, and both round halves to even: the digits are
        # those of `:.2f`.
        made = np.rint(some * 100).astype(np.int32)
        for kind, keys in ((False, made), (True, some)):
            there = near == kind
            if not there.any():
                continue
            _, first, which = np.unique(keys[there], return_index=True, return_inverse=True)
            codes[indices[there]] = which + len(texts)
            examples = some[there][first].tolist()
            texts.extend(_compare(category, each, sign, limit) + ending for each in examples)

    tell((worst == _APPROVE) & nearest, "< review", review)
    tell((worst == _REVIEW) & (band == _REVIEW), ">= review", review)
    tell((worst == _BLOCK) & (band == _BLOCK), ">= block", block)
    if policy.on_unscored == "review":
        codes[(worst == _REVIEW) & (band == _UNSCORED) & scored] = len(texts)
        texts.append(f"{category} not scored: on_unscored review{ending}")
    return _texts(texts, codes)


def _error_reasons(policy: Policy, errors: Any, failed: Mask, ending: str) -> Any:
    encoded = errors.fill_null(UNKNOWN_ERROR).dictionary_encode()
    texts = [
        f"error {code}: on_error {policy.on_error}{ending}"
        for code in encoded.dictionary.to_pylist()
    ]
    codes = _codes(encoded.indices)
    codes[~failed] = -1
    return _texts(texts, codes)


def _views(policy: Policy, values: NDArray[np.float64], unscored: Mask) -> dict[str, Any]:
    bands = policy.bands
    counted = [row for row, name in enumerate(CATEGORIES) if name in bands.categories]
    nsfw = np.fmax.reduce(values[counted], axis=0)
    nothing = np.isnan(nsfw)
    safe = 1.0 - nsfw
    is_nsfw = nsfw > bands.nsfw_above
    risk = np.where(nsfw < bands.risk_mid_from, 0, np.where(nsfw > bands.risk_high_above, 2, 1))
    return {
        "label": _texts(["safe", "nsfw"], np.where(nothing, -1, is_nsfw)),
        "nsfw_score": _floats(nsfw, nothing),
        "safe_score": _floats(safe, nothing),
        "confidence": _floats(np.where(is_nsfw, nsfw, safe), nothing),
        "risk": _texts(["low", "mid", "high"], np.where(nothing, -1, risk)),
        "is_nsfw": pa.array(is_nsfw, pa.bool_(), mask=nothing),
        "rating": _rating(policy, values, unscored),
    }


def _rating(policy: Policy, values: NDArray[np.float64], unscored: Mask) -> Any:
    rules = _rules(policy)
    level = np.where(unscored.all(axis=0), -1, 0 if policy.rating else -1)
    some = level >= 0

    def reached(condition: _Condition) -> list[Mask]:
        return [values[CATEGORIES.index(name)] >= least for name, least in condition]

    # From the lowest up, so that the highest that is reached stays.
    for number, (_, any_of, all_of) in enumerate(reversed(rules.levels), 1):
        meant = some.copy()
        if any_of:
            meant &= np.logical_or.reduce(reached(any_of))
        for mask in reached(all_of):
            meant &= mask
        level[meant] = number
    return _texts([each.value for each in policy.rating], level)


def _warnings(text: str | None) -> tuple[Warn, ...]:
    """Those of a cell that are, or still are, of the closed list."""
    names = text.split("; ") if text else ()
    return tuple(_KNOWN_WARNINGS[name] for name in names if name in _KNOWN_WARNINGS)


def _joined(parts: Sequence[Any], count: int) -> Any:
    if not parts:
        return pa.nulls(count, pa.string())
    if len(parts) == 1:
        return parts[0]
    return pc.binary_join_element_wise(*parts, "; ", null_handling="skip")


def _texts(texts: Sequence[str], codes: NDArray[Any]) -> Any:
    """An Arrow array of these texts by their numbers; null for -1."""
    if not texts:
        return pa.nulls(len(codes), pa.string())
    chosen = pa.array(codes.astype(np.int32), mask=codes < 0)
    return pa.array(texts, pa.string()).take(chosen)


def _codes(indices: Any) -> NDArray[np.int32]:
    """The numbers of a dictionary's entries, -1 for null; an array that may be written to."""
    return np.array(indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int32)


def _where(mask: Mask) -> NDArray[np.int32]:
    return np.where(mask, 0, -1).astype(np.int32)


def _floats(values: NDArray[np.float64], missing: Mask) -> Any:
    return pa.array(values.astype(np.float32), mask=missing)


def scores_of(columns: Mapping[str, Any] | Sequence[Any]) -> NDArray[np.float32]:
    """Score columns of Arrow, in the order of CATEGORIES, as `Rows.scores`."""
    arrays = columns if isinstance(columns, Sequence) else [columns[name] for name in CATEGORIES]
    found = [np.asarray(array.to_numpy(zero_copy_only=False), np.float32) for array in arrays]
    return np.stack(found)
