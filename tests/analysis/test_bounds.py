"""Exact bounds and tails, against sums of fractions and published tables."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from moderate.analysis import bounds


def summed(k: int, n: int, rate: float) -> float:
    p = Fraction(rate)
    return float(sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)))


@pytest.mark.parametrize("rate", [1e-3, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("n", [1, 7, 59, 400])
def test_the_binomial_tail_is_the_sum_of_its_terms(n: int, rate: float) -> None:
    for k in {0, 1, n // 10, n // 2, n - 1}:
        expected = 1.0 if k >= n else summed(k, n, rate)
        assert bounds.at_most(k, n, rate) == pytest.approx(expected, rel=1e-10, abs=1e-13)
    assert bounds.at_most(-1, n, rate) == 0
    assert bounds.at_most(n, n, rate) == 1


def test_exact_intervals_are_those_of_the_tables() -> None:
    # Clopper and Pearson at 95 %, as printed in statistical tables.
    for k, n, low, high in (
        (0, 10, 0.0, 0.30850),
        (1, 10, 0.00253, 0.44502),
        (5, 10, 0.18709, 0.81291),
        (10, 10, 0.69150, 1.0),
        (8, 100, 0.03517, 0.15156),
    ):
        assert bounds.interval(k, n, 0.95) == pytest.approx((low, high), abs=1e-5)
    assert bounds.interval(0, 0, 0.95) == (0.0, 1.0)


def test_a_bound_leaves_exactly_its_level_outside() -> None:
    for k, n, alpha in ((0, 20, 0.05), (3, 50, 0.01), (999, 100_000, 0.001)):
        upper = bounds.upper_bound(k, n, alpha)
        assert bounds.at_most(k, n, upper) == pytest.approx(alpha, rel=1e-6)
        assert bounds.lower_bound(n - k, n, alpha) == pytest.approx(1 - upper)


def test_how_many_it_takes() -> None:
    # Wilks: 59, 93, 124 for 0, 1, 2 misses at 95 % and 95 %.
    rate = 0.05
    assert bounds.least_tries(rate, 0.05) == 59
    found = [bounds.most_events(n, rate, 0.05) for n in (58, 59, 92, 93, 123, 124)]
    assert found == [-1, 0, 0, 1, 1, 2]
    assert bounds.least_tries(0.5, 0.5) == 1
    for rate in (0.3, 0.01, 1e-5):
        n = bounds.least_tries(rate, 0.01)
        assert bounds.most_events(n, rate, 0.01) >= 0 > bounds.most_events(n - 1, rate, 0.01)


def test_chi_squared_tails_are_those_of_the_tables() -> None:
    for statistic, degrees, p in (
        (3.841458820694124, 1, 0.05),
        (6.634896601021213, 1, 0.01),
        (5.991464547107979, 2, 0.05),
        (16.918977604620448, 9, 0.05),
        (0.004, 1, 0.9495709711511052),
        (29.58829844507442, 10, 0.001),
        (124.34211340400407, 100, 0.05),
    ):
        assert bounds.chi_squared_tail(statistic, degrees) == pytest.approx(p, rel=1e-9)
    for statistic in (0.1, 1.0, 3.0, 40.0):  # at two degrees, exp(-x / 2)
        expected = math.exp(-statistic / 2)
        assert bounds.chi_squared_tail(statistic, 2) == pytest.approx(expected, rel=1e-12)
        one = math.erfc(math.sqrt(statistic / 2))
        assert bounds.chi_squared_tail(statistic, 1) == pytest.approx(one, rel=1e-11)
    assert bounds.chi_squared_tail(0.0, 3) == 1.0
    assert bounds.chi_squared_tail(1e7, 3) == 0.0


def test_holm_multiplies_step_by_step() -> None:
    assert bounds.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert bounds.holm([0.9, 0.8]) == [1.0, 1.0]
    assert bounds.holm([]) == []
