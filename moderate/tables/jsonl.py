"""JSON objects on lines of untrusted files: no repeated keys, and bounded nesting."""

from __future__ import annotations

import json
import re
from typing import Any

from moderate.text import first_repeated, one_line

MAX_NESTING = 100
"""Arrays and objects within each other, where later stages follow them by recursion."""

_BRACKET_OR_STRING = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def json_object(text: str, max_nesting: int | None = MAX_NESTING) -> dict[str, Any]:
    """The object in a line of JSON.

    Raises ValueError, with a message for users, for anything else, for a key that is there twice,
    and for what is nested deeper than `max_nesting` (None: than Python reads).
    """
    if (
        max_nesting is not None
        and text.count("[") + text.count("{") > max_nesting
        and _nesting(text) > max_nesting
    ):
        raise ValueError(f"not JSON that can be read: nested over {max_nesting} levels deep")
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else one_line(str(error))
        raise ValueError(f"not JSON that can be read: {reason}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{json_kind(value)} where an object is expected")
    return value


def json_kind(value: Any) -> str:
    """What kind of JSON value this is, with its article, for a message."""
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return kinds.get(type(value), "null" if value is None else "a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        repeated = first_repeated(key for key, _ in pairs) or ""
        raise ValueError(f"the key {repeated} is there twice")
    return values


def _nesting(text: str) -> int:
    """How many arrays and objects of a line of JSON lie within each other at the most."""
    deepest = depth = 0
    for match in _BRACKET_OR_STRING.finditer(text):
        if match[0] in ("[", "{"):
            depth += 1
            deepest = max(deepest, depth)
        elif match[0] in ("]", "}"):
            depth -= 1
    return deepest
