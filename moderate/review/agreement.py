"""How far two reviewers agree beyond chance: Cohen's kappa."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_NO_VARIANCE = 1e-12
_Z = 1.959963984540054  # of 95 %


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over `count` images that two people judged each: the share alike, and kappa with bounds.

    kappa is None where it is not defined: all answers are the same one. Its bounds (95 %) are None
    there, and where the formula knows of no error: so few images do not make it certain.
    """

    count: int
    alike: float
    kappa: float | None
    low: float | None
    high: float | None


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> Agreement | None:
    """Agreement over pairs of answers, of which there is at least one; else None.

    Cohen 1960, with the standard error for large samples of Fleiss, Cohen and Everitt 1969.
    """
    count = len(pairs)
    if not count:
        return None
    first, second = (Counter(pair[side] for pair in pairs) for side in (0, 1))
    alike = sum(one == other for one, other in pairs) / count
    names = sorted({*first, *second})
    p = {name: first[name] / count for name in names}
    q = {name: second[name] / count for name in names}
    chance = sum(p[name] * q[name] for name in names)
    if chance >= 1:
        return Agreement(count, alike, None, None, None)
    kappa = (alike - chance) / (1 - chance)
    cells = Counter(pairs)
    on_diagonal = sum(
        cells[name, name] / count * (1 - (p[name] + q[name]) * (1 - kappa)) ** 2 for name in names
    )
    off_diagonal = (1 - kappa) ** 2 * sum(
        number / count * (p[other] + q[one]) ** 2
        for (one, other), number in cells.items()
        if one != other
    )
    variance = on_diagonal + off_diagonal - (kappa - chance * (1 - kappa)) ** 2
    if variance < _NO_VARIANCE:
        return Agreement(count, alike, kappa, None, None)
    error = math.sqrt(max(variance, 0.0) / count) / (1 - chance)
    return Agreement(
        count, alike, kappa, max(-1.0, kappa - _Z * error), min(1.0, kappa + _Z * error)
    )
