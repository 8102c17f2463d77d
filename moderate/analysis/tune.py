"""Thresholds for a stated aim, with bounds that hold whatever the distribution of the scores.

The review threshold is an order statistic of the scores of positives: with the k-th lowest as the
threshold, the share of all positives below it exceeds 1 - R with the probability that a binomial
variable of n and 1 - R stays under k (Wilks, 1941: distribution-free tolerance limits). The block
threshold follows in the same way from the scores of negatives. Choosing k by n alone, before any
score is looked at, is what makes the claim hold in as many cases as it says.

Labels of images that were sampled with unequal probabilities are weighted (see `weighted`). There,
thresholds are tried one after another from the safe end, and the last before the first that the
bound does not show is taken (fixed-sequence testing): one level of error is enough for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moderate.analysis import bounds, weighted
from moderate.analysis.weighted import Doubles, Tally
from moderate.errors import InputError, UsageError
from moderate.policy.model import Policy, Thresholds
from moderate.policy.thresholds import reaches
from moderate.results.schema import shortest

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

HOLDOUT = 0.3
"""Share of labels that check the thresholds, unless it is said."""

_NARROW_BAND = 0.05
"""Least share of the images at or above review that has to lie below block."""

_TABLE = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)  # recalls of the trade-off's thresholds


@dataclass(frozen=True, slots=True)
class Aim:
    """What the thresholds are to achieve; confidence is that all claims together hold.

    target_recall: share of positives that are at least reviewed. max_false_block: share of
    negatives that are blocked; None leaves the block thresholds alone. max_review_share: share of
    all scored images that people have to look at, None without limit. lower_block allows block
    thresholds below those of the base policy. holdout is the share of labels that the thresholds
    are not chosen by.
    """

    target_recall: float = 0.95
    max_false_block: float | None = None
    max_review_share: float | None = None
    confidence: float = 0.95
    holdout: float = HOLDOUT
    seed: int = 0
    lower_block: bool = False

    def check(self) -> None:
        """Raises UsageError for what no sample can show, or makes no sense."""
        for name, value in (
            ("--target-recall", self.target_recall),
            ("--max-false-block", self.max_false_block),
            ("--confidence", self.confidence),
        ):
            if value is not None and not 0 < value < 1:
                raise UsageError(f"{name} {value:g}: must lie between 0 and 1, both excluded")
        if self.max_review_share is not None and not 0 <= self.max_review_share <= 1:
            raise UsageError(f"--max-review-share {self.max_review_share:g}: must be 0 to 1")
        if not 0 <= self.holdout < 1:
            raise UsageError(f"--holdout {self.holdout:g}: must be 0 or more and below 1")
        if self.lower_block and self.max_false_block is None:
            raise UsageError("--lower-block goes with --max-false-block")


@dataclass(frozen=True, slots=True)
class Labelled:
    """One category's labelled images: scores, which are positive, and what orders the split.

    order holds numbers that are random, but the same for an image in every run with a seed. weights
    are how many images each stands for; None where all had the same chance to be labelled.
    """

    scores: Floats
    positive: Bools
    order: NDArray[np.uint64]
    weights: Doubles | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """`events` of `total` labels, with the two-sided interval of the share.

    weighted is the estimated share where labels stand for different numbers of images.
    """

    events: int
    total: int
    low: float
    high: float
    weighted: float | None = None

    @property
    def share(self) -> float | None:
        """None of nothing."""
        if self.weighted is not None:
            return self.weighted
        return self.events / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class Claim:
    """A share on the train part and what follows: with the confidence, the true one is `bound`.

    Of recall the bound is the least, of false blocks the most that it can be. holdout is the same
    share where the threshold was not chosen.
    """

    train: Measured
    bound: float
    holdout: Measured


@dataclass(frozen=True, slots=True)
class TradeOff:
    """What one review threshold would do, on all labels and all scored images.

    review_share is that of the whole policy; false_blocks the share of negatives at or above, which
    it would block as a block threshold. chosen: it is the one proposed.
    """

    threshold: float
    recall: Measured
    review_share: float
    false_blocks: Measured
    chosen: bool


@dataclass(frozen=True, slots=True)
class Tuned:
    """One category's thresholds with their evidence; false_blocks where a claim was asked for.

    warnings are what the user has to know before using them.
    """

    category: str
    thresholds: Thresholds
    recall: Claim
    false_blocks: Claim | None
    table: tuple[TradeOff, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tuning:
    """A proposal: the tuned categories, all thresholds, and what they mean for all scored images.

    alpha is the level of each claim (Bonferroni: 1 - confidence, divided by their number).
    """

    aim: Aim
    alpha: float
    tuned: tuple[Tuned, ...]
    thresholds: Mapping[str, Thresholds]
    images: int
    review_share: float
    block_share: float

    @property
    def problem(self) -> str | None:
        """Why the aim is missed; None where it is met."""
        most = self.aim.max_review_share
        if most is not None and self.review_share > most:
            return (
                f"recall {self.aim.target_recall:g} sends {self.review_share:.1%} of the images to "
                f"review, over --max-review-share {most:g}: aim for less recall, or allow more"
            )
        for each in self.tuned:
            where, holdout = str(each.category), each.recall.holdout
            if _refuted(holdout, self.aim.target_recall, least=True):
                return (
                    f"{where}: on the holdout, recall is {holdout.share:.3f} of {holdout.total} "
                    "positives, which contradicts the train part: are the labels of one source?"
                )
            blocks, limit = each.false_blocks, self.aim.max_false_block
            if blocks and limit and _refuted(blocks.holdout, limit, least=False):
                share, total = blocks.holdout.share, blocks.holdout.total
                return (
                    f"{where}: on the holdout, {share:.3f} of {total} negatives are blocked, which "
                    "contradicts the train part: are the labels of one source?"
                )
        return None


def review_threshold(positives: Floats, target: float, alpha: float) -> np.float32 | None:
    """The highest threshold of these scores that has recall `target` at level `alpha`.

    None where there are too few: see `needed_positives`.
    """
    missed = bounds.most_events(len(positives), 1 - target, alpha)
    return None if missed < 0 else np.float32(np.sort(positives)[missed])


def block_threshold(negatives: Floats, limit: float, alpha: float) -> np.float32 | None:
    """The lowest threshold that blocks at most a share `limit` of negatives at level `alpha`.

    None where there are too few. It may lie above 1.0, and is then of no use.
    """
    blocked = bounds.most_events(len(negatives), limit, alpha)
    if blocked < 0:
        return None
    at = np.float32(np.sort(negatives)[len(negatives) - 1 - blocked])
    above: np.float32 = np.nextafter(at, np.float32(2))
    return above


def weighted_review_threshold(labels: Labelled, target: float, alpha: float) -> np.float32 | None:
    """The same as `review_threshold`, of labels with weights.

    None where even the lowest score of a positive does not show the recall.
    """
    assert labels.weights is not None
    shown = None
    for at in np.unique(labels.scores[labels.positive]):
        below = ~reaches(labels.scores, at)
        missed, caught = _tallies(below, labels.positive, labels.weights)
        heaviest = weighted.heaviest(labels.weights, below)
        if weighted.exceeds(1 - target, missed, caught, heaviest) > alpha:
            break
        shown = at
    return shown


def weighted_block_threshold(labels: Labelled, limit: float, alpha: float) -> np.float32 | None:
    """The same as `block_threshold`, of labels with weights."""
    assert labels.weights is not None
    shown = None
    for at in np.unique(labels.scores[~labels.positive])[::-1]:
        above = np.nextafter(at, np.float32(2))
        blocked, passed = _tallies(reaches(labels.scores, above), ~labels.positive, labels.weights)
        heaviest = weighted.heaviest(labels.weights, reaches(labels.scores, at))
        if weighted.exceeds(limit, blocked, passed, heaviest) > alpha:
            break
        shown = above
    return shown


def _tallies(marked: Bools, of_class: Bools, weights: Doubles) -> tuple[Tally, Tally]:
    """The images of a class that are marked, and those that are not."""
    return Tally.of(marked & of_class, weights), Tally.of(~marked & of_class, weights)


def needed(rate: float, alpha: float, holdout: float) -> int:
    """How many labels the claim of a rate takes at least, the holdout's among them."""
    train = bounds.least_tries(rate, alpha)
    total = max(train, int((train - 1) / (1 - holdout)))
    while total - held_out(total, holdout) < train:
        total += 1
    return total


