"""A training from labels to an installed bundle, and what the images held out say of it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moderate.analysis.labels import UNKNOWN
from moderate.analysis.metrics import Estimate, Measured, measure
from moderate.classify.bundle import Bundle, ModelFiles, load_bundle
from moderate.classify.card import part_name
from moderate.classify.classifier import calibrate, label_columns
from moderate.classify.device import place
from moderate.classify.features import FeatureModel, Features
from moderate.errors import InputError, UsageError
from moderate.fetch.options import HttpOptions
from moderate.libraries import require_torch
from moderate.policy.load import load_policy
from moderate.policy.thresholds import reaches
from moderate.train import bundle as bundles
from moderate.train.claims import check_counts, check_holdout
from moderate.train.extract import Progress, extract
from moderate.train.head import Head, fit, require_scikit_learn
from moderate.train.inputs import Labelled, LeftOut
from moderate.train.split import hold_out
from moderate.types import CATEGORIES, Category, Limits
from moderate.weights.pull import check_name

POLICY = "balanced"
"""Whose thresholds the figures are of."""

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Options:
    """What to train on, and how. model is the network of a bundle with several.

    keep has the new bundle score the base's other categories, too. holdout is the share of images
    that check the heads. resamples are those of intervals.
    """

    base: str
    name: str
    model: str | None = None
    keep: bool = False
    holdout: float = 0.3
    seed: int = 0
    device: str = "auto"
    replace: bool = False
    resamples: int = 1000


@dataclass(frozen=True, slots=True)
class OfCategory:
    """One category on the images held out: the head, and the base where that scores it.

    fitted and held_out count positive and negative images. review and block are the thresholds.
    """

    name: str
    fitted: tuple[int, int]
    held_out: tuple[int, int]
    review: float
    block: float
    penalty: float
    trained: Measured
    base: Measured | None


@dataclass(frozen=True, slots=True)
class Training:
    """A bundle that was trained and installed in `folder`.

    images have labels and features; `extracted` of them were not known from an earlier training.
    whose_base names what the base's figures are of. seconds are those of features and of fitting.
    """

    name: str
    folder: Path
    sha256: str
    base: str
    base_sha256: str
    whose_base: str
    source: str
    labels_sha256: str
    seed: int
    images: int
    held_out: int
    extracted: int
    left_out: LeftOut
    categories: tuple[OfCategory, ...]
    kept: tuple[str, ...]
    resamples: int
    seconds: tuple[float, float]
    notes: tuple[str, ...]


def train(
    read: Callable[[], Labelled],
    options: Options,
    limits: Limits,
    http: HttpOptions,
    progress: Progress = lambda done, whole: None,
) -> Training:
    """Train a head for every category of the labels, and install it as a bundle.

    `read` gives the labelled images; it is called once the options are known to be good. Raises
    WeightsError, InputError where labels do not suffice or say nothing, and UsageError.
    """
    require_torch("training")
    require_scikit_learn()
    if not 0.1 <= options.holdout <= 0.5:
        raise UsageError(f"--holdout {options.holdout:g}: use 0.1 to 0.5")
    check_name(options.name, options.replace, None)
    base = load_bundle(options.base)
    if options.name == base.name:
        raise UsageError(f"--name {options.name} is the name of the base: choose another one")
    files = base.models[bundles.find_model(base, options.model)]
    if options.keep:
        bundles.check_keep(base)
    labelled = read()
    check_counts(labelled, options.holdout)
    placement = place(options.device, "fp32", "torch", frozenset({"timm"}))
    model = FeatureModel(files, placement, _BATCH)
    try:
        begun = time.monotonic()
        extracted = extract(labelled, files, model, placement, limits, http, progress)
        fitting = time.monotonic()
        return _trained(
            base,
            files,
            model,
            extracted.labelled,
            extracted.features,
            options,
            extracted.extracted,
            (begun, fitting),
        )
    finally:
        model.close()


def _trained(
    base: Bundle,
    files: ModelFiles,
    model: FeatureModel,
    labelled: Labelled,
    features: Features,
    options: Options,
    extracted: int,
    times: tuple[float, float],
) -> Training:
    check_counts(labelled, options.holdout)
    held_out = hold_out(labelled.digests, _strata(labelled), options.holdout, options.seed)
    check_holdout(labelled, held_out)
    own_scores = labelled.weights_sha256 == base.sha256
    base_scores = labelled.scores if own_scores else _base_scores(base, files, model, features)
    heads: dict[str, Head] = {}
    categories = []
    for name, truth in labelled.truth.items():
        head, of_category = _of_category(
            name, truth, labelled, features, held_out, base_scores.get(name), options
        )
        heads[name] = head
        categories.append(of_category)
    fitted = time.monotonic()
    labels_sha256 = _digest(labelled)
    card = {
        "base": base.name,
        "base_sha256": base.sha256,
        "model": part_name(base.card, files.card),
        "labels_sha256": labels_sha256,
        "seed": options.seed,
        "duplicates": labelled.left_out.duplicates,
        "contradicted": labelled.left_out.contradicted,
        "category": {each.name: _evidence(each) for each in categories},
    }
    others = bundles.kept_parts(base, tuple(heads)) if options.keep else []
    part = bundles.trained_part(files, heads, "trained" if others else ".")
    bundles.check_part(part, model, heads)
    folder = bundles.install_trained(
        options.name, base, part, others, card, replace=options.replace
    )
    several = len(base.models) > 1
    return Training(
        name=options.name,
        folder=folder,
        sha256=load_bundle(str(folder)).sha256,
        base=base.name,
        base_sha256=base.sha256,
        whose_base=base.name if own_scores or not several else part_name(base.card, files.card),
        source=labelled.source,
        labels_sha256=labels_sha256,
        seed=options.seed,
        images=len(labelled),
        held_out=int(held_out.sum()),
        extracted=extracted,
        left_out=labelled.left_out,
        categories=tuple(categories),
        kept=tuple(dict.fromkeys(str(n) for each in others for n in (*each.categories, *each.own))),
        resamples=options.resamples,
        seconds=(times[1] - times[0], fitted - times[1]),
        notes=labelled.notes,
    )


def _of_category(
    name: str,
    labels: NDArray[np.int8],
    labelled: Labelled,
    features: Features,
    held_out: NDArray[np.bool_],
    base_scores: NDArray[np.float32] | None,
    options: Options,
) -> tuple[Head, OfCategory]:
    known, truth = labels != UNKNOWN, labels == 1
    seen, unseen = known & ~held_out, known & held_out
    weights = labelled.weights
    head = fit(
        features[seen],
        truth[seen],
        None if weights is None else weights[seen],
        [labelled.digests[place] for place in np.flatnonzero(seen)],
        options.seed,
    )
    thresholds = load_policy(POLICY).policy.categories
    limits = thresholds[Category(name) if name in tuple(CATEGORIES) else CATEGORIES[0]]

    def measured(scores: NDArray[np.float32], chosen: NDArray[np.bool_]) -> Measured:
        return measure(
            truth[chosen],
            scores,
            reaches(scores, limits.review),
            reaches(scores, limits.block),
            resamples=options.resamples,
            seed=options.seed,
            weights=None if weights is None else weights[chosen],
        )

    trained = measured(head.scores(features[unseen]), unseen)
    _check_better_than_chance(name, trained.roc_auc)
    base = None
    if base_scores is not None:
        scored = unseen & ~np.isnan(base_scores)
        if scored.any():
            base = measured(base_scores[scored], scored)
    return head, OfCategory(
        name,
        (int((seen & truth).sum()), int((seen & ~truth).sum())),
        (int((unseen & truth).sum()), int((unseen & ~truth).sum())),
        limits.review,
        limits.block,
        head.penalty,
        trained,
        base,
    )


def _check_better_than_chance(name: str, found: Estimate) -> None:
    if found.value is None:
        return  # there are positives and negatives, so that it has a value
    low = found.value if found.low is None else found.low
    if low > 0.5:
        return
    interval = "" if found.high is None else f" (95 %: {low:.2f} to {found.high:.2f})"
    raise InputError(
        f"{name}: nothing is installed: on images held out, the head does no better than chance "
        f"could, ROC-AUC {found.value:.2f}{interval}: the labels may be wrong, too few, or of "
        "something that this network does not see"
    )


def _strata(labelled: Labelled) -> NDArray[np.int64]:
    """A number for each combination of labels."""
    stacked = np.stack(list(labelled.truth.values()), axis=1)
    _, numbers = np.unique(stacked, axis=0, return_inverse=True)
    return numbers.reshape(-1).astype(np.int64)


def _base_scores(
    base: Bundle, files: ModelFiles, model: FeatureModel, features: Features
) -> dict[str, NDArray[np.float32]]:
    """What the network's own last layer makes of the features, per category that it feeds.

    Nothing where that cannot be told from the features.
    """
    probabilities = model.probabilities(features)
    if probabilities is None:
        return {}
    scores = {}
    for name, columns in label_columns(files.card, files.labels).items():
        sums = [probabilities[:, list(each)].sum(axis=1).clip(0, 1) for each in columns]
        scores[name] = np.max(sums, axis=0).astype(np.float32)
    for category, calibration in base.card.calibration.items():
        if category in scores:
            scores[category] = calibrate(scores[category], calibration)
    return scores


def _digest(labelled: Labelled) -> str:
    """Of the labels that were used: contents, categories and values, in whatever file they were."""
    digest = hashlib.sha256()
    for name in sorted(labelled.truth):
        for content, value in zip(labelled.digests, labelled.truth[name].tolist(), strict=True):
            if value != UNKNOWN:
                digest.update(f"{name} {content} {value}\n".encode())
    return digest.hexdigest()


def _evidence(of: OfCategory) -> Mapping[str, Any]:
    measured = of.trained
    return {
        "positive": of.fitted[0],
        "negative": of.fitted[1],
        "held_out_positive": of.held_out[0],
        "held_out_negative": of.held_out[1],
        "penalty": of.penalty,
        "review": of.review,
        "recall": _shares(measured.recall),
        "precision": _shares(measured.precision),
        "roc_auc": _shares(measured.roc_auc),
    }


def _shares(of: Estimate) -> list[float]:
    values = (of.value, of.low, of.high)
    return [round(value, 6) for value in values if value is not None and math.isfinite(value)]
