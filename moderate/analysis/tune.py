"""Thresholds for a stated aim, with bounds that hold whatever the distribution of the scores.

The review threshold is an order statistic of the scores of positives: with the k-th lowest as the
threshold, the share of all positives below it exceeds 1 - R with the probability that a binomial
variable of n and 1 - R stays under k (Wilks, 1941: distribution-free tolerance limits). The block
threshold follows in the same way from the scores of negatives. Choosing k by n alone, before any
score is looked at, is what makes the claim hold in as many cases as it says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moderate.analysis import bounds
from moderate.errors import InputError, UsageError
from moderate.policy.model import Policy, Thresholds
from moderate.policy.thresholds import reaches
from moderate.results.schema import shortest
from moderate.types import CATEGORIES, Category

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

_TABLE = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)  # recalls of the trade-off's thresholds


@dataclass(frozen=True, slots=True)
class Aim:
    """What the thresholds are to achieve; confidence is that all claims together hold.

    target_recall: share of positives that are at least reviewed. max_false_block: share of
    negatives that are blocked; None leaves the block thresholds alone. max_review_share: share of
    all scored images that people have to look at, None without limit. holdout is the share of
    labels that the thresholds are not chosen by.
    """

    target_recall: float = 0.95
    max_false_block: float | None = None
    max_review_share: float | None = None
    confidence: float = 0.95
    holdout: float = 0.3
    seed: int = 0

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


@dataclass(frozen=True, slots=True)
class Labelled:
    """One category's labelled images: scores, which are positive, and what orders the split.

    order holds numbers that are random, but the same for an image in every run with a seed.
    """

    scores: Floats
    positive: Bools
    order: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Measured:
    """`events` of `total`, with the exact two-sided interval of the share."""

    events: int
    total: int
    low: float
    high: float

    @property
    def share(self) -> float | None:
        """None of nothing."""
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
    """One category's thresholds with their evidence; false_blocks where a claim was asked for."""

    category: Category
    thresholds: Thresholds
    recall: Claim
    false_blocks: Claim | None
    table: tuple[TradeOff, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tuning:
    """A proposal: the tuned categories, all thresholds, and what they mean for all scored images.

    alpha is the level of each claim (Bonferroni: 1 - confidence, divided by their number).
    """

    aim: Aim
    alpha: float
    tuned: tuple[Tuned, ...]
    thresholds: Mapping[Category, Thresholds]
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
            where, holdout = each.category.value, each.recall.holdout
            if _refuted(holdout.total - holdout.events, holdout.total, 1 - self.aim.target_recall):
                return (
                    f"{where}: on the holdout, recall is {holdout.share:.3f} of {holdout.total} "
                    "positives, which contradicts the train part: are the labels of one source?"
                )
            blocks, limit = each.false_blocks, self.aim.max_false_block
            if blocks and limit and _refuted(blocks.holdout.events, blocks.holdout.total, limit):
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
    """Train and holdout: the same share of positives and of negatives in each, by their order."""
    held = np.zeros(len(labelled.scores), bool)
    for of_class in (labelled.positive, ~labelled.positive):
        rows = np.flatnonzero(of_class)
        by_order = rows[np.argsort(labelled.order[rows], kind="stable")]
        held[by_order[: held_out(len(rows), holdout)]] = True
    return ~held, held


def tune(
    labelled: Mapping[Category, Labelled],
    scores: Mapping[Category, Floats],
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
        category: _choose(category, labelled[category], base.categories[category], aim, alpha)
        for category in CATEGORIES
        if category in labelled
    }
    thresholds = {
        category: found[category][0] if category in found else base.categories[category]
        for category in CATEGORIES
    }
    review_share, block_share = shares(scores, thresholds)
    tuned = []
    for category, (chosen, recall, false_blocks, notes) in found.items():
        table = _table(category, labelled[category], scores, thresholds, aim)
        tuned.append(Tuned(category, chosen, recall, false_blocks, table, notes))
    images = len(next(iter(scores.values()))) if scores else 0
    return Tuning(aim, alpha, tuple(tuned), thresholds, images, review_share, block_share)


def shares(
    scores: Mapping[Category, Floats], thresholds: Mapping[Category, Thresholds]
) -> tuple[float, float]:
    """Which shares of images the thresholds send to review, and block."""
    reviewed, blocked = _marks(scores, thresholds)
    if not len(reviewed):
        return 0.0, 0.0
    return float((reviewed & ~blocked).mean()), float(blocked.mean())


def measured(events: int, total: int, confidence: float) -> Measured:
    """A share with its interval."""
    return Measured(events, total, *bounds.interval(events, total, confidence))


def _refuted(events: int, total: int, limit: float) -> bool:
    """Whether a rate of `limit` or less is out of the question (one in a thousand)."""
    return bool(total) and bounds.lower_bound(events, total, 0.001) > limit


def _check_enough(labelled: Mapping[Category, Labelled], aim: Aim, alpha: float) -> None:
    lacking = []
    for category, labels in labelled.items():
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
    category: Category, labels: Labelled, base: Thresholds, aim: Aim, alpha: float
) -> tuple[Thresholds, Claim, Claim | None, tuple[str, ...]]:
    train, held = split(labels, aim.holdout)
    positive, scores = labels.positive, labels.scores
    notes: list[str] = []
    review = review_threshold(scores[train & positive], aim.target_recall, alpha)
    assert review is not None  # there are enough
    block = np.float32(base.block)
    if aim.max_false_block is not None:
        lowest = block_threshold(scores[train & ~positive], aim.max_false_block, alpha)
        assert lowest is not None
        if lowest > 1:
            raise InputError(
                f"{category}: negatives score up to 1.0, so that no block threshold keeps false "
                f"blocks at {aim.max_false_block:g}: look at those labels, or do not ask for it"
            )
        block = lowest
    if block < review:
        notes.append(
            f"block {shortest(float(block))} lies below review and was raised to it: "
            "what is not approved is blocked"
        )
        block = review
    recall = _claim(
        reaches(scores, review), positive, train, held, aim.confidence, alpha, least=True
    )
    false_blocks = None
    if aim.max_false_block is not None:
        blocked = reaches(scores, block)
        false_blocks = _claim(blocked, ~positive, train, held, aim.confidence, alpha, least=False)
    return (
        Thresholds(review=_written(review), block=_written(block)),
        recall,
        false_blocks,
        tuple(notes),
    )