def held_out(count: int, holdout: float) -> int:
    """How many of so many labels go to the holdout."""
    return round(count * holdout)


def split(labelled: Labelled, holdout: float) -> tuple[Bools, Bools]:
    """Train and holdout: the same share of positives and of negatives in each, by their order.

    Of each weight, where there are weights.
    """
    held = np.zeros(len(labelled.scores), bool)
    weights = np.ones(len(held)) if labelled.weights is None else labelled.weights
    for weight in np.unique(weights):
        for of_class in (labelled.positive, ~labelled.positive):
            rows = np.flatnonzero(of_class & (weights == weight))
            by_order = rows[np.argsort(labelled.order[rows], kind="stable")]
            held[by_order[: held_out(len(rows), holdout)]] = True
    return ~held, held


UNDECIDED = Thresholds(review=1.0, block=1.0)
"""What an own category starts from that the base policy has no thresholds for."""


def tune(
    labelled: Mapping[str, Labelled],
    scores: Mapping[str, Floats],
    base: Policy,
    aim: Aim,
) -> Tuning:
    """Propose thresholds for the labelled categories; the others keep those of `base`.

    scores are those of all scored images, one array a category, NaN where not scored. Raises
    UsageError, and InputError with the number of labels needed where there are too few.
    """
    aim.check()
    if not labelled:
        raise InputError("no category has both labels and scores: there is nothing to tune")
    claims = len(labelled) * (1 if aim.max_false_block is None else 2)
    alpha = (1 - aim.confidence) / claims
    _check_enough(labelled, aim, alpha)
    found = {
        category: _choose(category, each, base.limits(category) or UNDECIDED, aim, alpha)
        for category, each in labelled.items()
    }
    thresholds: dict[str, Thresholds] = {
        **base.all_limits,
        **{category: chosen for category, (chosen, *_) in found.items()},
    }
    review_share, block_share = shares(scores, thresholds)
    tuned = []
    for category, (chosen, recall, false_blocks, notes) in found.items():
        table = _table(category, labelled[category], scores, thresholds, aim)
        warnings = _warnings(scores[category], chosen)
        tuned.append(Tuned(category, chosen, recall, false_blocks, table, notes, warnings))
    images = len(next(iter(scores.values()))) if scores else 0
    return Tuning(aim, alpha, tuple(tuned), thresholds, images, review_share, block_share)


