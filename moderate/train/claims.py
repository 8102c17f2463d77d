"""How many labels a claim about a head needs, and what to say where there are fewer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from moderate.errors import InputError
from moderate.train.inputs import Labelled

HALF_WIDTH = 0.2
"""How closely the held-out images have to bound a share, such as the recall, at the least."""

_Z = 1.959964
"""The normal distribution has 95 % within so many standard deviations."""


def images_for(half_width: float) -> int:
    """How many images bound a share to within `half_width`, with 95 % confidence, at the worst.

    The interval of Wilson (Journal of the American Statistical Association 22, 1927) for k of n has
    the half-width z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / (4 n^2)) with p = k / n. It is
    widest at p = 1/2, where it is z / (2 sqrt(n + z^2)); so that n = z^2 / (4 w^2) - z^2.
    """
    return math.ceil(_Z**2 / (4 * half_width**2) - _Z**2)


def effective_count(weights: NDArray[np.float64]) -> float:
    """How many images of equal weight say as much: (sum w)^2 / sum w^2 (Kish, 1965)."""
    total = float(weights.sum())
    return total**2 / float((weights**2).sum()) if total else 0.0


def check_counts(labelled: Labelled, holdout: float) -> None:
    """Raise InputError unless each category has enough positive and negative labels.

    holdout is the share of the images that are held out.
    """
    least = images_for(HALF_WIDTH)
    wanted = math.ceil(least / holdout)
    for name, values in labelled.truth.items():
        for truth, side in ((1, "positive"), (0, "negative")):
            count = int(np.count_nonzero(values == truth))
            if count >= wanted:
                continue
            few = f"{count:,} {side} images" if count else f"no {side} image"
            raise InputError(
                f"{name}: {few} where {wanted:,} are needed: of those, {least} are held out, which "
                f"say how many {_found(side)} to within {HALF_WIDTH:g} (95 %){_lost(labelled)}"
            )


def check_holdout(labelled: Labelled, held_out: NDArray[np.bool_]) -> None:
    """Raise InputError unless the images held out say enough, also where they are weighted."""
    least = images_for(HALF_WIDTH)
    for name, values in labelled.truth.items():
        for truth, side in ((1, "positive"), (0, "negative")):
            chosen = held_out & (values == truth)
            weights = np.ones(len(labelled)) if labelled.weights is None else labelled.weights
            worth = effective_count(weights[chosen])
            if worth >= least - 1e-9:
                continue
            count = int(chosen.sum())
            weighted = f", which their weights make worth {worth:.0f}" if worth < count - 1 else ""
            raise InputError(
                f"{name}: {count} {side} images are held out{weighted}, where {least} are needed "
                f"to say how many {_found(side)} to within {HALF_WIDTH:g} (95 %): label more"
            )


def _found(side: str) -> str:
    return "are found" if side == "positive" else "are falsely flagged"


def _lost(labelled: Labelled) -> str:
    left: Mapping[str, int] = labelled.left_out.reasons
    parts = [f"{count:,} {reason}" for reason, count in left.items()]
    if labelled.left_out.contradicted:
        parts.append(f"{labelled.left_out.contradicted:,} labelled in contradiction")
    return f"; left out: {', '.join(parts)}" if parts else ""
