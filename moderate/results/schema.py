"""The columns of a result file, once, for every format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from moderate.text import path_text
from moderate.types import CATEGORIES, Category, Row, Status

ColumnType = Literal["string", "binary", "bool", "int64", "float32"]
Cell = str | bytes | bool | int | float | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its type in every format, what it means, and its value for a row."""

    name: str
    type: ColumnType
    meaning: str
    value: Callable[[Row], Cell]


def _path_bytes(row: Row) -> bytes | None:
    """The exact bytes of the path, where `path` could not hold them as text."""
    exact = row.ref.display
    return None if path_text(exact).encode() == exact else exact


def _joined(parts: tuple[str, ...]) -> str | None:
    return "; ".join(parts) or None


def _score_column(name: str, meaning: str, value: Callable[[Row], float | None]) -> Column:
    return Column(name, "float32", meaning, value)


def _score_of(category: Category) -> Callable[[Row], float | None]:
    return lambda row: row.scores[category]


COLUMNS: tuple[Column, ...] = (
    Column(
        "path",
        "string",
        "the input, starting with / or ./; bytes that are not UTF-8 as \\xNN",
        lambda row: path_text(row.ref.display),
    ),
    Column(
        "path_bytes",
        "binary",
        "the exact bytes of a path that is not UTF-8, else null (base64 in CSV and JSONL)",
        _path_bytes,
    ),
    Column("status", "string", "ok or error", lambda row: row.status.value),
    Column("decision", "string", "approve, review or block", lambda row: row.decision.value),
    Column("reasons", "string", "why, joined with '; '", lambda row: _joined(row.reasons)),
    *(
        _score_column(name.value, "score 0.0 to 1.0; null: not scored", _score_of(name))
        for name in CATEGORIES
    ),
    Column("label", "string", "safe or nsfw", lambda row: row.views.label),
    _score_column(
        "nsfw_score", "highest of the policy's bands.categories", lambda row: row.views.nsfw_score
    ),
    _score_column("safe_score", "1 - nsfw_score", lambda row: row.views.safe_score),
    _score_column("confidence", "score of the label given", lambda row: row.views.confidence),
    Column("risk", "string", "low, mid or high", lambda row: row.views.risk),
    Column("is_nsfw", "bool", "whether label is nsfw", lambda row: row.views.is_nsfw),
    Column("rating", "string", "level of the policy's rating scale", lambda row: row.views.rating),
    Column("width", "int64", "pixels, of the upright picture", lambda row: row.facts.width),
    Column("height", "int64", "pixels, of the upright picture", lambda row: row.facts.height),
    Column(
        "format",
        "string",
        "what the bytes are: jpeg, png, webp, gif, bmp, heif, ...",
        lambda row: row.facts.format,
    ),
    Column(
        "frames", "int64", "number of frames; counting stops at 1000", lambda row: row.facts.frames
    ),
    Column("bytes", "int64", "size of the file", lambda row: row.facts.bytes),
    Column("sha256", "string", "digest of the file's bytes", lambda row: row.facts.sha256),
    Column(
        "duplicate_of",
        "string",
        "the first row of this run whose file has the same bytes",
        lambda row: None if row.duplicate_of is None else path_text(row.duplicate_of),
    ),
    Column(
        "warnings",
        "string",
        "what is odd about it, joined with '; '",
        lambda row: _joined(tuple(warning.value for warning in row.facts.warnings)),
    ),
    Column(
        "error_code",
        "string",
        "why it has no scores; null where status is ok",
        lambda row: row.error.code.value if row.error else None,
    ),
    Column(
        "error_message",
        "string",
        "the same in a line for people",
        lambda row: row.error.message if row.error else None,
    ),
)


IDENTITY = 2
"""How many columns, from the first, say which input a row is of; carried ones follow them."""


def record(row: Row) -> dict[str, Cell]:
    """One row as column name to value, in column order. A row with an error has no scores."""
    assert row.status is Status.OK or not any(s is not None for s in row.scores.values())
    return {column.name: column.value(row) for column in COLUMNS}


def in_order(own: Sequence[Any], carried: Sequence[Any]) -> list[Any]:
    """Something for each column of a file (its names, its cells): own ones and carried ones."""
    return [*own[:IDENTITY], *carried, *own[IDENTITY:]]


def carried_values(row: Row, columns: Sequence[Any]) -> Sequence[Any]:
    """What a row carries in these columns; nothing in a row that names no image."""
    return row.ref.carried or (None,) * len(columns)


def shortest(value: float) -> float:
    """A float32 value as the float whose text is the shortest that reads back to the same."""
    return float(str(np.float32(value)))
