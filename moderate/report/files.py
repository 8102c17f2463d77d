"""Reports as files: the suffix decides the format."""

from __future__ import annotations

import json
from collections.abc import Callable

from moderate.report.html import to_html
from moderate.report.markdown import to_markdown
from moderate.report.model import Report
from moderate.results.remote import target_name


def to_json(report: Report, *, ascii_only: bool = False) -> str:
    """The data of a report as JSON text, for programs."""
    ascii_only = ascii_only or report.ascii_json
    return json.dumps(report.data, indent=2, ensure_ascii=ascii_only) + "\n"


FORMATS: dict[str, Callable[[Report], str]] = {
    ".json": to_json,
    ".md": to_markdown,
    ".html": to_html,
}


def render(report: Report, target: str) -> str:
    """The text of a report in the format that a target's suffix names.

    The suffix is one of `moderate.results.targets.REPORT_SUFFIXES`.
    """
    name = target_name(target).lower()
    return next(make for suffix, make in FORMATS.items() if name.endswith(suffix))(report)
