"""Objects of a real S3 server: fetched, refused, opened, and written whole or not at all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from moderate.errors import OutputError
from moderate.fetch.fetcher import Fetcher
from moderate.fetch.local import FetchError
from moderate.fetch.options import HttpOptions
from moderate.fetch.store import (
    StoreFetcher,
    check_target,
    open_input,
    open_store,
    parse_store_uri,
    upload,
)
from moderate.types import ErrorCode, ImageRef, Limits, StoredObject
from tests.support.http_servers import Farm, Server, plain
from tests.support.patience import PATIENCE
from tests.support.s3_server import S3Server, fake_credentials, serve_s3

KEYS = [
    "a.jpg", "with space.jpg", "per%20cent.jpg", "100%.jpg", "plus+.jpg", "ünïcödé-中.jpg",
    "what?.jpg",
    "q?region=x.jpg", "hash#1.jpg", "deep/er/b.jpg", "user@example.com/c.jpg", "a&b=c;d.jpg",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    with fake_credentials():
        yield


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with serve_s3() as server:
        server.put("photos", {key: key.encode() for key in KEYS})
        server.client.put_object(Bucket="photos", Key="empty.jpg", Body=b"")
        server.client.put_object(Bucket="photos", Key="large.bin", Body=bytes(range(256)) * 4096)
        yield server


def failure(uri: str, max_bytes: int = 1 << 20) -> FetchError:
    with pytest.raises(FetchError) as caught:
        StoreFetcher().fetch(uri, max_bytes)
    assert "\n" not in caught.value.error.message
    return caught.value


@pytest.mark.parametrize("key", KEYS)
def test_every_key_comes_back(s3: S3Server, key: str) -> None:
    uri = parse_store_uri(s3.uri("photos")).with_key(key)
    assert StoreFetcher().fetch(uri.text, 100) == key.encode()
    assert parse_store_uri(uri.text) == uri
    assert uri.shown == f"s3://photos/{key}"


def test_credentials_in_the_uri_are_used_and_never_shown(s3: S3Server) -> None:
    text = s3.uri("photos", "a.jpg").replace("s3://", "s3://AKIAEXAMPLE:se%2Fcret@")
    assert StoreFetcher().fetch(text, 100) == b"a.jpg"
    uri = parse_store_uri(text)
    assert uri.user_info == ("AKIAEXAMPLE", "se/cret")
    assert uri.shown == "s3://photos/a.jpg"
    for secret in ("AKIAEXAMPLE", "cret"):
        assert secret not in repr(uri)
        assert secret not in failure(text.replace("a.jpg", "no.jpg")).error.message
    with pytest.raises(FetchError) as caught:
        parse_store_uri("s3://AKIAEXAMPLE:se/cret@photos/a.jpg")
    assert "%2F" in caught.value.error.message
    assert "cret@" not in caught.value.error.message


def test_what_cannot_be_fetched(s3: S3Server) -> None:
    cases = {
        s3.uri("photos", "no.jpg"): ErrorCode.NOT_FOUND,
        s3.uri("photos", "deep"): ErrorCode.NOT_FOUND,
        s3.uri("no-such-bucket", "a.jpg"): ErrorCode.NOT_FOUND,
        s3.uri("photos", "empty.jpg"): ErrorCode.EMPTY_FILE,
        s3.uri("photos", "a//b.jpg"): ErrorCode.READ_ERROR,
        "file:///etc/passwd": ErrorCode.BAD_URL,
        "ftp://a/b": ErrorCode.BAD_URL,
        "s3:///a.jpg": ErrorCode.BAD_URL,
        "a.jpg": ErrorCode.BAD_URL,
    }
    for uri, code in cases.items():
        assert failure(uri).error.code is code, uri


def test_the_size_is_checked_before_a_byte_is_read(s3: S3Server) -> None:
    s3.requests.clear()
    error = failure(s3.uri("photos", "large.bin"), (1 << 20) - 1)
    assert error.error.code is ErrorCode.FILE_TOO_LARGE
    assert error.size == 1 << 20
    assert {method for method, _, _ in s3.requests} == {"HEAD"}
    assert len(StoreFetcher().fetch(s3.uri("photos", "large.bin"), 1 << 20)) == 1 << 20


def test_a_store_that_refuses(s3: S3Server) -> None:
    uri = s3.uri("photos", "a.jpg")
    for status, name, code in (
        ("403 Forbidden", "AccessDenied", ErrorCode.PERMISSION_DENIED),
        ("403 Forbidden", "SignatureDoesNotMatch", ErrorCode.PERMISSION_DENIED),
        ("400 Bad Request", "InvalidRequest", ErrorCode.READ_ERROR),
    ):
        with s3.refusing(lambda environ, answer=(status, name): answer):  # type: ignore[misc]
            assert failure(uri).error.code is code
        with s3.refusing(
            lambda environ, answer=(status, name): (  # type: ignore[misc]
                answer if environ["REQUEST_METHOD"] == "GET" else None
            )
        ):
            assert failure(s3.uri("photos", "large.bin"), 1 << 20).error.code is code


def _post(url: str, body: bytes) -> None:
    headers = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(url, body, headers, method="POST")).read()


def test_wrong_credentials(s3: S3Server) -> None:
    reset = f"http://127.0.0.1:{s3.port}/moto-api/reset-auth"
    _post(reset, b"0")
    try:
        text = s3.uri("photos", "a.jpg").replace("s3://", "s3://AKIAWRONG:wrong@")
        error = failure(text).error
        assert error.code is ErrorCode.PERMISSION_DENIED
        assert "AKIAWRONG" not in error.message
        with pytest.raises(OutputError, match="refuses access") as caught:
            check_target(text)
        assert "AKIAWRONG" not in str(caught.value)
    finally:
        _post(reset, b"1000000000")


def test_a_dead_endpoint_fails() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"s3://b/a.jpg?region=x&scheme=http&endpoint_override=127.0.0.1:{closed.getsockname()[1]}"
        assert failure(uri).error.code is ErrorCode.FETCH_FAILED


def test_a_silent_endpoint_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moderate.fetch.store.REQUEST_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        uri = f"s3://b/a.jpg?region=x&scheme=http&endpoint_override={endpoint}"
        assert failure(uri).error.code is ErrorCode.FETCH_TIMEOUT


def test_options_of_the_uri() -> None:
    uri = parse_store_uri("s3://b/k?region=eu-west-1&anonymous=true&endpoint_override=http://h:1")
    assert uri.options[0] == ("region", "eu-west-1")
    files, path = open_store(uri.text)
    assert path == "b/k"
    assert files.region == "eu-west-1"
    assert parse_store_uri("s3://b?region=x").place == "b"
    assert parse_store_uri("s3://b/k?other=x").key == "k?other=x"
    assert open_store("gs://anonymous@bucket/a b.jpg")[1] == "bucket/a b.jpg"
    assert open_store("gcs://bucket/x?anonymous=true&scheme=http&endpoint_override=h:1")[1]


def test_the_endpoint_of_the_environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    assert StoreFetcher().fetch("s3://photos/a.jpg?region=us-east-1", 100) == b"a.jpg"
    assert StoreFetcher().fetch("s3://photos/a.jpg", 100) == b"a.jpg"


def test_many_threads_share_one_fetcher(s3: S3Server) -> None:
    fetcher = StoreFetcher()
    uris = [parse_store_uri(s3.uri("photos")).with_key(key).text for key in KEYS] * 20
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda uri: fetcher.fetch(uri, 100), uris))
    assert got == [key.encode() for key in KEYS] * 20


def test_an_object_as_a_file(s3: S3Server) -> None:
    with open_input(s3.uri("photos", "large.bin")) as file:
        assert file.seekable()
        assert file.read(4) == b"\0\1\2\3"
        assert file.seek(-2, os.SEEK_END) == (1 << 20) - 2
        assert file.read() == b"\xfe\xff"
    with pytest.raises(FetchError):
        open_input(s3.uri("photos", "no"))
    with (
        open_input(s3.uri("photos", "large.bin")) as file,
        s3.refusing(lambda environ: ("403 Forbidden", "AccessDenied")),
        pytest.raises(FetchError, match="refuses access"),
    ):
        file.read()


def test_upload_puts_the_file_there(s3: S3Server, tmp_path: Path) -> None:
    s3.put("results", {"old.csv": b"old"})
    data = os.urandom(70 << 20)
    for name, content in (
        ("out.parquet", data),
        ("a b%+ü.csv", b"x"),
        ("none.csv", b""),
        ("old.csv", b"new"),
    ):
        (tmp_path / "local").write_bytes(content)
        upload(str(tmp_path / "local"), s3.uri("results", name))
        got = s3.client.get_object(Bucket="results", Key=name)["Body"].read()
        assert got == content


def test_an_upload_that_fails_leaves_the_old_object(s3: S3Server, tmp_path: Path) -> None:
    s3.put("kept", {"out.csv": b"old"})
    (tmp_path / "local").write_bytes(bytes(80 << 20))
    with (
        s3.refusing(
            lambda environ: (
                ("403 Forbidden", "AccessDenied")
                if "partNumber=3" in environ.get("QUERY_STRING", "")
                else None
            )
        ),
        pytest.raises(OutputError, match=r"cannot write s3://kept/out\.csv: the store refuses"),
    ):
        upload(str(tmp_path / "local"), s3.uri("kept", "out.csv"))
    assert s3.keys("kept") == {"out.csv": 3}


INTERRUPTED = """
import gc, sys
from moderate.fetch import store
real, count = open, 0
class Breaking:
    def __init__(self, file): self.file, self.count = file, 0
    def __enter__(self): return self
    def __exit__(self, *args): self.file.close()
    def read(self, size):
        self.count += 1
        if self.count == 3: raise KeyboardInterrupt
        return self.file.read(size)
