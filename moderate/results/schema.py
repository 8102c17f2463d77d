"""The columns of result files, defined once for every format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal

import numpy as np

from moderate.own_categories import FIRST, label_names, own_names, score_column
from moderate.places import places_text
from moderate.text import path_text
from moderate.types import CATEGORIES, Row, Status

ColumnType = Literal["string", "binary", "bool", "int64", "float32"]
Cell = str | bytes | bool | int | float | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its type in every format, and what it means."""

    name: str
    type: ColumnType
    meaning: str


COLUMNS: tuple[Column, ...] = (
    Column(
        "path",
        "string",
        "the input, starting with / or ./; bytes that are not UTF-8 as \\xNN",
    ),
    Column(
        "path_bytes",
        "binary",
        "the exact bytes of a path that is not UTF-8, else null (base64 in CSV and JSONL)",
    ),
    Column(
        "uri",
        "string",
        "absolute file:// URI or the URL, # and the name of what lies in it; null: in memory",
    ),
    Column("origin", "string", "new, changed, reused or duplicate"),
    Column("run_id", "string", "the run that wrote the row, as in 'moderate runs list'"),
    Column(
        "scored_at",
        "string",
        "when the scores were computed (UTC, ISO 8601), in whichever run; null without scores",
    ),
    Column("status", "string", "ok or error"),
    Column("decision", "string", "approve, review or block"),
    Column("reasons", "string", "why, joined with '; '"),
    *(Column(name.value, "float32", "score 0.0 to 1.0; null: not scored") for name in CATEGORIES),
    Column("label", "string", "safe or nsfw"),
    Column("nsfw_score", "float32", "highest of the policy's bands.categories"),
    Column("safe_score", "float32", "1 - nsfw_score"),
    Column("confidence", "float32", "score of the label given"),
    Column("risk", "string", "low, mid or high"),
    Column("is_nsfw", "bool", "whether label is nsfw"),
    Column("rating", "string", "level of the policy's rating scale"),
    Column("width", "int64", "pixels, of the upright picture"),
    Column("height", "int64", "pixels, of the upright picture"),
    Column("format", "string", "what the bytes are: jpeg, png, webp, gif, bmp, heif, avif, ..."),
    Column("frames", "int64", "number of frames; counting stops at 1000"),
    Column("frames_scored", "int64", "how many of them were scored; the scores are the highest"),
    Column("highest_at", "string", "which frame or part each score is of, joined with '; '"),
    Column("unseen", "float32", "share of the picture that the model does not see, 0.0 to 1.0"),
    Column("embedded", "string", "what else the file holds that was not scored, joined with '; '"),
    Column("segments", "string", "of a video, in JSON: what is over a threshold, and when"),
    Column("duration", "float32", "seconds of a video that its frames stand for"),
    Column("bytes", "int64", "size of the file"),
    Column("sha256", "string", "digest of the file's bytes"),
    Column("duplicate_of", "string", "the first row of this run whose file has the same bytes"),
    Column("warnings", "string", "what is odd about it, joined with '; '"),
    Column("error_code", "string", "why it has no scores; null where status is ok"),
    Column("error_message", "string", "the same in a line for people"),
)

IDENTITY = 3
"""How many of the first columns identify the input of a row; carried columns follow them."""

_all_scores = itemgetter(*CATEGORIES)


_AFTER_FIVE = [column.name for column in COLUMNS].index(FIRST) + 1
"""The place of the columns of own categories."""


def own_columns(labels: Sequence[str] = ()) -> tuple[Column, ...]:
    """COLUMNS with those of the other scores that have these names.

    An own category has a column after the five, a label, named MODEL/LABEL, one at the end.
    """
    own = "score of the weights' own category, 0.0 to 1.0"
    meaning = "score of a network's own label"
    return (
        *COLUMNS[:_AFTER_FIVE],
        *(Column(name, "float32", own) for name in own_names(labels)),
        *COLUMNS[_AFTER_FIVE:],
        *(Column(score_column(name), "float32", meaning) for name in label_names(labels)),
    )


def values(row: Row, labels: Sequence[str] = ()) -> list[Cell]:
    """A row's value for each of `own_columns(labels)`. A row with an error has no scores."""
    facts, views, error, first = row.facts, row.views, row.error, row.duplicate_of
    scores = _all_scores(row.scores)
    assert error is None or scores.count(None) == len(scores)
    exact = row.ref.display
    path, path_bytes = path_text(exact), None
    if not exact.isascii() and path.encode() != exact:
        path_bytes = exact
    return [
        path,
        path_bytes,
        row.uri,
        row.origin,
        row.run_id or None,
        None if row.scored_at is None else to_the_second(row.scored_at),
        Status.ERROR if error else Status.OK,
        row.decision,
        "; ".join(row.reasons) or None,
        *scores,
        *(row.labels.get(name) for name in (own_names(labels) if labels else ())),
        views.label,
        views.nsfw_score,
        views.safe_score,
        views.confidence,
        views.risk,
        views.is_nsfw,
        views.rating,
        facts.width,
        facts.height,
        facts.format,
        facts.frames,
        facts.frames_scored,
        places_text(row.places),
        facts.unseen,
        "; ".join(facts.embedded) or None,
        row.segments,
        facts.duration,
        facts.bytes,
        facts.sha256,
        None if first is None else path_text(os.fsencode(first)),
        "; ".join(facts.warnings) or None,
        error.code if error else None,
        error.message if error else None,
        *(row.labels.get(name) for name in (label_names(labels) if labels else ())),
    ]


def in_order(own: Sequence[Any], carried: Sequence[Any]) -> list[Any]:
    """Names or cells of own columns and of carried ones, put in the order of a file's columns."""
    return [*own[:IDENTITY], *carried, *own[IDENTITY:]]


def carried_values(row: Row, columns: Sequence[Any]) -> Sequence[Any]:
    """A row's cells in these carried columns; all null in a row that carries nothing."""
    return row.ref.carried or (None,) * len(columns)


@lru_cache(maxsize=4096)  # many rows of a run have the same time
def to_the_second(moment: datetime) -> str:
    """ISO 8601 in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shortest(value: float) -> str:
    """The shortest text that reads back as the same float32, in the notation of Python's floats."""
    text = str(np.float32(value))
    # numpy switches to exponents a little earlier: it writes 1e-04 for 0.0001.
    return repr(float(text)) if "e" in text else text
