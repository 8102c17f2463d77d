"""SARIF 2.1.0, which code scanning of GitHub and others read: a result per finding."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from moderate.exports.baseline import BLOCK_SEVERITIES, CONTENT, REVIEW_SEVERITIES, State
from moderate.exports.findings import Finding, Occurrences, finding_of, is_finding
from moderate.exports.interface import Export, ExportOptions, Write
from moderate.exports.most_severe import MostSevere
from moderate.exports.places import Root
from moderate.exports.rules import rule_text
from moderate.own_categories import categories_of
from moderate.types import Decision

MOST_RESULTS = 25_000
MOST_COMPRESSED_BYTES = 10_000_000
"""What GitHub takes: results of a run, and bytes of the document, compressed by gzip.

https://docs.github.com/en/code-security/code-scanning/integrating-with-code-scanning/sarif-support-for-code-scanning
"""

_MOST_BYTES = 64 << 20  # kept in memory; names are compressed to a sixth at least
_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_LEVELS = {
    Decision.APPROVE: "note",
    Decision.REVIEW: REVIEW_SEVERITIES["sarif"],
    Decision.BLOCK: BLOCK_SEVERITIES["sarif"],
}
_RUN_FACTS = (
    *("run_id", "weights", "weights_sha256", "policy", "policy_sha256", "device", "precision"),
)


class SarifReport(Export):
    """One run of one tool. Of more findings than GitHub takes, the most severe are kept."""

    suffixes: ClassVar[tuple[str, ...]] = (".sarif", ".sarif.json", ".json")

    def __init__(self, options: ExportOptions) -> None:
        super().__init__(options)
        self._root = Root.here()
        self._occurrences = Occurrences()
        self._kept: MostSevere[tuple[str, str]] = MostSevere(MOST_RESULTS, _MOST_BYTES)
        self._write: Write

    def start(self, write: Write, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        self._write = write

    def add(self, row: Mapping[str, Any]) -> None:
        """See `Export`."""
        if not is_finding(row):
            return
        found = finding_of(row, self._root.place(row))
        state = self.options.baseline.state(found) if self.options.baseline else None
        text = _json(_result(found, row, state, self._occurrences.of(found)))
        self._kept.add(found, (found.rule, text), len(text), known=state == "unchanged")

    def finish(self, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        parts = list(self._parts(facts))
        while (size := _compressed(parts)) > MOST_COMPRESSED_BYTES and len(self._kept) > 1:
            excess = 1 - 0.98 * MOST_COMPRESSED_BYTES / size
            self._kept.drop(max(int(len(self._kept) * excess), 1))
            parts = list(self._parts(facts))
        if note := self._note():
            self.notes.append(note)
        for part in parts:
            self._write(part)

    def _note(self) -> str | None:
        left_out = self._kept.left_out_text()
        if not left_out:
            return None
        return (
            f"the SARIF report holds the {len(self._kept):,} most severe findings, as GitHub takes "
            f"no more than {MOST_RESULTS:,} and {MOST_COMPRESSED_BYTES // 1_000_000} MB compressed;"
            f" left out: {left_out}"
        )

    def _parts(self, facts: Mapping[str, str]) -> Iterator[str]:
        kept = self._kept.in_order()
        rules = list(dict.fromkeys(rule for rule, _ in kept))
        run = {
            "tool": {"driver": _driver(facts, rules)},
            "invocations": [_invocation(facts, self._note())],
            "columnKind": "unicodeCodePoints",
            "originalUriBaseIds": {
                "%SRCROOT%": {"description": {"text": "The root of the repository."}}
            },
            "properties": {name: facts[name] for name in _RUN_FACTS if name in facts},
        }
        head = _json({"$schema": _SCHEMA, "version": "2.1.0"})
        yield f'{head[:-1]}, "runs": [{_json(run)[:-1]}, "results": ['
        for number, (_, result) in enumerate(kept):
            yield f"{',' if number else ''}\n{result}"
        yield "\n]}]}\n"


def _driver(facts: Mapping[str, str], rules: Sequence[str]) -> dict[str, Any]:
    version = facts.get("version")
    return {
        "name": "moderate",
        **({"version": version, "semanticVersion": version} if version else {}),
        "rules": [_rule(rule) for rule in rules],
    }


def _rule(rule: str) -> dict[str, Any]:
    text = rule_text(rule)
    return {
        "id": rule,
        "name": "".join(word.capitalize() for word in rule.replace("/", "_").split("_")),
        "shortDescription": {"text": text.title},
        "fullDescription": {"text": text.help},
        "help": {"text": text.help},
        "defaultConfiguration": {"level": "warning"},
        "properties": {"tags": ["image-moderation"]},
    }


def _invocation(facts: Mapping[str, str], note: str | None) -> dict[str, Any]:
    times = {"startTimeUtc": facts.get("started"), "endTimeUtc": facts.get("ended")}
    notes = [note] if note else []
    return {
        "executionSuccessful": True,
        **{name: time for name, time in times.items() if time},
        "toolExecutionNotifications": [
            {"level": "warning", "message": {"text": f"{each[0].upper()}{each[1:]}."}}
            for each in notes
        ],
    }


def _result(
    found: Finding, row: Mapping[str, Any], state: State | None, occurrence: int
) -> dict[str, Any]:
    location: dict[str, Any] = {"uri": found.place.uri}
    if found.place.is_below:
        location["uriBaseId"] = "%SRCROOT%"
    prints = {"primaryLocationLineHash": f"{found.fingerprint()}:{occurrence}"}
    if found.sha256:
        prints[CONTENT] = found.sha256
    scores = {
        str(name): score for name in categories_of(row) if (score := row.get(name)) is not None
    }
    return {
        "ruleId": found.rule,
        "level": _LEVELS[found.decision],
        "message": {"text": f"{found.title}. {found.message}"},
        "locations": [
            # Code scanning shows no result without a line.
            {"physicalLocation": {"artifactLocation": location, "region": {"startLine": 1}}}
        ],
        "partialFingerprints": prints,
        **({"baselineState": state} if state else {}),
        **({} if found.score is None else {"rank": round(100 * found.score, 2)}),
        "properties": {
            "path": found.place.name,
            "decision": found.decision.value,
            "rules": list(found.rules),
            "scores": scores,
        },
    }


def _json(value: Any) -> str:
    """ASCII alone, with no control character but as an escape."""
    return json.dumps(value)


def _compressed(parts: Sequence[str]) -> int:
    """The bytes of the document as GitHub's own action compresses it."""
    packer = zlib.compressobj(wbits=31)
    return sum(len(packer.compress(part.encode())) for part in parts) + len(packer.flush())
