"""Cohen's kappa and its interval, held against published figures."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from moderate.review.agreement import cohens_kappa


def table(rows: list[list[int]]) -> list[tuple[str, str]]:
    return [
        (str(one), str(other))
        for one, cells in enumerate(rows)
        for other, count in enumerate(cells)
        for _ in range(count)
    ]


def kappa_of(shares: NDArray[np.float64]) -> float:
    """Its plain definition, over a table of shares."""
    chance = shares.sum(axis=1) @ shares.sum(axis=0)
    return float((np.trace(shares) - chance) / (1 - chance))


@pytest.mark.parametrize(
    ("rows", "kappa"),
    [
        ([[20, 5], [10, 15]], 0.4),  # 0.7 alike, 0.5 by chance
        ([[106, 10, 4], [22, 28, 10], [2, 12, 6]], 0.429),  # Fleiss, Cohen and Everitt 1969
        ([[40, 9], [1, 0]], None),
    ],
)
def test_kappa_and_its_error_are_those_of_the_definition(
    rows: list[list[int]], kappa: float | None
) -> None:
    found = cohens_kappa(table(rows))
    assert found is not None
    shares = np.array(rows) / np.sum(rows)
    assert found.alike == pytest.approx(np.trace(shares))
    assert found.kappa == pytest.approx(kappa_of(shares))
    if kappa is not None:
        assert found.kappa == pytest.approx(kappa, abs=5e-4)
    # The delta method with slopes found by small steps: the formula is not used.
    slopes = np.empty(shares.shape)
    for cell in np.ndindex(*shares.shape):
        step = np.zeros(shares.shape)
        step[cell] = 1e-6
        slopes[cell] = (kappa_of(shares + step) - kappa_of(shares - step)) / 2e-6
    variance = ((slopes**2 * shares).sum() - (slopes * shares).sum() ** 2) / np.sum(rows)
    assert found.low is not None
    assert found.low == pytest.approx(found.kappa - 1.96 * variance**0.5, abs=1e-3)


def test_full_agreement_and_what_has_no_kappa() -> None:
    full = cohens_kappa([("a", "a"), ("b", "b")])
    assert full is not None
    assert (full.kappa, full.low, full.high) == (1.0, None, None), "two images make nothing certain"
    same = cohens_kappa([("a", "a")] * 9)
    assert same is not None
    assert (same.alike, same.kappa, same.low) == (1.0, None, None)
    assert cohens_kappa([]) is None
