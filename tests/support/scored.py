"""Results files with given scores, written as a scan writes them, and labels for them."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moderate.policy.load import load_policy
from moderate.results.targets import open_writers
from moderate.run.summary import utc
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Category,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Row,
    Warn,
)
from tests.support.oracle import decide, views

Arrays = Mapping[Category, NDArray[Any]]
DAY = datetime(2026, 11, 2, 3, 0, tzinfo=UTC)  # a Monday
ERROR = ImageError(ErrorCode.TRUNCATED, "cut off")


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def write_results(
    path: Path,
    scores: Arrays,
    *,
    started: datetime | None = DAY,
    policy: str = "balanced",
    errors: int = 0,
    copies: Sequence[int] = (),
    shuffle: int | None = None,
    **facts: str,
) -> Path:
    """A file of images 0, 1, ... with these scores, some errors, and copies of some of them."""
    loaded = load_policy(policy)
    count = len(next(iter(scores.values())))
    rows = [_row(f"./{n}.jpg", {c: s[n] for c, s in scores.items()}, loaded) for n in range(count)]
    rows += [
        _row(f"./copy-{n}.jpg", {c: s[n] for c, s in scores.items()}, loaded, f"./{n}.jpg")
        for n in copies
    ]
    review, why = decide(loaded.policy, UNSCORED, (), ERROR)
    rows += [
        Row(ImageRef(b"./bad-%d.jpg" % n), ImageFacts(), UNSCORED, review, why, error=ERROR)
        for n in range(errors)
    ]
    if shuffle is not None:
        np.random.default_rng(shuffle).shuffle(rows)  # type: ignore[arg-type]
    audit = {
        "tool": "moderate",
        "run_id": hashlib.md5(str(path).encode()).hexdigest(),
        "weights": "house",
        "weights_sha256": "ab" * 32,
        "policy": loaded.policy.name,
        "policy_sha256": loaded.sha256,
        "policy_json": loaded.policy.model_dump_json(),
        **({"started": utc(started)} if started else {}),
        **facts,
    }
    with open_writers([str(path)]) as writers:
        for writer in writers:
            writer.start({key: value for key, value in audit.items() if value}, ())
            for row in rows:
                writer.write(row)
            writer.commit({})
    return path


def write_labels(path: Path, labels: Arrays, **columns: str) -> Path:
    """A CSV: 1 or 0 per category, empty where -1."""
    names = [category.value for category in labels]
    count = len(next(iter(labels.values())))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *names, *columns])
        for n in range(count):
            cells = ["" if values[n] < 0 else int(values[n]) for values in labels.values()]
            writer.writerow([f"./{n}.jpg", *cells, *columns.values()])
    return path


def drawn(
    rng: np.random.Generator, count: int, prevalence: float = 0.3
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Scores and labels: positives from Beta(4, 2), negatives from Beta(1, 6)."""
    labels = rng.random(count) < prevalence
    scores = np.where(labels, rng.beta(4, 2, count), rng.beta(1, 6, count))
    return scores.astype(np.float32), labels.astype(np.int8)


def true_recall(threshold: float) -> float:
    """Of `drawn`, by the distribution function of Beta(4, 2)."""
    return 1 - (5 * threshold**4 - 4 * threshold**5)


def true_false_blocks(threshold: float) -> float:
    """Of `drawn`, by the distribution function of Beta(1, 6)."""
    return float((1 - threshold) ** 6)


def _row(path: str, given: Mapping[Category, Any], loaded: Any, first: str | None = None) -> Row:
    scores: dict[Category, float | None] = dict(UNSCORED)
    for category in CATEGORIES:
        if category in given and not np.isnan(given[category]):
            scores[category] = float(np.float32(given[category]))
    decision, reasons = decide(loaded.policy, scores, (), None)
    return Row(
        ref=ImageRef(path.encode()),
        facts=ImageFacts(30, 20, "png", 1, 99, digest(first or path), (Warn.SMALL_IMAGE,)),
        scores=scores,
        decision=decision,
        reasons=reasons,
        views=views(loaded.policy, scores),
        duplicate_of=first.encode() if first else None,
    )
