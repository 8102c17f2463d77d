"""CSV: what is wrong is named by its line, and no quote swallows records."""

from __future__ import annotations

import io

import pytest

from moderate.errors import InputError
from moderate.tables.csv import csv_records, strict_records, unguarded
from moderate.tables.lines import CHUNK_BYTES, read_lines


def records(data: bytes) -> list[tuple[int, list[str], str]]:
    lines = read_lines(io.BytesIO(data), "f", lambda _: CHUNK_BYTES)
    found = csv_records(lines, "f", CHUNK_BYTES)
    return [(each.line, list(each.cells), each.problem) for each in found]


def test_a_bad_record_does_not_end_the_next() -> None:
    found = records(b'a,b\n\n"x"y,1\n"two\nlines",\xff\n')
    assert [line for line, _, _ in found] == [1, 3, 4]
    assert found[1][1] == []
    assert found[1][2]
    assert found[2] == (4, ["two\nlines", "\udcff"], "")


def test_a_quote_that_swallows_lines_ends_the_reading() -> None:
    with pytest.raises(InputError, match="quote opened in the record of line 2 is not closed"):
        records(b'a\n"x\ny\n')


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_strict_records_take_all_line_ends(end: bytes) -> None:
    file = io.BytesIO(b"\xef\xbb\xbf" + end.join([b"a,b", b"1,2", b"3,4", b""]))
    assert list(strict_records(file, "f")) == [(1, ["a", "b"]), (2, ["1", "2"]), (3, ["3", "4"])]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a,b\n1\n", "^line 2 of f: 1 cells where the header has 2$"),
        (b'a,b\n"1"x,2\n', "^line 2 of f: not CSV: "),
        (
            b"a,b\r1,2\r\n",
            "^line 1 of f: not CSV: a CR within the line; save the file with one kind",
        ),
        (b"a,b\n1,\xff\n", "^line 2 of f: not UTF-8 at byte 3$"),
    ],
)
def test_the_first_mistake_ends_strict_records(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        list(strict_records(io.BytesIO(data), "f"))


def test_only_the_guard_before_a_formula_is_removed() -> None:
    cells = ["'=1", "'a", "''", "=1", "'", "'-"]
    assert [unguarded(cell) for cell in cells] == ["=1", "'a", "''", "=1", "'", "-"]
