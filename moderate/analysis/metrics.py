"""How well scores tell positives from negatives: exact metrics, and intervals by resampling.

Each metric is scikit-learn's of the same name on the same data; one that is undefined there (a
recall without positives) is None here, never 0 or NaN. Scores are compared as float32, as the
policy compares them; sums are float64. Where weights are given, an image counts as many times as it
stands for others (see `weighted`); counts stay those of images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moderate.analysis import bounds, weighted
from moderate.analysis.weighted import Tally

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]

ECE_BINS = 15
CONFIDENCE = 0.95
"""Of every interval."""

LEAST_DEFINED = 0.95
"""Share of resamples that a metric must be defined in for its interval to be given."""

_CELLS = 4_000_000  # of a matrix of resamples x images held at once

NO_IMAGES = "no image has both a label and a score"
NO_POSITIVES = "no positives among the labels"
NO_NEGATIVES = "no negatives among the labels"
NOTHING_FLAGGED = "no image reaches the threshold"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric: its value, or None and the reason why it is undefined.

    low and high bound its 95 % interval; method says where it is from: `bootstrap`, or, where
    resampling can only repeat 0 or 1, `exact` (Clopper and Pearson), or `gamma` (of weighted
    shares). None where there is none: all resamples alike, or too many of them undefined.
    """

    value: float | None
    reason: str | None = None
    low: float | None = None
    high: float | None = None
    method: str | None = None


class Confusion(NamedTuple):
    """How many images are flagged, rightly or not, and not flagged."""

    tp: int
    fp: int
    fn: int
    tn: int


class Curve(NamedTuple):
    """Cumulative counts at each distinct score, from the highest: images that reach it.

    Or the sums of their weights.
    """

    scores: NDArray[np.float32]
    positives: Floats
    images: Floats


class Bin(NamedTuple):
    """A bin of the reliability diagram that holds images: mean score, share of positives.

    weight is how many images those stand for.
    """

    low: float
    high: float
    images: int
    mean_score: float
    positives: float
    weight: float


def confusion(truth: Truth, flagged: Truth) -> Confusion:
    """Counts of images that are positive, or not, and flagged, or not."""
    tp, positives, marked = (
        int(np.count_nonzero(each)) for each in (truth & flagged, truth, flagged)
    )
    return Confusion(tp, marked - tp, positives - tp, len(truth) - positives - marked + tp)


def precision(counts: Confusion) -> Estimate:
    """Share of flagged images that are positive."""
    return _share(counts.tp, counts.tp + counts.fp, NOTHING_FLAGGED)


def recall(counts: Confusion) -> Estimate:
    """Share of positives that are flagged."""
    return _share(counts.tp, counts.tp + counts.fn, NO_POSITIVES)


def f1(counts: Confusion) -> Estimate:
    """The harmonic mean of precision and recall, as 2 TP / (2 TP + FP + FN)."""
    whole = 2 * counts.tp + counts.fp + counts.fn
    return _share(2 * counts.tp, whole, "no positives, and none flagged")


def curve(truth: Truth, scores: NDArray[np.float32], weights: Floats | None = None) -> Curve:
    """What every threshold would flag; images of equal score are flagged together."""
    order = np.argsort(scores, kind="stable")[::-1]
    ordered = scores[order]
    ends = _ends(ordered)
    counted = np.ones(len(truth)) if weights is None else weights[order]
    return Curve(ordered[ends], np.cumsum(truth[order] * counted)[ends], np.cumsum(counted)[ends])


def average_precision(
    truth: Truth, scores: NDArray[np.float32], weights: Floats | None = None
) -> Estimate:
    """The area under the precision-recall curve (PR-AUC), as the sum of P_k (R_k - R_(k-1)).

    Not interpolated, as in scikit-learn's `average_precision_score`.
    """
    if not truth.any():
        return Estimate(None, NO_POSITIVES if len(truth) else NO_IMAGES)
    at = curve(truth, scores, weights)
    gained = np.diff(at.positives, prepend=0)
    return Estimate(float(np.sum(gained * (at.positives / at.images)) / at.positives[-1]))


def roc_auc(truth: Truth, scores: NDArray[np.float32], weights: Floats | None = None) -> Estimate:
    """The area under the ROC curve: how often a positive scores above a negative (ties: half)."""
    if not len(truth):
        return Estimate(None, NO_IMAGES)
    if truth.all() or not truth.any():
        return Estimate(None, NO_NEGATIVES if truth.all() else NO_POSITIVES)
    at = curve(truth, scores, weights)
    negatives = at.images - at.positives
    before = np.concatenate(([0], at.positives[:-1]))
    area = np.sum(np.diff(negatives, prepend=0) * (before + at.positives) / 2)
    return Estimate(float(area / (float(at.positives[-1]) * float(negatives[-1]))))