def shares(
    scores: Mapping[str, Floats], thresholds: Mapping[str, Thresholds]
) -> tuple[float, float]:
    """Which shares of images the thresholds send to review, and block."""
    reviewed, blocked = _marks(scores, thresholds)
    if not len(reviewed):
        return 0.0, 0.0
    return float((reviewed & ~blocked).mean()), float(blocked.mean())


def _warnings(scores: Floats, limits: Thresholds) -> tuple[str, ...]:
    """What the user has to know where hardly anything is left for people to look at."""
    flagged = int(reaches(scores, limits.review).sum())
    between = flagged - int(reaches(scores, limits.block).sum())
    if limits.review < limits.block and between >= _NARROW_BAND * flagged:
        return ()
    kept = f"review {limits.review:g}, block {limits.block:g}"
    unseen = (
        f"of the {flagged:,} images that are not approved, people would look at only {between:,}, "
        "and the others are blocked unseen"
        if between
        else f"all {flagged:,} images that are not approved are blocked unseen"
    )
    return (
        f"almost nothing goes to review ({kept}): {unseen}; raise block by hand, or aim for more "
        "recall",
    )


def measured(events: int, total: int, confidence: float) -> Measured:
    """A share with its interval."""
    return Measured(events, total, *bounds.interval(events, total, confidence))


def _refuted(share: Measured, limit: float, *, least: bool) -> bool:
    """Whether a share of at least, or at most, `limit` is out of the question: one in a thousand.

    A weighted one is so where its interval says so.
    """
    if not share.total:
        return False
    if share.weighted is not None:
        return share.high < limit if least else share.low > limit
    if least:
        return bounds.lower_bound(share.total - share.events, share.total, 0.001) > 1 - limit
    return bounds.lower_bound(share.events, share.total, 0.001) > limit


