"""Calibrations found again where they are known, and a copy of a bundle that applies them."""

from __future__ import annotations

import tomllib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from moderate.analysis.calibrate import (
    MOST_POINTS,
    Method,
    apply,
    calibrate_category,
    check_bundle,
    fit_isotonic,
    fit_temperature,
    pool,
    quality,
    write_copy,
)
from moderate.analysis.tune import Labelled
from moderate.classify.bundle import load_bundle
from moderate.classify.card import Calibration
from moderate.classify.classifier import Classifier
from moderate.classify.device import place
from moderate.classify.selftest import inputs
from moderate.errors import InputError, OutputError
from moderate.types import CATEGORIES, Category
from moderate.weights.verify import verify_bundle
from tests.support.bundles import make_bundle

NUDITY = Category.NUDITY


def overconfident(
    rng: np.random.Generator, count: int, temperature: float, bias: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scores that are right after sigmoid(logit / temperature + bias), and labels."""
    logit = rng.normal(-1, 3, count)
    positive = rng.random(count) < 1 / (1 + np.exp(-(logit / temperature + bias)))
    return (1 / (1 + np.exp(-logit))).astype(np.float32), positive


@pytest.mark.parametrize(("temperature", "bias"), [(2.0, 0.5), (0.7, -1.0), (1.0, 0.0)])
def test_temperature_and_bias_are_found_again(temperature: float, bias: float) -> None:
    scores, positive = overconfident(np.random.default_rng(1), 100_000, temperature, bias)
    found = fit_temperature(scores, positive)
    assert found.temperature == pytest.approx(temperature, rel=0.03)
    assert found.bias == pytest.approx(bias, abs=0.04)


def test_no_other_temperature_or_bias_has_less_log_loss() -> None:
    scores, positive = overconfident(np.random.default_rng(2), 5000, 3.0, 1.0)
    found = fit_temperature(scores, positive)
    best = quality(apply(scores, found), positive).log_loss
    for factor, shift in ((0.97, 0), (1.03, 0), (1, 0.05), (1, -0.05)):
        other = Calibration(temperature=found.temperature * factor, bias=found.bias + shift)
        assert quality(apply(scores, other), positive).log_loss > best


def test_classes_that_a_threshold_separates_give_a_finite_answer() -> None:
    scores = np.concatenate([np.linspace(0.01, 0.4, 50), np.linspace(0.6, 0.99, 50)])
    found = fit_temperature(scores.astype(np.float32), np.arange(100) >= 50)
    assert 0.01 < found.temperature < 10
    extreme = np.repeat(np.array([0.0, 1.0], np.float32), 50)
    assert fit_temperature(extreme, np.arange(100) >= 50).temperature > 0


def test_scores_that_say_nothing_or_the_opposite_are_refused() -> None:
    scores, positive = overconfident(np.random.default_rng(3), 1000, 1.0, 0.0)
    for fit in (fit_temperature, fit_isotonic):
        with pytest.raises(ValueError, match="cannot help"):
            fit(scores, ~positive)
        with pytest.raises(ValueError, match=r"nothing to calibrate|cannot help"):
            fit(np.full(1000, 0.5, np.float32), positive)


def brute_isotonic(y: list[float]) -> list[float]:
    """By the min-max formula of isotonic regression."""
    n = len(y)
    means = {(i, j): sum(y[i : j + 1]) / (j + 1 - i) for i in range(n) for j in range(i, n)}
    return [max(min(means[i, j] for j in range(k, n)) for i in range(k + 1)) for k in range(n)]


def test_pooling_is_the_least_squares_fit_that_never_falls() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        y = rng.random(12)
        x = np.arange(12.0)
        pooled_x, pooled_y = pool(x, y, np.ones(12))
        expected = brute_isotonic(y.tolist())
        assert pooled_y == pytest.approx(sorted(set(np.round(expected, 12))), abs=1e-9)
        sizes = [np.isclose(expected, value).sum() for value in pooled_y]
        starts = np.cumsum([0, *sizes[:-1]])
        assert pooled_x == pytest.approx(
            [(s + (n - 1) / 2) for s, n in zip(starts, sizes, strict=True)]
        )


@pytest.mark.parametrize("count", [120, 5000])
def test_a_table_rises_and_is_short(count: int) -> None:
    scores, positive = overconfident(np.random.default_rng(5), count, 3.0, 1.0)
    for values in (scores, np.round(scores, 1), np.where(scores > 0.5, 1, scores)):
        table = fit_isotonic(values.astype(np.float32), positive).table
        assert 2 <= len(table) <= MOST_POINTS
        assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(table))
        assert table[0][0] == 0.0 or values.min() == 0
        assert table[-1][0] == 1.0
        assert 0 < table[0][1] < table[-1][1] < 1 or values.max() == 1


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_what_is_kept_is_better_where_it_was_not_fitted(method: Method) -> None:
    rng = np.random.default_rng(6)
    scores, positive = overconfident(rng, 6000, 3.0, 1.0)
    order = rng.integers(0, 2**63, 6000).astype(np.uint64)
    done = calibrate_category(NUDITY, Labelled(scores, positive, order), method, 0.3)
    assert done.calibration is not None
    assert done.after.log_loss < done.before.log_loss
    assert done.after.ece < done.before.ece / 2
    fresh, truth = overconfident(rng, 50_000, 3.0, 1.0)
    assert quality(apply(fresh, done.calibration), truth).ece < 0.02
    assert quality(fresh, truth).ece > 0.05


def test_what_does_not_help_is_not_kept() -> None:
    rng = np.random.default_rng(7)
    found = []
    for _ in range(20):
        scores = rng.random(300).astype(np.float32)  # as good as it gets
        order = rng.integers(0, 2**63, 300).astype(np.uint64)
        data = Labelled(scores, rng.random(300) < scores, order)
        found.append(calibrate_category(NUDITY, data, "isotonic", 0.3))
    for each in found:
        assert (each.calibration is None) == (each.after.log_loss >= each.before.log_loss)
    assert any(each.calibration is None for each in found)


def test_too_few_labels_are_refused() -> None:
    scores, positive = overconfident(np.random.default_rng(8), 60, 1.0, 0.0)
    data = Labelled(scores, positive, np.arange(60, dtype=np.uint64))
    with pytest.raises(InputError, match=r"positive and \d+ negative .* isotonic needs 50 of each"):
        calibrate_category(NUDITY, data, "isotonic", 0.3)
    with pytest.raises(InputError, match="needs a holdout"):
        calibrate_category(NUDITY, data, "temperature", 0.0)


def test_quality_is_what_it_is_by_hand() -> None:
    found = quality(np.array([0.25, 0.75, 0.8, 1.0], np.float32), np.array([0, 1, 0, 1]) == 1)
    losses = [-np.log(0.75), -np.log(0.75), -np.log(0.2), 0]
    assert found.log_loss == pytest.approx(np.mean(losses))
    assert found.ece == pytest.approx((0.25 + 0.25 + 0.8 + 0) / 4)


def test_a_copy_is_whole_scores_as_the_curve_says_and_verifies(
    bundle: Path, tmp_path: Path
) -> None:
    original = load_bundle(str(bundle))
    table = Calibration(table=((0.0, 0.1), (0.4, 0.2), (1.0, 0.9)))
    wanted = {NUDITY: table, CATEGORIES[3]: Calibration(temperature=0.5, bias=-1.0)}
    copy = write_copy(original, wanted, str(tmp_path / "copy"))
    assert copy.name == f"{original.name}-calibrated"
    assert copy.sha256 != original.sha256
    assert copy.card.calibration == wanted
    verified = verify_bundle(str(tmp_path / "copy"), "cpu", "fp32")
    assert verified.selftest is not None
    assert verified.selftest.passed
    images = inputs(original.specs)
    with (
        Classifier(original, place("cpu", "fp32", "torch")) as one,
        Classifier(copy, place("cpu", "fp32", "torch")) as other,
    ):
        for raw, scores in zip(one.score(images), other.score(images), strict=True):
            assert isinstance(raw, dict)
            assert isinstance(scores, dict)
            for category in CATEGORIES:
                plain = np.array([raw[category]], np.float32)
                expected = apply(plain, wanted.get(category))
                assert scores[category] == pytest.approx(float(expected[0]), abs=1e-6)
    assert list(tmp_path.iterdir()) == [tmp_path / "copy"]


def test_tolerances_grow_where_the_curve_is_steep(tmp_path: Path) -> None:
    from moderate.classify.selftest import record

    folder = make_bundle(tmp_path / "steep")
    record(folder)
    original = load_bundle(str(folder))
    assert original.card.selftest is not None
    score = original.card.selftest.scores[NUDITY][0]
    steep = Calibration(table=((0.0, 0.0), (score, 0.1), (score + 1e-4, 0.9), (1.0, 1.0)))
    copy = write_copy(original, {NUDITY: steep}, str(tmp_path / "copy"))
    assert copy.card.selftest is not None
    assert 0.7 < copy.card.selftest.tolerance <= 1.0
    untouched = write_copy(original, {NUDITY: Calibration(bias=0.01)}, str(tmp_path / "other"))
    assert untouched.card.selftest is not None
    assert untouched.card.selftest.tolerance < 1.2e-4


def test_what_is_in_the_way_stays_and_other_weights_are_refused(
    bundle: Path, tmp_path: Path
) -> None:
    original = load_bundle(str(bundle))
    (tmp_path / "there").mkdir()
    for target, reason in (("there", "is there already"), ("no/where", "no folder")):
        with pytest.raises(OutputError, match=reason):
            write_copy(original, {NUDITY: Calibration(bias=1.0)}, str(tmp_path / target))
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]
    with pytest.raises(InputError, match="calibrate the bundle that made them"):
        check_bundle(original, "cd" * 32, [NUDITY])
    copy = write_copy(original, {NUDITY: Calibration(bias=1.0)}, str(tmp_path / "copy"))
    check_bundle(copy, copy.sha256, [CATEGORIES[1]])
    with pytest.raises(InputError, match="calibrates nudity already"):
        check_bundle(copy, copy.sha256, [NUDITY, CATEGORIES[1]])
    again = write_copy(copy, {CATEGORIES[1]: Calibration(bias=2.0)}, str(tmp_path / "again"))
    assert set(again.card.calibration) == {NUDITY, CATEGORIES[1]}
    card = tomllib.loads((tmp_path / "again" / "moderation.toml").read_text())
    assert card["name"].endswith("-calibrated-calibrated")


def test_weights_count_as_copies_would() -> None:
    rng = np.random.default_rng(11)
    scores, positive = overconfident(rng, 4000, 2.0, 0.5)
    copies = np.where(scores < 0.3, 5, 1)
    weights = copies.astype(np.float64)
    many = np.repeat(scores, copies), np.repeat(positive, copies)
    ours, theirs = quality(scores, positive, weights), quality(*many)
    assert (ours.log_loss, ours.ece) == pytest.approx((theirs.log_loss, theirs.ece))
    found, expected = fit_temperature(scores, positive, weights), fit_temperature(*many)
    assert found.temperature == pytest.approx(expected.temperature, rel=0.02)
    assert found.bias == pytest.approx(expected.bias, abs=0.02)
    plain = fit_temperature(scores, positive)
    assert abs(found.bias - plain.bias) + abs(found.temperature - plain.temperature) > 0.002
    curve, plain_curve = (fit_isotonic(scores, positive, each).table for each in (weights, None))
    assert curve != plain_curve
    sevenfold = fit_isotonic(scores, positive, np.full(4000, 7.0)).table
    np.testing.assert_allclose(sevenfold, plain_curve)
