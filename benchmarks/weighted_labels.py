"""How often bounds from unevenly sampled labels hold, and how many labels a rare category takes.

    python benchmarks/weighted_labels.py                 # coverage, and labels needed: some minutes
    python benchmarks/weighted_labels.py --draws 200     # a shorter run

A dump of images with scores and true labels is made up, labels are sampled from it many times, and
each time the threshold that `tune` would propose is held against the truth of the whole dump. A
bound at confidence 0.95 may fail in one draw of twenty. Beside it stands what practice often does:
the effective sample size of the weighted labels with Clopper and Pearson's bound (Korn and
Graubard, 1998), which does not know what heavy weights may hide.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moderate.analysis import bounds
from moderate.analysis.tune import (
    Labelled,
    block_threshold,
    review_threshold,
    weighted_block_threshold,
    weighted_review_threshold,
)
from moderate.policy.thresholds import reaches

REVIEW, BLOCK = 0.30, 0.85
"""Where the bands of `balanced` begin."""
ALPHA = 0.05

Random = np.random.Generator
Scores = NDArray[np.float32]
Truth = NDArray[np.bool_]


@dataclass(frozen=True)
class Dump:
    """All images of a dump: the score of one category, whether it is right, and their strata."""

    scores: Scores
    positive: Truth
    strata: NDArray[np.int64]


def dump(
    random: Random, images: int, prevalence: float, *, hidden: float = 0.0, other: bool = False
) -> Dump:
    """Positives of Beta(4, 2), negatives of Beta(1, 6), which a classifier of some worth gives.

    hidden is the share of positives that score as the lowest negatives do. Strata are the bands of
    the category or, with `other`, those of the worst of this and another category.
    """
    positive = np.zeros(images, bool)
    positive[: round(images * prevalence)] = True
    scores = np.where(positive, random.beta(4, 2, images), random.beta(1, 6, images))
    lost = positive & (random.random(images) < hidden)
    scores[lost] = random.beta(1, 60, int(lost.sum()))
    scores = scores.astype(np.float32)
    deciding = np.maximum(scores, random.beta(1, 8, images).astype(np.float32)) if other else scores
    strata = reaches(deciding, REVIEW).astype(np.int64) + reaches(deciding, BLOCK)
    return Dump(scores, positive, strata)


def by_band(random: Random, of: Dump, each: int, at_random: int) -> Labelled:
    """As `moderate sample --by band --count EACH --random N`: the labels with their weights."""
    images = len(of.scores)
    taken = np.zeros(images, bool)
    for stratum in range(3):
        among = np.flatnonzero(of.strata == stratum)
        taken[random.choice(among, min(each, len(among)), replace=False)] = True
    taken[random.choice(images, at_random, replace=False)] = True
    weights = np.bincount(of.strata, minlength=3) / np.maximum(
        np.bincount(of.strata[taken], minlength=3), 1
    )
    return labelled(of, taken, weights[of.strata[taken]])


def by_score(random: Random, of: Dump, each: int, at_random: int) -> Labelled:
    """Every image with a chance of its own that grows with its score, as another tool may do."""
    chance = 0.02 + of.scores.astype(np.float64)
    chance = (chance * (3 * each + at_random) / chance.sum()).clip(max=1)
    taken = random.random(len(chance)) < chance
    return labelled(of, taken, 1 / chance[taken])


def labelled(of: Dump, taken: Truth, weights: NDArray[np.float64] | None) -> Labelled:
    """The labels of some images."""
    order = np.zeros(int(taken.sum()), np.uint64)
    return Labelled(of.scores[taken], of.positive[taken], order, weights)


def effective_size_threshold(labels: Labelled, target: float, alpha: float) -> np.float32 | None:
    """The peer: the recall as if so many labels were alike as have the same variance."""
    assert labels.weights is not None
    shown = None
    of_class = labels.weights[labels.positive]
    for at in np.unique(labels.scores[labels.positive]):
        caught = reaches(labels.scores[labels.positive], at)
        recall = float(of_class[caught].sum() / of_class.sum())
        size = float(of_class.sum() ** 2 / (of_class**2).sum())
        missed = size * (1 - recall)
        # The p-value of recall >= target, as for a binomial count that need not be whole.
        if bounds.incomplete_beta(target, max(size - missed, 1e-9), missed + 1) > alpha:
            break
        shown = at
    return shown


Sampler = Callable[[Random, Dump, int, int], Labelled]
Chooser = Callable[[Labelled, float, float], np.float32 | None]


@dataclass(frozen=True)
class Coverage:
    """Of so many draws: how often a threshold came out, and how often it broke its promise."""

    draws: int
    proposed: int
    wrong: int


def recall_coverage(
    random: Random, make: Callable[[Random], Dump], sampler: Sampler, chooser: Chooser,
    each: int, at_random: int, target: float, draws: int,
) -> Coverage:  # fmt: skip
    """Thresholds with a recall of `target`, held against the recall in the dump."""
    proposed = wrong = 0
    for _ in range(draws):
        of = make(random)
        threshold = chooser(sampler(random, of, each, at_random), target, ALPHA)
        if threshold is not None:
            proposed += 1
            wrong += float(reaches(of.scores[of.positive], threshold).mean()) < target
    return Coverage(draws, proposed, wrong)


def block_coverage(
    random: Random, make: Callable[[Random], Dump], sampler: Sampler,
    each: int, at_random: int, limit: float, draws: int,
) -> Coverage:  # fmt: skip
    """Thresholds that block at most `limit` of the negatives, held against the dump."""
    proposed = wrong = 0
    for _ in range(draws):
        of = make(random)
        labels = sampler(random, of, each, at_random)
        threshold = weighted_block_threshold(labels, limit, ALPHA)
        if threshold is not None:
            proposed += 1
            wrong += float(reaches(of.scores[~of.positive], threshold).mean()) > limit
    return Coverage(draws, proposed, wrong)


SCENARIOS: dict[str, tuple[Sampler, dict[str, float]]] = {
    "bands, 5 % positive": (by_band, {"prevalence": 0.05}),
    "bands, 1 % positive": (by_band, {"prevalence": 0.01}),
    "bands, 6 % of positives hidden low": (by_band, {"prevalence": 0.05, "hidden": 0.06}),
    "bands, 12 % of positives hidden low": (by_band, {"prevalence": 0.05, "hidden": 0.12}),
    "bands of decisions by another category": (by_band, {"prevalence": 0.05, "other": True}),
    "a chance for each image by its score": (by_score, {"prevalence": 0.05, "hidden": 0.06}),
}


def maker(images: int, **options: float) -> Callable[[Random], Dump]:
    """What makes the dumps of a scenario."""
    return lambda random: dump(random, images, **options)  # type: ignore[arg-type]


def coverage_rows(draws: int, images: int) -> Iterator[str]:
    """A line per scenario: how often each method's threshold breaks its promise."""
    for name, (sampler, options) in SCENARIOS.items():
        make = maker(images, **options)
        for target, each, at_random in ((0.9, 200, 600), (0.8, 200, 300), (0.9, 500, 3000)):
            random = np.random.default_rng(14)
            ours = recall_coverage(
                random, make, sampler, weighted_review_threshold, each, at_random, target, draws
            )
            random = np.random.default_rng(14)
            peer = recall_coverage(
                random, make, sampler, effective_size_threshold, each, at_random, target, draws
            )
            yield (
                f"{name:<42} recall {target:g}, {each} a band + {at_random}: "
                f"wrong {ours.wrong / draws:.3f} (proposed {ours.proposed / draws:.2f}); effective "
                f"size wrong {peer.wrong / draws:.3f}"
            )
        random = np.random.default_rng(14)
        blocks = block_coverage(random, make, sampler, 200, 300, 0.01, draws)
        yield (
            f"{name:<42} false blocks 0.01, 200 a band + 300: wrong {blocks.wrong / draws:.3f} "
            f"(proposed {blocks.proposed / draws:.2f})"
        )


