"""A CSV that FiftyOne imports as a `CSVDataset`: a sample per image, a field per column."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from moderate.exports.images import WITHOUT_FOLDER, image_uri, is_relative, local_path
from moderate.exports.interface import Export, ExportOptions, Write
from moderate.own_categories import own_columns_of
from moderate.results.schema import shortest
from moderate.types import CATEGORIES

_TEXTS = ("decision", "reasons", "label", "risk", "rating", "status", "error_code")
_AFTER = ("sha256", "format", "warnings", "scored_at", "run_id", "uri")
FIELDS: Mapping[str, str] = {
    **dict.fromkeys(_TEXTS, "str"),
    **{each.value: "float" for each in CATEGORIES},
    "nsfw_score": "float",
    "confidence": "float",
    "unseen": "float",
    **dict.fromkeys(_AFTER, "str"),
}
"""The columns after `filepath`, and what makes a value of their text when they are imported.

Own categories of the weights are further columns at the end, each a float.
"""


class FiftyOneDataset(Export):
    """`filepath`, an absolute path, and FIELDS; null is empty, which is no value of a sample.

    FiftyOne opens local files by paths in UTF-8: other rows are left out. Of several rows of one
    path it keeps the last; all are of the same file.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".csv",)
    is_of_people: ClassVar[bool] = False

    def __init__(self, options: ExportOptions) -> None:
        super().__init__(options)
        self._write: Write
        self._fields: tuple[str, ...] | None = None
        self._relative = 0
        self._without = 0

    def start(self, write: Write, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        self._write = write

    def add(self, row: Mapping[str, Any]) -> None:
        """See `Export`."""
        if self._fields is None:
            self._begin(own_columns_of(tuple(row)))
        path = _readable(local_path(image_uri(row) or ""))
        if path is None:
            relative = is_relative(row)
            self._relative += relative
            self._without += not relative
            return
        self._write(_line([path, *(_cell(row.get(name)) for name in self._fields or ())]))

    def finish(self, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        if self._fields is None:
            self._begin(())
        if self._relative:
            self.notes.append(f"fiftyone: {self._relative:,} rows are left out: {WITHOUT_FOLDER}")
        if self._without:
            self.notes.append(
                f"fiftyone: {self._without:,} rows are left out: their images are not local files "
                "with a name in UTF-8 and without a carriage return"
            )

    def _begin(self, own: Sequence[str]) -> None:
        """The header, once it is known which own categories rows have."""
        self._fields = (*FIELDS, *own)
        self._write(_line(["filepath", *self._fields]))


def _readable(path: bytes | None) -> str | None:
    """A path as text that a CSV can hold; its reader would make `\\r` a line end."""
    try:
        text = None if path is None else path.decode()
    except UnicodeDecodeError:
        return None
    return None if text is None or "\r" in text else text


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return shortest(value) if isinstance(value, float) else str(value)


def _line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
