"""The URI of an image, by which other programs find it again."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moderate
from moderate.fetch.naming import shown
from moderate.testcards import draw_card
from moderate.types import ErrorCode, ImageError, ImageRef, Inline, StoredObject, Url
from moderate.uris import file_uri, file_uris, uri_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def card() -> bytes:
    buffer = io.BytesIO()
    draw_card("violence", "block", 0, 64).save(buffer, "PNG")
    return buffer.getvalue()


def opened(uri: str | None) -> bytes:
    """What a program reads that takes a `file://` URI as RFC 8089 has it."""
    assert uri is not None
    parts = urlsplit(uri)
    assert (parts.scheme, parts.netloc, parts.query) == ("file", "", "")
    return Path(url2pathname(os.fsdecode(unquote_to_bytes(parts.path)))).read_bytes()


NAMES = st.binary(min_size=1, max_size=30).map(
    lambda name: name.replace(b"\0", b"0").replace(b"/", b"%")
)


@given(NAMES.filter(lambda name: name not in (b".", b"..")))
def test_every_name_comes_back_byte_for_byte(name: bytes) -> None:
    uri = uri_of(ImageRef(b"/in//./" + name))
    assert uri is not None
    assert uri.isascii()
    assert uri.isprintable()
    assert not set(uri) & set(' "<>\\^`{|}#?')
    assert unquote_to_bytes(uri) == b"file:///in/" + name


def test_relative_paths_start_at_the_working_directory(folder: Path) -> None:
    assert uri_of(ImageRef(b"a/b c.jpg")) == f"file://{folder}/a/b%20c.jpg"
    assert uri_of(ImageRef(b"./a.jpg")) == f"file://{folder}/a.jpg"
    assert uri_of(ImageRef(b"//srv/a.jpg")) == "file:///srv/a.jpg", "no host is named"
    gone = folder / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert uri_of(ImageRef(b"a.jpg")) is None
    assert uri_of(ImageRef(b"/a.jpg")) == "file:///a.jpg"


def test_two_dots_behind_a_link_lead_where_the_system_goes(folder: Path) -> None:
    (folder / "elsewhere" / "deep").mkdir(parents=True)
    (folder / "elsewhere" / "a.jpg").write_bytes(b"there")
    (folder / "link").symlink_to("elsewhere/deep")
    path = b"link/../a.jpg"
    assert opened(uri_of(ImageRef(path))) == Path(os.fsdecode(path)).read_bytes() == b"there"


def test_urls_are_the_original_ones_without_secrets() -> None:
    url = "https://u:hunter2@example.com/ü b.jpg?size=1&X-Amz-Signature=abc&token=hunter2"
    uri = uri_of(ImageRef(shown(url.encode()), location=Url(url)))
    assert uri is not None
    assert uri.startswith("https://***@example.com/%C3%BC%20b.jpg?size=1&")
    assert "hunter2" not in uri
    assert "abc" not in uri
    key = "s3://bucket/a%20b/c.jpg"
    assert uri_of(ImageRef(key.encode(), location=StoredObject(key))) == key


def test_what_is_in_memory_has_none() -> None:
    for name in (b"memory://0", b"data:image/png,sha256=00", b"photo.jpg", b"/photo.jpg"):
        assert uri_of(ImageRef(name, location=Inline(b""))) is None
    large = ImageError(ErrorCode.FILE_TOO_LARGE, "too large")
    assert uri_of(ImageRef(b"data:image/png,sha256=00", error=large)) is None
    frame = ImageRef(
        b"memory://0!/00:00:01.000",
        location=Inline(b""),
        within=ImageRef(b"memory://0", location=Inline(b"")),
    )
    assert uri_of(frame) is None


def test_what_lies_in_another_file_is_its_fragment() -> None:
    archive = ImageRef(b"/a!/b #1.zip")
    member = ImageRef(b"/a!/b #1.zip!/c/d #\xff!.jpg", location=Inline(b""), within=archive)
    inner = ImageRef(member.path + b"!/embedded-1.jpg", location=Inline(b""), within=member)
    assert uri_of(archive) == "file:///a!/b%20%231.zip"
    assert uri_of(member) == "file:///a!/b%20%231.zip#c/d%20%23%FF!.jpg"
    assert uri_of(inner) == "file:///a!/b%20%231.zip#c/d%20%23%FF!.jpg!/embedded-1.jpg"
    url = ImageRef(b"https://example.com/a.mp4", location=Url("https://example.com/a.mp4"))
    frame = ImageRef(url.path + b"!/00:00:01.500", location=Inline(b""), within=url)
    assert uri_of(frame) == "https://example.com/a.mp4#00:00:01.500"


def test_a_scan_of_every_kind_of_input(folder: Path) -> None:
    data = card()
    odd = b"caf\xe9 #1?.png"
    Path(os.fsdecode(odd)).write_bytes(data)
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("in side/1.png", data)
    pq.write_table(pa.table({"image": pa.array([data, None, b""], pa.binary())}), "m.parquet")
    Path("list.txt").write_bytes(odd + b"\nhttp://[bad\n./not there.png\n")
    rows = list(
        moderate.scan(
            "a.zip", "m.parquet", data, weights="testcard", workers=1,
            options=moderate.ScanOptions(
                reading=moderate.InputOptions(files_from=("list.txt",)),
            ),
        )
    )  # fmt: skip
    by_path = {row.path: row.uri for row in rows}
    start = f"file://{folder}"
    assert by_path == {
        "./a.zip!/in side/1.png": f"{start}/a.zip#in%20side/1.png",
        "./m.parquet!/row-000000": f"{start}/m.parquet#row-000000",
        "./m.parquet!/row-000001": None,  # its image is null
        "./m.parquet!/row-000002": f"{start}/m.parquet#row-000002",
        "memory://2": None,
        os.fsdecode(b"./" + odd): f"{start}/caf%E9%20%231%3F.png",
        "./list.txt:2": None,
        "./not there.png": f"{start}/not%20there.png",
    }
    assert opened(by_path[os.fsdecode(b"./" + odd)]) == data
    assert moderate.to_table(rows)["uri"].to_pylist() == list(by_path.values())
    assert [moderate.row_to_dict(row)["uri"] for row in rows] == list(by_path.values())


@pytest.mark.parametrize(
    "odd",
    [
        b"x/y",
        b"/x/y",
        b"./-x",
        b"a//b",
        b"../a",
        b"a/../b",
        b"a\nb",
        b"\xff",
        b"a b",
        b"a/",
        b"./.x",
    ],
)
def test_uris_of_many_files_are_those_of_each(odd: bytes) -> None:
    for plain in ([b"./a/b.jpg", b"c_1-2.png"], [b"/a/b.jpg", b"/c"], []):
        for paths in (plain, [*plain, odd], [odd, *plain], [odd]):
            if paths:
                assert file_uris(paths, b"/f x") == [file_uri(path, b"/f x") for path in paths]
                assert file_uris(paths) == [file_uri(path) for path in paths]