store.open = lambda *args: Breaking(real(*args))
try:
    store.upload(sys.argv[1], sys.argv[2])
except KeyboardInterrupt:
    gc.collect()
    print("interrupted")
"""


def test_an_upload_that_is_interrupted_never_appears(s3: S3Server, tmp_path: Path) -> None:
    s3.put("cut", {"out.csv": b"old"})
    (tmp_path / "local").write_bytes(bytes(80 << 20))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, tmp_path / "local", s3.uri("cut", "out.csv")],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.stdout == "interrupted\n"
    assert done.returncode == 0
    assert done.stderr == ""
    assert s3.keys("cut") == {"out.csv": 3}


def test_targets_are_checked_without_writing(s3: S3Server, tmp_path: Path) -> None:
    before = s3.keys("photos")
    check_target(s3.uri("photos", "new/out.parquet"))
    assert s3.keys("photos") == before
    for uri, message in (
        (s3.uri("no-such-bucket", "x.csv"), "there is no no-such-bucket"),
        (s3.uri("photos"), "names no object"),
        (s3.uri("photos", "folder/"), "names no object"),
        ("file:///tmp/x.csv", "file:// URLs are not followed"),
        ("s3://b/x.csv?region=x&scheme=http&endpoint_override=127.0.0.1:1", "no connection"),
    ):
        with pytest.raises(OutputError, match=message):
            check_target(uri)
    with pytest.raises(OutputError, match=r"cannot write s3://no-such-bucket/x\.csv: "):
        upload(__file__, s3.uri("no-such-bucket", "x.csv"))
    with pytest.raises(OutputError, match=r"cannot read .*missing"):
        upload(str(tmp_path / "missing"), s3.uri("photos", "x.csv"))
    assert s3.keys("photos") == before


def test_a_store_that_is_gone_is_given_up() -> None:
    """Each object costs the client's own attempts and waits; a bucket of them must not."""
    http = HttpOptions(total_timeout=5.0, host_failures=3, host_patience=0.0)
    with socket.socket() as free, Fetcher(Limits(), http) as fetcher:
        free.bind(("127.0.0.1", 0))
        endpoint = f"?scheme=http&region=x&endpoint_override=127.0.0.1:{free.getsockname()[1]}"
        codes = []
        while len(codes) < 500:
            ref = ImageRef(b"x", location=StoredObject(f"s3://gone/{len(codes)}.jpg{endpoint}"))
            try:
                bytes_or_future = fetcher.fetch(ref)
                assert isinstance(bytes_or_future, Future)
                error = bytes_or_future.exception(PATIENCE)
            except FetchError as refused:
                error = refused
            assert isinstance(error, FetchError)
            codes.append(error.error.code)
    assert codes[:3] == [ErrorCode.FETCH_FAILED] * 3
    assert set(codes[3:]) == {ErrorCode.HOST_UNREACHABLE}
    assert "s3://gone/" in error.error.message


@pytest.mark.parametrize("size", [(1 << 63) - 1, 1 << 63, 1 << 64, 10**400])
def test_an_absurd_size_is_one_that_a_row_can_hold(size: int) -> None:
    farm = Farm()
    try:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()
        server = farm.start(Server({"*": plain(head, keep=False)}))
        where = f"?scheme=http&region=x&endpoint_override=127.0.0.1:{server.port}"
        error = failure(f"s3://odd/a.jpg{where}")
    finally:
        farm.close()
    assert error.error.code in {ErrorCode.FILE_TOO_LARGE, ErrorCode.FETCH_FAILED}
    assert error.size is None or error.size < 1 << 63
