"""Reading local files: limits before bytes, no blocking, a reason for everything."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import pytest

from moderate.fetch.local import FetchError, read_file, read_head
from moderate.types import ErrorCode


def code_of(path: Path | bytes, limit: int = 1000) -> ErrorCode:
    with pytest.raises(FetchError) as caught:
        read_file(path if isinstance(path, bytes) else os.fsencode(path), limit)
    assert caught.value.error.message
    return caught.value.error.code


def test_reads_up_to_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * 1000)
    assert read_file(os.fsencode(file), 1000) == b"x" * 1000
    assert read_head(os.fsencode(file), 10) == b"x" * 10
    file.write_bytes(b"x" * 1001)
    assert code_of(file) is ErrorCode.FILE_TOO_LARGE


def test_a_sparse_file_of_8_gib_costs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "huge.jpg"
    with file.open("wb") as stream:
        stream.truncate(8 << 30)
    start = time.process_time()
    with pytest.raises(FetchError) as caught:
        read_file(os.fsencode(file), 10 << 20)
    assert time.process_time() - start < 1  # reading it would take several
    assert caught.value.size == 8 << 30
    assert "--max-file-size" in caught.value.error.message


@pytest.mark.timeout(10)
def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert code_of(tmp_path / "fifo") is ErrorCode.NOT_A_REGULAR_FILE
    assert code_of(tmp_path) is ErrorCode.NOT_A_REGULAR_FILE
    assert code_of(b"/dev/zero") is ErrorCode.NOT_A_REGULAR_FILE


def test_reasons(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    assert code_of(tmp_path / "empty") is ErrorCode.EMPTY_FILE
    assert code_of(tmp_path / "gone") is ErrorCode.NOT_FOUND
    assert code_of(tmp_path / "empty" / "below") is ErrorCode.NOT_FOUND
    assert code_of(tmp_path / ("n" * 300)) is ErrorCode.PATH_TOO_LONG
    assert code_of(tmp_path / "loop") is ErrorCode.READ_ERROR
    assert code_of(b"nul\0byte") is ErrorCode.NOT_FOUND


@pytest.mark.parametrize(
    "name", ["mem", "environ", "maps", "pagemap", "clear_refs", "attr/current"]
)
def test_files_of_the_kernel_are_read_or_are_an_error(name: str) -> None:
    """They claim no size, and reading one can fail in any way."""
    path = f"/proc/self/{name}".encode()
    for read in (read_file, read_head):
        with contextlib.suppress(FetchError):
            assert 0 < len(read(path, 1 << 20)) <= 1 << 20


def test_the_kernel_log_is_an_error() -> None:
    """Where this user may open it, it has bytes until it is read to its end, then would block."""
    for _ in range(2):
        assert code_of(b"/proc/kmsg", 1 << 20) in {
            ErrorCode.READ_ERROR, ErrorCode.PERMISSION_DENIED, ErrorCode.NOT_FOUND,
        }  # fmt: skip


def test_a_file_without_a_size_is_read_to_its_end() -> None:
    """As long as it is: the size that it claims is 0."""
    data = read_file(b"/proc/self/smaps", 10 << 20)
    assert len(data) > 1 << 16
    assert data.endswith(b"\n")
    assert code_of(b"/proc/self/smaps", 1000) is ErrorCode.FILE_TOO_LARGE


def test_a_file_that_grows_while_it_is_read_is_never_cut(tmp_path: Path) -> None:
    file = tmp_path / "log.jpg"
    file.write_bytes(b"x")
    ended = threading.Event()

    def grow() -> None:
        with file.open("ab", buffering=0) as stream:
            while not ended.is_set() and stream.tell() < 64 << 20:
                stream.write(b"x" * 100_000)

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        while True:
            before = file.stat().st_size
            if before > 1 << 20:
                assert code_of(file, 1 << 20) is ErrorCode.FILE_TOO_LARGE
                break
            with contextlib.suppress(FetchError):  # it grew over the limit just now
                assert len(read_file(os.fsencode(file), 1 << 20)) >= before
    finally:
        ended.set()
        thread.join()
