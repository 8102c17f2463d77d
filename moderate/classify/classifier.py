"""A bundle on a device: batches of decoded images to scores in the five categories."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from moderate.classify.bundle import Bundle, Calibration, ModelCard
from moderate.classify.device import Placement
from moderate.classify.model import LabelModel
from moderate.decode.resize import Pixels
from moderate.text import one_line
from moderate.types import CATEGORIES, UNSCORED, Category, ErrorCode, ImageError, Scores

log = logging.getLogger(__name__)

Outcome = Scores | ImageError


@dataclass(frozen=True, slots=True)
class _Member:
    """One model of the bundle with, per category, the columns to sum for each of its sources."""

    model: LabelModel
    columns: dict[Category, tuple[tuple[int, ...], ...]]


class Classifier:
    """Scores batches. Raises WeightsError while it is built; `score` raises nothing of its own."""

    def __init__(self, bundle: Bundle, placement: Placement) -> None:
        if placement.device != "cpu":
            # TF32 moves scores by 1e-3: fp32 means fp32.
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        self._calibration = bundle.card.calibration
        self._members = [
            _Member(LabelModel(files, placement), label_columns(files.card, files.labels))
            for files in bundle.models
        ]

    def score(self, images: Sequence[tuple[Pixels, ...]]) -> list[Outcome]:
        """Scores of each image, in order; an image holds one H x W x 3 array per model.

        A batch that fails as a whole is tried again image by image; the ones that still fail get
        `classify_failed`, those whose output is NaN or infinite `non_finite_score`.
        """
        try:
            return self._score_batch(images)
        except Exception as error:  # noqa: BLE001 - one image must not cost the others their row
            if len(images) == 1:
                return [ImageError(ErrorCode.CLASSIFY_FAILED, _failure(error))]
            log.warning("a batch of %d failed (%s); trying image by image", len(images), error)
        return [outcome for image in images for outcome in self.score([image])]

    def _score_batch(self, images: Sequence[tuple[Pixels, ...]]) -> list[Outcome]:
        best: dict[Category, NDArray[np.float32]] = {}
        finite = np.ones(len(images), dtype=bool)
        for index, member in enumerate(self._members):
            batch: Pixels = np.stack([image[index] for image in images])  # type: ignore[assignment]
            probabilities = member.model.probabilities(batch)
            finite &= np.isfinite(probabilities).all(axis=1)
            for category, sources in member.columns.items():
                for columns in sources:
                    value = probabilities[:, columns].sum(axis=1, dtype=np.float32).clip(0, 1)
                    known = best.get(category)
                    best[category] = value if known is None else np.maximum(known, value)
        for category, calibration in self._calibration.items():
            if category in best:
                best[category] = calibrate(best[category], calibration)
        return [_outcome(best, row, bool(finite[row])) for row in range(len(images))]


def label_columns(
    card: ModelCard, labels: Sequence[str]
) -> dict[Category, tuple[tuple[int, ...], ...]]:
    """Per category the columns of the output that feed it: the maximum over sums of columns."""
    position = {label: index for index, label in enumerate(labels)}
    return {
        category: tuple(
            tuple(position[label] for label in ([item] if isinstance(item, str) else item))
            for item in sources
        )
        for category, sources in card.categories.items()
    }


def calibrate(scores: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    """Calibrated scores, float32 in 0..1, of raw ones; see `Calibration` for the formula."""
    raw = scores.astype(np.float64)
    if calibration.table:
        points = np.asarray(calibration.table)
        interpolated: NDArray[np.float32] = np.interp(raw, points[:, 0], points[:, 1]).astype(
            np.float32
        )
        return interpolated
    # In float32 the largest value below 1 is 1 - 6e-8: no score needs more than this.
    bounded = raw.clip(1e-12, 1 - 1e-12)
    logit = np.log(bounded) - np.log1p(-bounded)
    with np.errstate(over="ignore"):  # exp of much is infinite, and the score then 0
        scaled: NDArray[np.float32] = (
            1 / (1 + np.exp(-(logit / calibration.temperature + calibration.bias)))
        ).astype(np.float32)
    return scaled


def _outcome(best: dict[Category, NDArray[np.float32]], row: int, finite: bool) -> Outcome:
    if not finite:
        return ImageError(ErrorCode.NON_FINITE_SCORE, "the model gave NaN or infinity")
    scores = dict(UNSCORED)
    for category in CATEGORIES:
        if category in best:
            scores[category] = float(best[category][row])
    return scores


def _failure(error: Exception) -> str:
    return f"the model failed ({one_line(f'{type(error).__name__}: {error}', 160)})"
