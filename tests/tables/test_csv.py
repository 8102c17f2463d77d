"""CSV: what is wrong is named by its line, and no quote swallows records."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from moderate.errors import InputError
from moderate.tables.csv import csv_records, strict_records, tsv_records, unguarded
from moderate.tables.lines import CHUNK_BYTES, Line, read_lines


def records(data: bytes) -> list[tuple[int, list[str], str]]:
    lines = read_lines(io.BytesIO(data), "f", lambda _: CHUNK_BYTES)
    return [(line, list(cells), why) for line, cells, why in csv_records(lines, "f", CHUNK_BYTES)]


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


def tsv(data: bytes) -> list[tuple[int, list[str], str]]:
    lines = read_lines(io.BytesIO(data), "f", lambda _: CHUNK_BYTES)
    return [(line, list(cells), why) for line, cells, why in tsv_records(lines, CHUNK_BYTES)]


def test_tsv_may_be_quoted_or_not() -> None:
    quoted = b'a\tb\r\n"x ""y"""\t1\r\n\r\n"two\r\nlines"\t2\r\n3\t"three\n\n""lines"\n4\t\xff\n'
    assert tsv(quoted) == [
        (1, ["a", "b"], ""),
        (2, ['x "y"', "1"], ""),
        (4, ["two\nlines", "2"], ""),
        (6, ["3", 'three\n\n"lines'], ""),
        (9, ["4", "\udcff"], ""),
    ]
    plain = b'a\tb\n"Hi" he said\t1\n"open\t2\n3\t"x\n4\ty"\n5"\t6\n'
    assert [cells for _, cells, _ in tsv(plain)] == [
        ["a", "b"],
        ['"Hi" he said', "1"],
        ['"open', "2"],
        ["3", '"x'],
        ["4", 'y"'],
        ['5"', "6"],
    ], "no line is taken for a part of another"


def test_quotes_in_tsv_cost_a_bounded_look_ahead() -> None:
    taken = 0

    def lines() -> Iterator[Line]:
        nonlocal taken
        yield Line(1, b"a\tb", True)
        for number in range(2, 5000):
            taken = number
            yield Line(number, b'"x', True)

    found = tsv_records(lines(), CHUNK_BYTES)
    next(found)
    assert list(next(found).cells) == ['"x']
    assert taken < 200
    assert len(list(found)) == 4997


def test_a_line_of_tsv_that_is_too_long_is_a_problem() -> None:
    records = tsv(b"a\n" + b"x" * 3 * CHUNK_BYTES + b"\nb\n")
    assert [(line, bool(why)) for line, _, why in records] == [(1, False), (2, True), (3, False)]
