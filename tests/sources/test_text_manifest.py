"""CSV and JSONL manifests: columns, types, bad rows, broken files."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderate.errors import InputError, UsageError
from moderate.results.read import _check_columns
from moderate.sources.columns import ManifestOptions, parse_columns
from moderate.sources.interface import Source
from moderate.sources.text_manifest import csv_manifest, jsonl_manifest
from moderate.tables.jsonl import _unique
from moderate.types import Column, ErrorCode, ImageRef, StoredObject, Url


def csv_source(folder: Path, text: str | bytes, *, tabs: bool = False, **options: Any) -> Source:
    path = folder / "m.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return csv_manifest(os.fsencode(path), str(path), ManifestOptions(**options), tabs=tabs)


def jsonl_source(folder: Path, lines: list[Any] | bytes, **options: Any) -> Source:
    path = folder / "m.jsonl"
    text = lines if isinstance(lines, bytes) else json_text(lines)
    path.write_bytes(text)
    return jsonl_manifest(os.fsencode(path), "m.jsonl", ManifestOptions(**options))


def json_text(values: list[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def refs(source: Source) -> list[ImageRef]:
    return [found for found in source if isinstance(found, ImageRef)]


def errors(source: Source) -> list[tuple[ErrorCode, str]]:
    return [(one.error.code, one.error.message) for one in refs(source) if one.error]


def test_csv_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    source = csv_source(tmp_path, "id,file_name\r\n1,sub/a.jpg\r\n2,/abs/b.jpg\r\n")
    folder = os.fsencode(tmp_path)
    assert [one.path for one in refs(source)] == [folder + b"/sub/a.jpg", b"/abs/b.jpg"]
    assert list(source) == list(source)
    based = csv_source(tmp_path, "path\na.jpg\n", base=b"/elsewhere")
    assert [one.path for one in refs(based)] == [b"/elsewhere/a.jpg"]


def test_csv_quotes_newlines_blanks_and_bom(tmp_path: Path) -> None:
    text = (
        '\ufeff"path","note"\r\n'
        '"a\nb.jpg","two\r\nlines, and ""quotes"""\r\n'
        "\r\n"
        'c d.jpg,  x \r\n"https://example.com/a.jpg",\r\n'
    )
    source = csv_source(tmp_path, text, keep=("note",), base=b"")
    assert [one.path for one in refs(source)] == [
        b"a\nb.jpg",
        b"c d.jpg",
        b"https://example.com/a.jpg",
    ]
    assert [one.carried for one in refs(source)] == [
        ('two\r\nlines, and "quotes"',),
        ("  x ",),
        ("",),
    ]
    assert source.columns == (Column("note", pa.string()),)


def test_csv_bad_rows_name_their_line(tmp_path: Path) -> None:
    text = 'path,n\na.jpg,"1\n1"\nb.jpg\nc.jpg,3,4\n"d"x,5\n,6\nfile:///e,7\nf.jpg,8\n'
    source = csv_source(tmp_path, text, keep=("n",))
    name = str(tmp_path / "m.csv")
    assert [one.path.decode() for one in refs(source) if one.error] == [
        f"{name}:{line}" for line in (4, 5, 6, 7, 8)
    ]
    assert [code for code, _ in errors(source)] == [ErrorCode.BAD_INPUT] * 4 + [ErrorCode.BAD_URL]
    assert all(f"line {line} of " in text for line, (_, text) in enumerate(errors(source), 4))
    assert [one.carried for one in refs(source)] == [
        ("1\n1",),
        (None,),
        (None,),
        (None,),
        ("6",),
        ("7",),
        ("8",),
    ]


def test_tabs_in_tsv(tmp_path: Path) -> None:
    source = csv_source(tmp_path, "url\tn\nhttps://example.com/a,b\t1\n", tabs=True)
    assert [one.location for one in refs(source)] == [Url("https://example.com/a,b")]


@pytest.mark.parametrize(
    ("text", "tabs"),
    [
        ("path;n\na,b.jpg;1\n", False),
        ('n|path\n1|"a,b.jpg"\n', False),
        ("path\tn\na,b.jpg\t1\n", False),
        ("sep=;\r\npath;n\r\na,b.jpg;1\r\n", False),
        ('\ufeff"sep=|"\r\npath|n\r\na,b.jpg|1\r\n', False),
        ('path,n\n"a,b.jpg",1\n', True),
        ("my,path;n\na,b.jpg;1\n", False),
    ],
)
def test_other_delimiters_are_recognised(tmp_path: Path, text: str, tabs: bool) -> None:
    column = "my,path" if "my,path" in text else None
    source = csv_source(tmp_path, text, tabs=tabs, image_column=column, keep=("n",), base=b"")
    assert list(source) == [ImageRef(b"a,b.jpg", carried=("1",))]


