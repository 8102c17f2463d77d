"""Writes rows to exports, as it writes them to results files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from moderate.arrow import python_values
from moderate.exports.interface import Export
from moderate.results.column_text import Cells
from moderate.results.schema import in_order, own_columns
from moderate.results.table import plain, row_to_dict
from moderate.results.text_writers import FactsBesideWriter
from moderate.types import NO_EXTRA_COLUMNS, Column, ExtraColumns, Row

_OF_ROWS = frozenset({"sha256", "csv"})
"""Facts of a results file that are true of its own bytes alone."""


class ExportWriter(FactsBesideWriter):
    """One export to `target`, with the audit facts in a file beside it; None: standard output.

    The facts say by their digest that the document is this tool's own, which it may replace.
    """

    def __init__(self, target: str | None, export: Export, form: str) -> None:
        super().__init__(target)
        self._form = {"export": form}
        self._export = export
        self._names: list[str] = []
        self._extra = NO_EXTRA_COLUMNS

    @property
    def notes(self) -> list[str]:
        """What there is to say of the document, once it is sealed."""
        return self._export.notes

    @property
    def is_of_people(self) -> bool:
        """See `Export`."""
        return self._export.is_of_people

    def start(
        self, audit: dict[str, str], carried: Sequence[Column] = (), labels: Sequence[str] = ()
    ) -> None:
        """See `ResultWriter`."""
        self.start_with(audit)
        self._extra = ExtraColumns(tuple(carried), tuple(labels))
        self._names = in_order(
            [column.name for column in own_columns(labels)], [column.name for column in carried]
        )

    def start_with(self, facts: dict[str, str]) -> None:
        """Begin a document whose rows are given by the names of their columns alone."""
        self._audit = {key: value for key, value in facts.items() if key not in _OF_ROWS}
        self._export.start(self._put, self._audit)

    def prepare(self, row: Row) -> dict[str, Any]:
        """See `ResultWriter`."""
        # Rows of a run do not name what they carry: its columns are the same in all of them.
        return row_to_dict(replace(row, extra=self._extra))

    def put(self, prepared: Mapping[str, Any]) -> None:
        """See `ResultWriter`. What is prepared is a row by the names of its columns."""
        self._export.add(prepared)

    def write_columns(self, own: Sequence[Any], carried: Sequence[Cells]) -> None:
        """See `ResultWriter`."""
        columns = map(python_values, in_order(own, carried))
        for values in zip(*columns, strict=True):
            self._export.add(dict(zip(self._names, map(plain, values), strict=True)))

    def _finish_text(self, facts: dict[str, str]) -> None:
        self._export.finish(facts)
