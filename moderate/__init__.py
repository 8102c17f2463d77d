"""Batch image moderation: scores in five categories, decisions by policy, one row per image.

The whole public API is what `__all__` lists; everything else may change between versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moderate.errors import ModerateError
from moderate.types import Category, Decision, ErrorCode, ImageError, ImageFacts, Row, Views, Warn
from moderate.version import __version__

if TYPE_CHECKING:
    from moderate.api import scan

__all__ = [
    "Category",
    "Decision",
    "ErrorCode",
    "ImageError",
    "ImageFacts",
    "ModerateError",
    "Row",
    "Views",
    "Warn",
    "__version__",
    "scan",
]


def __getattr__(name: str) -> Any:
    # Importing moderate costs milliseconds; what scans costs more and waits until it is asked for.
    if name == "scan":
        from moderate.api import scan

        return scan
    raise AttributeError(f"module 'moderate' has no attribute {name!r}")
