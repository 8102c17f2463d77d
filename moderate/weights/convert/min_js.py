"""The value that a minified CommonJS module exports, where it is a literal; nothing is run.

nsfwjs ships its models this way: `model.min.js` exports what a TensorFlow.js model.json holds, and
each shard exports its bytes as base64 text. The minifier writes object literals with bare keys,
`!0` and `!1` for true and false, and numbers without a leading zero.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from pathlib import Path
from typing import Any, Final

from moderate.classify.files import shown
from moderate.errors import WeightsError
from moderate.regular import read_regular
from moderate.text import one_line

_MAX_BYTES = 256 << 20  # of a file
_MAX_BEFORE = 4096  # characters of the module's wrapper
_MAX_DEPTH = 64
_MAX_VALUES = 1_000_000

# The wrapper exports a literal once: `module.exports=` of the bundler is followed by a call.
_EXPORT = re.compile(r"(?<![\w$.])[\w$]+\.exports=(?=[{\"])")
_AFTER: Final = "},{}]},{},[1])(1)});"
_WORD = re.compile(
    r"""(?P<text>"(?:[^"\\\n\r]|\\["\\/bfnrt])*")"""
    r"""|(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w$.])"""
    r"""|(?P<constant>!0|!1|(?:true|false|null)(?![\w$]))"""
    r"""|(?P<mark>[{}\[\],:])"""
    r"""|(?P<name>[A-Za-z_$][\w$]*)"""
)
_CONSTANTS = {"!0": True, "!1": False, "true": True, "false": False, "null": None}
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class _MalformedError(Exception):
    """The file is malformed; the message says how."""


def read_exported_object(path: Path) -> dict[str, Any]:
    """The object literal that a module exports, as JSON's types. Raises WeightsError."""
    try:
        value = _Literal(_exported(path)).value()
    except _MalformedError as error:
        raise WeightsError(f"{shown(path)}: {one_line(str(error), 200)}") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{shown(path)}: it exports text, not an object")
    return value


def read_exported_bytes(path: Path) -> bytes:
    """The bytes that a module exports as base64 text. Raises WeightsError."""
    where = shown(path)
    try:
        literal = _exported(path)
    except _MalformedError as error:
        raise WeightsError(f"{where}: {error}") from error
    if len(literal) < 2 or literal[0] != '"' or literal[-1] != '"':
        raise WeightsError(f"{where}: it does not export base64 text")
    try:
        return base64.b64decode(literal[1:-1], validate=True)
    except (binascii.Error, ValueError) as error:
        raise WeightsError(f"{where}: no valid base64: {one_line(str(error))}") from error


def _exported(path: Path) -> str:
    """The text of the literal."""
    where = shown(path)
    try:
        text = read_regular(path, _MAX_BYTES).decode("ascii").rstrip()
    except OSError as error:
        raise WeightsError(f"{where}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise _MalformedError("not a minified module: it is not ASCII") from None
    found = _EXPORT.search(text[:_MAX_BEFORE])
    if found is None or not text.endswith(_AFTER):
        raise _MalformedError("not a module that exports one literal")
    return text[found.end() : -len(_AFTER)]


class _Literal:
    """A literal of objects, arrays, text, numbers and constants, token by token."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._values = 0

    def value(self) -> Any:
        """The whole literal. Raises _MalformedError."""
        value = self._value(0)
        if self._position != len(self._text):
            raise self._unexpected()
        return value

    def _value(self, depth: int) -> Any:
        self._values += 1
        if depth > _MAX_DEPTH or self._values > _MAX_VALUES:
            raise _MalformedError("the literal is too deep or too long")
        kind, word = self._take()
        if kind == "text":
            return _unescaped(word)
        if kind == "number":
            return _number(word)
        if kind == "constant":
            return _CONSTANTS[word]
        if word == "[":
            return self._array(depth)
        if word == "{":
            return self._object(depth)
        raise self._unexpected()

    def _array(self, depth: int) -> list[Any]:
        values: list[Any] = []
        if self._skip("]"):
            return values
        while True:
            values.append(self._value(depth + 1))
            if self._skip("]"):
                return values
            self._expect(",")

    def _object(self, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if self._skip("}"):
            return values
        while True:
            kind, word = self._take()
            if kind not in ("name", "text"):
                raise self._unexpected()
            key = word if kind == "name" else _unescaped(word)
            if key in values:
                raise _MalformedError(f"the key {key!r} stands twice")
            self._expect(":")
            values[key] = self._value(depth + 1)
            if self._skip("}"):
                return values
            self._expect(",")

    def _take(self) -> tuple[str, str]:
        found = _WORD.match(self._text, self._position)
        if found is None or found.lastgroup is None:
            raise self._unexpected()
        self._position = found.end()
        return found.lastgroup, found.group()

    def _skip(self, mark: str) -> bool:
        if self._text.startswith(mark, self._position):
            self._position += 1
            return True
        return False

    def _expect(self, mark: str) -> None:
        if not self._skip(mark):
            raise self._unexpected()

    def _unexpected(self) -> _MalformedError:
        near = self._text[self._position : self._position + 20]
        return _MalformedError(f"no literal at character {self._position}: {near!r}")


def _unescaped(word: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), word[1:-1])


def _number(word: str) -> int | float:
    if word.lstrip("-").isdecimal():
        if len(word) > 20:
            raise _MalformedError("a number is too long")
        return int(word)
    value = float(word)
    if not math.isfinite(value):
        raise _MalformedError("a number is too large")
    return value
