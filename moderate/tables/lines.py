"""Lines of a file or stream of any size, in bounded memory, as they arrive."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from moderate.errors import InputError
from moderate.tables.gzip_text import SUFFIX, GzipReader
from moderate.text import path_text, printable

CHUNK_BYTES = 1 << 16
"""How much is read at once. No limit on a line may be smaller."""

MAX_LINE_BYTES = 64 << 20
"""The longest line of results, labels and lists of digests."""

LineFile = bytes | BinaryIO
"""A path, opened again for each pass, or a stream, read once."""


class Line(NamedTuple):
    """One line without its end. number counts from 1; whole is False where the limit cut it."""

    number: int
    data: bytes
    whole: bool


def read_lines(
    file: LineFile, name: str, limit: Callable[[bytes], int], separator: bytes = b"\n"
) -> Iterator[Line]:
    """Lines of `file`; the part of a line that is over its limit is dropped.

    `limit` returns the most bytes of a line, at least CHUNK_BYTES, given how the line starts. From
    a stream no more is requested than it has, so that lines come out as they arrive. A path that
    ends in .gz is unpacked. A byte order mark is dropped unless lines end with NUL. Raises
    InputError, with `name` in its message, where the file cannot be read, or is UTF-16.
    """
    lines = _read_lines(file, name, limit, separator)
    if separator != b"\0":
        for first in lines:
            yield first._replace(data=_without_bom(first.data, name))
            break
    yield from lines


def text_lines(file: LineFile, name: str, limit: int = MAX_LINE_BYTES) -> Iterator[str]:
    """Lines of UTF-8, each with a line end; a CR before it stays.

    Raises InputError as `read_lines`, and for a line that is not UTF-8 or is longer than the limit.
    """
    number = 0
    try:
        for number, data, whole in read_lines(file, name, lambda _: limit):
            if not whole:
                raise InputError(f"line {number} of {name}: longer than {limit} bytes")
            yield data.decode() + "\n"
    except UnicodeDecodeError as error:
        raise not_utf8(number, name, error) from None


def not_utf8(line: int, name: str, error: UnicodeDecodeError) -> InputError:
    """The error for a line that is not UTF-8."""
    return InputError(f"line {line} of {name}: not UTF-8 at byte {error.start + 1}")


def file_name(path: str | bytes) -> str:
    """How messages show a file."""
    return printable(path_text(os.fsencode(path)))


def unreadable(name: str, error: OSError | ValueError) -> InputError:
    """The error for a file that the system did not open or read, or whose name holds a NUL."""
    code = error.errno if isinstance(error, OSError) else None
    return InputError(f"cannot read {name}: {os.strerror(code) if code else error}")


def _read_lines(
    file: LineFile, name: str, limit: Callable[[bytes], int], separator: bytes
) -> Iterator[Line]:
    with _opened(file, name) as stream:
        # read() of a buffered stream waits until it has as much as asked for; read1() does not.
        read = stream.read1 if hasattr(stream, "read1") else stream.read
        number = 1
        parts: list[bytes] = []
        size = 0
        allowed = 0
        while chunk := _read(read, name):
            *ended, rest = chunk.split(separator)
            if not ended:
                if size <= allowed or not allowed:
                    parts.append(rest)
                size += len(rest)
                if size > CHUNK_BYTES and not allowed:
                    parts = [b"".join(parts)]
                    allowed = limit(parts[0])
                if allowed and size > allowed:
                    parts = [parts[0][:CHUNK_BYTES]]
                continue
            first = b"".join([*parts, ended[0]])
            size += len(ended[0])
            whole = size <= CHUNK_BYTES or size <= (allowed or limit(first))
            yield Line(number, first, whole)
            for data in ended[1:]:
                number += 1
                yield Line(number, data, True)
            number += 1
            parts, size, allowed = [rest], len(rest), 0
        if size:
            yield Line(number, b"".join(parts), not allowed or size <= allowed)


def _without_bom(data: bytes, name: str) -> bytes:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in data:
        raise InputError(f"{name} is UTF-16 text; save it as UTF-8")
    return data.removeprefix(b"\xef\xbb\xbf")


@contextlib.contextmanager
def _opened(file: LineFile, name: str) -> Iterator[BinaryIO | GzipReader]:
    if not isinstance(file, bytes):
        yield file
        return
    try:
        stream = open(file, "rb", buffering=0)  # noqa: SIM115
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from None
    with stream:
        yield GzipReader(stream, name) if file.lower().endswith(SUFFIX) else stream


def _read(read: Callable[[int], bytes], name: str) -> bytes:
    try:
        return read(CHUNK_BYTES)
    except OSError as error:
        raise unreadable(name, error) from None
