"""Lines: bounded, numbered, without byte order marks, and strict UTF-8 where text is wanted."""

from __future__ import annotations

import io

import pytest

from moderate.errors import InputError
from moderate.tables.lines import CHUNK_BYTES, read_lines, text_lines


def test_a_line_over_the_limit_is_cut_and_the_next_one_is_whole() -> None:
    file = io.BytesIO(b"a\n" + b"x" * (5 * CHUNK_BYTES) + b"\nb")
    lines = list(read_lines(file, "f", lambda _: 2 * CHUNK_BYTES))
    assert [(line.number, line.whole) for line in lines] == [(1, True), (2, False), (3, True)]
    assert len(lines[1].data) <= 2 * CHUNK_BYTES
    assert lines[2].data == b"b"


def test_only_lines_of_text_lose_a_byte_order_mark() -> None:
    data = b"\xef\xbb\xbfa\n\xef\xbb\xbfb"
    assert list(text_lines(io.BytesIO(data), "f")) == ["a\n", "\ufeffb\n"]
    (line,) = read_lines(io.BytesIO(data + b"\0"), "f", lambda _: CHUNK_BYTES, b"\0")
    assert line.data == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a\nb\xff\n", "^line 2 of f: not UTF-8 at byte 2$"),
        (b"a\n" + b"x" * (CHUNK_BYTES + 1), f"^line 2 of f: longer than {CHUNK_BYTES} bytes$"),
        ("a\n".encode("utf-16"), "^f is UTF-16 text; save it as UTF-8$"),
    ],
)
def test_what_is_not_text_is_named_by_its_line(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        list(text_lines(io.BytesIO(data), "f", CHUNK_BYTES))
