"""What a row has to report to a CI system: a decision over `approve`, or an error."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moderate.exports.places import Place
from moderate.exports.rules import rule_text, rules_of
from moderate.own_categories import categories_of
from moderate.text import one_line
from moderate.types import Decision, Status

_LONGEST_MESSAGE = 1000
_TITLES = {Decision.APPROVE: "Approved", Decision.REVIEW: "To review", Decision.BLOCK: "Blocked"}


@dataclass(frozen=True, slots=True)
class Finding:
    """A row that somebody has to act on.

    rules are those that brought the decision about, the first of them first. score is the highest
    of all categories, None where nothing was scored.
    """

    place: Place
    decision: Decision
    rules: tuple[str, ...]
    is_error: bool
    message: str
    sha256: str | None
    score: float | None

    @property
    def rule(self) -> str:
        """The rule that it is filed under."""
        return self.rules[0]

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        text = rule_text(self.rule).title
        return text if self.is_error else f"{_TITLES[self.decision]}: {text}"

    def fingerprint(self, occurrence: int = 1) -> str:
        """The same for the same content under the same name and rule: 32 hexadecimal digits.

        occurrence tells apart rows that are alike in all three, such as an image given twice.
        """
        parts = [self.place.name, self.sha256 or "", self.rule]
        if occurrence > 1:
            parts.append(str(occurrence))
        text = "\0".join(parts).encode("utf-8", "backslashreplace")
        return hashlib.sha256(text).hexdigest()[:32]


class Occurrences:
    """Counts findings that are alike."""

    def __init__(self) -> None:
        self._counts: Counter[bytes] = Counter()

    def of(self, finding: Finding) -> int:
        """The how-manieth of its kind this finding is, from 1."""
        key = bytes.fromhex(finding.fingerprint())
        self._counts[key] += 1
        return self._counts[key]


def is_finding(row: Mapping[str, Any]) -> bool:
    """Whether a row has anything to report."""
    return bool(row["decision"] != Decision.APPROVE or row["status"] == Status.ERROR)


def finding_of(row: Mapping[str, Any], place: Place) -> Finding:
    """What a row for which `is_finding` holds has to report. Its messages are single lines."""
    is_error = row["status"] == Status.ERROR
    decision = Decision(row["decision"])
    code, reasons = row.get("error_code"), row.get("reasons")
    scores = [score for name in categories_of(row) if (score := row.get(name)) is not None]
    if is_error:
        message = f"{row.get('error_message') or code or 'not scored'} ({reasons or decision})"
    else:
        message = str(reasons or f"decision {decision}")
    return Finding(
        place,
        decision,
        rules_of(reasons, str(code or "unknown") if is_error else None),
        is_error,
        one_line(message, _LONGEST_MESSAGE),
        row.get("sha256"),
        max(scores, default=None),
    )
