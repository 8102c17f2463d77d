"""Lists and tables in gzip: members, damage, bombs, and memory."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zlib
from pathlib import Path

import pytest

from moderate.errors import InputError
from moderate.tables import gzip_text
from moderate.tables.lines import CHUNK_BYTES, read_lines

TEXT = b"a.jpg\nb.jpg\n"
PACKED = gzip.compress(TEXT, mtime=0)


def lines(path: Path) -> list[bytes]:
    found = read_lines(os.fsencode(path), path.name, lambda _: CHUNK_BYTES)
    return [line.data for line in found]


def test_members_follow_each_other_and_lines_cross_them(tmp_path: Path) -> None:
    path = tmp_path / "list.txt.GZ"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbfa.j") + gzip.compress(b"pg\nb.jpg\n") + b"\0" * 99)
    assert lines(path) == [b"a.jpg", b"b.jpg"]
    path.write_bytes(gzip.compress(b""))
    assert lines(path) == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is cut off"),
        (PACKED[:-4], "is cut off"),
        (PACKED[:15], "is cut off"),
        (TEXT, "is not readable gzip"),
        (PACKED[:-8] + b"\0" * 8, "is not readable gzip"),
        (PACKED + b"more", "is not readable gzip"),
        (PACKED[:10] + b"\xff" * 20, "is not readable gzip"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "list.txt.gz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"list.txt.gz {says}") as caught:
        lines(path)
    assert "\n" not in str(caught.value)


def zeros(count: int) -> bytes:
    """A gzip file of so many NUL bytes, put together without compressing them all."""
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(count >> 20)) + packer.flush()


def test_a_bomb_is_refused_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gzip_text, "RATIO_FROM_BYTES", 8 << 20)
    path = tmp_path / "list.txt.gz"
    path.write_bytes(zeros(32 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="unpacks to more than 200 times its size"):
            lines(path)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    path.write_bytes(zeros(4 << 20))
    assert len(lines(path)) == 1, "a small file may be as repetitive as it likes"
