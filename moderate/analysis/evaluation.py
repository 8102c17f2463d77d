"""Results held against labels: each category's scores, the decisions, slices, and gates.

Definitions, which every report repeats (`DEFINITIONS`): an image is flagged in a category when its
score reaches the review threshold; missed when it is labelled positive in some category and
approved all the same; a false block when it is labelled negative in every category that is labelled
at all, and blocked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moderate.analysis.labelled_rows import Joined, join, misrepresented
from moderate.analysis.labels import DECISIONS, UNKNOWN, Labels, Sampling
from moderate.analysis.metrics import (
    NO_IMAGES,
    Bin,
    Curve,
    Estimate,
    Measured,
    curve,
    measure,
    reliability,
    share,
    weighted_share,
)
from moderate.analysis.policies import policy_of
from moderate.classify.coverage import Coverage
from moderate.policy.batch import Subject
from moderate.policy.judge import Judge
from moderate.policy.load import load_policy
from moderate.policy.model import Policy
from moderate.policy.thresholds import reaches
from moderate.results.read import Results
from moderate.text import one_line
from moderate.types import Decision, ErrorCode, Warn

MOST_SLICES = 50
"""Values of a column that get a slice, those of the most images."""

CURVE_POINTS = 200
"""Most points of a curve that a report holds."""

DEFINITIONS = (
    "flagged: the category's score is at or above the policy's review threshold; precision, recall "
    "and F1 are of flagged images unless they are said to be of the block threshold",
    "missed: labelled positive in some category, yet decided approve; as a share of the images "
    "labelled positive in some category",
    "false block: labelled negative in every category that is labelled, yet decided block; as a "
    "share of the images labelled so",
    "metrics of a category are of the images that have a label and a score for it; missed images "
    "and false blocks are of all labelled images, also those that could not be scored",
    "PR-AUC: average precision, not interpolated; ECE: expected calibration error, 15 bins of "
    "equal width",
    "intervals hold 95 %: percentiles of resampled images; where all resamples would be alike (0 "
    "or all of a count), exact binomial ones (Clopper-Pearson)",
    "what is not labelled is unknown, and counts neither as positive nor as negative",
)

NONE_POSITIVE = "no image is labelled positive in any category"
NONE_NEGATIVE = "no image is labelled negative in every labelled category"

_JUDGED_BY = ("path_bytes", "sha256", "warnings", "unseen", "error_code", "error_message")


class Point(NamedTuple):
    """What a threshold would do: precision, recall (None without positives), share flagged."""

    threshold: float
    precision: float
    recall: float | None
    flagged: float


class Mistake(NamedTuple):
    """A labelled image on the wrong side of its review threshold."""

    path: str
    score: float
    decision: Decision


@dataclass(frozen=True, slots=True)
class OfCategory:
    """One category. n images have a label and a score, `unscored` a label alone.

    review and block are the policy's thresholds, None of an own category that it has none for;
    `overridden` of the n are held to others. points
    are of the curves; those of the two thresholds are among them, and None where no image reaches.
    """

    category: str
    n: int
    positives: int
    prevalence: Estimate
    unscored: int
    review: float | None
    block: float | None
    overridden: int
    measured: Measured
    bins: tuple[Bin, ...]
    points: tuple[Point, ...]
    review_point: Point | None
    block_point: Point | None
    misses: tuple[Mistake, ...]
    false_alarms: tuple[Mistake, ...]


@dataclass(frozen=True, slots=True)
class OfDecisions:
    """What was decided on labelled images; rows of three count approve, review and block.

    by_expected has a row for each expected decision, by_label one for images labelled positive in
    some category and one for those labelled negative in every labelled one. The counts with
    `errors` are of the images among them that are error rows.
    """

    by_label: tuple[tuple[int, int, int], tuple[int, int, int]]
    errors_by_label: tuple[tuple[int, int, int], tuple[int, int, int]]
    by_expected: tuple[tuple[int, int, int], ...]
    missed: Estimate
    false_block: Estimate


@dataclass(frozen=True, slots=True)
class OfSlice:
    """The labelled images that have one value in a column; None stands for no value."""

    column: str
    value: str | None
    images: int
    categories: tuple[tuple[str, int, int, Measured], ...]
    decisions: OfDecisions


@dataclass(frozen=True, slots=True)
class Wanted:
    """Gates: least recall and precision by category, highest shares of false blocks and misses."""

    min_recall: Mapping[str, float]
    min_precision: Mapping[str, float]
    max_false_block: float | None = None
    max_missed: float | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate, what was found, and whether it holds; `line` says it all."""

    name: str
    wanted: float
    found: Estimate
    passed: bool
    line: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that was found. images are labelled rows, `unscored` those of them without any score."""

    results: str
    labels: str
    policy: str
    policy_file: str | None
    decided_again: bool
    run_id: str | None
    weights: str | None
    images: int
    errors: int
    unscored: int
    unmatched: int
    unlabelled: int
    resamples: int
    seed: int
    categories: tuple[OfCategory, ...]
    decisions: OfDecisions
    slices: tuple[OfSlice, ...]
    gates: tuple[Gate, ...]
    notes: tuple[str, ...]
    coverage: Coverage = field(default_factory=Coverage)

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)


class _Judged(NamedTuple):
    """Labelled rows and what the policy makes of them: bool arrays per category, and decisions.

    sampling is there where the rows were sampled with unequal probabilities. deciding are the
    categories that the policy has thresholds for.
    """

    joined: Joined
    reviewed: Mapping[str, NDArray[np.bool_]]
    blocked: Mapping[str, NDArray[np.bool_]]
    overridden: NDArray[np.bool_]
    decisions: NDArray[np.int8]
    sampling: Sampling | None
    deciding: tuple[str, ...]

    def weights(self, known: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """How many images each of these rows stands for, 1 or more; None where all are alike."""
        if self.sampling is None:
            return None
        return np.maximum(self.sampling.weights(self.joined.of[known]), 1.0)


def evaluate(
    results: Results,
    labels: Labels,
    wanted: Wanted,
    *,
    policy: str | None = None,
    slices: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
    worst: int = 10,
) -> Evaluation:
    """Hold results against labels, by the policy of this name, else by that of the results.

    With a policy named, the decisions are its own, taken from the stored scores. `worst` is how
    many mistakes of each kind are named per category. Raises PolicyError and InputError.
    """
    base, judge, policy_file = _judge(results, policy)
    carried = results.carried if base.in_context else ()
    joined = join(labels, results, [*_JUDGED_BY, *carried, *slices])
    again = None if policy is None else _decided(joined, results, policy)
    judged = _judged(joined, base, judge, carried, labels.uneven, again=again)
    everything = np.arange(len(joined))
    categories = tuple(
        _of_category(judged, base, category, resamples, seed, worst)
        for category in results.categories
    )
    decisions = _of_decisions(judged, everything, resamples, seed)
    found: list[OfSlice] = []
    notes = _notes(results, labels, joined, judged)
    for column in dict.fromkeys(slices):
        groups, left_out = _groups(joined, column)
        found += [_of_slice(judged, column, *group, resamples, seed) for group in groups]
        if left_out:
            shown = one_line(column, 60)
            notes.append(f"{shown}: {left_out:,} more values, of fewer images, have no slice")
    return Evaluation(
        results=results.path,
        labels=labels.path,
        policy=base.name,
        policy_file=policy_file,
        decided_again=policy is not None,
        run_id=results.facts.get("run_id"),
        weights=results.facts.get("weights"),
        images=len(joined),
        errors=int(joined.errors.sum()),
        unscored=int(_without_score(joined).sum()),
        unmatched=joined.unmatched,
        unlabelled=joined.unlabelled,
        resamples=resamples,
        seed=seed,
        categories=categories,
        decisions=decisions,
        slices=tuple(found),
        gates=tuple(_gates(wanted, categories, decisions)),
        notes=tuple(notes),
        coverage=Coverage.of_facts(results.facts),
    )


def _without_score(joined: Joined) -> NDArray[np.bool_]:
    without = np.ones(len(joined), np.bool_)
    for scores in joined.scores.values():
        without &= np.isnan(scores)
    return without


def _judge(results: Results, named: str | None) -> tuple[Policy, Judge, str | None]:
    """The policy, what judges by it, and the policy's file where it is known."""
    if named is not None:
        loaded = load_policy(named)
        return loaded.policy, Judge.of(loaded, columns=results.carried), loaded.shown_file
    policy = policy_of(results)
    # The decisions are there: what the lists hold does not matter, and their files may be gone.
    nothing: dict[str, Any] = {"ignore": (), "block": (), "list_files": {}}
    plain = policy.model_copy(update=nothing | {"ignore_file": None, "block_file": None})
    return policy, Judge(plain, columns=results.carried), results.facts.get("policy_file")


