"""Shares of images that were sampled with unequal probabilities: estimates and honest bounds.

Each sampled image stands for 1 / its inclusion probability of them (Horvitz and Thompson, 1952),
and a share is the ratio of two such sums (Hájek, 1971). A weighted count has a gamma confidence
distribution (Fay and Feuer, Statistics in Medicine 16, 1997): its upper one holds one more event,
of the heaviest weight that an unseen event may have, so that a count of zero has the upper bound
weight * ln(1 / alpha). The bound of a share melds the upper distribution of its events with the
lower one of all others (Fay, Proschan and Brittain, Biometrics 71, 2015). With equal weights,
and a small part of the images sampled, it comes close to the bound of Clopper and Pearson. How
often it holds: benchmarks/weighted_labels.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from moderate.analysis import bounds

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]

METHOD = (
    "weighted by inclusion probabilities, with melded gamma bounds (Fay and Feuer 1997; Fay, "
    "Proschan and Brittain 2015)"
)

_LEAST_VARIATION = 1e-6  # squared, of a count of which every image was sampled
_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Tally:
    """A weighted count: how many images were seen, the sum of their weights, and its variance."""

    images: int
    weight: float
    variance: float

    @classmethod
    def of(cls, marked: Bools, weights: Doubles) -> Self:
        """Of the marked images. Weights are 1 or more; one of 1 was sure to be sampled."""
        chosen = weights[marked]
        return cls(len(chosen), float(chosen.sum()), float((chosen * (chosen - 1)).sum()))


def share(events: Tally, others: Tally) -> float | None:
    """The estimated share of events; None of nothing."""
    whole = events.weight + others.weight
    return events.weight / whole if whole else None


def exceeds(rate: float, events: Tally, others: Tally, heaviest: float) -> float:
    """The p-value of the claim that the share of events is at most `rate`, 0 < rate < 1.

    Where it is `alpha` or less, the share is at most `rate` at level `alpha`. heaviest is the
    largest weight that an image which is an event may have.
    """
    if not others.weight:
        return 1.0
    high = events.weight + heaviest
    spread = events.variance + heaviest**2
    low = others.weight
    low_spread = max(others.variance, low**2 * _LEAST_VARIATION)
    # Gamma distributions of shape mean^2 / variance and scale variance / mean; of the two divided
    # by their scales, the first's share of the sum is a beta variable.
    scale, low_scale = spread / high, low_spread / low
    x = scale * (1 - rate) / (scale * (1 - rate) + low_scale * rate)
    return bounds.incomplete_beta(x, low**2 / low_spread, high**2 / spread)


def upper_bound(events: Tally, others: Tally, heaviest: float, alpha: float) -> float:
    """The highest share of events that the sample does not refute at level `alpha`."""
    low, high = 0.0, 1.0
    while high - low > _CLOSE:
        middle = (low + high) / 2
        refuted = exceeds(middle, events, others, heaviest) <= alpha
        low, high = (low, middle) if refuted else (middle, high)
    return high


def interval(
    events: Tally, others: Tally, heaviest: tuple[float, float], confidence: float
) -> tuple[float, float]:
    """The two-sided interval of the share; heaviest is that of events, and of others."""
    alpha = (1 - confidence) / 2
    return (
        1 - upper_bound(others, events, heaviest[1], alpha),
        upper_bound(events, others, heaviest[0], alpha),
    )


def heaviest(weights: Doubles, side: Bools) -> float:
    """The largest weight on one side of a threshold; of all images where that side has none."""
    return float((weights[side] if side.any() else weights).max())