def _check_enough(labelled: Mapping[str, Labelled], aim: Aim, alpha: float) -> None:
    lacking = []
    for category, labels in labelled.items():
        if labels.weights is not None:
            continue  # how many it takes depends on which
        positives = int(labels.positive.sum())
        wanted = [("positive", positives, 1 - aim.target_recall)]
        if aim.max_false_block is not None:
            wanted.append(("negative", len(labels.positive) - positives, aim.max_false_block))
        for kind, there, rate in wanted:
            least = needed(rate, alpha, aim.holdout)
            if there < least:
                lacking.append(f"{category}: {there} {kind} labels where {least} are needed")
    if lacking:
        claim = f"recall {aim.target_recall:.10g}"
        if aim.max_false_block is not None:
            claim += f" and false blocks {aim.max_false_block:g}"
        raise InputError(
            f"too few labels to show {claim} at confidence {aim.confidence:g} with "
            f"{aim.holdout:.0%} held out: {'; '.join(lacking)}; label more, lower the aim, or name "
            "the categories to tune (--category)"
        )


def _choose(
    category: str, labels: Labelled, base: Thresholds, aim: Aim, alpha: float
) -> tuple[Thresholds, Claim, Claim | None, tuple[str, ...]]:
    parts = split(labels, aim.holdout)
    train = _part(labels, parts[0])
    notes: list[str] = []
    if labels.weights is None:
        review = review_threshold(train.scores[train.positive], aim.target_recall, alpha)
        assert review is not None  # there are enough
    else:
        review = weighted_review_threshold(train, aim.target_recall, alpha)
        if review is None:
            raise InputError(_too_few(category, train, aim.target_recall, alpha))
    block = np.float32(base.block)
    if aim.max_false_block is not None:
        lowest = _lowest_block(category, train, aim.max_false_block, alpha)
        if lowest < block and not aim.lower_block:
            notes.append(
                f"block stays at {shortest(float(block))}, as in the base policy: the limit on "
                f"false blocks would allow {shortest(float(lowest))} (--lower-block)"
            )
        else:
            block = lowest
    if review > block:
        notes.append(
            f"review {shortest(float(review))} would lie above block and was lowered to it: what "
            "is not approved is blocked"
        )
        review = block
    recall = _claim(reaches(labels.scores, review), labels, labels.positive, parts, aim, alpha,
                    least=True)  # fmt: skip
    false_blocks = None
    if aim.max_false_block is not None:
        blocked = reaches(labels.scores, block)
        false_blocks = _claim(blocked, labels, ~labels.positive, parts, aim, alpha, least=False)
        if false_blocks.bound > aim.max_false_block:  # shown of a lower threshold, so of this one
            false_blocks = replace(false_blocks, bound=aim.max_false_block)
    return (
        Thresholds(review=_written(review), block=_written(block)),
        recall,
        false_blocks,
        tuple(notes),
    )


def _lowest_block(category: str, train: Labelled, limit: float, alpha: float) -> np.float32:
    if train.weights is None:
        lowest = block_threshold(train.scores[~train.positive], limit, alpha)
        assert lowest is not None  # there are enough
    else:
        found = weighted_block_threshold(train, limit, alpha)
        if found is None:
            raise InputError(
                f"{category}: these labels do not show false blocks of at most {limit:g}: label "
                "more images with high scores, or do not ask for it"
            )
        lowest = found
    if lowest > 1:
        raise InputError(
            f"{category}: negatives score up to 1.0, so that no block threshold keeps false "
            f"blocks at {limit:g}: look at those labels, or do not ask for it"
        )
    return lowest


def _part(labels: Labelled, part: Bools) -> Labelled:
    """Some of the labels; those left stand for the images of the others, too."""
    weights = None
    if labels.weights is not None:
        weights = labels.weights[part]
        weights *= labels.weights.sum() / max(weights.sum(), 1.0)
    return Labelled(labels.scores[part], labels.positive[part], labels.order[part], weights)


def _too_few(category: str, labels: Labelled, target: float, alpha: float) -> str:
    """Why labels with weights show no recall, and what would."""
    assert labels.weights is not None
    if not labels.positive.any():
        return f"{category}: there is no positive label, so that no recall can be shown"
    start = f"{category}: these labels do not show recall {target:.10g}"
    positives = float(labels.weights[labels.positive].sum())
    # So many missed positives are allowed; unseen ones are bounded by weight * ln(1 / alpha).
    allowed = (1 - target) * positives / math.log(1 / alpha)
    heavy = labels.weights > allowed
    if not heavy.any():
        return f"{start}: label more images that score high, or lower the aim"
    # Half as many again: in practice, some of the missed positives are seen.
    wanted = math.ceil(1.5 * float(labels.weights[heavy].sum()) / max(allowed, 1.0))
    start = (
        f"{start}: some labels stand for {labels.weights.max():,.0f} images each, and each of "
        f"those may hide a positive; it takes about {wanted:,} labels"
    )
    images = round(float(labels.weights.sum()))
    if wanted > images:
        return (
            f"{start}, more than the {images:,} images sampled from: lower the aim, or scan and "
            "label more images"
        )
    return (
        f"{start} where there are {int(heavy.sum()):,} (moderate sample --by band --random N), or "
        "a lower aim"
    )


