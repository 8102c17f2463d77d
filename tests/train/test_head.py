"""Fitting: it learns, it is the same each time, and weights count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moderate.errors import UsageError
from moderate.train import head as heads
from moderate.train.head import PENALTIES, fit, require_scikit_learn


def drawn(count: int, width: int = 8, seed: int = 0) -> tuple[Any, Any, list[str]]:
    """Features, of which the first tells positives from negatives, their labels and names."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, width)).astype(np.float32)
    truth = features[:, 0] * 2 + random.normal(size=count) > 0.5
    return features * 50 + 1000, truth, [f"{number:064x}" for number in range(count)]


def test_a_head_is_the_same_each_time_and_tells_apart() -> None:
    features, truth, names = drawn(600)
    one, same, other = (fit(features, truth, None, names, seed) for seed in (0, 0, 1))
    assert one.weight.tobytes() == same.weight.tobytes()
    assert one.bias == same.bias
    assert one.losses == same.losses != other.losses
    unseen, labels, _ = drawn(600, seed=1)
    scores = one.scores(unseen)
    assert scores.dtype == np.float32
    assert scores[labels].mean() > scores[~labels].mean() + 0.3
    assert abs(one.weight[0]) > 5 * np.abs(one.weight[1:]).max()


def test_what_says_nothing_gets_the_strongest_penalty() -> None:
    features, truth, names = drawn(400)
    nonsense = np.random.default_rng(3).permutation(truth)
    assert fit(features, nonsense, None, names, 0).penalty == PENALTIES[0]
    separable = fit(features, features[:, 0] > 1000, None, names, 0)
    assert separable.penalty < PENALTIES[0]


def test_both_sides_weigh_the_same_whatever_their_numbers() -> None:
    features, truth, names = drawn(2000)
    few = truth & (np.arange(2000) % 8 == 0)
    kept = few | ~truth
    head = fit(
        features[kept], few[kept], None, [n for n, k in zip(names, kept, strict=True) if k], 0
    )
    flagged = head.scores(features[kept]) > 0.5
    assert flagged[few[kept]].mean() > 0.75


def test_an_image_of_weight_two_counts_as_two() -> None:
    features, truth, _names = drawn(300)
    weights = np.where(np.arange(300) < 150, 2.0, 1.0)
    twice = np.concatenate([np.arange(300), np.arange(150)])
    weighted = heads._Path(features - 1000, truth, weights, np.zeros(300, np.bool_)).fitted(0.01)
    repeated = heads._Path(
        (features - 1000)[twice], truth[twice], np.ones(450), np.zeros(450, np.bool_)
    ).fitted(0.01)
    # The penalty is beside a mean loss, so that 300 images of these weights equal those 450.
    np.testing.assert_allclose(weighted[0], repeated[0], rtol=0.05)


def test_features_that_never_vary_are_no_trouble() -> None:
    features, truth, names = drawn(200)
    features[:, 3] = 7
    assert np.isfinite(fit(features, truth, None, names, 0).weight).all()


def test_without_scikit_learn_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "installed", lambda module: False)
    with pytest.raises(UsageError, match="training needs scikit-learn: "):
        require_scikit_learn()
