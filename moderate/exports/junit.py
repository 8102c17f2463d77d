"""JUnit XML, which CI systems show as tests: an image is a test that passes when it is approved."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, ClassVar
from xml.sax.saxutils import quoteattr

from moderate.errors import OutputError
from moderate.exports.findings import Finding, finding_of, is_finding
from moderate.exports.interface import Export, ExportOptions, Write
from moderate.exports.places import Root
from moderate.own_categories import categories_of
from moderate.text import printable

# What XML 1.0 cannot hold, not even escaped.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_IN_MEMORY = 16 << 20
_FACTS = (
    *("run_id", "version", "weights", "weights_sha256", "policy", "policy_sha256", "device"),
    *("precision", "started", "ended"),
)


class JunitReport(Export):
    """A `testsuite` with a `testcase` per row: `failure` for a decision, `error` for an error.

    A finding that the baseline has is `skipped`. The counts stand at the start of the document, so
    that the cases wait in memory, or in an unnamed temporary file where they are many.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".xml",)

    def __init__(self, options: ExportOptions) -> None:
        super().__init__(options)
        self._root = Root.here()
        self._write: Write
        self._cases = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - closed at the end
            _IN_MEMORY, "w+", encoding="utf-8", newline=""
        )
        self._counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}

    def start(self, write: Write, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        self._write = write

    def add(self, row: Mapping[str, Any]) -> None:
        """See `Export`."""
        place = self._root.place(row)
        self._counts["tests"] += 1
        names = {"classname": "moderate", "name": printable(row["path"])}
        if place.is_below:
            names["file"] = place.name
        if not is_finding(row):
            self._put(f"    <testcase{_attributes(names)} />\n")
            return
        found = finding_of(row, place)
        self._put(f"    <testcase{_attributes(names)}>\n")
        self._put("      <properties>\n")
        for name, value in _case_properties(found, row).items():
            self._put(f"        <property{_attributes({'name': name, 'value': value})} />\n")
        self._put("      </properties>\n")
        self._put(f"      {self._outcome(found)}\n    </testcase>\n")

    def _outcome(self, found: Finding) -> str:
        baseline = self.options.baseline
        message = f"{found.title}. {found.message}"
        if baseline and baseline.state(found) == "unchanged":
            self._counts["skipped"] += 1
            return f"<skipped{_attributes({'message': f'in the baseline: {message}'})} />"
        kind = "error" if found.is_error else "failure"
        self._counts[f"{kind}s"] += 1
        return f"<{kind}{_attributes({'type': found.rule, 'message': message})} />"

    def _put(self, text: str) -> None:
        try:
            self._cases.write(text)
        except OSError as error:  # such as a full disk
            raise _failed(error) from error

    def _written(self) -> Iterator[str]:
        try:
            self._cases.seek(0)
            while text := self._cases.read(1 << 20):
                yield text
        except OSError as error:
            raise _failed(error) from error

    def finish(self, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        totals = {name: str(count) for name, count in self._counts.items()}
        totals |= _times(facts)
        self._write('<?xml version="1.0" encoding="utf-8"?>\n')
        whole = {key: value for key, value in totals.items() if key != "timestamp"}
        self._write(f"<testsuites{_attributes({'name': 'moderate', **whole})}>\n")
        self._write(f"  <testsuite{_attributes({'name': 'moderate', **totals})}>\n")
        self._write("    <properties>\n")
        for name in _FACTS:
            if name in facts:
                attributes = _attributes({"name": name, "value": facts[name]})
                self._write(f"      <property{attributes} />\n")
        self._write("    </properties>\n")
        for text in self._written():
            self._write(text)
        self._cases.close()
        self._write("  </testsuite>\n</testsuites>\n")


def _failed(error: OSError) -> OutputError:
    return OutputError(f"cannot keep test cases in a temporary file: {error.strerror}")


def _case_properties(found: Finding, row: Mapping[str, Any]) -> dict[str, str]:
    values = {"decision": found.decision.value, "rules": "; ".join(found.rules)}
    if found.sha256:
        values["sha256"] = found.sha256
    scores = {
        str(name): score for name in categories_of(row) if (score := row.get(name)) is not None
    }
    return values | {name: f"{score:.4f}" for name, score in scores.items()}


def _times(facts: Mapping[str, str]) -> dict[str, str]:
    """When the run began, and how many seconds it took, as far as that is known."""
    try:
        started = datetime.fromisoformat(facts["started"])
        ended = datetime.fromisoformat(facts["ended"])
        seconds = max((ended - started).total_seconds(), 0.0)
    except (KeyError, TypeError, ValueError):  # of no run, or changed
        return {}
    return {
        "timestamp": started.replace(tzinfo=None).isoformat("T", "seconds"),
        "time": f"{seconds:.3f}",
    }


def _attributes(values: Mapping[str, Any]) -> str:
    return "".join(f" {name}={_quoted(str(value))}" for name, value in values.items())


def _quoted(text: str) -> str:
    """As the value of an attribute that a parser reads back; what XML cannot hold is `\\xNN`."""
    return quoteattr(_NO_XML.sub(lambda found: _escape(found[0]), text))


def _escape(char: str) -> str:
    shown = printable(char)
    return shown if shown != char else char.encode("unicode_escape").decode("ascii")
