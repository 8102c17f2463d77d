"""Rows as Python values and as Arrow tables, with the columns that result files have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from moderate.errors import UsageError
from moderate.results.schema import carried_values, in_order, own_columns, values
from moderate.types import Column, ExtraColumns, Row

if TYPE_CHECKING:
    import pyarrow as pa


def row_to_dict(row: Row) -> dict[str, Any]:
    """The row by the names of the result columns, in their order: plain Python values.

    Text as str, numbers as int and float, booleans, None for null; bytes for `path_bytes`. Carried
    columns have what Python has for their values; what `Row.extra` does not name is left out.
    """
    extra = row.extra
    names = in_order(
        [column.name for column in own_columns(extra.labels)],
        [column.name for column in extra.carried],
    )
    return dict(zip(names, map(plain, _cells(row, extra)), strict=True))


def to_table(rows: Iterable[Row]) -> pa.Table:
    """The rows as a pyarrow.Table with the schema that Parquet results have.

    Rows of several scans may be together: the table has the columns that any of them carries, and
    null where a row does not.
    """
    import pyarrow as pa

    from moderate.results.parquet_writer import arrays_of, arrow_schema

    rows = checked_rows(rows, "to_table", "to_table([row])")
    extra = _all_columns(row.extra for row in rows)
    schema = arrow_schema(extra.carried, extra.labels)
    return pa.Table.from_arrays(
        arrays_of([_cells(row, extra) for row in rows], schema), schema=schema
    )


def checked_rows(rows: Iterable[Row], function: str, call: str) -> list[Row]:
    """All rows that a caller of a function gave.

    Raises UsageError for anything else; of one row it says which call is meant.
    """
    if isinstance(rows, Row):
        raise UsageError(f"{function} takes rows, not one Row: write {call}")
    rows = list(rows)
    if others := [row for row in rows if not isinstance(row, Row)]:
        raise UsageError(
            f"{function} takes rows of a scan or a Moderator, not {type(others[0]).__name__}"
        )
    return rows


def _cells(row: Row, extra: ExtraColumns) -> list[Any]:
    """The row's cells for the result columns with these among them."""
    named = row.extra.carried
    carried: Sequence[Any] = carried_values(row, named) if named else ()
    if row.extra.carried != extra.carried:
        known = dict(zip([column.name for column in row.extra.carried], carried, strict=True))
        carried = [known.get(column.name) for column in extra.carried]
    return in_order(values(row, extra.labels), carried)


def _all_columns(several: Iterable[ExtraColumns]) -> ExtraColumns:
    carried: dict[str, Column] = {}
    labels: dict[str, None] = {}
    for extra in dict.fromkeys(several):
        for column in extra.carried:
            carried.setdefault(column.name, column)
        labels |= dict.fromkeys(extra.labels)
    return ExtraColumns(tuple(carried.values()), tuple(labels))


def plain(value: Any) -> Any:
    """A cell as a plain Python value: no member of an enumeration, and no Arrow scalar."""
    if isinstance(value, str):
        return str(value)  # a member of an enumeration, too
    if hasattr(value, "as_py"):  # an Arrow scalar that Python has nothing equal to
        from moderate.arrow import plain_value

        return plain_value(value)
    return value
