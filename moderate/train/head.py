"""A head: for each category a logistic regression on features, by scikit-learn.

Everything is the same to the last bit for the same features and seed: nothing is drawn but the
folds, and linear algebra has one thread, so that sums have one order.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from moderate.classify.features import Features
from moderate.cores import available_cores
from moderate.errors import UsageError
from moderate.installing import how_to_install
from moderate.libraries import installed
from moderate.train.split import folds

FOLDS = 5

PENALTIES = tuple(10.0**exponent for exponent in np.arange(0.0, -6.1, -0.5).tolist())
"""Weights of the squared coefficients beside the mean loss of an image, the strongest first."""

_PATIENCE = 2  # steps of PENALTIES without a lower loss, after which none is tried
_ITERATIONS = 500
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, slots=True)
class Head:
    """One category's layer: sigmoid(features @ weight + bias).

    weight is float32 (F), penalty the one that was chosen, losses the mean loss of an image that
    was left out of the fit, for each penalty that was tried.
    """

    weight: NDArray[np.float32]
    bias: np.float32
    penalty: float
    losses: tuple[float, ...]

    def scores(self, features: Features) -> NDArray[np.float32]:
        """Scores of N x F features: float32 in 0..1."""
        logits = features.astype(np.float64) @ self.weight.astype(np.float64) + float(self.bias)
        with np.errstate(over="ignore"):
            scores: NDArray[np.float32] = (1 / (1 + np.exp(-logits))).astype(np.float32)
        return scores


def require_scikit_learn() -> None:
    """Raises UsageError where it is not installed."""
    if not installed("sklearn"):
        raise UsageError(f"training needs scikit-learn: {how_to_install('train')}")


def fit(
    features: Features,
    truth: NDArray[np.bool_],
    weights: NDArray[np.float64] | None,
    digests: Sequence[str],
    seed: int,
) -> Head:
    """Fit one category on N x F features.

    Positives and negatives have the same weight as a whole, whatever their numbers: labels seldom
    have the shares that images will have. weights, of how many images each stands for, divide it
    among each side.

    The penalty is chosen by cross-validation, from the strongest on, until the loss on the folds
    left out no longer falls: weaker ones would only fit the images by heart. It is the strongest
    whose loss is within a standard error of the lowest (the 1-SE rule of Breiman et al., 1984), so
    that scores of images unlike those of the labels are not extreme.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    counted = np.ones(len(truth)) if weights is None else weights
    balanced = np.where(truth, 0.5 / counted[truth].sum(), 0.5 / counted[~truth].sum()) * counted
    mean, spread = _scale(features)
    scaled = ((features - mean) / spread).astype(np.float32)
    numbers = folds(digests, truth, FOLDS, seed)
    with threadpool_limits(1), ThreadPoolExecutor(min(available_cores(), FOLDS)) as threads:
        paths = [_Path(scaled, truth, balanced, numbers == fold) for fold in range(FOLDS)]
        losses: list[float] = []
        errors: list[float] = []
        for penalty in PENALTIES:
            each = list(threads.map(partial(_Path.loss, penalty=penalty), paths))
            losses.append(float(np.mean(each)))
            errors.append(float(np.std(each, ddof=1)) / FOLDS**0.5)
            if len(losses) - 1 - int(np.argmin(losses)) >= _PATIENCE:
                break
        best = int(np.argmin(losses))
        enough = np.array(losses) <= losses[best] + errors[best]
        chosen = PENALTIES[int(np.argmax(enough))]
        whole = _Path(scaled, truth, balanced, np.zeros(len(truth), np.bool_))
        coefficients, intercept = whole.fitted(chosen)
    # The network's layer takes features as they are.
    weight = coefficients / spread
    bias = intercept - float(weight @ mean)
    return Head(weight.astype(np.float32), np.float32(bias), chosen, tuple(losses))


class _Path:
    """Fits without one fold, each starting from the one before: a penalty a little weaker."""

    def __init__(
        self,
        features: Features,
        truth: NDArray[np.bool_],
        weights: NDArray[np.float64],
        left_out: NDArray[np.bool_],
    ) -> None:
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

        self._features, self._truth = features[~left_out], truth[~left_out]
        # Weights of a mean of 1 keep scikit-learn's tolerance what it is meant to be.
        kept = weights[~left_out]
        self._weights = kept * (len(kept) / kept.sum())
        self._others = features[left_out], truth[left_out], weights[left_out]
        self._model = LogisticRegression(
            solver="lbfgs", max_iter=_ITERATIONS, tol=1e-4, warm_start=True
        )

    def loss(self, penalty: float) -> float:
        """The weighted mean log loss of the fold left out."""
        coefficients, intercept = self.fitted(penalty)
        features, truth, weights = self._others
        logits = features @ coefficients + intercept
        signed = np.where(truth, -logits, logits)
        return float((np.logaddexp(0, signed) * weights).sum() / weights.sum())

    def fitted(self, penalty: float) -> tuple[NDArray[np.float64], float]:
        """Coefficients (F) and intercept."""
        from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]

        # scikit-learn minimises C * sum of losses + |w|^2 / 2.
        self._model.C = 1 / (penalty * len(self._truth))
        with warnings.catch_warnings():
            # Cut short is as good a fit as any: the folds left out say what it is worth.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model.fit(self._features, self._truth, sample_weight=self._weights)
        return self._model.coef_[0].astype(np.float64), float(self._model.intercept_[0])


def _scale(features: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean of each feature and its standard deviation; 1 for one that does not vary."""
    exact = features.astype(np.float64)
    spread = exact.std(axis=0)
    spread[spread < _LEAST_SPREAD] = 1.0
    return exact.mean(axis=0), spread
