"""Archives: what counts, names, what is broken, and bombs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
import zstandard

from moderate.decode.sniff import HEAD_BYTES
from moderate.errors import InputError
from moderate.sources.archive import (
    ArchiveLimits,
    ArchiveSource,
    is_archive,
    local_opener,
    passed_over,
)
from moderate.sources.directory import DirectorySource, WalkOptions
from moderate.types import ErrorCode, ImageRef, Inline, Skipped, SkipReason
from tests.support.operations import count_lines
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

PNG = encode(scene((20, 20)), "PNG")
JPEG = encode(scene((300, 200), 1), "JPEG")
BMP = encode(scene((400, 300), 2), "BMP")
Found = list[ImageRef | Skipped]


def read(
    data: bytes, name: str = "dump.zip", limits: ArchiveLimits | None = None, **options: object
) -> Found:
    source = ArchiveSource(
        b"./" + name.encode(),
        lambda: io.BytesIO(data),
        limits or ArchiveLimits(),
        WalkOptions(**options),  # type: ignore[arg-type]
    )
    return list(source)


def pictures(found: Found) -> list[tuple[bytes, bytes]]:
    """Names below the archive, and bytes, of what has no error."""
    return [
        (ref.path.partition(b"!/")[2], ref.location.data)
        for ref in found
        if isinstance(ref, ImageRef) and not ref.error and isinstance(ref.location, Inline)
    ]


def errors(found: Found) -> dict[bytes, ErrorCode]:
    return {f.path: f.error.code for f in found if isinstance(f, ImageRef) and f.error}


def skips(found: Found) -> dict[bytes, SkipReason]:
    return {f.path.partition(b"!/")[2]: f.reason for f in found if isinstance(f, Skipped)}


def make_zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def make_tar(members: dict[str, bytes], mode: str = "w", **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **options) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Stream(io.RawIOBase):
    """Bytes that arrive once, as from a pipe."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        return self._data.readinto(buffer)  # type: ignore[arg-type]


SET = {
    "b/photo.jpg": JPEG,
    "b/upload_1": PNG,
    "b/note.txt": b"hello",
    "broken.jpg": b"nothing",
    "a.bmp": BMP,
    "empty.png": b"",
    "drawing": b"<svg xmlns='x'/>",
    "inner.zip": make_zip({"x.jpg": JPEG}),
    ".hidden/x.jpg": JPEG,
    "b/sample.cls": b"1",
    "b/sample.json": b"{}",
    "empty": b"",
}  # fmt: skip
EXPECTED = [
    (b"b/photo.jpg", JPEG), (b"b/upload_1", PNG), (b"broken.jpg", b"nothing"), (b"a.bmp", BMP),
    (b"drawing", b"<svg xmlns='x'/>"),
]  # fmt: skip


def check_set(found: Found, name: bytes) -> None:
    assert pictures(found) == EXPECTED
    assert errors(found) == {name + b"!/empty.png": ErrorCode.EMPTY_FILE}
    assert skips(found) == {
        b"b/note.txt": SkipReason.NOT_AN_IMAGE,
        b"inner.zip": SkipReason.NOT_AN_IMAGE,
        b".hidden/x.jpg": SkipReason.HIDDEN,
        b"b/sample.cls": SkipReason.NOT_AN_IMAGE,
        b"b/sample.json": SkipReason.NOT_AN_IMAGE,
        b"empty": SkipReason.NOT_AN_IMAGE,
    }


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_zip_members_in_archive_order_by_the_rules_of_a_folder(method: int) -> None:
    data = make_zip(SET, method)
    assert is_archive(b"./dump.ZIP", data[:HEAD_BYTES])
    check_set(read(data), b"./dump.zip")


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("tar", lambda data: data),
        ("tar.gz", gzip.compress),
        ("tgz", lambda data: gzip.compress(data[:3000]) + gzip.compress(data[3000:])),
        ("tar.bz2", lambda data: bz2.compress(data[:3000]) + bz2.compress(data[3000:])),
        ("tar.xz", lambda data: lzma.compress(data[:3000]) + bytes(8) + lzma.compress(data[3000:])),
        ("tar.zst", lambda data: zstandard.compress(data[:999]) + zstandard.compress(data[999:])),
    ],
)
@pytest.mark.parametrize("seekable", [True, False])
def test_tar_members_from_files_and_streams(
    suffix: str, pack: Callable[[bytes], bytes], seekable: bool
) -> None:
    data = pack(make_tar(SET))
    name = f"./shard-000.{suffix}".encode()
    assert is_archive(name, data[:HEAD_BYTES])
    kind = io.BytesIO if seekable else Stream
    source = ArchiveSource(name, lambda: cast("BinaryIO", kind(data)))
    check_set(list(source), name)


