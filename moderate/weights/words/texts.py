"""What a prompt or a description may be."""

from __future__ import annotations

from moderate.text import printable

MAX_CHARACTERS = 500
"""Of one text; a text tower takes 64 or 77 tokens, which are fewer."""


def problem_of(text: str) -> str | None:
    """What is wrong with a text, to follow it in a sentence; None where it can be used."""
    if not text.strip():
        return "is empty"
    if len(text) > MAX_CHARACTERS:
        return f"is longer than {MAX_CHARACTERS} characters"
    if printable(text) != text:
        return "holds a control character"
    return None
