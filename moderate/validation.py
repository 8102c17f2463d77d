"""Rules for all validated TOML files: no unknown keys, and one line for the first mistake."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, ValidationError

from moderate.text import one_line

_RANGE = re.compile(r"Input should be (greater|less) than or equal to ([^\s,]+)")

_MEMBER = re.compile(r"<\w+\.\w+: ('[^']*')>")
"""How the validation shows a member of an enumeration: with the value that a file has for it."""

_KINDS = {
    "Input should be a valid tuple": "is not a list",
    "Input should be a valid list": "is not a list",
    "Input should be a valid dictionary": "is not a table",
}
"""How the validation calls what is a list or a table in TOML -> what is wrong then."""


def plain_words(message: str) -> str:
    """A message of the validation, as this program says such things elsewhere."""
    for start, words in _KINDS.items():
        if message.startswith(start):
            return words
    message = _MEMBER.sub(r"\1", message)
    return _RANGE.sub(
        lambda found: f"use {found[2]} or {'more' if found[1] == 'greater' else 'less'}", message
    )


class Table(BaseModel):
    """A table that refuses keys it does not know and is never changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def first_problem(error: ValidationError) -> str:
    """The first mistake that validation found as `key: reason`, and how many more there are."""
    problems = error.errors(include_url=False, include_context=False)
    # A misspelt key is also a missing one: name the spelling.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    reason = plain_words(first["msg"].removeprefix("Value error, "))
    if first["type"] == "extra_forbidden":
        reason = "unknown key"
    elif first["type"] == "missing":
        reason = "is missing"
    elif first["type"] != "value_error":
        reason += f", got {one_line(repr(first['input']), 60)}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{key}: {reason}{more}" if key else f"{reason}{more}"
