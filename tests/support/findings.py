"""Rows with findings, and what real readers make of the reports that name them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from moderate.exports.catalogue import REPORTS
from moderate.exports.interface import ExportOptions, ExportTarget
from moderate.results.schema import own_columns
from tests.support.scored import digest

HOSTILE = (
    "plain.jpg",
    "with blank, comma: colon & 100%.png",
    "new\nline\r\n::error file=x::injected.jpg",
    "<script>alert(1)</script>\"'&amp;.jpg",
    "\x1b[2J\x9b1A\x07.jpg",
    "\u202egpj.exe\u200f\u2028.jpg",
    "##[error]x.jpg",
    "%0A%3A%2C%25.jpg",
    "bild ä 图 \U0001f600.webp",
    "a:b/c#d?e=f;g.jpg",
    "]]>--><![CDATA[.jpg",
    "\x00\x01\ufffe\uffff.jpg",
)


def row(path: str, decision: str = "block", reasons: str = "", **values: Any) -> dict[str, Any]:
    """A row as exports take it."""
    blank = dict.fromkeys(column.name for column in own_columns())
    if not reasons and decision != "approve":
        reasons = f"nudity 0.91 >= {decision} 0.85"
    return {
        **blank,
        "path": path,
        "status": "ok",
        "decision": decision,
        "reasons": reasons or None,
        "sha256": digest(path),
        "nudity": 0.91,
        **values,
    }


def error_row(path: str, code: str = "truncated", **values: Any) -> dict[str, Any]:
    """A row without scores."""
    more = {"status": "error", "error_code": code, "error_message": "cut off", "nudity": None}
    reasons = f"error {code}: on_error review"
    return row(path, "review", reasons, **{"sha256": None, **more, **values})


def document(
    form: str,
    rows: Iterable[Mapping[str, Any]],
    options: ExportOptions = ExportOptions(),  # noqa: B008
    **facts: str,
) -> tuple[str, list[str]]:
    """The document that a form makes of rows, and its notes."""
    export = ExportTarget(form, "-", REPORTS[form]).form_class()(options)
    written: list[str] = []
    export.start(written.append, facts)
    for each in rows:
        export.add(each)
    export.finish(facts)
    return "".join(written), export.notes


_COMMAND = re.compile(r"::(?P<name>[a-z-]+)(?: (?P<properties>[^\n]*?))?::(?P<message>.*)")


def workflow_commands(log: str) -> list[dict[str, str]]:
    """The commands in a log, read as the runner of GitHub Actions reads them.

    It takes each line for itself, ends the properties at the first `::`, separates them at commas,
    and only then undoes the escapes.
    """
    found = []
    for line in log.splitlines():
        match = _COMMAND.fullmatch(line.lstrip())
        assert match, f"not a command: {line!r}"
        command = {"": match["name"], "message": _undo(match["message"])}
        for pair in (match["properties"] or "").split(","):
            name, _, value = pair.strip().partition("=")
            command[name] = _undo(value, ":,")
        found.append(command)
    return found


def _undo(text: str, more: Iterable[str] = ()) -> str:
    for char in ("\r", "\n", *more):
        text = text.replace(f"%{ord(char):02X}", char)
    return text.replace("%25", "%")
