"""What every form of export promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from moderate.exports.baseline import Baseline

Write = Callable[[str], None]
"""Adds text to the document. Raises OutputError."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How a document is made. `document`: one for the run where a form has an object per image.

    baseline has the findings that are known already; forms for CI tell them apart.
    """

    document: bool = False
    baseline: Baseline | None = None


class Export(ABC):
    """One document made of the rows of a run, or of a results file, in input order.

    A row is that of `moderate.row_to_dict`: a value by the name of each result column, None for
    null, scores as floats, carried columns too. A row of an older file may lack columns: read them
    with `row.get`. All text in it is of untrusted origin.

    The document is written as rows come where its form allows, so that memory does not grow with
    their number; what has to wait, such as counts, goes to `finish`. It is put under its name when
    all of it is written, and is discarded after any exception.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """How the names of files in this form end, in lower case."""

    is_of_people: ClassVar[bool] = True
    """Whether what people decided, where they did, stands in the place of the machine's decision.

    False for forms that show the machine's opinion, to be compared with that of people.
    """

    notes: list[str]
    """What whoever asked for the document has to know of it, such as what it leaves out.

    Complete after `finish`: sentences without a capital or a full stop.
    """

    def __init__(self, options: ExportOptions) -> None:
        self.options = options
        self.notes = []

    @abstractmethod
    def start(self, write: Write, facts: Mapping[str, str]) -> None:
        """Begin. facts are the audit facts of the results, as their metadata has them.

        `policy_json` is the whole policy (`moderate.policy.model.Policy`); what only the end of a
        run knows, such as `device` and `ended`, is missing from those of a scan.
        """

    @abstractmethod
    def add(self, row: Mapping[str, Any]) -> None:
        """Take one row."""

    @abstractmethod
    def finish(self, facts: Mapping[str, str]) -> None:
        """Write the rest. facts are all that is known now."""


@dataclass(frozen=True, slots=True)
class ExportTarget:
    """A file that is to be in a form; `-` is standard output.

    made_by is the module below `moderate.exports`, and its class, as MODULE:CLASS. document
    replaces that of the `ExportOptions` where it is not None.
    """

    form: str
    target: str
    made_by: str
    document: bool | None = None

    @property
    def is_stdout(self) -> bool:
        """Whether it goes to standard output."""
        return self.target == "-"

    def form_class(self) -> type[Export]:
        """The class that makes the document."""
        module, _, name = self.made_by.partition(":")
        found: type[Export] = getattr(import_module(f"moderate.exports.{module}"), name)
        return found
