"""The fast way to read CSV gives what the careful one gives, or leaves it to that one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderate.analysis.decide import DecideOptions, redecide
from moderate.analysis.pieces import OWN, pieces
from moderate.errors import InputError
from moderate.results.fast_csv import UnusualError, whole_parts
from moderate.results.interface import CsvForm
from moderate.results.read import Results, read_results
from moderate.results.targets import open_writers
from moderate.types import CATEGORIES, Column, Decision, ImageFacts, ImageRef, Row, Views, Warn

HOSTILE = [
    "=1+1", "'quoted'", "'=x", "''", "'", 'q"q', "a,b", "a\r\nb", "\rx", "\nx", "＝1", "", "null",
    "NaN", "ü \u202e \u2028 \x85", "\x00", "x" * 100_000, " x ", "\t", '"', '""', "true",
]  # fmt: skip


BLOCK = 1 << 20


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a file of a few megabytes has several."""
    monkeypatch.setattr("moderate.results.fast_csv._BLOCK_BYTES", BLOCK)


def write(path: Path, texts: list[str], csv: CsvForm | None = None) -> None:
    with open_writers([str(path)], csv or CsvForm()) as writers:
        for writer in writers:
            writer.start({}, (Column("carried", pa.string()), Column("=odd, 'name'", pa.string())))
            for number, text in enumerate(texts):
                scores: dict[Any, float | None] = {
                    category: None if number % 7 == place else float(np.float32(0.1 * place))
                    for place, category in enumerate(CATEGORIES)
                }
                exact = b"caf\xe9 " + text.encode() if number % 5 == 0 else text.encode()
                facts = ImageFacts(3, 2, "png", 1, 2**40, None, (Warn.SMALL_IMAGE,))
                views = Views("safe", 1e-7, 1.0, 0.25, "low", number % 2 == 0, None)
                ref = ImageRef(exact, carried=(text, text[::-1]))
                row = Row(ref, facts, scores, Decision.APPROVE, (text,), views)
                writer.write(row)
            writer.commit({})


def fast_parts(results: Results, own: Sequence[str], carried: Sequence[str]) -> Iterator[Any]:
    raw = results.facts.get("csv") == "raw"
    return whole_parts(results.path, results.columns, own, carried, raw=raw)


def both(path: Path) -> tuple[Any, Any]:
    """What the fast and the careful way give."""
    results = read_results(str(path))
    fast = [{**own, **carried} for own, carried in fast_parts(results, OWN, results.carried)]
    return pa.concat_tables(map(pa.table, fast)).select(results.columns), results.table()


IDS = ["-5", "+3.2e4", "-x9Kd", "'-x9Kd", "'-5", "''=1", "=1", "'", "plain", "１", "@me", "-"]


@pytest.mark.parametrize("raw", [False, True])
def test_text_comes_back_as_it_was_guarded_or_raw(tmp_path: Path, raw: bool) -> None:
    """By row and by column, by either reader, in files that Excel knows as UTF-8 and others."""
    file, again = tmp_path / "rows.csv", tmp_path / "again.csv"
    texts = [text for text in (*HOSTILE, *IDS) if text]
    write(file, texts, CsvForm(raw, bom=True))
    redecide(DecideOptions(str(file), "strict", [str(again)], csv=CsvForm(raw, bom=False)))
    for path in (file, again):
        assert read_results(str(path)).facts["csv"] == ("raw" if raw else "guarded")
        for table in both(path):
            assert table["carried"].to_pylist() == texts
    assert file.read_bytes().startswith(b"\xef\xbb\xbfpath,")
    assert again.read_bytes().startswith(b"path,")
    cells = again.read_text().split(",")
    assert ("-x9Kd" in cells, "'-x9Kd" in cells) == ((True, True) if raw else (False, True))
    assert "-5" in cells
    assert "+3.2e4" in cells
    redecide(DecideOptions(str(file), "strict", [str(again)], csv=CsvForm(not raw)))
    assert both(again)[1]["carried"].to_pylist() == texts
    other = tmp_path / "rows.jsonl"
    redecide(DecideOptions(str(file), "strict", [str(other)]))
    assert "csv" not in read_results(str(other)).facts


def test_every_column_is_the_same(tmp_path: Path, small_blocks: None) -> None:
    file = tmp_path / "rows.csv"
    write(file, HOSTILE * 40)
    assert file.stat().st_size > 4 * BLOCK
    fast, careful = both(file)
    assert fast.equals(careful)
    assert fast.num_rows == 40 * len(HOSTILE)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=20))
def test_of_any_text(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    file = tmp_path_factory.mktemp("any") / "rows.csv"
    write(file, texts)
    fast, careful = both(file)
    assert fast.equals(careful)


def test_a_row_larger_than_a_block_is_read_with_care(tmp_path: Path, small_blocks: None) -> None:
    file = tmp_path / "rows.csv"
    texts = ["a"] * 30_000 + ["y" * (BLOCK + 1)] + ["b"] * 10_000
    write(file, texts)
    results = read_results(str(file))
    read = 0
    with pytest.raises(UnusualError):
        for own, _ in fast_parts(results, ["path"], []):
            read += len(own["path"])
    assert 0 < read <= 30_000
    found = list(pieces(results, ["path"], ["carried"]))
    assert [text for piece in found for text in map(str, piece.carried["carried"])] == texts
    firsts = [piece.first for piece in found]
    assert firsts[0] == 1
    assert firsts[1:] == (np.cumsum([len(piece) for piece in found])[:-1] + 1).tolist()


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            "./a,ok,approve,0.5\n\n./b,ok,approve,0.5\n",
            "line 3 of .*: 0 cells where",
        ),
        ("./a,ok,approve,0.5\n./b,ok,approve\n", "line 3 of .*: 3 cells where"),
        ("./a,ok,approve,0.5\n./b,ok,approve,2\n", "line 3 of .*: nudity: 2.0 is not a score"),
        ("./a,ok,approve,0.5\n./b,ok,approve,x\n", "line 3 of .*: nudity: 'x' is not a number"),
        ("./a,ok,approve,0.5\n,ok,approve,1\n", "line 3 of .*: path is missing"),
        ('./a,ok,approve,0.5\n"./b,ok,approve,1\n', "line 3 of .*: not CSV"),
    ],
)
def test_mistakes_are_told_by_line(tmp_path: Path, lines: str, reason: str) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b"path,status,decision,nudity\n" + lines.encode())
    with pytest.raises(InputError, match=reason):
        list(pieces(read_results(str(file))))


@pytest.mark.parametrize(
    "last", ['"why, then', '"why, then"junk'], ids=["never closed", "text after it"]
)
def test_a_quote_that_breaks_the_rules_never_swallows_rows(tmp_path: Path, last: str) -> None:
    file = tmp_path / "rows.csv"
    rows = [f"./{number},ok,approve,0.5,why" for number in range(1000)]
    rows[3] = f"./3,ok,approve,0.5,{last}"
    file.write_text("\n".join(["path,status,decision,nudity,reasons", *rows]) + "\n")
    results = read_results(str(file))
    with pytest.raises(UnusualError):
        list(fast_parts(results, ["path"], []))
    with pytest.raises(InputError, match="not CSV"):
        list(pieces(results))