def _claim(
    marked: Bools,
    labels: Labelled,
    of_class: Bools,
    parts: tuple[Bools, Bools],
    aim: Aim,
    alpha: float,
    *,
    least: bool,
) -> Claim:
    train, held = (_measured_of(_part(labels, part), marked[part], of_class[part], aim.confidence)
                   for part in parts)  # fmt: skip
    if labels.weights is None:
        bound = bounds.lower_bound if least else bounds.upper_bound
        return Claim(train, bound(train.events, train.total, alpha), held)
    weights = _part(labels, parts[0]).weights
    assert weights is not None
    marked, of_class = marked[parts[0]], of_class[parts[0]]
    events, others = _tallies(marked, of_class, weights)
    if least:
        heaviest = weighted.heaviest(weights, ~marked)
        return Claim(train, 1 - weighted.upper_bound(others, events, heaviest, alpha), held)
    heaviest = weighted.heaviest(weights, marked)
    return Claim(train, weighted.upper_bound(events, others, heaviest, alpha), held)


def _measured_of(labels: Labelled, marked: Bools, of_class: Bools, confidence: float) -> Measured:
    """How many of a class are marked, as a share of all images that the labels stand for."""
    counts = int((marked & of_class).sum()), int(of_class.sum())
    if labels.weights is None or not counts[1]:
        return measured(*counts, confidence)
    events, others = _tallies(marked, of_class, labels.weights)
    heaviest = [weighted.heaviest(labels.weights, side) for side in (marked, ~marked)]
    low, high = weighted.interval(events, others, (heaviest[0], heaviest[1]), confidence)
    return Measured(*counts, low, high, weighted.share(events, others))


def _table(
    category: str,
    labels: Labelled,
    scores: Mapping[str, Floats],
    thresholds: Mapping[str, Thresholds],
    aim: Aim,
) -> tuple[TradeOff, ...]:
    """Some eight thresholds, from that which misses half to that which misses none."""
    own = thresholds[category]
    positives = np.sort(labels.scores[labels.positive])
    cuts = {np.float32(own.review)}
    for recall in _TABLE:
        cuts.add(positives[min(math.floor((1 - recall) * len(positives)), len(positives) - 1)])
    others = {name: each for name, each in scores.items() if name != category}
    other_reviewed, other_blocked = _marks(others, thresholds)
    mine = scores[category]
    if not others:
        other_reviewed = other_blocked = np.zeros(len(mine), bool)
    rows = []
    for cut in sorted(cuts, reverse=True):
        blocked = reaches(mine, max(np.float32(own.block), cut)) | other_blocked
        reviewed = (reaches(mine, cut) | other_reviewed) & ~blocked
        rows.append(
            TradeOff(
                threshold=_written(cut),
                recall=_measured_of(
                    labels, reaches(labels.scores, cut), labels.positive, aim.confidence
                ),
                review_share=float(reviewed.mean()) if len(mine) else 0.0,
                false_blocks=_measured_of(
                    labels, reaches(labels.scores, cut), ~labels.positive, aim.confidence
                ),
                chosen=bool(cut == np.float32(own.review)),
            )
        )
    return tuple(rows)


def _marks(
    scores: Mapping[str, Floats], thresholds: Mapping[str, Thresholds]
) -> tuple[Bools, Bools]:
    """Which images some category asks to review or block, and which to block."""
    count = len(next(iter(scores.values()))) if scores else 0
    reviewed, blocked = np.zeros(count, bool), np.zeros(count, bool)
    for category, values in scores.items():
        if limits := thresholds.get(category):  # not of an own one that decides nothing
            reviewed |= reaches(values, limits.review)
            blocked |= reaches(values, limits.block)
    return reviewed, blocked


def _written(score: np.float32) -> float:
    """A threshold as it is written: the shortest number that is the same in float32."""
    return float(shortest(float(score)))
