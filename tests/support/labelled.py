"""Results files with scores that a test chooses, written by the writers of a scan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from moderate.policy.load import load_policy
from moderate.policy.model import Policy
from moderate.results.targets import open_writers
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Category,
    Column,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Row,
)
from tests.support.oracle import decide, views

SUFFIXES = ("csv", "parquet", "jsonl")


def digest_of(name: str) -> str:
    """The sha256 that `write_results` gives an image."""
    return hashlib.sha256(name.encode()).hexdigest()


def write_results(
    target: Path,
    scores: Mapping[str, Mapping[Category, float] | None],
    *,
    policy: Policy | None = None,
    carried: Mapping[str, Sequence[Any]] | None = None,
    facts: Mapping[str, str] | None = None,
    copies_of: Mapping[str, str] | None = None,
) -> str:
    """A row for each path of `scores`: those of an image, or None for one that is an error.

    Categories that are not given are not scored. carried are columns of text, a value a row;
    copies_of names the image whose bytes a path has too.
    """
    policy = policy or load_policy("balanced").policy
    columns = [Column(name, pa.string()) for name in carried or {}]
    with open_writers([str(target)]) as (writer,):
        writer.start({"policy_json": policy.model_dump_json(), **(facts or {})}, columns)
        for index, (path, given) in enumerate(scores.items()):
            error = None
            full = UNSCORED
            if given is None:
                error = ImageError(ErrorCode.TRUNCATED, "ends early")
            else:
                exact = {name: float(np.float32(value)) for name, value in given.items()}
                full = {**dict.fromkeys(CATEGORIES), **exact}
            decision, reasons = decide(policy, full, (), error)
            digest = digest_of((copies_of or {}).get(path, path))
            values = tuple(column[index] for column in (carried or {}).values())
            writer.write(
                Row(
                    ImageRef(path.encode(), carried=values),
                    ImageFacts(64, 64, "jpeg", 1, 100, digest, ()),
                    full,
                    decision,
                    reasons,
                    views(policy, full),
                    error,
                )
            )
        writer.commit({})
    return str(target)