def reliability(
    truth: Truth, scores: NDArray[np.float32], weights: Floats | None = None
) -> list[Bin]:
    """The bins of equal width that hold images; a bin has its upper edge, the first 0 too."""
    edges = np.linspace(0.0, 1.0, ECE_BINS + 1)
    which = _bins(scores)
    counted = np.ones(len(truth)) if weights is None else weights
    counts = np.bincount(which, minlength=ECE_BINS)
    sums = np.bincount(which, scores.astype(np.float64) * counted, ECE_BINS)
    positives = np.bincount(which, truth * counted, ECE_BINS)
    masses = np.bincount(which, counted, ECE_BINS)
    return [
        Bin(
            float(edges[index]),
            float(edges[index + 1]),
            int(counts[index]),
            float(sums[index] / masses[index]),
            float(positives[index] / masses[index]),
            float(masses[index]),
        )
        for index in np.flatnonzero(counts)
    ]


def calibration_error(
    truth: Truth, scores: NDArray[np.float32], weights: Floats | None = None
) -> Estimate:
    """Expected calibration error (ECE) of the score as the probability of a positive.

    sum over 15 bins of equal width of n_bin / n * |share of positives - mean score|: equation 3 of
    Guo et al., On Calibration of Modern Neural Networks (2017, arXiv 1706.04599), with the share
    of positives for the accuracy, as for a binary classifier (Naeini et al., AAAI 2015). It is too
    high where bins hold few images, and in resamples more so: its interval may lie above it.
    """
    if not len(truth):
        return Estimate(None, NO_IMAGES)
    bins = reliability(truth, scores, weights)
    gaps = math.fsum(each.weight * abs(each.positives - each.mean_score) for each in bins)
    return Estimate(gaps / math.fsum(each.weight for each in bins))


def share(part: int, whole: int, resamples: int, seed: int, undefined: str) -> Estimate:
    """`part` of `whole` with its interval."""
    made = _share(part, whole, undefined)
    if made.value is None or not resamples:
        return made
    if part in (0, whole):
        return _exact(made, part, whole)
    drawn = np.random.default_rng(seed).binomial(whole, part / whole, resamples) / whole
    return _between(made, drawn)


def weighted_share(
    part: Truth, whole: Truth, weights: Floats, undefined: str, *, side: Truth | None = None
) -> Estimate:
    """The share that `part` has of the images of `whole`, weighted, with its interval.

    Where `part` is a matter of labels, not of scores or decisions, `side` says which images may be
    of it or of the rest: an image that was not seen weighs no more than the heaviest of those.
    """
    events, others = Tally.of(part & whole, weights), Tally.of(~part & whole, weights)
    value = weighted.share(events, others)
    if value is None:
        return Estimate(None, undefined)
    sides = (part, ~part) if side is None else (side, side)
    heaviest = weighted.heaviest(weights, sides[0]), weighted.heaviest(weights, sides[1])
    low, high = weighted.interval(events, others, heaviest, CONFIDENCE)
    return Estimate(value, None, low, high, "gamma")


class Measured(NamedTuple):
    """All metrics of one category: at its two thresholds, and of its scores."""

    at_review: Confusion
    at_block: Confusion
    precision: Estimate
    recall: Estimate
    f1: Estimate
    block_precision: Estimate
    block_recall: Estimate
    block_f1: Estimate
    average_precision: Estimate
    roc_auc: Estimate
    ece: Estimate


def measure(
    truth: Truth,
    scores: NDArray[np.float32],
    reviewed: Truth,
    blocked: Truth,
    *,
    resamples: int = 0,
    seed: int = 0,
    weights: Floats | None = None,
) -> Measured:
    """Every metric of n images with a score and a label; 0 resamples give no intervals.

    reviewed and blocked say which images reach the thresholds. Resamples draw n images with
    replacement; an interval is from the 2.5th to the 97.5th percentile (Efron, 1979), by linear
    interpolation. The same seed gives the same intervals.
    """
    review, block = confusion(truth, reviewed), confusion(truth, blocked)
    points = [
        *(precision(review), recall(review), f1(review)),
        *(precision(block), recall(block), f1(block)),
        average_precision(truth, scores, weights),
        roc_auc(truth, scores, weights),
        calibration_error(truth, scores, weights),
    ]
    if weights is not None and len(truth):
        for index, flagged in ((0, reviewed), (3, blocked)):
            points[index : index + 3] = _weighted_points(truth, flagged, weights)
    shares = () if weights is None else (0, 1, 3, 4)  # their intervals are there
    if resamples and len(truth):
        known = points
        drawn = _resampled(truth, scores, reviewed, blocked, resamples, seed, weights)
        points = [_between(each, values) for each, values in zip(points, drawn.T, strict=True)]
        for index in shares:
            points[index] = known[index]
        for index, counts in ((0, review), (3, block)) if weights is None else ():
            points[index] = _exact(points[index], counts.tp, counts.tp + counts.fp)
            points[index + 1] = _exact(points[index + 1], counts.tp, counts.tp + counts.fn)
    return Measured(review, block, *points)


