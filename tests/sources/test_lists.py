"""Lists: what a line names, what is left out, what becomes an error row, and memory."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderate.errors import InputError
from moderate.fetch.local import read_file
from moderate.sources.lists import ListSource
from moderate.types import ErrorCode, ImageRef, Inline, StoredObject, Url
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

PNG = encode(scene((20, 20)), "PNG")


def refs(text: bytes, *, nul: bool = False, max_file_bytes: int = 1 << 20) -> list[ImageRef]:
    source = ListSource(io.BytesIO(text), nul=nul, name="list.txt", max_file_bytes=max_file_bytes)
    found = list(source)
    assert all(isinstance(one, ImageRef) for one in found)
    return found  # type: ignore[return-value]


def paths(text: bytes, *, nul: bool = False) -> list[bytes]:
    found = refs(text, nul=nul)
    assert not [one.error for one in found if one.error]
    return [one.path for one in found]


def test_lines_comments_blanks_bom_and_crlf() -> None:
    text = b"\xef\xbb\xbfa.jpg\r\n\r\n# a comment\r\n  \t\r\nb c.jpg\r\n./#c.jpg\r\nlast"
    assert paths(text) == [b"a.jpg", b"b c.jpg", b"./#c.jpg", b"last"]
    assert paths(b"") == []
    assert paths(b"\n\n# nothing\n") == []


def test_spaces_belong_to_paths_but_not_to_urls() -> None:
    found = refs(b" a.jpg \n  https://example.com/a.jpg \n")
    assert found[0].path == b" a.jpg "
    assert found[1].location == Url("https://example.com/a.jpg")
    assert found[1].path == b"https://example.com/a.jpg"


def test_several_urls_in_a_line_are_told_apart_from_a_url_with_a_space() -> None:
    found = refs(b"https://a.example/1.jpg\thttps://b.example/2.jpg\nhttps://a.example/a b.jpg\n")
    messages = [one.error.message for one in found if one.error]
    assert "several URLs; give each a line of its own" in messages[0]
    assert "percent-encode it" in messages[1]


def test_file_urls_name_the_path_to_give() -> None:
    found = refs(b"file:///in/a%20b.jpg\nfile://host/a.jpg\n")
    messages = [one.error.message for one in found if one.error]
    assert messages[0].endswith("give the path itself, /in/a b.jpg")
    assert messages[1].endswith("this one names another machine")


def test_nul_mode_takes_every_byte() -> None:
    text = b"\xef\xbb\xbfa\0#b\nc\r\0 d \0\0https://example.com/x\0e"
    assert paths(text, nul=True) == [
        b"\xef\xbb\xbfa",
        b"#b\nc\r",
        b" d ",
        b"https://example.com/x",
        b"e",
    ]


def test_what_a_line_may_name() -> None:
    data = b"data:image/png;base64," + base64.b64encode(PNG)
    lines = [
        b"HTTP://example.com/a.jpg",
        data,
        b"s3://bucket/a b.jpg",
        b"gs://bucket/a.jpg",
        b"/abs/a.jpg",
        b"http:/one-slash.jpg",
        b"C:\\a.jpg",
    ]
    found = refs(b"\n".join(lines))
    assert [one.error for one in found] == [None] * len(lines)
    assert [one.location for one in found] == [
        Url("HTTP://example.com/a.jpg"),
        Inline(PNG),
        StoredObject("s3://bucket/a b.jpg"),
        StoredObject("gs://bucket/a.jpg"),
        None,
        None,
        None,
    ]
    assert found[4].display == b"/abs/a.jpg"
    assert found[5].display == b"./http:/one-slash.jpg"


def test_a_data_url_is_called_by_type_and_digest() -> None:
    first, again, other = refs(
        b"data:image/png;base64,AAAA\ndata:image/png;base64,AAAA\ndata:,x%20y\n"
    )
    assert first.path == again.path
    assert first.path.startswith(b"data:image/png,sha256=")
    assert len(first.path) < 100
    assert other.path.startswith(b"data:,sha256=")
    assert first.display == first.path
    assert other.location == Inline(b"x y")


def test_credentials_stay_out_of_the_identity() -> None:
    text = (
        b"https://user:hunter2@example.com/a.jpg?X-Amz-Signature=abcdef\n"
        b"s3://AKIA:hunter2@bucket/a.jpg\n"
        b"http://user:hunter2@[broken/a.jpg\n"
        b"ftp://user:hunter2@example.com/a.jpg\n"
    )
    found = refs(text)
    for one in found:
        message = one.error.message if one.error else ""
        assert b"hunter2" not in one.display
        assert b"abcdef" not in one.display
        assert "hunter2" not in message
    assert found[0].location == Url("https://user:hunter2@example.com/a.jpg?X-Amz-Signature=abcdef")
    assert found[1].location == StoredObject("s3://AKIA:hunter2@bucket/a.jpg")
    assert found[1].path == b"s3://bucket/a.jpg"
    assert found[2].error
    assert found[3].error


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"file:///etc/passwd", ErrorCode.BAD_URL),
        (b"FILE://x", ErrorCode.BAD_URL),
        (b"ftp://example.com/a.jpg", ErrorCode.BAD_URL),
        (b"http://", ErrorCode.BAD_URL),
        (b"https://example.com/\xff.jpg", ErrorCode.BAD_URL),
        (b"data:image/png;base64,A", ErrorCode.BAD_URL),
        (b"data:image/png;base64,", ErrorCode.EMPTY_FILE),
        (b"s3://KEY:se/cret@bucket/a.jpg", ErrorCode.BAD_URL),
        (b"a\0b", ErrorCode.BAD_INPUT),
        (b"x" * 70_000, ErrorCode.PATH_TOO_LONG),
        (b"https://example.com/" + b"x" * 70_000, ErrorCode.BAD_INPUT),
    ],
)
def test_a_bad_line_is_a_row_with_its_number(line: bytes, code: ErrorCode) -> None:
    before, bad, after = refs(b"# comment\na.jpg\n" + line + b"\nb.jpg\n")
    assert (before.path, after.path) == (b"a.jpg", b"b.jpg")
    assert bad.path == b"list.txt:3"
    assert bad.error is not None
    assert bad.error.code is code
    assert bad.error.message.startswith("line 3 of list.txt: ")
    assert len(bad.error.message) < 500


def test_a_data_url_may_be_long_up_to_the_file_limit() -> None:
    body = base64.b64encode(b"x" * 300_000)
    (fits,) = refs(b"data:;base64," + body, max_file_bytes=300_000)
    assert fits.location == Inline(b"x" * 300_000)
    (too_large,) = refs(b"data:;base64," + body, max_file_bytes=299_999)
    assert too_large.error is not None
    assert too_large.error.code is ErrorCode.FILE_TOO_LARGE
    huge, after = refs(b"data:;base64," + body * 4 + b"\nb.jpg", max_file_bytes=10_000)
    assert huge.error is not None
    assert huge.error.code is ErrorCode.BAD_INPUT
    assert after.path == b"b.jpg"


def test_a_list_for_the_other_mode_says_so() -> None:
    (one,) = refs(b"a.jpg\0b.jpg\0")
    assert one.error is not None
    assert "-0" in one.error.message
    with pytest.raises(InputError, match="UTF-8"):
        refs("a.jpg\nb.jpg\n".encode("utf-16"))


def test_a_list_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match=r"cannot read l\.txt"):
            list(ListSource(os.fsencode(path), nul=False, name="l.txt"))


def test_a_file_is_read_anew_on_each_pass(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"a\nb\n")
    source = ListSource(os.fsencode(tmp_path / "l.txt"), nul=False, name="l.txt")
    assert list(source) == list(source) == [ImageRef(b"a"), ImageRef(b"b")]
    assert source.may_be_empty
    assert source.columns == ()


name_bytes = st.binary(min_size=1, max_size=40).filter(
    lambda name: b"\0" not in name and b"://" not in name  # which is refused as a bad URL
)


@given(st.lists(name_bytes, max_size=8))
def test_any_name_survives_nul_mode(names: list[bytes]) -> None:
    names = [b"./" + name for name in names]
    assert paths(b"".join(name + b"\0" for name in names), nul=True) == names


@given(st.lists(name_bytes, max_size=8), st.sampled_from([b"\n", b"\r\n"]), st.integers(1, 9))
def test_any_name_without_line_end_survives_lines(
    names: list[bytes], end: bytes, piece: int
) -> None:
    names = [b"/d/" + name.replace(b"\n", b"_") for name in names]
    if end == b"\n":  # a CR before LF is taken for a line end of its own kind
        names = [name.rstrip(b"\r") for name in names]
    text = b"".join(name + end for name in names)

    class Dribble(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return super().read1(piece)

    source = ListSource(Dribble(text), nul=False, name="l")
    assert [one.path for one in source] == names


@pytest.mark.parametrize("name", [b"\xff\xfe.png", b"a\tb,'\".png", b" #.png", b"\xe2\x80\xae.png"])
def test_the_file_that_a_line_names_is_read(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(PNG)
    (ref,) = refs(path + b"\n")
    assert read_file(ref.path, 1 << 20) == PNG


def test_refs_come_out_as_lines_arrive() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as feed:
        found = iter(ListSource(stream, nul=False, name="stdin"))
        for name in (b"a.jpg", b"b.jpg"):
            feed.write(name + b"\n")
            got: list[object] = []
            # A source that waits for more than a line would hang here; the thread shows it.
            thread = threading.Thread(target=lambda got=got: got.append(next(found)), daemon=True)
            thread.start()
            thread.join(PATIENCE)
            assert got == [ImageRef(name)]


LONG_LINE = """
import io, re, sys
from moderate.sources.lists import ListSource

class Endless(io.RawIOBase):
    left = int(sys.argv[1])
    def readable(self): return True
    def read(self, size=-1):
        count = min(size, self.left)
        self.left -= count
        return sys.argv[2].encode() * count if count else b""

found = list(ListSource(Endless(), nul=False, name="l", max_file_bytes=1 << 20))
assert len(found) == 1 and found[0].error, found
# Not ru_maxrss, which begins with what the parent had.
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def peak_kb(size: int, letter: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", LONG_LINE, str(size), letter],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return int(done.stdout)


def test_a_line_of_two_gigabytes_takes_no_memory() -> None:
    assert peak_kb(2 << 30, "x") - peak_kb(1 << 20, "x") < 20_000
