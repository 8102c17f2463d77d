"""What every result format promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moderate.types import Column, Row


@dataclass(frozen=True, slots=True)
class CsvForm:
    """How CSV is written: `raw` without the guard against formulas, `bom` for Excel.

    The byte order mark is what tells Excel that the text is UTF-8.
    """

    raw: bool = False
    bom: bool = False


class ResultWriter(ABC):
    """Rows into one target, as they come, in bounded memory.

    Nothing stands under the target's name until `commit`; then it is the whole file.
    """

    @abstractmethod
    def start(
        self, audit: dict[str, str], carried: Sequence[Column] = (), labels: Sequence[str] = ()
    ) -> None:
        """Take the audit facts known before the first row, and the columns that rows carry.

        labels are the names of the own categories that get a column each, after the five, and of
        the labels that get one after all others.
        Once, before `write`.
        """

    @abstractmethod
    def prepare(self, row: Row) -> Any:
        """What `put` takes of a row. Raises whatever a value brings about that has no cell."""

    @abstractmethod
    def put(self, prepared: Any) -> None:
        """Add one row that was prepared. Raises OutputError where it cannot be written."""

    def write(self, row: Row) -> None:
        """Add one row. Raises OutputError where it cannot be written."""
        self.put(self.prepare(row))

    @abstractmethod
    def write_columns(self, own: Sequence[Any], carried: Sequence[Any]) -> None:
        """Add rows by columns: an Arrow array for each own column, and cells for each carried one.

        Own columns are those of `schema.own_columns`, in their types. Cells are an Arrow array, or
        a list of what Python has for the values. Raises OutputError.
        """

    @abstractmethod
    def seal(self, facts: dict[str, str]) -> None:
        """Finish what takes its time: the last write, and the way to the disk.

        Nothing is written after it, and `commit` is then a matter of moments, unless the target is
        remote. Raises OutputError.
        """

    @abstractmethod
    def commit(self, facts: dict[str, str]) -> dict[str, str]:
        """Finish the file with the audit facts known only now, and put it under its name.

        It is sealed with the same facts first, where it is not yet.

        They go before those of `start`. The SHA-256 (hex) of each file written, by its absolute
        path, or by its URI without credentials; nothing for standard output. Raises OutputError.
        """

    @abstractmethod
    def discard(self) -> None:
        """Leave nothing behind. Does nothing after `commit`; never raises."""
