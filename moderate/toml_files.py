"""The one TOML reader: regular files only, and bounded before the parser sees them."""

from __future__ import annotations

import os
import re
import tomllib
from typing import Any

from moderate.regular import read_regular
from moderate.text import one_line

MAX_TOML_BYTES = 4 << 20
"""Largest TOML file read. Long lists of images belong in the CSV files that a policy can name."""

MAX_DEPTH = 32
"""Most parts of a key and brackets around it, together; what this tool reads needs about 6."""

# Comments and strings, which may hold anything, and what makes depth. Possessive: linear in time.
_TOKEN = re.compile(
    r"""
      \#[^\n]*+
    | \"{3}(?:[^"\\]|\\.|"(?!""))*+(?P<closed_text>\"{3,5}+)?
    | '{3}(?:[^']|'(?!''))*+(?P<closed_literal>'{3,5}+)?
    | "(?:[^"\\\n]|\\.)*+"
    | '[^'\n]*+'
    | (?P<bracket>[\[{])
    | (?P<closing>[\]}])
    | (?P<dot>\.)
    | (?P<separator>[\n,])
    | (?P<unclosed>["'])
    """,
    re.VERBOSE | re.DOTALL,
)


class TomlError(ValueError):
    """A TOML file or text that cannot be used. Its message, one line, follows the file's name."""


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The tables of a TOML file. Raises TomlError; see `read_toml_text` and `parse_toml`."""
    return parse_toml(read_toml_text(path))


def read_toml_text(path: str | os.PathLike[str]) -> str:
    """The text of a TOML file, each of its lines ending in a newline alone.

    Never waits, whatever `path` is. Raises TomlError for what is not a regular file of at most
    MAX_TOML_BYTES, cannot be read, or is not UTF-8.
    """
    try:
        data = read_regular(path, MAX_TOML_BYTES)
    except OSError as error:
        raise TomlError(str(error.strerror)) from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TomlError(f"not valid TOML: not UTF-8 at byte {error.start + 1}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises TomlError for what is not TOML, and for what would cost more time or memory than its size
    tells: more than MAX_TOML_BYTES, or keys or values nested deeper than MAX_DEPTH.
    """
    _check_size(len(text))
    _check_depth(text)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of a number of thousands of digits
        raise TomlError(f"not valid TOML: {one_line(str(error))}") from None


def _check_size(size: int) -> None:
    if size > MAX_TOML_BYTES:
        raise TomlError(f"larger than {MAX_TOML_BYTES >> 20} MiB, which no TOML file needs to be")


def _check_depth(text: str) -> None:
    """Refuse nesting beyond MAX_DEPTH: tomllib's time and memory are quadratic in it.

    Up to the first error these tokens are the parser's; it does not read further than that.
    """
    dots = 0
    open_brackets: list[int] = []  # for each, the dots of the keys that lead to it
    for token in _TOKEN.finditer(text):
        match token.lastgroup:
            case "dot":
                dots += 1
            case "bracket":
                open_brackets.append(dots)
            case "closing":
                dots = open_brackets.pop() if open_brackets else 0
            case "separator":
                dots = open_brackets[-1] if open_brackets else 0
            case "unclosed":
                return
            case None if token[0].startswith(('"""', "'''")):  # not closed either
                return
        if len(open_brackets) + dots >= MAX_DEPTH:
            line = text.count("\n", 0, token.start()) + 1
            raise TomlError(f"nested deeper than {MAX_DEPTH} levels in line {line}")