def _claim(
    marked: Bools,
    of_class: Bools,
    train: Bools,
    held: Bools,
    confidence: float,
    alpha: float,
    *,
    least: bool,
) -> Claim:
    parts = [
        (int((marked & of_class & part).sum()), int((of_class & part).sum()))
        for part in (train, held)
    ]
    bound = bounds.lower_bound if least else bounds.upper_bound
    first, second = (measured(*part, confidence) for part in parts)
    return Claim(first, bound(*parts[0], alpha), second)


def _table(
    category: Category,
    labels: Labelled,
    scores: Mapping[Category, Floats],
    thresholds: Mapping[Category, Thresholds],
    aim: Aim,
) -> tuple[TradeOff, ...]:
    """Some eight thresholds, from that which misses half to that which misses none."""
    own = thresholds[category]
    positives = np.sort(labels.scores[labels.positive])
    negatives = labels.scores[~labels.positive]
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
                recall=measured(int(reaches(positives, cut).sum()), len(positives), aim.confidence),
                review_share=float(reviewed.mean()) if len(mine) else 0.0,
                false_blocks=measured(
                    int(reaches(negatives, cut).sum()), len(negatives), aim.confidence
                ),
                chosen=bool(cut == np.float32(own.review)),
            )
        )
    return tuple(rows)


def _marks(
    scores: Mapping[Category, Floats], thresholds: Mapping[Category, Thresholds]
) -> tuple[Bools, Bools]:
    """Which images some category asks to review or block, and which to block."""
    count = len(next(iter(scores.values()))) if scores else 0
    reviewed, blocked = np.zeros(count, bool), np.zeros(count, bool)
    for category, values in scores.items():
        reviewed |= reaches(values, thresholds[category].review)
        blocked |= reaches(values, thresholds[category].block)
    return reviewed, blocked


def _written(score: np.float32) -> float:
    """A threshold as it is written: the shortest number that is the same in float32."""
    return float(shortest(float(score)))
