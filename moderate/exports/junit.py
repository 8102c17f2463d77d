"""JUnit XML, which CI systems show as tests: an image is a test that passes when it is approved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar
from xml.etree import ElementTree

from moderate.exports.interface import Export, ExportOptions, Write

# What XML 1.0 cannot hold, not even escaped.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class JunitReport(Export):
    """A `testsuite` with a `testcase` per row: `failure` for a decision, `error` for an error."""

    suffixes: ClassVar[tuple[str, ...]] = (".xml",)

    def __init__(self, options: ExportOptions) -> None:
        super().__init__(options)
        self._suite = ElementTree.Element("testsuite", name="moderate")
        self._write: Write
        self._counts = {"failures": 0, "errors": 0}

    def start(self, write: Write, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        self._write = write

    def add(self, row: Mapping[str, Any]) -> None:
        """See `Export`."""
        case = ElementTree.SubElement(
            self._suite, "testcase", name=_text(row["path"]), classname="moderate"
        )
        if row["status"] == "error":
            self._fail(case, "error", row["error_code"], row["error_message"])
        elif row["decision"] != "approve":
            self._fail(case, "failure", row["decision"], row["reasons"])

    def _fail(self, case: ElementTree.Element, kind: str, what: Any, why: Any) -> None:
        self._counts[f"{kind}s"] += 1
        ElementTree.SubElement(case, kind, type=_text(what), message=_text(why))

    def finish(self, facts: Mapping[str, str]) -> None:
        """See `Export`."""
        self._suite.set("tests", str(len(self._suite)))
        for name, count in self._counts.items():
            self._suite.set(name, str(count))
        ElementTree.indent(self._suite)
        text = ElementTree.tostring(self._suite, "unicode")
        self._write(f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')


def _text(value: Any) -> str:
    """As text that XML can hold."""
    return _NO_XML.sub("�", "" if value is None else str(value))