def _judged(
    joined: Joined,
    base: Policy,
    judge: Judge,
    carried: Sequence[str],
    sampling: Sampling | None,
    *,
    again: NDArray[np.int8] | None,
) -> _Judged:
    policies: dict[int, tuple[int, Policy]] = {}
    which = np.zeros(len(joined), np.int64)
    decisions = joined.decisions
    if base.in_context:
        subjects = _subjects(joined, carried)
        for index, subject in enumerate(subjects):
            held_to = judge.policy_for(subject)
            which[index] = policies.setdefault(id(held_to), (len(policies), held_to))[0]
    if again is not None:
        decisions = again
    used = [policy for _, policy in policies.values()] or [base]

    def reach(category: str, kind: str) -> NDArray[np.bool_]:
        # An own category that a policy has no thresholds for reaches none.
        limits = [getattr(policy.limits(category), kind, np.inf) for policy in used]
        found: NDArray[np.bool_] = reaches(joined.scores[category], np.array(limits)[which])
        return found

    return _Judged(
        joined,
        {category: reach(category, "review") for category in joined.scores},
        {category: reach(category, "block") for category in joined.scores},
        np.array([policy.all_limits != base.all_limits for policy in used], np.bool_)[which],
        decisions,
        sampling,
        tuple(name for name in joined.scores if any(each.limits(name) for each in used)),
    )