def test_a_delimiter_is_not_looked_for_where_the_comma_fits(tmp_path: Path) -> None:
    source = csv_source(tmp_path, "url,a;path\nx;y.jpg,1\n", base=b"")
    assert [one.path for one in refs(source)] == [b"x;y.jpg"]


def test_columns_of_csv_without_a_header(tmp_path: Path) -> None:
    columns = ("id", "path")
    source = csv_source(tmp_path, "1;a.jpg\n2;b.jpg\n3\n", columns=columns, keep=("id",), base=b"")
    assert [one.carried for one in refs(source)] == [("1",), ("2",), (None,)]
    assert [one.path for one in refs(source)][:2] == [b"a.jpg", b"b.jpg"]
    assert errors(source) == [
        (
            ErrorCode.BAD_INPUT,
            f"line 3 of {tmp_path}/m.csv: 1 cells where --columns has 2; it reads: 3",
        )
    ]
    assert refs(csv_source(tmp_path, "", columns=columns)) == []
    with pytest.raises(InputError, match=r"--columns names 2 columns, but .*m.csv has 1 cells"):
        csv_source(tmp_path, "a.jpg\n", columns=columns)
    with pytest.raises(InputError, match="cannot tell which column"):
        csv_source(tmp_path, "a,b\n", columns=("x", "y"))
    with pytest.raises(InputError, match=r"it has: Dateiname, Gr\\xf6\\xdfe;"):  # of Excel
        csv_source(tmp_path, b"Dateiname;Gr\xf6\xdfe\na.jpg;1\n")
    stream = csv_manifest(
        io.BytesIO(b"1\ta.jpg\n2\tb.jpg\n"),
        "stdin",
        ManifestOptions(columns=columns, keep=("id",)),
    )
    assert list(stream) == [ImageRef(b"a.jpg", carried=("1",)), ImageRef(b"b.jpg", carried=("2",))]


