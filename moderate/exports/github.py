"""Workflow commands of GitHub Actions: an annotation per finding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from moderate.exports.findings import finding_of, is_finding
from moderate.exports.interface import Export, ExportOptions, Write
from moderate.exports.most_severe import MostSevere
from moderate.exports.places import Root
from moderate.text import for_terminal
from moderate.types import Decision

MOST_LINES = 1000
"""Of the annotations of a step, GitHub shows ten errors and ten warnings; the log has all lines."""

_MOST_BYTES = 16 << 20
_COMMANDS = {Decision.BLOCK: "error", Decision.REVIEW: "warning", Decision.APPROVE: "notice"}
_ESCAPED = "\r\n"
_DATA = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_PROPERTY = {**_DATA, **str.maketrans({":": "%3A", ",": "%2C"})}


class GithubAnnotations(Export):
    """A line per finding, the most severe first, as GitHub shows the first ones alone.

    Findings that the baseline has are left out.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".txt", ".log")

    def __init__(self, options: ExportOptions) -> None:
        super().__init__(options)
        self._root = Root.here()
        self._kept: MostSevere[str] = MostSevere(MOST_LINES, _MOST_BYTES)
        self._write: Write

    def start(self, write: Write, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        self._write = write

    def add(self, row: Mapping[str, Any]) -> None:
        """See `Export`."""
        if not is_finding(row):
            return
        found = finding_of(row, self._root.place(row))
        if self.options.baseline and self.options.baseline.state(found) == "unchanged":
            return
        command = _COMMANDS[found.decision]
        line = _line(command, found.message, file=found.place.name, title=found.title)
        self._kept.add(found, line, len(line))

    def finish(self, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        for line in self._kept.worst_first():
            self._write(line)
        if left_out := self._kept.left_out_text():
            self._write(_line("notice", f"more findings: {left_out}", title="moderate"))
            self.notes.append(
                f"the annotations for GitHub are the {len(self._kept):,} most severe ones; "
                f"left out: {left_out}"
            )


def _line(command: str, message: str, **properties: str) -> str:
    """One command. What GitHub does not unescape, such as ANSI sequences, is shown as an escape."""
    named = ",".join(
        f"{name}={for_terminal(value, _ESCAPED).translate(_PROPERTY)}"
        for name, value in properties.items()
    )
    return f"::{command} {named}::{for_terminal(message, _ESCAPED).translate(_DATA)}\n"