def _subjects(joined: Joined, carried: Sequence[str]) -> list[Subject]:
    columns = joined.columns
    exact, digests = columns["path_bytes"].to_pylist(), columns["sha256"].to_pylist()
    values = [columns[name].to_pylist() for name in carried]
    return [
        Subject(
            path.encode() if exact[index] is None else exact[index],
            {name: column[index] for name, column in zip(carried, values, strict=True)},
            digests[index],
        )
        for index, path in enumerate(joined.paths)
    ]


def _decided(joined: Joined, results: Results, policy: str) -> NDArray[np.int8]:
    """As `moderate decide` does it, over all rows: a video is judged with its frames."""
    from moderate.analysis.decide_by_policy import Redecider
    from moderate.analysis.pieces import pieces

    redecider = Redecider(load_policy(policy), results)
    severity = [redecider.decide(piece).severity for piece in pieces(results)]
    made = np.concatenate(severity) if severity else np.zeros(0, np.int8)
    return made[joined.rows].astype(np.int8)


_WARNINGS = frozenset(warning.value for warning in Warn)
_CODES = frozenset(code.value for code in ErrorCode)


def _code(text: str | None) -> ErrorCode:
    """The code of a row; one that a later version wrote is an error all the same."""
    return ErrorCode(text) if text in _CODES else ErrorCode.BAD_INPUT


