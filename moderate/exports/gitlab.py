"""GitLab's code quality report: a JSON array with an object per finding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from moderate.exports.baseline import BLOCK_SEVERITIES, REVIEW_SEVERITIES
from moderate.exports.findings import Occurrences, finding_of, is_finding
from moderate.exports.interface import Export, ExportOptions, Write
from moderate.exports.places import Root
from moderate.types import Decision

_SEVERITIES = {
    Decision.APPROVE: "info",
    Decision.REVIEW: REVIEW_SEVERITIES["gitlab"],
    Decision.BLOCK: BLOCK_SEVERITIES["gitlab"],
}


class GitlabReport(Export):
    """The findings in the order of the rows, without those that the baseline has."""

    suffixes: ClassVar[tuple[str, ...]] = (".json",)

    def __init__(self, options: ExportOptions) -> None:
        super().__init__(options)
        self._root = Root.here()
        self._occurrences = Occurrences()
        self._separator = ""
        self._write: Write

    def start(self, write: Write, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        self._write = write
        write("[")

    def add(self, row: Mapping[str, Any]) -> None:
        """See `Export`."""
        if not is_finding(row):
            return
        found = finding_of(row, self._root.place(row))
        if self.options.baseline and self.options.baseline.state(found) == "unchanged":
            return
        issue = {
            "description": f"{found.title}. {found.message}",
            "check_name": found.rule,
            "fingerprint": found.fingerprint(self._occurrences.of(found)),
            "severity": _SEVERITIES[found.decision],
            "location": {"path": found.place.name, "lines": {"begin": 1}},
            # GitLab passes over this; a later run reads it from its baseline.
            "moderate": {"sha256": found.sha256, "rules": list(found.rules)},
        }
        self._write(f"{self._separator}\n{json.dumps(issue)}")
        self._separator = ","

    def finish(self, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        self._write("\n]\n")
