"""How many labels are enough, held against the intervals themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from moderate.errors import InputError
from moderate.train.claims import (
    HALF_WIDTH,
    check_counts,
    check_holdout,
    effective_count,
    images_for,
)
from moderate.train.inputs import Labelled, LeftOut
from moderate.train.split import folds, hold_out


def wilson_half_width(part: int, whole: int) -> float:
    z, p = 1.959964, part / whole
    root = math.sqrt(p * (1 - p) / whole + z * z / (4 * whole * whole))
    return z / (1 + z * z / whole) * root


def labelled(positive: int, negative: int, weights: list[float] | None = None) -> Labelled:
    truth = np.array([1] * positive + [0] * negative, np.int8)
    count = len(truth)
    return Labelled(
        tuple(f"{number:064x}" for number in range(count)),
        tuple({} for _ in range(count)),
        {"gambling": truth},
        None if weights is None else np.array(weights),
        LeftOut(reasons={"not_an_image": 3}),
        "labels",
    )


@pytest.mark.parametrize("half_width", [0.3, HALF_WIDTH, 0.1, 0.05])
def test_so_many_images_and_no_fewer_bound_every_share(half_width: float) -> None:
    enough = images_for(half_width)
    assert max(wilson_half_width(k, enough) for k in range(enough + 1)) <= half_width
    even = enough - 1 - (enough - 1) % 2
    assert wilson_half_width(even // 2, even) > half_width


def test_the_refusal_says_how_many_labels_are_needed_and_what_was_left_out() -> None:
    assert math.ceil(images_for(HALF_WIDTH) / 0.3) == 70
    check_counts(labelled(70, 70), 0.3)
    with pytest.raises(InputError) as few:
        check_counts(labelled(10, 70), 0.3)
    assert "gambling: 10 positive images where 70 are needed: of those, 21 are held out" in str(
        few.value
    )
    assert "left out: 3 not_an_image" in str(few.value)
    with pytest.raises(InputError, match="gambling: no negative image where 70 are needed"):
        check_counts(labelled(70, 0), 0.3)


def test_weights_make_images_worth_less() -> None:
    assert effective_count(np.ones(7)) == 7
    assert effective_count(np.array([100.0, 1.0, 1.0])) == pytest.approx(1.04, abs=0.01)
    held_out = np.ones(80, np.bool_)
    check_holdout(labelled(40, 40, [2.0] * 80), held_out)
    with pytest.raises(InputError, match=r"40 positive images are held out, which .* worth 1,"):
        check_holdout(labelled(40, 40, [1000.0] + [1.0] * 79), held_out)


def test_a_split_is_of_contents_keeps_shares_and_has_another_seed() -> None:
    names = [f"{number:064x}" for number in range(1000)]
    strata = np.array([number % 10 == 0 for number in range(1000)], np.int64)
    chosen = hold_out(names, strata, 0.3, 0)
    assert chosen.sum() == 300
    assert chosen[strata == 1].sum() == 30
    backwards = hold_out(names[::-1], strata[::-1], 0.3, 0)
    assert (backwards[::-1] == chosen).all()
    assert (hold_out(names, strata, 0.3, 1) != chosen).any()
    numbers = folds(names, strata == 1, 5, 0)
    assert np.bincount(numbers).tolist() == [200] * 5
    assert np.bincount(numbers[strata == 1]).tolist() == [20] * 5
