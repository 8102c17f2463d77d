"""Thresholds hold on unseen data as often as they claim to."""

from __future__ import annotations

import numpy as np
import pytest

from moderate.analysis import bounds
from moderate.analysis.tune import (
    Aim,
    Labelled,
    block_threshold,
    needed,
    review_threshold,
    shares,
    split,
    tune,
)
from moderate.errors import InputError, UsageError
from moderate.policy.load import load_policy
from moderate.policy.model import Thresholds
from moderate.types import Category
from tests.support.scored import drawn, true_false_blocks, true_recall

BASE = load_policy("balanced").policy
NUDITY, VIOLENCE = Category.NUDITY, Category.VIOLENCE


def labelled(rng: np.random.Generator, count: int, prevalence: float = 0.3) -> Labelled:
    scores, labels = drawn(rng, count, prevalence)
    return Labelled(scores, labels == 1, rng.integers(0, 2**63, count).astype(np.uint64))


def most_failures(draws: int, alpha: float) -> int:
    """More than so many of `draws` would be seen once in 10,000 tries if the claim were true."""
    return next(k for k in range(draws) if bounds.at_most(k, draws, alpha) > 1 - 1e-4)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize("count", [60, 93, 500])
def test_the_true_recall_is_below_target_as_rarely_as_promised(count: int, alpha: float) -> None:
    rng, draws, target = np.random.default_rng(count), 2000, 0.95
    failures = 0
    for _ in range(draws):
        threshold = review_threshold(rng.beta(4, 2, count).astype(np.float32), target, alpha)
        assert threshold is not None
        failures += true_recall(float(threshold)) < target
    assert failures <= most_failures(draws, alpha)
    # And no more cautious than whole numbers of misses force it to be.
    misses = bounds.most_events(count, 1 - target, alpha)
    exact = bounds.at_most(misses, count, 1 - target)
    assert abs(failures - exact * draws) < 4 * (exact * draws) ** 0.5 + 5


def test_the_true_share_of_blocked_negatives_is_above_the_limit_as_rarely_as_promised() -> None:
    rng, draws, alpha, limit = np.random.default_rng(7), 2000, 0.05, 0.02
    failures = 0
    for _ in range(draws):
        threshold = block_threshold(rng.beta(1, 6, 400).astype(np.float32), limit, alpha)
        assert threshold is not None
        failures += true_false_blocks(float(threshold)) > limit
    assert draws * 0.01 < failures <= most_failures(draws, alpha)


def test_all_claims_of_a_proposal_hold_together_as_often_as_promised() -> None:
    rng, draws = np.random.default_rng(3), 200
    aim = Aim(target_recall=0.9, max_false_block=0.02, confidence=0.8)
    failures = 0
    for _ in range(draws):
        data = {name: labelled(rng, 1200) for name in (NUDITY, VIOLENCE)}
        tuning = tune(data, {name: each.scores for name, each in data.items()}, BASE, aim)
        assert tuning.alpha == pytest.approx(0.05)
        failures += any(
            true_recall(each.thresholds.review) < aim.target_recall
            or true_false_blocks(each.thresholds.block) > 0.02
            for each in tuning.tuned
        )
    assert 0 < failures <= most_failures(draws, 0.2)


def test_scores_that_are_the_same_cost_no_recall() -> None:
    # Few distinct values: many positives share the threshold, and all of those are found.
    rng, draws, failures = np.random.default_rng(5), 1000, 0
    for _ in range(draws):
        scores = (np.floor(rng.beta(4, 2, 200) * 10) / 10).astype(np.float32)
        threshold = review_threshold(scores, 0.95, 0.05)
        assert threshold is not None
        failures += true_recall(float(threshold)) < 0.95  # values at or above = the draw's own
    assert failures <= most_failures(draws, 0.05)
    same = np.full(100, 0.7, np.float32)
    assert review_threshold(same, 0.95, 0.05) == np.float32(0.7)
    above = block_threshold(same, 0.05, 0.05)
    assert above is not None
    assert above == np.nextafter(np.float32(0.7), np.float32(1))


