"""Calibration of scores by labels, and a copy of a bundle that applies it."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tomli_w
from numpy.typing import NDArray

from moderate.analysis.metrics import calibration_error
from moderate.analysis.tune import Bools, Floats, Labelled, split
from moderate.classify.bundle import Bundle, load_bundle
from moderate.classify.card import CARD, Calibration, SelfTest
from moderate.errors import InputError, OutputError
from moderate.results.atomic import folder_problem
from moderate.text import printable
from moderate.toml_files import read_toml

if TYPE_CHECKING:
    from moderate.analysis.evidence import Evidence

Method = Literal["temperature", "isotonic"]
Doubles = NDArray[np.float64]

MOST_POINTS = 100
"""Of a table that isotonic regression gives."""
FEWEST: Mapping[Method, int] = {"temperature": 20, "isotonic": 50}
"""Positives, and negatives, that the train part needs: a curve takes more than two numbers."""

_TINY = 1e-12
_MOST_STEPS = 100


@dataclass(frozen=True, slots=True)
class Quality:
    """How well scores say how often they are right: log loss in nats, expected error 0 to 1."""

    log_loss: float
    ece: float


@dataclass(frozen=True, slots=True)
class Calibrated:
    """One category's calibration. before and after are of the holdout.

    positives and negatives are the labels that it was fitted on, held_positives and held_negatives
    those that it was measured on.

    calibration is None, and the scores stay as they are, where it would not have helped there.
    """

    category: str
    calibration: Calibration | None
    positives: int
    negatives: int
    held_positives: int
    held_negatives: int
    before: Quality
    after: Quality


def calibrate_category(
    category: str, labelled: Labelled, method: Method, holdout: float
) -> Calibrated:
    """Fit on the train part, measure on the holdout. Raises InputError where labels are too few."""
    if not 0 < holdout < 1:
        raise InputError("--calibrate needs a holdout to measure on: --holdout above 0 and below 1")
    train, held = split(labelled, holdout)
    positive, scores = labelled.positive, labelled.scores
    weights = np.ones(len(scores)) if labelled.weights is None else labelled.weights
    positives, negatives = int((train & positive).sum()), int((train & ~positive).sum())
    least = FEWEST[method]
    if min(positives, negatives) < least or not 0 < (held & positive).sum() < held.sum():
        raise InputError(
            f"{category}: {positives} positive and {negatives} negative labels to fit on, where "
            f"{method} needs {least} of each: label more, or leave the category out (--category)"
        )
    fitting = fit_temperature if method == "temperature" else fit_isotonic
    try:
        calibration = fitting(scores[train], positive[train], weights[train])
    except ValueError as error:
        raise InputError(f"{category}: {error}") from None
    before = quality(scores[held], positive[held], weights[held])
    after = quality(apply(scores[held], calibration), positive[held], weights[held])
    kept = calibration if after.log_loss < before.log_loss else None
    held_positives = int((held & positive).sum())
    held_negatives = int(held.sum()) - held_positives
    return Calibrated(
        category, kept, positives, negatives, held_positives, held_negatives, before, after
    )


def apply(scores: Floats, calibration: Calibration | None) -> Floats:
    """Scores as the classifier would calibrate them; NaN stays."""
    if calibration is None:
        return scores
    from moderate.classify.classifier import calibrate

    return calibrate(scores, calibration)


def fit_temperature(scores: Floats, positive: Bools, weights: Doubles | None = None) -> Calibration:
    """Temperature and bias with the least log loss, by Newton's method.

    The targets are Platt's (1999), a little short of 0 and 1, so that classes that a threshold
    separates give a finite answer. Raises ValueError where scores do not rise with labels.
    """
    logit = _logit(scores)
    counted = _normalised(weights, len(scores))
    n1, n0 = int(positive.sum()), int((~positive).sum())
    targets = np.where(positive, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    # Centred and scaled, Newton's steps are tame; a is the slope, b the height at the centre.
    centre, spread = float(logit.mean()), float(logit.std())
    if spread == 0:
        raise ValueError("all scores are the same: there is nothing to calibrate")
    x = (logit - centre) / spread
    a = b = 0.0
    loss = _soft_loss(a * x + b, targets, counted)
    for _ in range(_MOST_STEPS):
        p = _sigmoid(a * x + b)
        missing = (p - targets) * counted
        gradient = np.array([(missing * x).sum(), missing.sum()])
        weight = p * (1 - p) * counted
        cross = (weight * x).sum()
        hessian = np.array([[(weight * x * x).sum(), cross], [cross, weight.sum()]])
        step = np.linalg.solve(hessian + 1e-12 * np.eye(2) * max(hessian.max(), 1e-12), gradient)
        size = 1.0
        while size > 1e-10:  # halved until it leads downhill
            new = a - size * step[0], b - size * step[1]
            new_loss = _soft_loss(new[0] * x + new[1], targets, counted)
            if new_loss <= loss:
                break
            size /= 2
        else:
            break
        a, b, gain, loss = float(new[0]), float(new[1]), loss - new_loss, new_loss
        if gain < 1e-12 * len(x):
            break
    if a <= 0:
        raise ValueError("higher scores do not go with positive labels: calibration cannot help")
    return Calibration(temperature=spread / a, bias=b - a * centre / spread)


def fit_isotonic(scores: Floats, positive: Bools, weights: Doubles | None = None) -> Calibration:
    """A monotone table by pool-adjacent-violators (Ayer et al., 1955), of MOST_POINTS at most.

    Scores are first put into as many groups of about the same size, equal scores together. A point
    stands at the mean of each pool, so that the curve between two has no jump. Raises ValueError
    where the scores say nothing about the labels.
    """
    order = np.argsort(scores, kind="stable")
    sorted_scores, truth = scores[order].astype(np.float64), positive[order].astype(np.float64)
    starts = np.linspace(0, len(scores), MOST_POINTS - 2, endpoint=False).astype(int)
    starts = np.unique(np.searchsorted(sorted_scores, sorted_scores[starts]))
    counted = _normalised(weights, len(scores))[order]
    sizes = np.add.reduceat(counted, starts)
    raw = np.add.reduceat(sorted_scores * counted, starts) / sizes
    mean = np.add.reduceat(truth * counted, starts) / sizes
    raw, mean = pool(raw, mean, sizes)
    if len(raw) < 2:
        raise ValueError("higher scores do not go with positive labels: calibration cannot help")
    # No score is a certainty: n images cannot show a rate below about 1 in 2 n.
    edge = 0.5 / len(scores)
    mean = mean.clip(edge, 1 - edge)
    points = list(zip(raw.tolist(), mean.tolist(), strict=True))
    # Up to the ends, where the curve would stay level, a little of a slope keeps scores apart.
    if points[0][0] > 0:
        points.insert(0, (0.0, points[0][1] / 2))
    if points[-1][0] < 1:
        points.append((1.0, (1 + points[-1][1]) / 2))
    return Calibration(table=tuple(points))


def pool(x: Doubles, y: Doubles, weights: Doubles) -> tuple[Doubles, Doubles]:
    """The least-squares fit of y that never falls, as one point (mean x, mean y) a pool."""
    pools: list[tuple[float, float, float]] = []  # weight, weight * x, weight * y
    for weight, one_x, one_y in zip(weights, x, y, strict=True):
        new = (float(weight), float(weight * one_x), float(weight * one_y))
        while pools and pools[-1][2] * new[0] >= new[2] * pools[-1][0]:
            last = pools.pop()
            new = (last[0] + new[0], last[1] + new[1], last[2] + new[2])
        pools.append(new)
    sums = np.array(pools)
    return sums[:, 1] / sums[:, 0], sums[:, 2] / sums[:, 0]


def quality(scores: Floats, positive: Bools, weights: Doubles | None = None) -> Quality:
    """Log loss, and the expected calibration error as eval gives it."""
    p = scores.astype(np.float64).clip(_TINY, 1 - _TINY)
    loss = -np.average(np.where(positive, np.log(p), np.log1p(-p)), weights=weights)
    return Quality(float(loss), calibration_error(positive, scores, weights).value or 0.0)


def fit(evidence: Evidence, bundle: Bundle, method: Method, holdout: float) -> list[Calibrated]:
    """Fit every labelled category of results of this bundle.

    Raises InputError where that cannot be done, or helps no category.
    """
    check_bundle(bundle, evidence.weights_sha256, list(evidence.labelled))
    if not evidence.labelled:
        raise InputError("no category has both labels and scores: there is nothing to calibrate")
    fitted = [
        calibrate_category(name, each, method, holdout) for name, each in evidence.labelled.items()
    ]
    if not any(each.calibration for each in fitted):
        raise InputError("calibration helps no category on the holdout: no bundle is written")
    return fitted


def check_bundle(bundle: Bundle, weights_sha256: str | None, categories: list[str]) -> None:
    """Raises InputError where results are not of this bundle, or were calibrated already."""
    where = printable(bundle.path)
    if weights_sha256 != bundle.sha256:
        made_by = f"weights {weights_sha256[:12]}..." if weights_sha256 else "unknown weights"
        raise InputError(
            f"the results were made by {made_by}, but {where} is {bundle.sha256[:12]}...: "
            "calibrate the bundle that made them"
        )
    if already := [category for category in categories if category in bundle.card.calibration]:
        raise InputError(
            f"{where} calibrates {', '.join(already)} already, and the results' scores are "
            "calibrated: scan with the bundle without [calibration] and calibrate that"
        )


def check_bundle_out(target: str) -> None:
    """Refuse a folder for a copy that could not be made. Raises OutputError."""
    final = os.path.abspath(target)
    if "\0" in target or os.path.lexists(final):
        reason = "its name holds a NUL" if "\0" in target else "is there already"
    elif problem := folder_problem(os.path.dirname(final)):
        reason = problem
    else:
        return
    raise OutputError(f"--bundle-out {printable(target)}: {reason}")


def write_copy(bundle: Bundle, calibrations: Mapping[str, Calibration], target: str) -> Bundle:
    """Write a copy of a bundle with these calibrations and a self-test computed anew.

    It appears whole or not at all. Raises OutputError where something is in the way or nothing can
    be written, WeightsError where the copy does not score.
    """
    from moderate.classify.selftest import record

    check_bundle_out(target)
    final = Path(os.path.abspath(target))
    staged = final.with_name(f".staging-{secrets.token_hex(4)}")
    try:
        _copy_files(bundle, staged)
        card = read_toml(staged / CARD)
        card["name"] = f"{bundle.name[:69]}-calibrated"
        card["calibration"] = card.get("calibration", {}) | {
            str(category): calibration.model_dump(mode="json", exclude_defaults=True)
            for category, calibration in calibrations.items()
        }
        recorded = bundle.card.selftest
        card.pop("selftest", None)
        (staged / CARD).write_text(tomli_w.dumps(card), encoding="utf-8")
        record(staged)
        if recorded is not None:
            _set_tolerances(staged / CARD, recorded, calibrations)
        load_bundle(str(staged))
        os.rename(staged, final)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {printable(target)}: {reason}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return load_bundle(str(final))


def _copy_files(bundle: Bundle, staged: Path) -> None:
    """The card, the files that it names, and texts beside them; a bundle has no others."""
    staged.mkdir()
    folder = Path(bundle.path)
    for file in folder.iterdir():
        if file.is_file() and (file.name == CARD or file.suffix in {".md", ".txt"}):
            shutil.copyfile(file, staged / file.name)
    for model in bundle.card.model:
        into = staged / model.folder
        into.mkdir(parents=True, exist_ok=True)
        for name in model.sha256:
            shutil.copyfile(folder / model.folder / name, into / name)


def _set_tolerances(
    card_file: Path, recorded: SelfTest, calibrations: Mapping[str, Calibration]
) -> None:
    """A difference of raw scores that was allowed stays allowed where the curve is steep."""
    card = read_toml(card_file)
    for name in ("tolerance", "low_tolerance"):
        allowed = float(getattr(recorded, name))
        wanted = [allowed]
        for category, calibration in calibrations.items():
            raw = np.array(recorded.scores.get(category, ()), np.float32)
            now = apply(raw, calibration).astype(np.float64)
            for moved in (raw - np.float32(allowed), raw + np.float32(allowed)):
                there = apply(moved.clip(0, 1), calibration).astype(np.float64)
                wanted += abs(there - now).tolist()
        card["selftest"][name] = min(max(wanted), 1.0)
    card_file.write_text(tomli_w.dumps(card), encoding="utf-8")


def _logit(scores: Floats) -> Doubles:
    bounded = scores.astype(np.float64).clip(_TINY, 1 - _TINY)  # as the classifier bounds them
    values: Doubles = np.log(bounded) - np.log1p(-bounded)
    return values


def _sigmoid(x: Doubles) -> Doubles:
    with np.errstate(over="ignore"):
        values: Doubles = 1 / (1 + np.exp(-x))
    return values


def _soft_loss(logits: Doubles, targets: Doubles, weights: Doubles) -> float:
    return float(((np.logaddexp(0, logits) - targets * logits) * weights).sum())


def _normalised(weights: Doubles | None, count: int) -> Doubles:
    """Weights of a mean of 1, also where there are none."""
    return np.ones(count) if weights is None else weights * (count / weights.sum())
