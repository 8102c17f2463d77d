"""A command line as the ledger stores it: without header values, credentials and inline files."""

from __future__ import annotations

import re
from collections.abc import Sequence

from moderate.fetch.naming import mask_text

MAX_CHARACTERS = 2_000
"""Longest argument kept; what is longer ends in `…`."""

_HEADER_OPTION = "--url-header"
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


def mask_command(arguments: Sequence[str]) -> tuple[str, ...]:
    """`arguments` made safe to store and show: header values as `***`, everything else masked.

    What follows `--url-header` counts as its value, wherever that is: hiding a file name is better
    than showing a token.
    """
    masked = []
    header_expected = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if header_expected:
            masked.append(_masked_header(argument))
        elif name == _HEADER_OPTION and equals:
            masked.append(f"{_HEADER_OPTION}={_masked_header(value)}")
        else:
            masked.append(mask_argument(argument))
        header_expected = argument == _HEADER_OPTION
    return tuple(masked)


def mask_argument(argument: str) -> str:
    """One argument, printable, its URLs as rows would show them, of at most MAX_CHARACTERS."""
    text = mask_text(argument)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def _masked_header(line: str) -> str:
    name, colon, _ = line.partition(":")
    known = colon and _HEADER_NAME.fullmatch(name.strip())
    return f"{name.strip()}: ***" if known else "***"
