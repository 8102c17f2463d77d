"""Reports as files: the suffix decides the format."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from moderate.report.html import to_html
from moderate.report.markdown import to_markdown
from moderate.report.model import Report
from moderate.results.marks import MARK
from moderate.results.remote import target_name


def to_json(report: Report, *, ascii_only: bool = False) -> str:
    """The data of a report as JSON text, for programs."""
    ascii_only = ascii_only or report.ascii_json
    return json.dumps(report.data, indent=2, ensure_ascii=ascii_only) + "\n"


def _to_json_file(report: Report) -> str:
    """`to_json`, with the mark of a report where the data has names."""
    if not isinstance(report.data, dict):
        return to_json(report)
    return to_json(replace(report, data={"generator": MARK, **report.data}))


FORMATS: dict[str, Callable[[Report], str]] = {
    ".json": _to_json_file,
    ".md": to_markdown,
    ".html": to_html,
}


def render(report: Report, target: str) -> str:
    """The text of a report in the format that a target's suffix names, to be signed and written.

    The suffix is one of `moderate.results.targets.REPORT_SUFFIXES`.
    """
    name = target_name(target).lower()
    return next(make for suffix, make in FORMATS.items() if name.endswith(suffix))(report)
