"""Exact bounds and tests of counts: what a sample shows about where it comes from.

The functions behind them are written out here, because scipy is no dependency; they are continued
fractions and series of the NIST Digital Library of Mathematical Functions (DLMF), evaluated by
Lentz's method, exact to some twelve digits for counts up to millions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

_SMALL, _ENOUGH, _MOST_STEPS = 1e-300, 1e-15, 1_000_000
_CLOSE = 1e-12  # of a bound, which is rounded to the safe side


def at_most(k: int, n: int, rate: float) -> float:
    """The probability of `k` events or fewer in `n` tries that each have one at `rate`."""
    if k < 0:
        return 0.0
    return 1.0 if k >= n else incomplete_beta(1 - rate, n - k, k + 1)


def upper_bound(k: int, n: int, alpha: float) -> float:
    """The highest rate that `k` of `n` do not refute at level `alpha` (Clopper and Pearson, 1934).

    The true rate lies above it in at most `alpha` of all samples, whatever the rate. 1 for n = 0.
    """
    if k >= n:
        return 1.0
    low, high = k / n, 1.0
    while high - low > _CLOSE:
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(k, n, middle) > alpha else (low, middle)
    return high


def lower_bound(k: int, n: int, alpha: float) -> float:
    """The lowest rate that `k` of `n` do not refute at level `alpha`. 0 for n = 0."""
    return 1.0 - upper_bound(n - k, n, alpha)


def interval(k: int, n: int, confidence: float) -> tuple[float, float]:
    """The exact two-sided interval of a rate of which `k` events in `n` tries were seen."""
    alpha = (1 - confidence) / 2
    return lower_bound(k, n, alpha), upper_bound(k, n, alpha)


def most_events(n: int, rate: float, alpha: float) -> int:
    """How many events in `n` tries still show, at level `alpha`, a rate of at most `rate`.

    The largest k whose `upper_bound` is at most `rate`; -1 where not even 0 events show it.
    """
    low, high = -1, n  # high: too many
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at_most(middle, n, rate) <= alpha else (low, middle)
    return low


def least_tries(rate: float, alpha: float) -> int:
    """The fewest tries that, without one event, show a rate of at most `rate`: 0 < rate < 1."""
    n = max(math.ceil(math.log(alpha) / math.log1p(-rate)), 1)
    while (1 - rate) ** n > alpha:  # the division's last digit
        n += 1
    return n


def chi_squared_tail(statistic: float, degrees: int) -> float:
    """The probability of a chi-squared value of `statistic` or more at so many degrees."""
    a, x = degrees / 2, statistic / 2
    if x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:  # DLMF 8.11.4
        term = total = 1 / a
        n = a
        while term > total * _ENOUGH:
            n += 1
            term *= x / n
            total += term
        return max(1.0 - scale * total, 0.0)

    def terms() -> Iterator[tuple[float, float]]:  # DLMF 8.9.2, contracted
        yield 1.0, x + 1 - a
        for i in range(1, _MOST_STEPS):
            yield -i * (i - a), x + 2 * i + 1 - a

    return min(scale * _fraction(terms()), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in the order given (Holm, 1979)."""
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(p_values[index] * (len(p_values) - rank), 1.0))
        corrected[index] = highest
    return corrected


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(1 - x, b, a)
    log_scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_scale += a * math.log(x) + b * math.log1p(-x)

    # DLMF 8.17.22: 1/(1 + d1/(1 + d2/(1 + ...))); this is where the time goes.
    c, d = 1.0, 1 / ((1 - (a + b) * x / (a + 1)) or _SMALL)
    value = d
    for m in range(1, _MOST_STEPS):
        step = 1.0
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / ((1 + factor * d) or _SMALL)
            c = (1 + factor / c) or _SMALL
            step *= c * d
        value *= step
        if abs(step - 1) < _ENOUGH:
            break
    return min(math.exp(log_scale) * value / a, 1.0)


def _fraction(terms: Iterator[tuple[float, float]]) -> float:
    """The continued fraction a1/(b1 + a2/(b2 + ...)), by Lentz's method."""
    value, c, d = _SMALL, _SMALL, 0.0
    for a, b in terms:
        d = 1 / ((b + a * d) or _SMALL)
        c = (b + a / c) or _SMALL
        value *= c * d
        if abs(c * d - 1) < _ENOUGH:
            break
    return value
