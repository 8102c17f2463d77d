"""Batch image moderation: scores in five categories, decisions by policy, one row per image.

The whole public API is what `__all__` lists; everything else may change between versions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from moderate.errors import ModerateError
from moderate.types import (
    Category,
    Decision,
    ErrorCode,
    ImageError,
    ImageFacts,
    Limits,
    Origin,
    Row,
    Status,
    Views,
    Warn,
)
from moderate.version import __version__

if TYPE_CHECKING:
    from moderate.api import Moderator, Rows, scan
    from moderate.decode.video import VideoOptions
    from moderate.exports.in_memory import to_shape
    from moderate.fetch.options import HttpOptions
    from moderate.results.interface import CsvForm
    from moderate.results.table import row_to_dict, to_table
    from moderate.run.options import ScanOptions, StateOptions
    from moderate.sources.directory import WalkOptions
    from moderate.sources.resolve import InputOptions

__all__ = [
    "Category",
    "CsvForm",
    "Decision",
    "ErrorCode",
    "HttpOptions",
    "ImageError",
    "ImageFacts",
    "InputOptions",
    "Limits",
    "ModerateError",
    "Moderator",
    "Origin",
    "Row",
    "Rows",
    "ScanOptions",
    "StateOptions",
    "Status",
    "VideoOptions",
    "Views",
    "WalkOptions",
    "Warn",
    "__version__",
    "row_to_dict",
    "scan",
    "to_shape",
    "to_table",
]

# Importing moderate costs milliseconds; what scans costs more and waits until it is asked for.
_LAZY = {
    "CsvForm": "moderate.results.interface",
    "HttpOptions": "moderate.fetch.options",
    "InputOptions": "moderate.sources.resolve",
    "Moderator": "moderate.api",
    "Rows": "moderate.api",
    "ScanOptions": "moderate.run.options",
    "StateOptions": "moderate.run.options",
    "VideoOptions": "moderate.decode.video",
    "WalkOptions": "moderate.sources.directory",
    "row_to_dict": "moderate.results.table",
    "scan": "moderate.api",
    "to_shape": "moderate.exports.in_memory",
    "to_table": "moderate.results.table",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'moderate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
