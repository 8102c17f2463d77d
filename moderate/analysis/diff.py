"""What differs between two results, or between two policies on the same scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from moderate.analysis.decide_by_policy import Redecider, carried_columns
from moderate.analysis.pieces import Piece, pieces
from moderate.own_categories import score_column
from moderate.policy.judge import Judge
from moderate.policy.lists import Lists
from moderate.policy.load import LoadedPolicy, load_policy
from moderate.policy.model import Policy
from moderate.policy.thresholds import DECISIONS, UNSCORED_BAND, Severities
from moderate.results.read import Results, read_results
from moderate.text import path_text
from moderate.types import CATEGORIES

_READ = (
    *("path", "path_bytes", "status", "decision", "warnings", "unseen", "error_code", "sha256"),
)


@dataclass(frozen=True, slots=True)
class Made:
    """What the decisions of one side were made by; None where it is not recorded."""

    results: str
    weights: str | None
    weights_sha256: str | None
    policy: str | None
    policy_sha256: str | None
    policy_file: str | None
    rows: int


@dataclass(frozen=True, slots=True)
class Moved:
    """A row whose decision or scores differ; the scores are of the category that moved most.

    category is None where no score moved and no band turned: the decision has another reason, such
    as a warning, a list or an unscored category.
    """

    path: str
    before: str
    after: str
    category: str | None
    score_before: float | None
    score_after: float | None
    score_change: float


@dataclass(frozen=True, slots=True)
class BandMoves:
    """How many rows moved between the bands of a category: to a stricter one, to a milder one.

    appeared and vanished have a score on one side alone.
    """

    stricter: int
    milder: int
    appeared: int
    vanished: int

    @property
    def moved(self) -> int:
        """All of them."""
        return self.stricter + self.milder + self.appeared + self.vanished


@dataclass(frozen=True, slots=True)
class Difference:
    """Two sides held against each other.

    transitions counts the rows of both by severity, before (first axis) and after. bands is None
    where a file does not hold its policy. moved lists rows with scores on both sides;
    without_scores is how many changed their decision and have none on one side or both.
    only_before and only_after are how many rows only one side has, with the paths of the first;
    scores_changed is how many rows have another score, and largest_change by how much at the most.
    """

    before: Made
    after: Made
    transitions: NDArray[np.int64]
    bands: Mapping[str, BandMoves] | None
    moved: tuple[Moved, ...]
    without_scores: int
    only_before: int
    only_after: int
    examples_before: tuple[str, ...]
    examples_after: tuple[str, ...]
    scores_changed: int
    largest_change: float
    notes: tuple[str, ...]

    @property
    def matched(self) -> int:
        """Rows of both sides."""
        return int(self.transitions.sum())

    @property
    def changed(self) -> int:
        """Those with another decision."""
        return int(self.transitions.sum() - self.transitions.trace())


@dataclass(frozen=True, slots=True)
class _Side:
    """Scores and bands are of `categories`, (categories, n)."""

    categories: tuple[str, ...]
    made: Made
    paths: Any
    severity: Severities
    scores: NDArray[np.float32]
    bands: Severities | None


def compare_results(before: str, after: str, top: int = 10) -> Difference:
    """Hold two results files against each other, rows by path, and by order where paths repeat.

    Raises UsageError and InputError.
    """
    read = read_results(before), read_results(after)
    categories = tuple(dict.fromkeys([*read[0].categories, *read[1].categories]))
    sides = [_stored(each, categories) for each in read]
    return _compare(sides[0], sides[1], top, _notes(read))


def compare_policies(results: str, policies: Sequence[str], top: int = 10) -> Difference:
    """What a second policy would change; of one, what it would change in the decisions stored.

    Raises UsageError, InputError, PolicyError.
    """
    loaded = [load_policy(policy) for policy in policies]
    read = read_results(results)
    sides = [_decided(read, each) for each in loaded]
    if len(sides) == 1:
        sides.insert(0, _stored(read, read.categories))
    return _compare(sides[0], sides[1], top, _notes([read]))


def _stored(results: Results, categories: tuple[str, ...]) -> _Side:
    """The decisions as they are in the file, which may lack some of these categories."""
    policy = _policy_of(results)
    # Bands do not depend on lists, whose files may be gone.
    judge = Judge(policy, columns=results.carried, lists=Lists()) if policy else None
    carried = carried_columns(judge, results) if judge else ()
    own = judge.own if judge else ()
    parts = [
        _part(piece, piece.severity, categories, judge.bands(piece.batch) if judge else None, own)
        for piece in pieces(results, [*_READ, *categories], carried)
    ]
    recorded = _names(results.facts)
    return _side(results, parts, categories, recorded, known=policy is not None)


def _decided(results: Results, loaded: LoadedPolicy) -> _Side:
    """The decisions that a policy makes of the scores in the file."""
    redecider = Redecider(loaded, results)
    parts = []
    categories = results.categories
    names = list(dict.fromkeys([*_READ, *categories, *map(score_column, redecider.labels)]))
    for piece in pieces(results, names, carried_columns(redecider.judge, results)):
        made = redecider.decide(piece)
        own = redecider.judge.own
        parts.append(_part(piece, made.severity, categories, made.bands, own))
    recorded = loaded.policy.name, loaded.sha256, loaded.shown_file
    return _side(results, parts, categories, recorded, known=True)


def _names(facts: Mapping[str, str]) -> _PolicyNames:
    return facts.get("policy"), facts.get("policy_sha256"), facts.get("policy_file")


_Part = tuple[Any, Severities, NDArray[np.float32], Severities | None]
"""Of some rows: paths, severities, scores, bands."""
_PolicyNames = tuple[str | None, str | None, str | None]
"""Name, digest and file of a policy."""


def _part(
    piece: Piece,
    severity: Severities,
    categories: Sequence[str],
    bands: Severities | None,
    own: Sequence[str],
) -> _Part:
    """Of these rows; bands are of the five and of these own categories.

    An own category without thresholds asks for nothing, wherever it has a score.
    """
    scores = np.where(piece.failed, np.float32(np.nan), piece.scores_of(categories))
    if bands is not None:
        known = dict(zip((*CATEGORIES, *own), bands, strict=True))
        nothing = np.where(np.isnan(scores), np.int8(UNSCORED_BAND), np.int8(0))
        pairs = zip(categories, nothing, strict=True)
        bands = np.stack([known.get(name, each) for name, each in pairs])
    return piece.exact_paths.cast(pa.large_binary()), severity, scores, bands


def _side(
    results: Results,
    parts: Sequence[_Part],
    categories: tuple[str, ...],
    policy: _PolicyNames,
    *,
    known: bool,
) -> _Side:
    facts = results.facts
    made = Made(
        results.path, facts.get("weights"), facts.get("weights_sha256"), *policy,
        rows=sum(len(part[1]) for part in parts),
    )  # fmt: skip
    nothing = np.empty((len(categories), 0))
    bands = [nothing.astype(np.int8), *(part[3] for part in parts if part[3] is not None)]
    return _Side(
        categories=categories,
        made=made,
        paths=[part[0] for part in parts],
        severity=np.concatenate([np.empty(0, np.int8), *(part[1] for part in parts)]),
        scores=np.concatenate([nothing.astype(np.float32), *(part[2] for part in parts)], axis=1),
        bands=np.concatenate(bands, axis=1) if known else None,
    )


def _policy_of(results: Results) -> Policy | None:
    text = results.facts.get("policy_json")
    try:
        return Policy.model_validate_json(text) if text else None
    except ValidationError:
        return None


def _compare(before: _Side, after: _Side, top: int, notes: Sequence[str]) -> Difference:
    left, right = _matched(before.paths, after.paths)
    transitions = np.zeros((len(DECISIONS), len(DECISIONS)), np.int64)
    np.add.at(transitions, (before.severity[left], after.severity[right]), 1)
    changes = np.abs(after.scores[:, right] - before.scores[:, left])  # NaN: not on both sides
    largest = np.fmax.reduce(changes, axis=0, initial=0.0)
    scored = ~np.isnan(before.scores[:, left]).all(axis=0)
    scored &= ~np.isnan(after.scores[:, right]).all(axis=0)
    turned = before.severity[left] != after.severity[right]
    bands = None
    if before.bands is not None and after.bands is not None:
        bands = _band_moves(before.categories, before.bands[:, left], after.bands[:, right])
    else:
        notes = [*notes, "The policy of a side is not recorded: how bands moved is not known."]
    return Difference(
        before=before.made,
        after=after.made,
        transitions=transitions,
        bands=bands,
        moved=_most_moved(before, after, left[scored], right[scored], largest[scored], top),
        without_scores=int((turned & ~scored).sum()),
        only_before=before.made.rows - len(left),
        only_after=after.made.rows - len(right),
        examples_before=_examples(before, left, top),
        examples_after=_examples(after, right, top),
        scores_changed=int((largest > 0).sum()),
        largest_change=float(largest.max(initial=0.0)),
        notes=tuple(notes),
    )


def _matched(
    before: Sequence[Any], after: Sequence[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The indices of the rows on both sides: the same path, for as many times as both have it."""
    encoded = pa.chunked_array([*before, *after], pa.large_binary()).dictionary_encode()
    pieces_of = [chunk.indices.to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
    codes = np.concatenate([np.empty(0, np.int64), *pieces_of]).astype(np.int64)
    count = sum(map(len, before))
    sides = codes[:count], codes[count:]
    times = [_times_before(side) for side in sides]
    most = max((int(each.max(initial=0)) for each in times), default=0) + 1
    first, second = (side * most + each for side, each in zip(sides, times, strict=True))
    _, left, right = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    order = np.argsort(left, kind="stable")
    return left[order], right[order]


def _times_before(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each value stands before."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    places = np.arange(len(codes))
    new = np.ones(len(codes), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    made = np.empty(len(codes), np.int64)
    made[order] = places - np.maximum.accumulate(np.where(new, places, 0))
    return made


def _band_moves(
    categories: Sequence[str], before: Severities, after: Severities
) -> dict[str, BandMoves]:
    moves = {}
    for category, was, now in zip(categories, before, after, strict=True):
        both = (was != UNSCORED_BAND) & (now != UNSCORED_BAND)
        moves[str(category)] = BandMoves(
            stricter=int((both & (now > was)).sum()),
            milder=int((both & (now < was)).sum()),
            appeared=int(((was == UNSCORED_BAND) & (now != UNSCORED_BAND)).sum()),
            vanished=int(((was != UNSCORED_BAND) & (now == UNSCORED_BAND)).sum()),
        )
    return moves


def _most_moved(
    before: _Side,
    after: _Side,
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    largest: NDArray[np.float32],
    top: int,
) -> tuple[Moved, ...]:
    steps = np.abs(after.severity[right] - before.severity[left])
    candidates = np.flatnonzero((steps > 0) | (largest > 0))
    elsewhere = largest == 0  # the reason is no category's score
    if before.bands is not None and after.bands is not None:
        elsewhere &= (before.bands[:, left] == after.bands[:, right]).all(axis=0)
    # The last key counts first; among equals the order of the rows stays.
    keys = (elsewhere[candidates], -largest[candidates], -steps[candidates])
    order = np.lexsort(keys)[:top]
    paths = pa.chunked_array(before.paths, pa.large_binary())
    found = []
    for index in candidates[order].tolist():
        row, other = int(left[index]), int(right[index])
        category = _telling(before, after, row, other)
        found.append(
            Moved(
                path=path_text(paths[row].as_py()),
                before=DECISIONS[before.severity[row]].value,
                after=DECISIONS[after.severity[other]].value,
                category=None if category is None else str(before.categories[category]),
                score_before=None if category is None else _score(before.scores[category, row]),
                score_after=None if category is None else _score(after.scores[category, other]),
                score_change=float(largest[index]),
            )
        )
    return tuple(found)


def _telling(before: _Side, after: _Side, row: int, other: int) -> int | None:
    """The category whose score moved most; where none did, the highest of those that turned."""
    was, now = before.scores[:, row], after.scores[:, other]
    moves = np.nan_to_num(np.abs(now - was))
    if moves.any():
        return int(moves.argmax())
    if before.bands is None or after.bands is None:
        return None
    turned = before.bands[:, row] != after.bands[:, other]
    if not turned.any():
        return None
    heights = np.nan_to_num(np.fmax(was, now), nan=-1.0)
    return int(np.where(turned, heights, -2.0).argmax())


def _score(value: np.float32) -> float | None:
    return None if np.isnan(value) else float(value)


def _examples(side: _Side, matched: NDArray[np.int64], top: int) -> tuple[str, ...]:
    alone = np.ones(side.made.rows, bool)
    alone[matched] = False
    paths = pa.chunked_array(side.paths, pa.large_binary())
    return tuple(path_text(paths[index].as_py()) for index in np.flatnonzero(alone)[:top].tolist())


def _notes(read: Sequence[Results]) -> list[str]:
    notes = []
    for results in read:
        if not results.facts:
            notes.append(f"{results.path} has no audit facts.")
        elif results.mismatch:
            notes.append(f"The audit facts beside {results.path} describe another file.")
    return notes