def test_the_same_counts_as_in_the_folder_it_was_made_of(tmp_path: Path) -> None:
    for name, data in SET.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    os.symlink("a.bmp", tmp_path / "in" / "link.bmp")
    folder = list(DirectorySource(os.fsencode(tmp_path / "in")))
    names = {
        os.path.relpath(f.path, os.fsencode(tmp_path / "in"))
        for f in folder
        if isinstance(f, ImageRef)
    }
    commands = [["tar", "-cf", "../d.tar", "."], ["tar", "-czf", "../d.tar.gz", "."]]
    commands += [["tar", "--format=pax", "-cJf", "../d.tar.xz", "."]]
    commands += [["zip", "-qry", "../d.zip", "."]] if shutil.which("zip") else []
    for command in commands:
        subprocess.run(command, cwd=tmp_path / "in", check=True)
        path = os.fsencode(tmp_path / "in" / command[-2])
        found = list(ArchiveSource(path, local_opener(path)))
        got = {
            f.path.partition(b"!/")[2].removeprefix(b"./") for f in found if isinstance(f, ImageRef)
        }
        assert got == names, command
        assert SkipReason.SYMLINK in skips(found).values()


def test_all_files_include_and_exclude() -> None:
    data = make_zip(SET)
    assert (
        len([f for f in read(data, all_files=True, hidden=True) if isinstance(f, ImageRef)]) == 12
    )
    found = read(data, include=("*.jpg",), exclude=("b",))
    assert pictures(found) == [(b"broken.jpg", b"nothing")]
    assert skips(found)[b"b/photo.jpg"] is SkipReason.EXCLUDED
    assert len(pictures(read(data, hidden=True))) == 6


NAMES = [
    b"../../etc/passwd.jpg", b"/absolute.jpg", b"C:\\windows\\a.jpg", b"a//b/./c.jpg",
    b"new\nline.jpg", b"\x1b[31mred.jpg", b"latin\xe9.jpg", b"=cmd.jpg", "ä中.jpg".encode(),
    b"twice.jpg", b"twice.jpg", b"!/x.jpg", b"a" * 4091 + b".jpg",
]  # fmt: skip