class _Known(NamedTuple):
    """Rows with a label and a score, their weights, and how many have a label alone."""

    rows: NDArray[np.int64]
    weights: NDArray[np.float64] | None
    unscored: int


def _known(judged: _Judged, category: str, rows: NDArray[np.int64]) -> _Known:
    labels = judged.joined.labels[category]
    everywhere = np.flatnonzero(labels != UNKNOWN)
    weights = judged.weights(everywhere)
    here = np.isin(everywhere, rows)
    scored = here & ~np.isnan(judged.joined.scores[category][everywhere])
    return _Known(
        everywhere[scored],
        None if weights is None else weights[scored],
        int(here.sum() - scored.sum()),
    )


def _measured(judged: _Judged, category: str, of: _Known, resamples: int, seed: int) -> Measured:
    known = of.rows
    return measure(
        judged.joined.labels[category][known] == 1,
        judged.joined.scores[category][known],
        judged.reviewed[category][known],
        judged.blocked[category][known],
        resamples=resamples,
        seed=seed,
        weights=of.weights,
    )


def _of_category(
    judged: _Judged, base: Policy, category: str, resamples: int, seed: int, worst: int
) -> OfCategory:
    joined = judged.joined
    of = _known(judged, category, np.arange(len(joined)))
    known, weights = of.rows, of.weights
    truth, scores = joined.labels[category][known] == 1, joined.scores[category][known]
    flagged = judged.reviewed[category][known]
    limits = base.limits(category)
    cuts = (limits.review, limits.block) if limits else (np.inf, np.inf)
    points, (at_review, at_block) = _points(truth, scores, cuts, weights)

    def named(which: NDArray[np.int64], sign: int) -> tuple[Mistake, ...]:
        order = which[np.lexsort((known[which], sign * scores[which]))][:worst]
        return tuple(
            Mistake(
                joined.paths[known[index]],
                float(scores[index]),
                DECISIONS[judged.decisions[known[index]]],
            )
            for index in order
        )

    return OfCategory(
        category=category,
        n=len(known),
        positives=int(truth.sum()),
        prevalence=_prevalence(truth, weights),
        unscored=of.unscored,
        review=limits.review if limits else None,
        block=limits.block if limits else None,
        overridden=int(judged.overridden[known].sum()),
        measured=_measured(judged, category, of, resamples, seed),
        bins=tuple(reliability(truth, scores, weights)) if len(known) else (),
        points=points,
        review_point=at_review,
        block_point=at_block,
        misses=named(np.flatnonzero(truth & ~flagged), 1),
        false_alarms=named(np.flatnonzero(~truth & flagged), -1),
    )


def _prevalence(truth: NDArray[np.bool_], weights: NDArray[np.float64] | None) -> Estimate:
    """The share of positives among the images, or among those that they stand for."""
    if not len(truth):
        return Estimate(None, NO_IMAGES)
    if weights is None:
        return Estimate(float(truth.mean()))
    every = np.ones_like(truth)
    return weighted_share(truth, every, weights, NO_IMAGES, side=every)


def _points(
    truth: NDArray[np.bool_],
    scores: NDArray[np.float32],
    limits: tuple[float, float],
    weights: NDArray[np.float64] | None,
) -> tuple[tuple[Point, ...], tuple[Point | None, Point | None]]:
    """Points of the curves, thinned, and those of two thresholds, which are among them.

    A threshold that no image reaches has no point.
    """
    if not len(truth):
        return (), (None, None)
    at = curve(truth, scores, weights)
    # A threshold flags what the lowest score that reaches it flags.
    operating = [int(reaches(at.scores, limit).sum()) - 1 for limit in limits]
    kept = {index: _point(at, index) for index in _kept(at, operating)}
    review, block = (kept.get(index) for index in operating)
    return tuple(kept.values()), (review, block)


