"""CSV and JSON Lines: one line a row, to a file or to standard output."""

from __future__ import annotations

import json
import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from json.encoder import encode_basestring
from operator import add
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from moderate.errors import OutputError, ReaderGoneError
from moderate.results.atomic import WholeFile, commit_together, open_whole, output_error
from moderate.results.cells import (
    base64_text,
    boolean_text,
    carried_csv,
    carried_json,
    carried_text,
    json_text,
    quoted,
)
from moderate.results.interface import CsvForm, ResultWriter
from moderate.results.remote import is_remote, target_name
from moderate.results.schema import carried_values, in_order, own_columns, shortest, values
from moderate.tables.csv import guarded
from moderate.types import Column, Row

if TYPE_CHECKING:
    from moderate.results.column_text import Cells


class FactsBesideWriter(ResultWriter):
    """Text to `target`, and the audit facts in a file beside it; None stands for standard output.

    A text file has no place for metadata.
    """

    def __init__(self, target: str | None) -> None:
        self._form: dict[str, str] = {}  # what the facts say of the form of the rows
        self._target = target
        self._atomic = open_whole(target) if target is not None else None
        self._beside = self._open_beside()
        self._stream: BinaryIO = self._atomic.file if self._atomic else sys.stdout.buffer
        self._audit: dict[str, str] = {}
        self._sealed = False

    def _open_beside(self) -> WholeFile | None:
        """The file of the audit facts, held from the start: no surprise after hours of work."""
        if self._target is None or self._atomic is None:
            return None
        try:
            return open_whole(metadata_path(self._target))
        except OutputError:
            self._atomic.discard()
            raise

    def seal(self, facts: dict[str, str]) -> None:
        """See `ResultWriter`."""
        if self._sealed:
            return
        self._sealed = True
        self._finish_text({**self._audit, **facts})
        if self._atomic is None or self._beside is None:
            return
        audit = {**self._audit, **facts, **self._form, "sha256": self._atomic.seal()}
        text = json.dumps(audit, indent=2, ensure_ascii=False) + "\n"
        try:
            self._beside.file.write(text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise output_error(self._beside.target, error) from error
        self._beside.seal()

    def _finish_text(self, facts: dict[str, str]) -> None:
        """Write what comes after the last row."""

    def commit(self, facts: dict[str, str]) -> dict[str, str]:
        """See `ResultWriter`."""
        self.seal(facts)
        if self._atomic is None or self._beside is None:
            return {}
        # Rows first: what describes them never stands alone. Where a kill comes in between, the
        # facts are still in their `.part` file, in which `read` looks for them.
        return commit_together([self._atomic, self._beside])

    def discard(self) -> None:
        """See `ResultWriter`."""
        for file in (self._atomic, self._beside):
            if file:
                file.discard()

    def _put(self, text: str) -> None:
        self._put_bytes(text.encode("utf-8", "backslashreplace"))

    def _put_bytes(self, data: bytes) -> None:
        try:
            self._stream.write(data)
            if self._atomic is None:
                self._stream.flush()  # a reader at the other end of a pipe sees rows as they come
        except BrokenPipeError as error:
            raise ReaderGoneError("standard output was closed by its reader") from error
        except OSError as error:
            raise output_error(self._target or "standard output", error) from error


class _TextWriter(FactsBesideWriter):
    """A line for each row."""

    null: ClassVar[str]
    texts: Mapping[str, Callable[[Any], str]]
    """What makes text of a cell, by the type of its column, or `carried`."""

    def __init__(self, target: str | None) -> None:
        super().__init__(target)
        self._carried: list[str] = []
        self._labels: Sequence[str] = ()
        self._texts: list[Callable[[Any], str]] = []

    @abstractmethod
    def header(self, names: list[str]) -> str:
        """What comes before the first row; `names` are those of all columns."""

    @abstractmethod
    def line(self, cells: list[str]) -> str:
        """One row of cells made text, with its line end."""

    @abstractmethod
    def lines(self, own: Sequence[Any], carried: Sequence[Cells]) -> bytes:
        """Rows given by columns, with their line ends, as UTF-8."""

    def start(
        self, audit: dict[str, str], carried: Sequence[Column] = (), labels: Sequence[str] = ()
    ) -> None:
        """See `ResultWriter`."""
        self._audit = audit
        self._carried = [column.name for column in carried]
        self._labels = labels
        columns = own_columns(labels)
        own = [self.texts[column.type] for column in columns]
        self._texts = in_order(own, [self.texts["carried"] for _ in carried])
        self._put(self.header(in_order([column.name for column in columns], self._carried)))

    def prepare(self, row: Row) -> str:
        """See `ResultWriter`."""
        cells, null = values(row, self._labels), self.null
        if self._carried:
            cells = in_order(cells, carried_values(row, self._carried))
        pairs = zip(self._texts, cells, strict=True)
        return self.line([null if cell is None else text(cell) for text, cell in pairs])

    def put(self, prepared: str) -> None:
        """See `ResultWriter`."""
        self._put(prepared)

    def write_columns(self, own: Sequence[Any], carried: Sequence[Cells]) -> None:
        """See `ResultWriter`."""
        from moderate.results.column_text import MOST_BYTES, byte_count  # it imports pyarrow

        if not len(own[0]):
            return
        if len(own[0]) > 1 and byte_count(own, carried) > MOST_BYTES:
            half = len(own[0]) // 2
            for part in (slice(None, half), slice(half, None)):
                self.write_columns([c[part] for c in own], [c[part] for c in carried])
        else:
            self._put_bytes(self.lines(own, carried))


class CsvWriter(_TextWriter):
    """RFC 4180 with `\\n` line ends; null is an empty cell, no cell starts a formula.

    The form may leave out the guard against formulas, which the facts say then.
    """

    null = ""
    texts = {
        "string": guarded,
        "binary": lambda value: guarded(base64_text(value)),
        "bool": boolean_text,
        "int64": str,
        "float32": shortest,
        "carried": carried_csv,
    }

    def __init__(self, target: str | None, form: CsvForm = CsvForm()) -> None:  # noqa: B008
        super().__init__(target)
        self._raw, self._bom = form.raw, form.bom
        self._form = {"csv": "raw" if form.raw else "guarded"}
        if form.raw:
            self.texts = {**self.texts, **_RAW_TEXTS}

    def header(self, names: list[str]) -> str:
        """See `_TextWriter`."""
        line = self.line(names if self._raw else list(map(guarded, names)))
        return "\ufeff" + line if self._bom else line

    def line(self, cells: list[str]) -> str:
        """See `_TextWriter`."""
        line = ",".join(cells)
        if '"' in line or "\n" in line or "\r" in line or line.count(",") >= len(cells):
            return quoted(cells)
        return line + "\n"

    def lines(self, own: Sequence[Any], carried: Sequence[Cells]) -> bytes:
        """See `_TextWriter`."""
        from moderate.results.column_text import csv_lines

        return csv_lines(own, carried, raw=self._raw)


_RAW_TEXTS: Mapping[str, Callable[[Any], str]] = {
    "string": str,
    "binary": base64_text,
    "carried": carried_text,
}


class JsonlWriter(_TextWriter):
    """One JSON object a line, keys in column order."""

    null = "null"
    texts = {
        "string": encode_basestring,
        "binary": lambda value: json_text(base64_text(value)),
        "bool": boolean_text,
        "int64": str,
        "float32": shortest,
        "carried": carried_json,
    }

    def header(self, names: list[str]) -> str:
        """See `_TextWriter`. The names stand in every row."""
        self._keys = [f"{json_text(name)}: " for name in names]
        return ""

    def line(self, cells: list[str]) -> str:
        """See `_TextWriter`."""
        return "{" + ", ".join(map(add, self._keys, cells)) + "}\n"

    def lines(self, own: Sequence[Any], carried: Sequence[Cells]) -> bytes:
        """See `_TextWriter`."""
        from moderate.results.column_text import json_lines

        return json_lines(self._keys, own, carried)


def metadata_path(target: str) -> str:
    """Where the audit facts of a CSV or JSONL file stand; a URI keeps the options behind it.

    Of a symbolic link, that is beside the file that it leads to, which is the one that is written.
    """
    if not is_remote(target) and os.path.islink(target):
        target = os.path.realpath(target)
    name = target_name(target)
    return name + ".meta.json" + target[len(name) :]


def stdout_is_closed() -> None:
    """After a broken pipe: keep the interpreter from complaining again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