COUNTS = (300, 600, 900, 1200, 1500, 2000, 2500, 3000, 4000, 5000, 6000, 7000, 8000, 10_000, 12_500,
          15_000)  # fmt: skip
HELD_OUT = 0.3
"""Of a random sample, as `tune` does by default; a weighted one needs no holdout."""


def needed_rows(draws: int, images: int) -> Iterator[str]:
    """How many labels it takes, of a category with 1 % positives, until 4 of 5 draws succeed.

    The level of 0.005 is that of each claim where five categories are tuned for both aims.
    """
    make = maker(images, prevalence=0.01)
    for target, alpha in ((0.8, 0.05), (0.9, 0.05), (0.95, 0.05), (0.95, 0.005)):
        recall = (target, alpha)
        plain = _needed(draws, make, lambda of, random, count: review_threshold(
            at_random(random, of, count, positive=True), *recall))  # noqa: B023  # fmt: skip
        ours = _needed(draws, make, lambda of, random, count: weighted_review_threshold(
            by_band(random, of, min(150, count // 4), count - 2 * min(150, count // 4)),
            *recall))  # noqa: B023  # fmt: skip
        yield f"recall {target:g} at level {alpha:g}: random {plain}; --by band --random {ours}"
    for limit in (0.01, 0.001):
        plain = _needed(draws, make, lambda of, random, count: block_threshold(
            at_random(random, of, count, positive=False), limit, ALPHA))  # noqa: B023  # fmt: skip
        ours = _needed(draws, make, lambda of, random, count: weighted_block_threshold(
            by_band(random, of, count // 3, 0), limit, ALPHA))  # noqa: B023  # fmt: skip
        yield f"false blocks {limit:g} at level {ALPHA:g}: random {plain}; --by band {ours}"


def at_random(random: Random, of: Dump, count: int, *, positive: bool) -> Scores:
    """The scores of one class in the part of a random sample that thresholds are chosen by."""
    taken = random.choice(len(of.scores), round(count * (1 - HELD_OUT)), replace=False)
    return of.scores[taken][of.positive[taken] == positive]


def _needed(
    draws: int,
    make: Callable[[Random], Dump],
    choose: Callable[[Dump, Random, int], np.float32 | None],
) -> str:
    for count in COUNTS:
        shares = []
        for draw in range(draws):
            random = np.random.default_rng((14, draw, count))
            of = make(random)
            threshold = choose(of, random, count)
            if threshold is not None and threshold <= 1:
                shares.append(float(reaches(of.scores, threshold).mean()))
        if len(shares) >= 0.8 * draws:
            return (
                f"{count:,} labels (median share of images that reach it {np.median(shares):.2%})"
            )
    return f"over {COUNTS[-1]:,} labels"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--images", type=int, default=20_000)
    options = parser.parse_args()
    for line in coverage_rows(options.draws, options.images):
        print(line, flush=True)
    for line in needed_rows(max(options.draws // 10, 20), 100_000):
        print(line, flush=True)


if __name__ == "__main__":
    main()