def _point(at: Curve, index: int) -> Point:
    positives, images = at.positives[-1], at.images[-1]
    return Point(
        float(at.scores[index]),
        float(at.positives[index] / at.images[index]),
        float(at.positives[index] / positives) if positives else None,
        float(at.images[index] / images),
    )


def _kept(at: Curve, operating: Sequence[int]) -> list[int]:
    """At most CURVE_POINTS indices of a curve: ends, operating points, and even steps between.

    Half of the steps are of recall and half of the share flagged: with few positives, all of the
    precision-recall curve lies within the first few images.
    """
    count = len(at.scores)
    own = {0, count - 1, *(index for index in operating if index >= 0)}
    if count <= CURVE_POINTS:
        return list(range(count))
    each = (CURVE_POINTS - len(own)) // 2
    for reached in (at.positives, at.images):
        steps = np.linspace(0, float(reached[-1]), each)
        own.update(np.searchsorted(reached, steps).clip(max=count - 1).tolist())
    return sorted(own)


def _of_decisions(
    judged: _Judged, rows: NDArray[np.int64], resamples: int, seed: int
) -> OfDecisions:
    joined = judged.joined
    labels = np.stack([joined.labels[category][rows] for category in judged.deciding])
    positive = (labels == 1).any(axis=0)
    negative = (labels == 0).any(axis=0) & ~positive
    decisions, errors = judged.decisions[rows], joined.errors[rows]

    def counts(which: NDArray[np.bool_]) -> tuple[int, int, int]:
        approved, reviewed, blocked = np.bincount(decisions[which], minlength=3).tolist()
        return approved, reviewed, blocked

    positives, negatives = counts(positive), counts(negative)
    expected = joined.expected[rows]
    by_expected: tuple[tuple[int, int, int], ...] = ()
    if (expected != UNKNOWN).any():
        by_expected = tuple(counts(expected == number) for number in range(len(DECISIONS)))
    weights = judged.weights(np.arange(len(joined)))
    if weights is None:
        missed = share(positives[0], sum(positives), resamples, seed, NONE_POSITIVE)
        false_block = share(negatives[2], sum(negatives), resamples, seed, NONE_NEGATIVE)
    else:
        weights = weights[rows]
        missed = weighted_share(decisions == 0, positive, weights, NONE_POSITIVE)
        false_block = weighted_share(decisions == 2, negative, weights, NONE_NEGATIVE)
    return OfDecisions(
        (positives, negatives),
        (counts(positive & errors), counts(negative & errors)),
        by_expected,
        missed,
        false_block,
    )


def _groups(joined: Joined, column: str) -> tuple[list[tuple[str | None, NDArray[np.int64]]], int]:
    """The values of the most images with their rows, and how many values were left out."""
    rows: dict[str | None, list[int]] = {}
    for index, value in enumerate(joined.columns[column].to_pylist()):
        rows.setdefault(None if value is None else str(value), []).append(index)
    ordered = sorted(rows.items(), key=lambda item: (-len(item[1]), item[0] or ""))
    made = [(value, np.array(some, np.int64)) for value, some in ordered[:MOST_SLICES]]
    return made, max(len(ordered) - MOST_SLICES, 0)


def _of_slice(
    judged: _Judged,
    column: str,
    value: str | None,
    rows: NDArray[np.int64],
    resamples: int,
    seed: int,
) -> OfSlice:
    found = []
    for category in judged.joined.scores:
        of = _known(judged, category, rows)
        if len(of.rows):
            positives = int((judged.joined.labels[category][of.rows] == 1).sum())
            measured = _measured(judged, category, of, resamples, seed)
            found.append((category, len(of.rows), positives, measured))
    decisions = _of_decisions(judged, rows, resamples, seed)
    return OfSlice(column, value, len(rows), tuple(found), decisions)


