"""Single values as the text that CSV and JSON Lines have for them."""

from __future__ import annotations

import base64
import csv
import datetime
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from moderate.arrow import plain_value
from moderate.tables.csv import guarded

Plain = str | bool | int | float | list[Any] | dict[str, Any] | None
"""What JSON has a type for."""


def quoted(cells: Sequence[str]) -> str:
    """A line of CSV, in which the cells that need it are quoted."""
    buffer = io.StringIO()
    # Only characters of the line end are quoted by themselves, and a bare CR must be.
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def boolean_text(value: bool) -> str:
    """As JSON has it."""
    return "true" if value else "false"


def base64_text(value: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(value).decode("ascii")


def json_text(value: Plain) -> str:
    """A value as JSON."""
    return json.dumps(value, ensure_ascii=False)


def carried_json(value: Any) -> str:
    """A carried value as JSON."""
    return json_text(plain(value))


def carried_csv(value: Any) -> str:
    """A carried value, not null, as a CSV cell that starts no formula."""
    return guarded(carried_text(value))


def carried_text(value: Any) -> str:
    """A carried value, not null, as text."""
    return plain_text(plain(value))


def plain_text(value: Plain) -> str:
    """A value in JSON's types as plain text: text as it is, lists and objects as JSON."""
    if isinstance(value, bool):
        return boolean_text(value)
    return str(value) if isinstance(value, (str, int, float)) else json_text(value)


def plain(value: Any) -> Plain:
    """A carried value in JSON's types: numbers as they are, what JSON has no type for as text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "cast"):  # an Arrow scalar that Python has nothing equal to
        return plain(plain_value(value))
    return str(value)