def test_names_in_a_zip_are_only_names_and_exact() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the name that is there twice
        for name in [*NAMES, b"n\xff.jpg"]:
            info = zipfile.ZipInfo(name.decode("cp437"))
            archive.writestr(info, PNG)
    data = buffer.getvalue()
    # Names outside ASCII were written as UTF-8; put the bytes of the old code page back.
    assert [name for name, _ in pictures(read(data))] == [
        name if name.isascii() else name.decode("cp437").encode() for name in [*NAMES, b"n\xff.jpg"]
    ]
    plain = make_zip({"nulXname.jpg": PNG, "oldXname.jpg": PNG})
    plain = plain.replace(b"nulXname", b"nul\0name").replace(b"oldXname", b"old\x82name")
    assert [name for name, _ in pictures(read(plain))] == [b"nul\0name.jpg", b"old\x82name.jpg"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_in_a_tar_are_only_names_and_exact(form: int) -> None:
    data = make_tar({}, format=form)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name in NAMES:
            info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
            info.size = len(PNG)
            archive.addfile(info, io.BytesIO(PNG))
    data = buffer.getvalue()
    assert [name for name, _ in pictures(read(data, "d.tar"))] == NAMES


def test_tar_links_devices_and_folders_are_not_followed(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in (
            ("folder", tarfile.DIRTYPE), ("soft.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE), ("fifo.jpg", tarfile.FIFOTYPE),
            ("device.jpg", tarfile.CHRTYPE),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    found = read(buffer.getvalue(), "d.tar")
    assert skips(found) == {
        b"soft.jpg": SkipReason.SYMLINK, b"hard.jpg": SkipReason.SYMLINK,
        b"fifo.jpg": SkipReason.NOT_REGULAR, b"device.jpg": SkipReason.NOT_REGULAR,
    }  # fmt: skip
    assert not [f for f in found if isinstance(f, ImageRef)]


def test_sparse_members_have_their_holes(tmp_path: Path) -> None:
    with open(tmp_path / "holes.bmp", "wb") as file:
        file.write(BMP)
        file.truncate(3_000_000)
    content = (tmp_path / "holes.bmp").read_bytes()
    with open(tmp_path / "huge.bmp", "wb") as file:
        file.truncate(1 << 40)
    for extra in ([], ["--format=pax"], ["--format=pax", "--sparse-version=0.1"]):
        subprocess.run(
            ["tar", "-cSf", "s.tar", *extra, "holes.bmp", "huge.bmp"], cwd=tmp_path, check=True
        )
        found = read((tmp_path / "s.tar").read_bytes(), "s.tar")
        assert [data for _, data in pictures(found)] == [content]
        assert errors(found) == {b"./s.tar!/huge.bmp": ErrorCode.FILE_TOO_LARGE}


def patched(data: bytes, at: int, what: bytes) -> bytes:
    return data[:at] + what + data[at + len(what) :]


def break_member(data: bytes, how: str, index: int) -> bytes:
    """A zip of which one member was broken."""
    info = zipfile.ZipFile(io.BytesIO(data)).infolist()[index]
    local = info.header_offset
    body = local + 30 + len(info.filename)
    entry = -1
    for _ in range(index + 1):
        entry = data.index(b"PK\x01\x02", entry + 1)
    if how == "encrypted":
        data = patched(data, local + 6, b"\x01\x00")
        return patched(data, entry + 8, b"\x01\x00")
    if how == "method":
        data = patched(data, local + 8, struct.pack("<H", 98))
        return patched(data, entry + 10, struct.pack("<H", 98))
    if how == "crc":
        return patched(data, entry + 16, b"\0\0\0\0")
    if how == "data":
        return patched(data, body + 20, b"\xff" * 60)
    if how == "local":
        return patched(data, local, b"XXXX")
    if how == "name":
        return patched(data, local + 30, b"other")
    if how == "offset":
        return patched(data, entry + 42, struct.pack("<L", len(data) * 2))
    if how == "version":
        return patched(data, entry + 6, b"\xff\x00")
    if how == "utf8":
        data = patched(data, entry + 8, struct.pack("<H", 0x800))
        return patched(data, entry + 46, b"\xff\xfe")
    if how == "smaller":
        return patched(data, entry + 24, struct.pack("<L", 100))
    assert how == "packed_size"
    return patched(data, entry + 20, struct.pack("<L", 0xFFFFFFF0))


@pytest.mark.parametrize("index", [0, 2, 4])
@pytest.mark.parametrize(
    "how",
    ["encrypted", "method", "crc", "data", "local", "name", "offset", "version", "utf8", "smaller",
     "packed_size"],
)  # fmt: skip
def test_one_broken_zip_member_costs_one_row(how: str, index: int) -> None:
    good = {f"image{i}.jpg": encode(scene((300, 200), i), "JPEG") for i in range(5)}
    found = read(break_member(make_zip(good), how, index))
    assert len(found) == 5
    assert len(errors(found)) == 1
    assert set(errors(found).values()) == {ErrorCode.BAD_ARCHIVE_MEMBER}
    bad = found[index]
    assert isinstance(bad, ImageRef)
    assert bad.error is not None
    assert bad.path.endswith(b".jpg")
    assert "\n" not in bad.error.message
    rest = [name for i, name in enumerate(good) if i != index]
    assert pictures(found) == [(name.encode(), good[name]) for name in rest]


def test_an_encrypted_zip_says_so() -> None:
    found = read(break_member(make_zip({"a.jpg": JPEG}), "encrypted", 0))
    assert isinstance(found[0], ImageRef)
    assert found[0].error is not None
    assert "encrypted" in found[0].error.message


def test_zips_with_data_descriptors_comments_and_something_in_front() -> None:
    buffer = io.BytesIO()

    class OneWay(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            return buffer.write(data)  # type: ignore[arg-type]

    with zipfile.ZipFile(cast("BinaryIO", OneWay()), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"a comment"
        archive.writestr("a.jpg", JPEG)
        archive.writestr("folder/", b"")
        with archive.open("b.jpg", "w", force_zip64=True) as member:
            member.write(PNG)
    data = buffer.getvalue()
    expected = [(b"a.jpg", JPEG), (b"b.jpg", PNG)]
    assert pictures(read(data)) == expected
    assert pictures(read(b"#!/bin/sh\nexit\n" + data)) == expected
    assert len(read(data)) == 2


def test_a_zip_with_more_entries_than_a_piece_of_directory_holds() -> None:
    data = make_zip({f"{i:06}.jpg": b"x%d" % i for i in range(70_000)}, zipfile.ZIP_STORED)
    found = pictures(read(data))
    assert found == [(b"%06d.jpg" % i, b"x%d" % i) for i in range(70_000)]
    broken = break_member(data[:], "crc", 0)
    assert len(errors(read(broken))) == 1


def test_a_zip64_directory_beyond_4_gib(tmp_path: Path) -> None:
    path = tmp_path / "big.zip"
    with open(path, "wb") as file:
        file.truncate(5 << 30)  # a hole, and the archive behind it
        file.seek(5 << 30)
        with zipfile.ZipFile(file, "a", allowZip64=True) as archive:
            archive.writestr("a.jpg", JPEG)
            archive.writestr("b.jpg", PNG)
    name = os.fsencode(path)
    found = list(ArchiveSource(name, local_opener(name)))
    assert pictures(found) == [(b"a.jpg", JPEG), (b"b.jpg", PNG)]


@pytest.mark.parametrize("cut", [1, 21, 100, 1000, 2000])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_cut_off_is_one_row(cut: int, method: int) -> None:
    found = read(make_zip(SET, method)[:-cut])
    assert errors(found) == {b"./dump.zip": ErrorCode.BAD_ARCHIVE_MEMBER}
    assert len(found) == 1


def test_a_zip_cut_off_behind_a_zip_inside_is_not_taken_for_that() -> None:
    inner = make_zip({"x.jpg": JPEG})
    data = make_zip({"a.jpg": JPEG, "inner.zip": inner, "b.jpg": JPEG}, zipfile.ZIP_STORED)
    for end in (data.index(inner) + len(inner), data.index(inner) + len(inner) + 40):
        assert errors(read(data[:end])) == {b"./dump.zip": ErrorCode.BAD_ARCHIVE_MEMBER}
        assert len(read(data[:end])) == 1


def test_a_zip_directory_that_lies_about_its_length_is_said() -> None:
    data = make_zip({"a.jpg": JPEG, "b.jpg": PNG})
    end = data.rindex(b"PK\x05\x06")
    found = read(patched(data, end + 8, struct.pack("<2H", 9, 9)))
    assert len(pictures(found)) == 2
    assert errors(found) == {b"./dump.zip": ErrorCode.BAD_ARCHIVE_MEMBER}
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    found = read(patched(data, second, b"junk"))
    assert [name for name, _ in pictures(found)] == [b"a.jpg"]
    assert errors(found) == {b"./dump.zip": ErrorCode.BAD_ARCHIVE_MEMBER}


def test_every_cut_of_a_tar_loses_nothing_silently() -> None:
    members = {f"{i}.jpg": JPEG for i in range(3)}
    data = make_tar(members)
    each = 512 + (len(JPEG) + 511) // 512 * 512
    for cut in (*range(1, 3 * each, 499), each, 2 * each, 3 * each):
        found = read(data[:cut], "d.tar")
        whole = min(cut // each, 3)
        complete = [name.encode() for name in list(members)[:whole]]
        got = pictures(found)
        assert [name for name, _ in got][:whole] == complete, cut
        assert all(body == JPEG for _, body in got)
        assert errors(found).get(b"./d.tar") is ErrorCode.BAD_ARCHIVE_MEMBER, cut
        assert isinstance(found[-1], ImageRef)
        assert found[-1].path == b"./d.tar"


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)  # as its command does


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_a_compressed_tar_cut_off_or_corrupt_ends_in_a_row(pack: Callable[[bytes], bytes]) -> None:
    members = {f"{i}.jpg": os.urandom(50_000) for i in range(9)}
    data = pack(make_tar(members))
    bads = [data[: len(data) // 2], patched(data, len(data) // 2, b"\0" * 200), data[:-30]]
    for bad in bads[: 2 if pack is zstd else 3]:  # its decoder ends quietly
        found = read(bad, "d.tar.gz")
        archive_row = found[-1]
        assert isinstance(archive_row, ImageRef)
        assert archive_row.path == b"./d.tar.gz"
        assert archive_row.error is not None
        assert archive_row.error.code is ErrorCode.BAD_ARCHIVE_MEMBER
        good = pictures(found)
        assert [name.decode() for name, _ in good] == list(members)[: len(good)]


def test_a_checksum_that_fails_at_the_end_is_said() -> None:
    data = gzip.compress(make_tar({"a.jpg": JPEG}), compresslevel=0)  # stored: a flip stays unseen
    flipped = patched(data, data.index(JPEG) + 500, b"\x00\x01")
    found = read(flipped, "d.tgz")
    assert errors(found) == {b"./d.tgz": ErrorCode.BAD_ARCHIVE_MEMBER}


def test_a_damaged_header_midway_is_said() -> None:
    data = make_tar({f"{i}.jpg": JPEG for i in range(3)})
    second = data.index(b"1.jpg\0")
    found = read(patched(data, second + 148, b"9999999\0"), "d.tar")
    assert [name for name, _ in pictures(found)] == [b"0.jpg"]
    assert errors(found) == {b"./d.tar": ErrorCode.BAD_ARCHIVE_MEMBER}


def test_concatenated_tars_are_said() -> None:
    one = make_tar({"a.jpg": JPEG})
    found = read(one + make_tar({"b.jpg": JPEG}), "d.tar")
    assert [name for name, _ in pictures(found)] == [b"a.jpg"]
    assert errors(found) == {b"./d.tar": ErrorCode.BAD_ARCHIVE_MEMBER}
    assert not errors(read(one + b"padding of an old tape", "d.tar"))


def test_too_large_members_are_not_unpacked_and_the_next_is_read() -> None:
    members = {"big.png": PNG + bytes(300_000), "upload": PNG + bytes(300_000), "ok.jpg": JPEG}
    limits = ArchiveLimits(max_file_bytes=200_000)
    for data, name in (
        (make_zip(members), "d.zip"), (make_tar(members), "d.tar"),
        (make_tar(members, "w:gz"), "d.tgz"),
    ):  # fmt: skip
        found = read(data, name, limits)
        assert set(errors(found).values()) == {ErrorCode.FILE_TOO_LARGE}
        assert len(errors(found)) == 2
        assert pictures(found) == [(b"ok.jpg", JPEG)]
    exact = ArchiveLimits(max_file_bytes=len(JPEG))
    assert pictures(read(make_zip({"ok.jpg": JPEG}), limits=exact)) == [(b"ok.jpg", JPEG)]


def test_the_number_of_members_is_limited() -> None:
    members = {f"{i}.jpg": PNG for i in range(10)}
    limits = ArchiveLimits(max_members=7)
    for data, name in ((make_zip(members), "d.zip"), (make_tar(members), "d.tar")):
        found = read(data, name, limits)
        assert len(pictures(found)) == 7
        assert errors(found) == {b"./" + name.encode(): ErrorCode.ARCHIVE_LIMIT}
    assert not errors(read(make_zip(members), limits=ArchiveLimits(max_members=10)))


def test_the_total_and_the_ratio_are_limited() -> None:
    members = {f"{i}.bmp": BMP[:54] + bytes(500_000) for i in range(40)}
    for data, name in (
        (make_zip(members), "d.zip"),
        (make_zip(members, zipfile.ZIP_BZIP2), "d.zip"),
        (make_tar(members, "w:gz"), "d.tgz"),
        (make_tar(members, "w:xz"), "d.txz"),
    ):
        assert len(pictures(read(data, name))) == 40  # 20 MB is no bomb, whatever the ratio
        archive = b"./" + name.encode()
        for limits in (
            ArchiveLimits(max_total_bytes=5_000_000),
            ArchiveLimits(ratio_from=5_000_000, max_ratio=50),
        ):
            found = read(data, name, limits)
            assert 5 <= len(pictures(found)) <= 10
            assert errors(found) == {archive: ErrorCode.ARCHIVE_LIMIT}


def test_overlapping_members_end_the_archive() -> None:
    one = make_zip({"a.bmp": BMP})
    start, end = one.index(b"PK\x01\x02"), one.rindex(b"PK\x05\x06")
    entry = one[start:end]
    count = 5000
    record = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(entry) * count, start, 0
    )
    found = read(one[:start] + entry * count + record)
    assert errors(found)[b"./dump.zip"] is ErrorCode.ARCHIVE_LIMIT
    # The archive cannot hold more members than its bytes have room for.
    assert len(pictures(found)) <= len(entry) * count // start + 2


PEAK = """
import re, sys
from moderate.sources.archive import *
from moderate.types import *
name, limits = sys.argv[1].encode(), ArchiveLimits(max_members=2_000_000)
def peak():  # of this program alone; ru_maxrss starts with that of who started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
counts = {}
for found in ArchiveSource(name, local_opener(name), limits):
    key = found.reason.name if isinstance(found, Skipped) else "ok"
    if isinstance(found, ImageRef) and found.error:
        key = found.error.code.name
    counts[key] = counts.get(key, 0) + 1
print(counts, (peak() - before) // 1024)
"""


def peak(path: Path) -> tuple[dict[str, int], int]:
    """What came out, and by how many MiB memory grew, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    counts, _, grown = done.stdout.strip().rpartition(" ")
    return eval(counts), int(grown)


def zip_of_zeros(path: Path, size: int, method: int) -> None:
    zeros = bytes(1 << 20)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("good.jpg", JPEG)
        for name in ("zeros.bmp", "unknown"):
            with archive.open(name, "w", force_zip64=True) as member:
                for _ in range(size >> 20):
                    member.write(zeros)
        archive.writestr("good too.jpg", JPEG)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_of_zeros_costs_nothing(tmp_path: Path, method: int) -> None:
    zip_of_zeros(tmp_path / "bomb.zip", 300 << 20, method)
    counts, grown = peak(tmp_path / "bomb.zip")
    assert counts == {"ok": 2, "FILE_TOO_LARGE": 1, "NOT_AN_IMAGE": 1}
    assert grown < 60


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_header_that_claims_less_than_it_unpacks_to(tmp_path: Path, method: int) -> None:
    zip_of_zeros(tmp_path / "bomb.zip", 300 << 20, method)
    data = (tmp_path / "bomb.zip").read_bytes()
    at = data.index(b"zeros.bmp", data.index(b"PK\x01\x02")) - 46
    (tmp_path / "lie.zip").write_bytes(patched(data, at + 24, struct.pack("<L", 5_000_000)))
    counts, grown = peak(tmp_path / "lie.zip")
    assert counts == {"ok": 2, "BAD_ARCHIVE_MEMBER": 1, "NOT_AN_IMAGE": 1}
    assert grown < 80


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_a_tar_of_zeros_ends_at_the_ratio(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bomb.tar.{suffix}"
    info = tarfile.TarInfo("zeros.bmp")
    info.size = 1 << 30
    header = info.tobuf()
    pack: dict[str, Callable[[], Any]] = {
        "gz": lambda: zlib.compressobj(6, wbits=31),
        "bz2": bz2.BZ2Compressor,
        "xz": lambda: lzma.LZMACompressor(preset=1),
        "zst": lambda: zstandard.ZstdCompressor().compressobj(),
    }
    with open(path, "wb") as file:
        packer = pack[suffix]()
        for piece in (header, *[bytes(1 << 20)] * 1024, bytes(1024)):
            file.write(packer.compress(piece))
        file.write(packer.flush())
    counts, grown = peak(path)
    assert counts == {"FILE_TOO_LARGE": 1, "ARCHIVE_LIMIT": 1}
    assert grown < 150


def pax_record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    total = length + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_gigabytes_is_not_read(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "headers.tar"
    with open(path, "wb") as file:
        file.write(make_tar({"good.jpg": JPEG})[: 512 + (len(JPEG) + 511) // 512 * 512])
        file.write(header("x", kind, 2 << 30))
        file.truncate(3 << 30)
    counts, grown = peak(path)
    assert counts == {"ok": 1, "ARCHIVE_LIMIT": 1}
    assert grown < 30


def test_headers_made_to_take_time_or_memory_do_not() -> None:
    def block(data: bytes) -> bytes:
        return data + bytes(-len(data) % 512)

    body = header("a.jpg", tarfile.REGTYPE, len(JPEG)) + block(JPEG)
    digits = pax_record(b"comment", b"1" * 500_000)
    slow = header("x", tarfile.XHDTYPE, len(digits)) + block(digits) + body + bytes(1024)
    assert errors(read(slow, "d.tar")) == {b"./d.tar": ErrorCode.BAD_ARCHIVE_MEMBER}
    chain = header("x", tarfile.GNUTYPE_LONGNAME, 10) + block(b"0123456789")
    deep = chain * 5000 + body + bytes(1024)
    assert set(errors(read(deep, "d.tar"))) == {b"./d.tar"}
    # Global headers add up, but for nobody.
    records = [pax_record(b"k%d" % i, b"v" * 100_000) for i in range(200)]
    pieces = [header("g", tarfile.XGLTYPE, len(r)) + block(r) + body for r in records]
    assert len(pictures(read(b"".join(pieces) + bytes(1024), "d.tar"))) == 200


def test_a_negative_size_ends_the_archive() -> None:
    bad = bytearray(header("a.jpg", tarfile.REGTYPE, 0))
    bad[124:136] = b"\xff" * 12  # -1 in base 256
    bad[148:156] = b"%06o\0 " % sum(bytes(bad[:148]) + b" " * 8 + bytes(bad[156:]))
    found = read(bytes(bad) + bytes(4096), "d.tar")
    assert all(isinstance(f, ImageRef) and f.error for f in found)
    assert found


def test_a_long_tar_and_a_long_zip_stay_flat(tmp_path: Path) -> None:
    def tar_of(count: int) -> Path:
        path = tmp_path / f"{count}.tar"
        block = header("some/folder/000000.jpg", tarfile.REGTYPE, 1) + b"x" + bytes(511)
        with open(path, "wb") as file:
            for _ in range(count // 1000):
                file.write(block * 1000)
            file.write(bytes(1024))
        return path

    counts, grown = peak(tar_of(50_000))
    assert counts == {"ok": 50_000}
    assert grown < 15
    with zipfile.ZipFile(tmp_path / "long.zip", "w") as archive:
        for i in range(50_000):
            archive.writestr(f"some/folder/{i:06}.jpg", b"x")
    counts, grown = peak(tmp_path / "long.zip")
    assert counts == {"ok": 50_000}
    assert grown < 40


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.zip").write_bytes(make_zip({"../evil.jpg": JPEG, "a/b.jpg": PNG}))
    source = ArchiveSource(b"./d.zip", local_opener(b"./d.zip"))
    assert len(list(source)) == 2
    assert list(source) == list(source)
    assert os.listdir(tmp_path) == ["d.zip"]
    assert not (tmp_path.parent / "evil.jpg").exists()


def test_what_cannot_be_opened_or_sought() -> None:
    found = list(ArchiveSource(b"./no.zip", local_opener(b"./no.zip")))
    assert errors(found) == {b"./no.zip": ErrorCode.NOT_FOUND}
    stream = ArchiveSource(b"./d.zip", lambda: cast("BinaryIO", Stream(make_zip(SET))))
    with pytest.raises(InputError, match=r"\./d\.zip: a \.zip can only be read from a file"):
        list(stream)


def test_zstd_without_a_decoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(InputError, match=r"\[zstd\]"):
        read(zstandard.compress(make_tar(SET)), "d.tar.zst")


def test_what_is_an_archive() -> None:
    tar = make_tar(SET)
    old = bytearray(header("a.jpg", tarfile.REGTYPE, 0))
    old[257:265] = bytes(8)
    old[148:156] = b"%06o\0 " % sum(bytes(old[:148]) + b" " * 8 + bytes(old[156:]))
    assert is_archive(b"old.tar", bytes(old))
    assert is_archive(b"x.tar", tar[:HEAD_BYTES])
    assert is_archive(b"x.tar", gzip.compress(tar)[:HEAD_BYTES])
    assert is_archive(b"x.tar", bytes(1024))
    assert is_archive(b"x.zip", make_zip({})[:HEAD_BYTES])
    for name, head in (
        (b"x.zip", JPEG), (b"x.tar", JPEG), (b"x.jpg", tar), (b"x", make_zip(SET)), (b"x.tar", b""),
        (b"x.gz", gzip.compress(tar)), (b"x.zip", tar), (b"x.tar", make_zip(SET)),
    ):  # fmt: skip
        assert not is_archive(name, head[:HEAD_BYTES])


def long_names_zip(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), PNG)
        archive.writestr("after.png", PNG)
    return buffer.getvalue()


def long_names_tar(name: str, form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=form) as archive:
        for each in (name, "after.png"):
            info = tarfile.TarInfo(each)
            info.size = len(PNG)
            archive.addfile(info, io.BytesIO(PNG))
    return buffer.getvalue()


@pytest.mark.parametrize("form", [None, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("patterns", [{}, {"include": ("*.png",)}, {"exclude": ("x/**/y",)}])
def test_a_name_longer_than_any_path_is_an_error_row(
    form: int | None, patterns: dict[str, tuple[str, ...]]
) -> None:
    name = "a/" * (20_000 if form is None else 500_000)
    data = long_names_zip(name) if form is None else long_names_tar(name, form)
    kind = "dump.zip" if form is None else "dump.tar.gz"

    def work() -> None:
        bad, good = read(data, kind, **patterns)
        assert isinstance(bad, ImageRef)
        assert bad.error is not None
        assert bad.error.code is ErrorCode.PATH_TOO_LONG
        assert len(bad.path) < 400
        assert bad.path.startswith(f"./{kind}!/a/a/".encode())
        assert good.path == f"./{kind}!/after.png".encode()

    work()
    assert count_lines(work) < 20_000


def test_include_and_exclude_cost_in_proportion_to_a_names_folders() -> None:
    options = WalkOptions(include=("*.png",), exclude=("**/x/**/y", "z"))

    def cost(count: int) -> int:
        name = b"a/" * count + b"b.png"
        return count_lines(lambda: passed_over(name, options))

    cost(10)
    assert cost(1600) < 2.5 * cost(800)


def pax_header(body: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = kind, len(body)
    return info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)


def member_after(headers: bytes) -> bytes:
    info = tarfile.TarInfo("a.png")
    info.size = len(PNG)
    return headers + info.tobuf(tarfile.USTAR_FORMAT) + PNG + bytes(-len(PNG) % 512) + bytes(1024)


def test_pax_records_that_cost_tarfile_quadratic_time_are_damage() -> None:
    records = 150_000
    damaged = [
        pax_header(b"6 abc\n" * records + b"9 path=a\n"),  # each looked for the far `=`
        pax_header(b"16000009 a=" + b"1 hdrcharset=" * (records // 2) + b"\n"),
    ]
    for headers in damaged:
        (row,) = read(member_after(headers), "d.tar")
        assert isinstance(row, ImageRef)
        assert row.error is not None
        assert row.error.code is ErrorCode.BAD_ARCHIVE_MEMBER
    many = pax_header(b"9 path=a\n", tarfile.XGLTYPE) * 17
    (row,) = read(member_after(many), "d.tar")
    assert isinstance(row, ImageRef)
    assert row.error is not None
    assert row.error.code is ErrorCode.ARCHIVE_LIMIT


def test_headers_that_are_in_use_are_read() -> None:
    """Global and extended records, long names and sparse files, each in every combination."""
    global_header = pax_header(b"19 comment=by=hand\n", tarfile.XGLTYPE)
    for before in (b"", global_header, global_header * 3):
        extended = pax_header(b"30 path=" + b"b" * 17 + b".png\n" + b"13 uid=1234\n")
        assert pictures(read(member_after(before + extended), "d.tar")) == [
            (b"b" * 17 + b".png", PNG)
        ]


def test_extra_fields_of_a_zip_cost_in_proportion_and_change_nothing() -> None:
    def archive_of(count: int) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            info = zipfile.ZipInfo("a.png")
            info.extra = struct.pack("<2H", 0x7777, 0) * count
            info.comment = b"c" * 1000
            archive.writestr(info, PNG)
        return buffer.getvalue()

    seen: list[int] = []

    class Watched(zipfile.ZipInfo):
        def _decodeExtra(self, *more: Any) -> None:  # noqa: N802 - zipfile's name
            seen.append(len(self.extra))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile, "ZipInfo", Watched)
        read(archive_of(0xFFFF // 4))
    assert seen
    assert max(seen) == 0
    assert pictures(read(archive_of(0xFFFF // 4))) == [(b"a.png", PNG)]
