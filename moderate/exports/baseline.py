"""Findings that are known already: those of earlier results, which fail no check again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from moderate.errors import InputError, UsageError
from moderate.exports.findings import Finding, finding_of, is_finding
from moderate.exports.places import Root
from moderate.regular import read_regular
from moderate.results.final import decided_rows
from moderate.results.read import open_results
from moderate.results.remote import is_remote, shown_target, target_name
from moderate.results.targets import SUFFIXES
from moderate.tables.lines import file_name
from moderate.types import Decision

State = Literal["new", "updated", "unchanged"]
"""Of a finding: unknown to the baseline, known as a lesser or another one there, or known as it is.
The words are those of SARIF's baselineState."""

MAX_BYTES = 256 << 20

CONTENT = "moderateContent/v1"
"""The key of an image's SHA-256 among the partial fingerprints of SARIF."""

REVIEW_SEVERITIES = {"sarif": "warning", "gitlab": "major"}
BLOCK_SEVERITIES = {"sarif": "error", "gitlab": "critical"}
"""What reports call the two decisions."""

_LEVELS = {
    **dict.fromkeys(REVIEW_SEVERITIES.values(), Decision.REVIEW),
    **dict.fromkeys(BLOCK_SEVERITIES.values(), Decision.BLOCK),
}

_Rules = dict[str, int]
"""The severity of a known finding by its rule."""


@dataclass(frozen=True, slots=True)
class Known:
    """A finding of a baseline: the name of its place, its content, and the rules that made it."""

    name: str
    sha256: str | None
    decision: Decision
    rules: tuple[str, ...]


@dataclass(slots=True)
class Baseline:
    """The findings of earlier results, by path and by content.

    shown is what messages call it, files are those that it was read from, count says how many
    findings it has.
    """

    shown: str
    root: Root
    files: tuple[str, ...] = ()
    count: int = 0
    _by_name: dict[str, _Rules] = field(default_factory=dict)
    _by_content: dict[str, _Rules] = field(default_factory=dict)

    def add(self, known: Known) -> None:
        """Take a finding into the baseline."""
        self.count += 1
        for table, key in ((self._by_name, known.name), (self._by_content, known.sha256)):
            if key:
                rules = table.setdefault(key, {})
                for rule in known.rules:
                    rules[rule] = max(rules.get(rule, 0), known.decision.severity)

    def state(self, finding: Finding) -> State:
        """Whether a finding is known: under its path or content, by each of its rules, no milder.

        An image that the baseline has for another reason, or with a milder decision, is not.
        """
        severity, states = finding.decision.severity, []
        keys = ((self._by_name, finding.place.name), (self._by_content, finding.sha256))
        for table, key in keys:
            rules = table.get(key) if key else None
            if rules is not None:
                states.append(all(rules.get(rule, -1) >= severity for rule in finding.rules))
        if not states:
            return "new"
        return "unchanged" if any(states) else "updated"

    def covers(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is a finding that is unchanged."""
        if not is_finding(row):
            return False
        return self.state(finding_of(row, self.root.place(row))) == "unchanged"


def read_baseline(path: str) -> Baseline:
    """Read results, or a report of --report sarif or gitlab. Raises UsageError and InputError."""
    name = target_name(path).lower()
    baseline = Baseline(
        shown_target(path) if is_remote(path) else path,
        Root.here(),
        () if is_remote(path) else (path,),
    )
    if name.endswith(SUFFIXES):
        with open_results(path) as results:
            for row in decided_rows(results):
                if is_finding(row):
                    found = finding_of(row, baseline.root.place(row))
                    baseline.add(Known(found.place.name, found.sha256, found.decision, found.rules))
        return baseline
    if not name.endswith((".sarif", ".json")):
        raise UsageError(
            f"--baseline {baseline.shown}: name results ({', '.join(SUFFIXES)}), or a report in "
            "the form sarif (.sarif) or gitlab (.json)"
        )
    if is_remote(path):
        raise UsageError(f"--baseline {baseline.shown}: fetch it first")
    for known in _of_report(path, baseline.root):
        baseline.add(known)
    return baseline


def _of_report(path: str, root: Root) -> Iterator[Known]:
    try:
        data = json.loads(read_regular(path, MAX_BYTES))
    except OSError as error:
        raise InputError(f"cannot read {file_name(path)}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{file_name(path)} is not a baseline: it is not JSON") from None
    read: Callable[[Any, Root], Iterator[Known]]
    if isinstance(data, dict) and isinstance(data.get("runs"), list):
        read = _of_sarif
    elif isinstance(data, list):
        read = _of_gitlab
    else:
        raise InputError(
            f"{file_name(path)} is not a baseline: it is neither SARIF nor a GitLab report"
        )
    try:
        yield from read(data, root)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{file_name(path)} is not a baseline: a finding in it has not the form of one"
        ) from None


def _of_sarif(data: Any, root: Root) -> Iterator[Known]:
    for run in data["runs"]:
        for result in run.get("results") or ():
            # What is suppressed or gone is known as well, though not as something that is there.
            if result.get("baselineState") == "absent":
                continue
            ours = result.get("properties") or {}
            level = result.get("level", "warning")
            if level not in _LEVELS:
                continue
            place = result["locations"][0]["physicalLocation"]["artifactLocation"]
            fingerprints = result.get("partialFingerprints") or {}
            yield Known(
                _text(ours.get("path") or root.name_of_uri(_text(place["uri"]))),
                _optional(fingerprints.get(CONTENT)),
                _LEVELS[level],
                tuple(map(_text, ours.get("rules") or [result["ruleId"]])),
            )


def _of_gitlab(data: Any, root: Root) -> Iterator[Known]:
    for issue in data:
        severity = issue["severity"]
        if severity not in _LEVELS:
            continue
        ours = issue.get("moderate") or {}
        yield Known(
            _text(issue["location"]["path"]),
            _optional(ours.get("sha256")),
            _LEVELS[severity],
            tuple(map(_text, ours.get("rules") or [issue["check_name"]])),
        )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _optional(value: Any) -> str | None:
    return None if value is None else _text(value)
