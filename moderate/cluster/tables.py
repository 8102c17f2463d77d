"""Rows of a fragment as an Arrow table, and back: what a worker writes and the driver reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from moderate.errors import ModerateError
from moderate.faults import internal_error
from moderate.own_categories import score_column, scored_columns_of
from moderate.places import read_places
from moderate.policy.batch import UndecidedRow
from moderate.policy.model import Policy
from moderate.policy.rows import failed_row
from moderate.results.parquet_writer import arrays_of, arrow_schema, file_schema
from moderate.results.schema import carried_values, in_order, values
from moderate.text import path_text
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Column,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Origin,
    Row,
    Warn,
)

_JOINT = "; "


@dataclass(frozen=True, slots=True)
class Correction:
    """What only the whole run knows of a row: whether its content came earlier, and a hint."""

    origin: str
    duplicate_of: bytes | None
    error_message: str | None


def table_of(
    rows: Sequence[Row],
    policy: Policy,
    carried: Sequence[Column],
    labels: Sequence[str],
    facts: Mapping[str, str],
) -> Any:
    """The rows with the columns of result files, and the audit facts as metadata.

    A row that cannot be written as it is becomes an error row.
    """
    names = [column.name for column in carried]
    cells = [_cells(row, policy, names, labels) for row in rows]
    schema = file_schema(arrow_schema(carried, labels), facts)
    return pa.Table.from_arrays(arrays_of(cells, schema), schema=schema)


def _cells(
    row: Row, policy: Policy, carried: Sequence[str], labels: Sequence[str]
) -> Sequence[Any]:
    try:
        own = values(row, labels)
        return in_order(own, carried_values(row, carried)) if carried else own
    except ModerateError:
        raise
    except Exception as error:  # noqa: BLE001 - no exception about one image ends a run
        failed = internal_error(row.ref, "writing", error)
        # What it carries may be the reason.
        bare = failed_row(policy, replace(row.ref, carried=()), failed, row.run_id)
        return in_order(values(bare, labels), (None,) * len(carried))


def undecided_rows(table: Any, refs: Sequence[ImageRef]) -> list[UndecidedRow]:
    """The rows of a table before the policy, given the inputs that they are of."""
    columns = {
        name: table.column(name).to_pylist()
        for name in (*_NEEDED, *(category.value for category in CATEGORIES))
    }
    labels = {
        name: table.column(score_column(name)).to_pylist()
        for name in scored_columns_of(tuple(table.column_names))
    }
    return [
        _undecided(ref, {name: column[index] for name, column in columns.items()})._replace(
            labels={
                name: scores[index] for name, scores in labels.items() if scores[index] is not None
            }
        )
        for index, ref in enumerate(refs)
    ]


_NEEDED = (
    "width",
    "height",
    "format",
    "frames",
    "bytes",
    "sha256",
    "warnings",
    "frames_scored",
    "unseen",
    "embedded",
    "error_code",
    "error_message",
    "origin",
    "scored_at",
    "highest_at",
)


def _undecided(ref: ImageRef, cells: Mapping[str, Any]) -> UndecidedRow:
    facts = ImageFacts(
        cells["width"],
        cells["height"],
        cells["format"],
        cells["frames"],
        cells["bytes"],
        cells["sha256"],
        tuple(map(Warn, _parts(cells["warnings"]))),
        cells["frames_scored"],
        cells["unseen"],
        _parts(cells["embedded"]),
    )
    error = None
    if cells["error_code"] is not None:
        error = ImageError(ErrorCode(cells["error_code"]), cells["error_message"] or "")
    scores = UNSCORED if error else {category: cells[category] for category in CATEGORIES}
    when = cells["scored_at"]
    return UndecidedRow(
        ref,
        facts,
        scores,
        error,
        origin=Origin(cells["origin"]),
        scored_at=None if when is None else _moment(when),
        places=read_places(cells["highest_at"]),
    )


def corrected(table: Any, corrections: Mapping[int, Correction]) -> Any:
    """The table with corrections of rows, by their indices."""
    columns = {
        name: table.column(name).to_pylist() for name in ("origin", "duplicate_of", "error_message")
    }
    for index, correction in corrections.items():
        first = correction.duplicate_of
        columns["origin"][index] = correction.origin
        columns["duplicate_of"][index] = None if first is None else path_text(first)
        columns["error_message"][index] = correction.error_message
    for name, cells in columns.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array(cells, field.type))
    return table


def _parts(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(_JOINT)) if text else ()


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