def _gates(wanted: Wanted, categories: Sequence[OfCategory], decisions: OfDecisions) -> list[Gate]:
    by_name = {each.category: each for each in categories}
    made = []
    for what, limits in (("recall", wanted.min_recall), ("precision", wanted.min_precision)):
        for category, limit in limits.items():
            found: Estimate = getattr(by_name[category].measured, what)
            if not by_name[category].n:
                found = Estimate(None, NO_IMAGES)
            made.append(_gate(f"{what} of {category}", limit, found, least=True))
    for what, highest, found in (
        ("false blocks", wanted.max_false_block, decisions.false_block),
        ("missed images", wanted.max_missed, decisions.missed),
    ):
        if highest is not None:
            made.append(_gate(f"share of {what}", highest, found, least=False))
    return made


def _gate(name: str, limit: float, found: Estimate, *, least: bool) -> Gate:
    kind = "least" if least else "most"
    if found.value is None:
        line = f"{name} is undefined ({found.reason}), and must be at {kind} {limit:g}"
        return Gate(name, limit, found, False, line)
    passed = found.value >= limit if least else found.value <= limit
    digits = 4
    while digits < 12 and (round(found.value, digits) >= limit) != (found.value >= limit):
        digits += 1  # as many as keep the comparison true as printed
    shown = f"{found.value:.{digits}f}"
    if passed:
        line = f"{name} is {shown}, at {kind} {limit:g} as asked"
    else:
        line = f"{name} is {shown}, and must be at {kind} {limit:g}"
    return Gate(name, limit, found, passed, line)


def _misrepresented(results: Results, labels: Labels, judged: _Judged) -> list[str]:
    table = results.table(["path", "sha256", "status", *results.categories])
    notes = []
    for category in labels.labelled:
        known = np.flatnonzero(judged.joined.labels[category] != UNKNOWN)
        weights = judged.weights(known)
        assert weights is not None
        if problem := misrepresented(labels, category, weights, table):
            notes.append(problem)
    return notes


def _notes(results: Results, labels: Labels, joined: Joined, judged: _Judged) -> list[str]:
    notes = []
    if results.facts and results.mismatch:
        notes.append("the results are not the file that the facts beside them describe")
    if joined.unmatched:
        notes.append(f"labels that are of no row of the results: {joined.unmatched:,}")
    if joined.unlabelled:
        notes.append(f"rows of the results without a label: {joined.unlabelled:,}")
    if labels.blank:
        notes.append(f"images in the file of labels of which none is known: {labels.blank:,}")
    if labels.repeated:
        notes.append(f"lines about an image named before, which agree: {labels.repeated:,}")
    if labels.ignored:
        listed = ", ".join(one_line(name, 40) for name in labels.ignored[:8])
        notes.append(f"columns that are no labels: {listed}")
    if joined.copies.any():
        count = int(joined.copies.sum())
        notes.append(
            f"labelled images that are copies of others: {count:,}; each counts, and intervals "
            "are too narrow for it"
        )
    if labels.uneven:
        notes.append(
            "images of an uneven sample: shares, curves and metrics are weighted by the inclusion "
            "probabilities and hold for the images sampled from; counts are of labelled images; "
            "intervals of precision, recall and shares are gamma bounds"
        )
        notes += _misrepresented(results, labels, judged)
    elif set(labels.chosen_by) - {"random"}:
        how = ", ".join(one_line(name, 40) for name in labels.chosen_by[:4])
        notes.append(
            f"the labelled images were chosen by {how}: prevalence, precision, volumes and "
            "intervals hold for such a choice, not for all images"
        )
    if judged.overridden.any():
        count = int(judged.overridden.sum())
        notes.append(f"labelled images that overrides hold to other thresholds: {count:,}")
    without = _without_score(joined)
    if unscored := int(without.sum()):
        errors = int(joined.errors.sum())
        approved = int((judged.decisions[without] == 0).sum())
        notes.append(
            f"labelled images without a score: {unscored:,}, of them errors: {errors:,}, approved: "
            f"{approved:,}; they count by their decision alone"
        )
    return notes
