"""Scanning from Python."""

from __future__ import annotations

import os
from collections.abc import Iterator

from moderate.run.options import ScanOptions
from moderate.run.pipeline import LocalEngine
from moderate.run.scan import plan
from moderate.types import Limits, Row


def scan(
    *inputs: str | os.PathLike[str],
    weights: str,
    policy: str = "balanced",
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    batch_size: int = 32,
    workers: int | None = None,
    limits: Limits | None = None,
    keep_labels: bool = False,
) -> Iterator[Row]:
    """One `Row` per image of folders, files and globs, in input order.

    Takes what the command line takes. With keep_labels, `Row.labels` has the scores of the
    networks' own labels, named MODEL/LABEL. Raises the errors under ModerateError, before the
    first row where the options are at fault.
    """
    job = plan(
        ScanOptions(
            inputs=inputs,
            weights=weights,
            policy=policy,
            device=device,
            precision=precision,
            backend=backend,
            batch_size=batch_size,
            workers=workers,
            limits=limits or Limits(),
            keep_labels=keep_labels,
        )
    )
    with LocalEngine(job) as engine:
        for item in engine.rows():
            if isinstance(item, Row):
                yield item
