"""Rows of a run: what is known of some inputs, decided as one batch."""

from __future__ import annotations

import os
from collections.abc import Sequence

from moderate.policy.batch import Batch, Judged, UndecidedRow
from moderate.policy.judge import Judge
from moderate.policy.model import Policy
from moderate.policy.reasons import error_reason, placed
from moderate.types import UNSCORED, ImageError, ImageFacts, ImageRef, Row
from moderate.uris import uri_of, working_directory


def judge_rows(judge: Judge, rows: Sequence[UndecidedRow]) -> list[Judged]:
    """What becomes of each of these rows, which carry values of the judge's columns."""
    return judge.decide(Batch.of(rows, judge.columns)).rows() if rows else []


def decide_rows(judge: Judge, rows: Sequence[UndecidedRow], run_id: str = "") -> list[Row]:
    """These rows of a run, decided; see `judge_rows`."""
    folder = working_directory()  # once for all: it is a call of the system
    return [
        decided_row(row, judged, run_id, folder)
        for row, judged in zip(rows, judge_rows(judge, rows), strict=True)
    ]


def decided_row(
    row: UndecidedRow, judged: Judged, run_id: str = "", folder: bytes | None = None
) -> Row:
    """The row with what the policy makes of it."""
    return Row(
        row.ref,
        row.facts,
        row.scores,
        judged.decision,
        placed(judged.reasons, row.places),
        judged.views,
        row.error,
        None if row.duplicate_of is None else os.fsdecode(row.duplicate_of),
        row.origin,
        row.labels,
        judged.bands,
        run_id,
        row.scored_at,
        places=row.places,
        uri=uri_of(row.ref, folder),
    )


def failed_row(policy: Policy, ref: ImageRef, error: ImageError, run_id: str = "") -> Row:
    """A row that says no more than that there was an error, so that nothing can go wrong with it.

    It has the policy's on_error, whatever overrides and lists say.
    """
    reasons = (error_reason(error.code, policy.on_error),)
    return Row(
        ref,
        ImageFacts(),
        UNSCORED,
        policy.on_error,
        reasons,
        error=error,
        run_id=run_id,
        uri=uri_of(ref),
    )