def _weighted_points(truth: Truth, flagged: Truth, weights: Floats) -> list[Estimate]:
    """Precision, recall and F1."""
    right, marked, positives = (
        float(weights[each].sum()) for each in (truth & flagged, flagged, truth)
    )
    whole = marked + positives
    return [
        weighted_share(truth, flagged, weights, NOTHING_FLAGGED, side=flagged),
        weighted_share(flagged, truth, weights, NO_POSITIVES),
        Estimate(2 * right / whole) if whole else Estimate(None, "no positives, and none flagged"),
    ]


def _share(part: int, whole: int, undefined: str) -> Estimate:
    return Estimate(part / whole) if whole else Estimate(None, undefined)


def _exact(made: Estimate, part: int, whole: int) -> Estimate:
    """With the exact interval where all resamples are alike, and so say nothing."""
    if made.value is None or part not in (0, whole):
        return made
    low, high = bounds.interval(part, whole, CONFIDENCE)
    return Estimate(made.value, None, low, high, "exact")


def _between(made: Estimate, drawn: Floats) -> Estimate:
    defined = drawn[~np.isnan(drawn)]
    if made.value is None or len(defined) < LEAST_DEFINED * len(drawn):
        return made
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    if low == high:
        return made
    return Estimate(made.value, None, float(low), float(high), "bootstrap")


def _resampled(
    truth: Truth,
    scores: NDArray[np.float32],
    reviewed: Truth,
    blocked: Truth,
    resamples: int,
    seed: int,
    weights: Floats | None,
) -> Floats:
    """The metrics, resamples x 9 in the order of `measure`, NaN where undefined.

    A resample is how often it has each image, by which sums over images are weighted.
    """
    order = np.argsort(scores, kind="stable")[::-1]
    truth, reviewed, blocked = truth[order], reviewed[order], blocked[order]
    scores = scores[order]
    own = np.ones(len(truth)) if weights is None else weights[order]
    ends = _ends(scores)
    cells = [each for marked in (reviewed, blocked) for each in
             (truth & marked, ~truth & marked, truth & ~marked)]  # fmt: skip
    additive = np.column_stack(cells).astype(np.float64)
    gaps: Floats = truth - scores.astype(np.float64)
    which = _bins(scores)
    starts = np.flatnonzero(np.append(True, which[1:] != which[:-1]))
    made = []
    for drawn in _draws(len(truth), resamples, seed):
        counts = drawn * own
        sums = counts @ additive
        made.append(
            np.column_stack(
                [
                    *_from_cells(sums[:, 0:3]),
                    *_from_cells(sums[:, 3:6]),
                    *_areas(
                        np.cumsum(counts * truth, axis=1)[:, ends],
                        np.cumsum(counts, axis=1)[:, ends],
                    ),
                    np.abs(np.add.reduceat(counts * gaps, starts, axis=1)).sum(axis=1)
                    / counts.sum(axis=1),
                ]
            )
        )
    return np.concatenate(made)


def _draws(n: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each of n images was drawn, so many resamples x n at once as memory allows."""
    random = np.random.default_rng(seed)
    at_once = max(_CELLS // n, 1)
    for start in range(0, resamples, at_once):
        some = min(at_once, resamples - start)
        drawn = random.integers(0, n, (some, n)) + np.arange(some)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=some * n).reshape(some, n).astype(np.float64)


def _from_cells(sums: Floats) -> tuple[Floats, Floats, Floats]:
    tp, fp, fn = sums.T
    with np.errstate(invalid="ignore"):
        return tp / (tp + fp), tp / (tp + fn), 2 * tp / (2 * tp + fp + fn)


def _areas(positives: Floats, images: Floats) -> tuple[Floats, Floats]:
    """PR-AUC and ROC-AUC of resamples, from their counts at each distinct score."""
    gained = np.diff(positives, axis=1, prepend=0)
    negatives = images - positives
    with np.errstate(invalid="ignore"):
        precisions = np.divide(positives, images, out=np.zeros_like(images), where=images > 0)
        pr = (gained * precisions).sum(axis=1) / positives[:, -1]
        middle = positives - gained / 2
        roc = (np.diff(negatives, axis=1, prepend=0) * middle).sum(axis=1)
        return pr, roc / (positives[:, -1] * negatives[:, -1])


def _ends(ordered: NDArray[np.float32]) -> NDArray[np.int64]:
    """The last index of each run of equal scores."""
    return np.flatnonzero(np.append(ordered[1:] != ordered[:-1], len(ordered) > 0))


def _bins(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    edges = np.linspace(0.0, 1.0, ECE_BINS + 1)
    return np.searchsorted(edges[1:-1], scores.astype(np.float64))
