"""Lines of a file or stream of any size, in bounded memory, as they arrive."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from moderate.errors import InputError
from moderate.text import path_text, printable

CHUNK_BYTES = 1 << 16
"""How much is read at once. No limit on a line may be smaller."""

LineFile = bytes | BinaryIO
"""A path, opened anew for each pass, or a stream, read once."""


class Line(NamedTuple):
    """One line without its end. number counts from 1; whole is False where the limit cut it."""

    number: int
    data: bytes
    whole: bool


def read_lines(
    file: LineFile, name: str, limit: Callable[[bytes], int], separator: bytes = b"\n"
) -> Iterator[Line]:
    """Lines of `file`; what is over a line's limit is read past and dropped.

    `limit` gives the most bytes of a line, at least CHUNK_BYTES, from how it starts. Of a stream no
    more is asked for than it has, so that lines come out as they arrive. Raises InputError, naming
    `name`, where the file cannot be read.
    """
    with _opened(file, name) as stream:
        # read() of a buffered stream waits until it has as much as asked for; read1() does not.
        read = getattr(stream, "read1", stream.read)
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


def without_bom(line: Line, name: str) -> bytes:
    """The first line's data without UTF-8's byte order mark; raises InputError for UTF-16."""
    if line.data.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in line.data:
        raise InputError(f"{name} is UTF-16 text; save it as UTF-8")
    return line.data.removeprefix(b"\xef\xbb\xbf")


def file_name(path: bytes) -> str:
    """How messages call a file."""
    return printable(path_text(path))


@contextlib.contextmanager
def _opened(file: LineFile, name: str) -> Iterator[BinaryIO]:
    if not isinstance(file, bytes):
        yield file
        return
    try:
        stream = open(file, "rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise unreadable(name, error) from None
    except ValueError as error:  # a NUL in the name, as configuration files can have it
        raise InputError(f"cannot read {name}: {error}") from None
    with stream:
        yield stream


def _read(read: Callable[[int], bytes], name: str) -> bytes:
    try:
        return read(CHUNK_BYTES)
    except OSError as error:
        raise unreadable(name, error) from None


def unreadable(name: str, error: OSError) -> InputError:
    """What to raise for a list or manifest that the system would not read."""
    return InputError(f"cannot read {name}: {os.strerror(error.errno) if error.errno else error}")
