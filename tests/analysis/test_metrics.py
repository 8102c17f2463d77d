"""Metrics held against scikit-learn's on the same data, also where there is little or no sense."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from moderate.analysis import bounds
from moderate.analysis.metrics import (
    ECE_BINS,
    NO_IMAGES,
    NO_NEGATIVES,
    NO_POSITIVES,
    NOTHING_FLAGGED,
    Estimate,
    average_precision,
    calibration_error,
    curve,
    measure,
    reliability,
    roc_auc,
    share,
)

Data = tuple[NDArray[np.bool_], NDArray[np.float32]]


def random(seed: int, n: int, prevalence: float, digits: int | None) -> Data:
    """Scores that tell something; with few digits there are many ties."""
    made = np.random.default_rng(seed)
    truth = made.random(n) < prevalence
    scores = 1 / (1 + np.exp(-made.normal(truth * 1.5 - 0.75, 1.2)))
    return truth, (scores if digits is None else scores.round(digits)).astype(np.float32)


def plain(truth: list[int], scores: list[float]) -> Data:
    return np.array(truth, np.bool_), np.array(scores, np.float32)


EVERY = {
    **{
        f"random {seed}, {n}, {digits} digits": random(seed, n, prevalence, digits)
        for seed, (n, prevalence) in enumerate([(2, 0.5), (7, 0.3), (60, 0.1), (500, 0.5),
                                                (5000, 0.02), (999, 0.98)])
        for digits in (None, 1, 2)
    },
    "one class, positives": plain([1, 1, 1], [0.2, 0.8, 0.8]),
    "one class, negatives": plain([0, 0, 0, 0], [0.2, 0.9, 0.5, 0.5]),
    "constant": plain([1, 0, 0, 1, 0], [0.4] * 5),
    "constant at the threshold": plain([1, 0, 0], [0.5] * 3),
    "one positive": plain([1], [0.7]),
    "one negative": plain([0], [0.7]),
    "one positive below": plain([1], [0.1]),
    "at the ends": plain([0, 0, 1, 1, 1, 0], [0, 1, 0, 1, 1, 0]),
    "wrong way round": plain([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]),
    "perfect": plain([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),
    "on the edges of bins": plain(
        [index % 2 for index in range(16)], [index / 15 for index in range(16)]
    ),
    "neighbours as float32": plain(
        [1, 0, 1], [0.5, float(np.nextafter(np.float32(0.5), np.float32(1))), 0.5]
    ),
}  # fmt: skip


@pytest.fixture(params=EVERY.values(), ids=EVERY.keys())
def data(request: pytest.FixtureRequest) -> Data:
    given: Data = request.param
    return given


def judged(metric: Callable[..., Any], *arguments: Any, **options: Any) -> float | None:
    """What scikit-learn says; None where it warns that the metric is not defined, or says NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            value = float(metric(*arguments, **options))
        except (UserWarning, ValueError):
            return None
    return None if math.isnan(value) else value


def same(ours: Estimate, theirs: float | None) -> None:
    assert (ours.value is None) == (theirs is None) == (ours.reason is not None)
    if theirs is not None:
        assert ours.value == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("thresholds", [(0.3, 0.7), (0.5, 0.5), (0.0, 1.0)])
def test_at_the_thresholds(data: Data, thresholds: tuple[float, float]) -> None:
    truth, scores = data
    reviewed, blocked = (scores >= np.float32(threshold) for threshold in thresholds)
    made = measure(truth, scores, reviewed, blocked)
    for flagged, counts, ours in (
        (reviewed, made.at_review, (made.precision, made.recall, made.f1)),
        (blocked, made.at_block, (made.block_precision, made.block_recall, made.block_f1)),
    ):
        tn, fp, fn, tp = sk.confusion_matrix(truth, flagged, labels=[False, True]).ravel()
        assert counts == (tp, fp, fn, tn)
        for each, metric in zip(
            ours, (sk.precision_score, sk.recall_score, sk.f1_score), strict=True
        ):
            same(each, judged(metric, truth, flagged, zero_division=np.nan))


def test_areas(data: Data) -> None:
    truth, scores = data
    same(average_precision(truth, scores), judged(sk.average_precision_score, truth, scores))
    same(roc_auc(truth, scores), judged(sk.roc_auc_score, truth, scores))


def test_the_curve_is_that_of_precision_and_recall(data: Data) -> None:
    truth, scores = data
    at = curve(truth, scores)
    assert at.images[-1] == len(truth)
    assert at.positives[-1] == truth.sum()
    if truth.any():
        precision, recall, thresholds = sk.precision_recall_curve(truth, scores)
        np.testing.assert_array_equal(thresholds[::-1], at.scores)
        np.testing.assert_allclose(precision[:-1][::-1], at.positives / at.images, atol=1e-12)
        np.testing.assert_allclose(recall[:-1][::-1], at.positives / truth.sum(), atol=1e-12)


def test_calibration(data: Data) -> None:
    truth, scores = data
    exact = scores.astype(np.float64)
    shares, means = calibration_curve(truth.astype(int), exact, n_bins=ECE_BINS)
    ours = reliability(truth, scores)
    assert [each.positives for each in ours] == pytest.approx(shares)
    assert [each.mean_score for each in ours] == pytest.approx(means)
    counts = np.array([each.images for each in ours])
    assert counts.sum() == len(truth)
    expected = float((counts / len(truth) * abs(shares - means)).sum())
    assert calibration_error(truth, scores).value == pytest.approx(expected, abs=1e-12)