def test_names_of_columns() -> None:
    assert parse_columns("path, id") == ("path", "id")
    for text in ("path,,id", ",", "path,path"):
        with pytest.raises(UsageError, match="--columns"):
            parse_columns(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("\n\r\n", "is empty"),
        ("a.jpg,1\nb.jpg,2\n", "has: a.jpg, 1; its first line must name the columns"),
        ("Path,path\na,b\n", "several columns"),
        ('path\n"a.jpg\nb.jpg\n', "line 2 is not closed"),
        ('path,n\n"a.jpg\nb.jpg"x,1\n', "line 2 is not closed"),
        ("a.jpg\rb.jpg\r", "header"),
        ("path\na\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_csv_that_is_broken_is_one_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(InputError) as caught:
        list(csv_source(tmp_path, text))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    for options in ({"keep": ("color",)}, {"image_column": "color"}):
        with pytest.raises(InputError, match=r"color.*it has: path, colour"):
            csv_source(tmp_path, "path,colour\n", **options)
        with pytest.raises(InputError, match=r"color.*it has: path, colour"):
            jsonl_source(tmp_path, [{"path": "a", "colour": 1}], **options)


def test_kept_columns_must_not_be_ours(tmp_path: Path) -> None:
    for name in ("path", "nudity", "bytes"):
        with pytest.raises(InputError, match=f"--keep original_{name}={name}"):
            csv_source(tmp_path, "path,nudity,bytes\n", keep=(name,))
    renamed = csv_source(tmp_path, "path,x=y\nq,1\n", keep=("mine=path", "x=y"), base=b"")
    assert [column.name for column in renamed.columns] == ["mine", "x=y"]
    assert [one.carried for one in refs(renamed)] == [("q", "1")]
    objects = jsonl_source(tmp_path, [{"path": "q", "label": 3}], keep=("truth=label",))
    assert objects.columns == (Column("truth", pa.int64()),)
    assert [one.carried for one in refs(objects)] == [(3,)]
    for keep in (("a=path", "a=n"), ("=n",)):
        with pytest.raises(InputError, match="a name for each column"):
            csv_source(tmp_path, "path,n\n", keep=keep)
    assert csv_source(tmp_path, "path,n\n", keep=("n", "n")).columns == (Column("n", pa.string()),)
    with pytest.raises(InputError, match="2 columns"):
        csv_source(tmp_path, "path,n,n\n", keep=("n",))


def test_nothing_but_a_header_is_an_answer(tmp_path: Path) -> None:
    for source in (csv_source(tmp_path, "path\n"), jsonl_source(tmp_path, b"", keep=("n",))):
        assert list(source) == []


def test_usual_names_have_an_order(tmp_path: Path) -> None:
    source = csv_source(tmp_path, "key,URL,File Name\n1,https://example.com/,a.jpg\n", base=b"")
    assert [one.path for one in refs(source)] == [b"a.jpg"]
    chosen = csv_source(tmp_path, "key,path\nk.jpg,p.jpg\n", base=b"", image_column="key")
    assert [one.path for one in refs(chosen)] == [b"k.jpg"]
    sizes = csv_source(tmp_path, "bytes,path\n17,p.jpg\n", base=b"")
    assert [one.path for one in refs(sizes)] == [b"p.jpg"]


@given(
    st.lists(
        st.tuples(
            st.binary(min_size=1, max_size=20).filter(
                lambda name: b"\0" not in name and b"://" not in name  # a URL that is wrong
            ),
            st.text(st.characters(codec="utf-8"), max_size=20),
        ),
        max_size=5,
    )
)
def test_any_name_and_text_survive_csv_and_jsonl(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[bytes, str]]
) -> None:
    folder = tmp_path_factory.mktemp("names")
    names = [(b"/d/" + name, note) for name, note in rows]
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(
        [("path", "note"), *((os.fsdecode(name), note) for name, note in names)]
    )
    text = buffer.getvalue().encode("utf-8", "surrogateescape")
    as_csv = csv_source(folder, text, keep=("note",))
    objects = [{"path": os.fsdecode(name), "note": note} for name, note in names]
    as_json = jsonl_source(folder, objects, keep=("note",))
    for source in (as_csv, as_json):
        assert [(one.path, *one.carried) for one in refs(source)] == names


def test_rekognition_bulk_manifest(tmp_path: Path) -> None:
    text = (
        b'{"source-ref": "s3://customer-input/a.jpg"}\n'
        b'{"source-ref": "s3://customer-input/b c.jpg", "meta": {"x": [1, 2]}, "n": 1}\n'
    )
    source = jsonl_source(tmp_path, text, keep=("meta", "n"))
    assert [one.location for one in refs(source)] == [
        StoredObject("s3://customer-input/a.jpg"),
        StoredObject("s3://customer-input/b c.jpg"),
    ]
    assert [one.carried for one in refs(source)] == [(None, None), ('{"x": [1, 2]}', 1)]


def test_json_types_of_kept_columns(tmp_path: Path) -> None:
    rows = [
        {"path": "a", "b": True, "i": 1, "f": 1, "s": "x", "m": 1, "o": {"k": 1}, "h": 2**63},
        {"path": "b", "b": None, "i": -5, "f": 0.5, "m": "two", "o": [1], "n": None, "h": 1},
    ]
    names = ("b", "i", "f", "s", "m", "o", "n", "h")
    source = jsonl_source(tmp_path, rows, keep=names)
    assert {column.name: str(column.type) for column in source.columns} == {
        "b": "bool",
        "i": "int64",
        "f": "double",
        "s": "string",
        "m": "string",
        "o": "string",
        "n": "string",
        "h": "string",
    }
    first, second = (dict(zip(names, one.carried, strict=True)) for one in refs(source))
    assert first["f"] == 1.0
    assert isinstance(first["f"], float)
    assert (first["b"], first["i"], first["s"], first["m"]) == (True, 1, "x", "1")
    assert (first["o"], first["n"], first["h"]) == ('{"k": 1}', None, str(2**63))
    assert second == {
        "b": None, "i": -5, "f": 0.5, "s": None, "m": "two", "o": "[1]", "n": None, "h": "1"
    }  # fmt: skip
    for column in source.columns:
        pa.array([first[column.name], second[column.name]], column.type)


def test_a_later_value_that_does_not_fit_is_an_error_row(tmp_path: Path) -> None:
    rows = [{"path": f"{n}.jpg", "n": n} for n in range(1000)]
    rows += [{"path": "x.jpg", "n": "many"}, {"path": "y.jpg", "n": 5}]
    found = refs(jsonl_source(tmp_path, rows, keep=("n",)))
    assert len(found) == 1002
    assert [(one.path, one.carried) for one in found if one.error] == [(b"m.jsonl:1001", (None,))]
    (problem,) = errors(jsonl_source(tmp_path, rows, keep=("n",)))
    assert problem[0] is ErrorCode.BAD_INPUT
    assert 'column n is int64 by the first lines, but holds "many"' in problem[1]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[1]",
        b"null",
        b'{"path": "a", "path": "b"}',
        b'{"other": 1}',
        b'{"path": null}',
        b'{"path": 5}',
        b'{"path": {"a": 1}}',
        b'{"path": ""}',
        b'{"path": "a\\u0000b"}',
        b'{"path": "\\ud800"}',
        b'{"path": "a", "n": ' + b"9" * 5000 + b"}",
        b'{"path": "a", "n": ' + b"[" * 100_000 + b"}",
        b'{"path": "' + b"x" * 70_000 + b'"}',
        b'{"path": "a", "n": "' + b"x" * 5_000_000 + b'"}',
    ],
)
def test_a_bad_json_line_is_a_row_with_its_number(tmp_path: Path, line: bytes) -> None:
    text = b'{"path": "a.jpg"}\n\n' + line + b'\n{"path": "b.jpg"}'
    found = refs(jsonl_source(tmp_path, text, base=b"", max_file_bytes=1 << 20))
    assert [one.path for one in found] == [b"a.jpg", b"m.jsonl:3", b"b.jpg"]
    error = found[1].error
    assert error is not None
    too_long = line.startswith(b'{"path": "xx')
    assert error.code is (ErrorCode.PATH_TOO_LONG if too_long else ErrorCode.BAD_INPUT)
    assert error.message.startswith("line 3 of m.jsonl: ")
    assert ("; it reads: " in error.message) == (line != b'{"path": ""}')
    assert len(error.message) <= 600


