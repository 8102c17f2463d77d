"""Heads on drawn features: how often held-out intervals hold, and what fitting costs.

    python benchmarks/training.py [--draws 200] [--fits 14000 2000] [--json FILE]

Each draw is a labelled set of 300 images, three in ten of them held out, and 20,000 more that say
what is true of its head. Nothing is decoded. Training itself is `moderate train`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reporting import machine, print_table, write_json

from moderate.analysis.metrics import measure
from moderate.policy.thresholds import reaches
from moderate.train.head import fit
from moderate.train.split import hold_out

METRICS = ("recall", "precision", "block_recall", "average_precision", "roc_auc")
LABELLED, UNSEEN, HELD_OUT = 300, 20_000, 0.3
REVIEW, BLOCK = 0.3, 0.85  # the thresholds of the policy `balanced`
WIDTH = 1_280  # features of an image, of which the fits are made


def drawn(random: np.random.Generator, count: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """count x 64 features, of which two tell, and whether an image is positive: 30 % are."""
    truth = random.random(count) < 0.3
    features = random.normal(size=(count, 64)).astype(np.float32)
    features[:, :2] += 1.6 * truth[:, np.newaxis]
    return np.maximum(features, -1), truth


def held(seed: int, unseen: int) -> dict[str, bool]:
    """Per metric whether its held-out interval has the value of so many unseen images."""
    random = np.random.default_rng(seed)
    features, truth = drawn(random, LABELLED)
    digests = [f"{seed:032x}{number:032x}" for number in range(LABELLED)]
    out = hold_out(digests, truth.astype(np.int64), HELD_OUT, seed)
    head = fit(features[~out], truth[~out], None, [digests[n] for n in np.flatnonzero(~out)], seed)
    measured = []
    for x, y, resamples in ((features[out], truth[out], 400), (*drawn(random, unseen), 0)):
        scores = head.scores(x)
        flagged, blocked = reaches(scores, REVIEW), reaches(scores, BLOCK)
        measured.append(measure(y, scores, flagged, blocked, resamples=resamples, seed=seed))
    found = {}
    for name in METRICS:
        claim, true = (getattr(each, name) for each in measured)
        low = claim.value if claim.low is None else claim.low
        high = claim.value if claim.high is None else claim.high
        found[name] = bool(low <= true.value <= high)
    return found


def cost(count: int) -> dict[str, Any]:
    """CPU seconds of fitting one category on so many images, cross-validation included."""
    random = np.random.default_rng(0)
    causes = random.normal(size=(count, 64))
    noise = 0.5 * random.normal(size=(count, WIDTH))
    features = np.maximum(0.2 * causes @ random.normal(size=(64, WIDTH)) + noise, 0)
    truth = causes[:, 0] + 0.3 * causes[:, 1] + 0.7 * random.normal(size=count) > 1.2
    begun = time.process_time()
    head = fit(features.astype(np.float32), truth, None, [f"{n:064x}" for n in range(count)], 0)
    return {
        "images": count,
        "cpu_seconds": time.process_time() - begun,
        "penalty": float(head.penalty),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--unseen", type=int, default=UNSEEN)
    parser.add_argument("--fits", type=int, nargs="*", default=[14_000, 2_000])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    draws = [held(seed, options.unseen) for seed in range(options.draws)]
    shares = {name: float(np.mean([one[name] for one in draws])) for name in METRICS}
    fits = [cost(count) for count in options.fits]
    print_table(
        f"95 % intervals of images held out that have the true value, of {options.draws} draws",
        ["metric", "share"],
        [[name, f"{100 * share:.1f} %"] for name, share in shares.items()],
    )
    print_table(
        f"Fitting one category, {WIDTH} features",
        ["images", "CPU s"],
        [[str(one["images"]), f"{one['cpu_seconds']:.1f}"] for one in fits],
    )
    if options.json:
        result = {"machine": machine(), "draws": options.draws, "held": shares, "fits": fits}
        write_json(options.json, result)


if __name__ == "__main__":
    main()