def test_too_few_labels_are_refused_with_the_number_needed() -> None:
    rng = np.random.default_rng(1)
    data = labelled(rng, 300, 0.2)
    positives = int(data.positive.sum())
    least = needed(0.05, 0.05, 0.3)
    assert least == 84  # of 84, 25 are held out, and 59 stay
    assert positives < least
    with pytest.raises(InputError, match=f"nudity: {positives} positive labels where 84 are need"):
        tune({NUDITY: data}, {NUDITY: data.scores}, BASE, Aim())
    enough = labelled(rng, 1000, 0.5)
    with pytest.raises(InputError, match=r"negative labels where \d+ are needed"):
        tune({NUDITY: enough}, {NUDITY: enough.scores}, BASE, Aim(max_false_block=0.001))
    one_class = Labelled(data.scores, np.zeros(300, bool), data.order)
    with pytest.raises(InputError, match="0 positive labels where 84"):
        tune({NUDITY: one_class}, {NUDITY: data.scores}, BASE, Aim())
    with pytest.raises(InputError, match="nothing to tune"):
        tune({}, {NUDITY: data.scores}, BASE, Aim())


@pytest.mark.parametrize(
    ("rate", "alpha", "holdout"),
    [(0.05, 0.05, 0.3), (0.01, 0.005, 0.5), (0.3, 0.2, 0.0), (1e-5, 0.01, 0.99)],
)
def test_the_number_needed_is_the_least_that_is_enough(
    rate: float, alpha: float, holdout: float
) -> None:
    least = needed(rate, alpha, holdout)
    for count, enough in ((least, True), (least - 1, False)):
        train = count - round(count * holdout)
        assert (bounds.most_events(train, rate, alpha) >= 0) == enough


@pytest.mark.parametrize(
    "aim",
    [
        Aim(target_recall=1.0),
        Aim(target_recall=0.0),
        Aim(target_recall=float("nan")),
        Aim(max_false_block=0.0),
        Aim(max_false_block=-1),
        Aim(confidence=1.0),
        Aim(holdout=1.0),
        Aim(max_review_share=1.5),
    ],
)
def test_nonsense_is_refused(aim: Aim) -> None:
    with pytest.raises(UsageError, match="--"):
        aim.check()


def test_the_split_is_even_and_the_same_in_any_order() -> None:
    rng = np.random.default_rng(2)
    data = labelled(rng, 1000, 0.1)
    train, held = split(data, 0.3)
    assert not (train & held).any()
    assert (train | held).all()
    positives = int(data.positive.sum())
    assert (held & data.positive).sum() == round(0.3 * positives)
    assert (held & ~data.positive).sum() == round(0.3 * (1000 - positives))
    mixed = rng.permutation(1000)
    again = Labelled(data.scores[mixed], data.positive[mixed], data.order[mixed])
    assert (split(again, 0.3)[1] == held[mixed]).all()


def test_a_proposal_says_what_it_does_to_all_images() -> None:
    rng = np.random.default_rng(4)
    data = labelled(rng, 2000)
    everything, _ = drawn(rng, 50_000, 0.3)
    scores = {NUDITY: everything, VIOLENCE: np.full(50_000, np.nan, np.float32)}
    tuning = tune({NUDITY: data}, scores, BASE, Aim(0.9, 0.01, 0.5))
    (each,) = tuning.tuned
    limits = tuning.thresholds[NUDITY]
    blocked = everything >= np.float32(limits.block)
    reviewed = (everything >= np.float32(limits.review)) & ~blocked
    assert tuning.review_share == pytest.approx(reviewed.mean())
    assert tuning.block_share == pytest.approx(blocked.mean())
    assert tuning.images == 50_000
    assert tuning.problem is None
    assert tuning.thresholds[VIOLENCE] == BASE.categories[VIOLENCE]
    chosen = [row for row in each.table if row.chosen]
    assert [row.threshold for row in chosen] == [limits.review]
    assert chosen[0].review_share == pytest.approx(tuning.review_share)
    assert 8 <= len(each.table) <= 9
    recalls = [row.recall.events for row in each.table]
    assert recalls == sorted(recalls)
    assert recalls[-1] == data.positive.sum()
    assert each.recall.bound >= 0.9
    assert each.false_blocks is not None
    assert each.false_blocks.bound <= 0.01
    refused = tune({NUDITY: data}, scores, BASE, Aim(0.99, None, 0.01))
    assert "over --max-review-share 0.01" in str(refused.problem)