def test_a_bad_row_of_csv_carries_its_text_without_secrets(tmp_path: Path) -> None:
    text = 'path,n\n"x"y,1\nhttps://me:pw@h/a.jpg,1,2\nftp://h/a.jpg?password=pw,3\n'
    found = refs(csv_source(tmp_path, text))
    messages = [one.error.message.rpartition("; it reads: ")[2] for one in found if one.error]
    assert messages == ['"x"y,1', "https://***@h/a.jpg,1,2", "ftp://h/a.jpg?password=***"]


def test_json_nan_and_nested_names(tmp_path: Path) -> None:
    text = b'{"a": {"b": "x.jpg"}, "n": NaN}\n{"a": {"b": "y.jpg"}, "n": 1}\n'
    source = jsonl_source(tmp_path, text, image_column="a.b", keep=("n",), base=b"")
    assert [one.path for one in refs(source)] == [b"x.jpg", b"y.jpg"]
    assert str(refs(source)[0].carried[0]) == "nan"
    assert refs(source)[1].carried == (1.0,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[1]\n[2]\n", "no JSON objects.*line 2 is not one: an array"),
        (b'[\n{"path": "a"},\n]\n', "no JSON objects"),
        (b"\x89PNG\r\n\x1a\n\0\0", "no JSON objects"),
        (b'{"a": 1, "b": 2}\n', "which column.*it has: a, b"),
        (b'{"Image": "a", "image": "b"}\n', "several columns"),
    ],
)
def test_jsonl_that_is_broken_is_one_line(tmp_path: Path, text: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        jsonl_source(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_credentials_of_kept_urls_stay_behind(tmp_path: Path) -> None:
    url = "https://user:hunter2@example.com/a.jpg?token=hunter2"
    in_csv = csv_source(tmp_path, f"url\n{url}\n", keep=("url",))
    in_json = jsonl_source(tmp_path, [{"url": url}, {"url": "data:,abc"}], keep=("url",))
    for source in (in_csv, in_json):
        first = refs(source)[0]
        assert first.location == Url(url)
        assert "hunter2" not in first.carried[0]
        assert b"hunter2" not in first.path
    assert refs(in_json)[1].carried[0].startswith("data:,sha256=")


class CountedKey(str):
    """A key that counts how often it is compared with another."""

    comparisons = 0
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        CountedKey.comparisons += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@pytest.mark.parametrize("count", [1_000, 4_000])
def test_a_key_given_twice_is_found_without_comparing_all_with_all(count: int) -> None:
    keys = [CountedKey(f"k{index}") for index in range(count)]
    CountedKey.comparisons = 0
    with pytest.raises(ValueError, match=f"the key k{count - 1} is there twice"):
        _unique([(key, 1) for key in [*keys, CountedKey(f"k{count - 1}")]])
    assert CountedKey.comparisons < 2 * count
    CountedKey.comparisons = 0
    with pytest.raises(InputError, match=f"two columns 'k{count - 1}'"):
        _check_columns("r.csv", ["path", "status", "decision", *keys, keys[-1]])
    assert CountedKey.comparisons < 8 * count


def test_a_quote_that_is_never_closed_does_not_swallow_the_file(tmp_path: Path) -> None:
    text = b"path,b\na.jpg,x\n" + b'"x\n",' * 2_000_000
    path = tmp_path / "m.csv"
    path.write_bytes(text)
    source = csv_manifest(os.fsencode(path), "m.csv", ManifestOptions(max_file_bytes=1 << 10))
    iterator = iter(source)
    next(iterator)
    with pytest.raises(
        InputError, match=r"record of line 3 is not closed properly \(longer than \d+ bytes\)"
    ):
        next(iterator)