def test_what_is_undefined_says_why() -> None:
    nothing = plain([], [])
    made = measure(*nothing, nothing[0], nothing[0], resamples=10)
    assert made.at_review == (0, 0, 0, 0)
    assert made.average_precision == made.roc_auc == made.ece == Estimate(None, NO_IMAGES)
    truth, scores = EVERY["one class, negatives"]
    made = measure(truth, scores, scores > 1, scores > 1, resamples=10)
    assert made.precision == Estimate(None, NOTHING_FLAGGED)
    assert made.recall == made.average_precision == made.roc_auc == Estimate(None, NO_POSITIVES)
    assert made.f1.value is None
    truth, scores = EVERY["one class, positives"]
    assert roc_auc(truth, scores) == Estimate(None, NO_NEGATIVES)


def by_hand(data: Data, resamples: int, seed: int) -> dict[str, tuple[float, float]]:
    """Intervals by scikit-learn, one resample after another."""
    truth, scores = (each[np.argsort(data[1], kind="stable")[::-1]] for each in data)
    drawn = np.random.default_rng(seed).integers(0, len(truth), (resamples, len(truth)))
    flagged = scores >= np.float32(0.5)
    values = [
        [
            sk.precision_score(truth[rows], flagged[rows], zero_division=np.nan),
            sk.recall_score(truth[rows], flagged[rows]),
            sk.f1_score(truth[rows], flagged[rows]),
            sk.average_precision_score(truth[rows], scores[rows]),
            sk.roc_auc_score(truth[rows], scores[rows]),
            calibration_error(truth[rows], scores[rows].astype(np.float32)).value,
        ]
        for rows in drawn
    ]
    names = ("precision", "recall", "f1", "average_precision", "roc_auc", "ece")
    bands = np.quantile(np.array(values, np.float64), (0.025, 0.975), axis=0).T
    return {name: tuple(band) for name, band in zip(names, bands.tolist(), strict=True)}


@pytest.mark.parametrize("digits", [None, 1])
def test_intervals_are_those_of_resampling_by_hand(
    digits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random(11, 150, 0.4, digits)
    expected = by_hand(data, 60, seed=5)
    flagged = data[1] >= np.float32(0.5)
    made = measure(*data, flagged, flagged, resamples=60, seed=5)
    for name, band in expected.items():
        estimate = getattr(made, name)
        assert (estimate.low, estimate.high) == pytest.approx(band, abs=1e-12), name
        assert estimate.method == "bootstrap"
        if name != "ece":  # too high in every resample, and more so than in the labels
            assert estimate.low < estimate.value < estimate.high
    assert made.block_recall == made.recall
    assert measure(*data, flagged, flagged, resamples=60, seed=5) == made
    assert measure(*data, flagged, flagged, resamples=60, seed=6) != made
    # However many are held at once: the numbers drawn are the same.
    monkeypatch.setattr("moderate.analysis.metrics._CELLS", 1000)
    assert measure(*data, flagged, flagged, resamples=60, seed=5) == made


def test_an_interval_is_never_a_point() -> None:
    truth, scores = EVERY["perfect"]
    flagged = scores >= 0.5
    made = measure(truth, scores, flagged, flagged, resamples=200)
    assert made.recall == Estimate(1.0, None, *bounds.interval(2, 2, 0.95), "exact")
    assert made.recall.low == pytest.approx(0.025**0.5)  # Clopper and Pearson for all of 2
    for each in (made.f1, made.average_precision, made.roc_auc):
        assert (each.value, each.low) == (1.0, None)


def test_an_interval_needs_resamples_in_which_it_is_defined() -> None:
    truth, scores = random(3, 200, 0.0, None)
    truth[0] = True  # absent from about a third of resamples
    made = measure(truth, scores, scores >= 0.2, scores >= 0.2, resamples=200)
    assert (made.roc_auc.low, made.average_precision.low) == (None, None)
    assert made.roc_auc.value is not None
    assert made.recall.method == "exact"
    assert made.ece.method == "bootstrap"


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Recall at 0.5 of scores whose recall is known: near 95 of 100 intervals hold it."""
    truth = np.arange(400) < 200
    held = 0
    for seed in range(100):
        scores = np.random.default_rng(seed).random(400).astype(np.float32)
        flagged = scores >= 0.3
        recall = measure(truth, scores, flagged, flagged, resamples=300, seed=seed).recall
        assert recall.low is not None
        assert recall.high is not None
        held += recall.low <= 0.7 <= recall.high
    assert 88 <= held <= 100


def test_a_share() -> None:
    assert share(0, 0, 100, 0, "none so") == Estimate(None, "none so")
    assert share(1, 4, 0, 0, "-") == Estimate(0.25)
    assert share(0, 100, 100, 0, "-") == Estimate(0.0, None, 0.0, pytest.approx(0.0362, abs=1e-4),
                                                  "exact")  # fmt: skip
    made = share(30, 100, 4000, 1, "-")
    assert (made.low, made.high) == (pytest.approx(0.21, abs=0.011), pytest.approx(0.39, abs=0.011))