def test_a_holdout_that_contradicts_is_no_proposal() -> None:
    rng = np.random.default_rng(6)
    data = labelled(rng, 1000, 0.5)
    _, held = split(data, 0.3)
    data.scores[held & data.positive] = 0.01  # labels of another source, say
    tuning = tune({NUDITY: data}, {NUDITY: data.scores}, BASE, Aim())
    assert "on the holdout, recall is 0.000" in str(tuning.problem)


def test_a_block_threshold_is_never_below_review() -> None:
    rng = np.random.default_rng(8)
    scores = np.concatenate([rng.uniform(0.9, 1, 300), rng.uniform(0, 0.2, 300)])
    data = Labelled(
        scores.astype(np.float32),
        np.arange(600) < 300,
        rng.integers(0, 2**63, 600).astype(np.uint64),
    )
    (each,) = tune({NUDITY: data}, {NUDITY: data.scores}, BASE, Aim()).tuned
    # Blocking stays as in the base policy, and whoever uses the proposal is warned.
    assert each.thresholds.review == each.thresholds.block == 0.85
    assert "was lowered to it" in each.notes[0]
    assert each.recall.bound >= 0.95
    assert "all 300 images that are not approved are blocked unseen;" in each.warnings[0]
    certain = Labelled(np.ones(600, np.float32), data.positive, data.order)
    with pytest.raises(InputError, match=r"negatives score up to 1\.0"):
        tune({NUDITY: certain}, {NUDITY: certain.scores}, BASE, Aim(max_false_block=0.05))


def test_shares_compare_as_policies_do() -> None:
    limits = {NUDITY: Thresholds(review=0.3, block=0.95)}
    scores = {NUDITY: np.array([0.3, 0.95, 0.29999, np.nan], np.float32)}
    assert shares(scores, limits) == (0.25, 0.25)


def test_a_block_threshold_is_lowered_only_when_asked() -> None:
    data = labelled(np.random.default_rng(9), 2000)
    scores = {NUDITY: data.scores}
    (kept,) = tune({NUDITY: data}, scores, BASE, Aim(0.9, 0.02)).tuned
    assert kept.thresholds.block == BASE.categories[NUDITY].block
    assert "block stays at 0.85" in kept.notes[0]
    assert kept.false_blocks is not None
    assert kept.false_blocks.bound <= 0.02
    (lowered,) = tune({NUDITY: data}, scores, BASE, Aim(0.9, 0.02, lower_block=True)).tuned
    assert lowered.thresholds.review < lowered.thresholds.block < 0.85
    assert not kept.warnings
    with pytest.raises(UsageError, match="--lower-block goes with --max-false-block"):
        Aim(lower_block=True).check()


def test_a_middle_band_of_almost_no_images_is_told() -> None:
    data = labelled(np.random.default_rng(10), 2000)
    narrow = Aim(0.9, 0.1, lower_block=True)
    (each,) = tune({NUDITY: data}, {NUDITY: data.scores}, BASE, narrow).tuned
    assert each.thresholds.review <= each.thresholds.block
    assert "almost nothing goes to review" in each.warnings[0]
