"""Fetching from servers that misbehave in every way: the right error, by the deadline, no more."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import email.utils
import gzip
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import trustme

from moderate.errors import ConfigError
from moderate.fetch.http import HttpFetcher
from moderate.fetch.local import FetchError
from moderate.fetch.options import HttpOptions
from moderate.types import ErrorCode, ImageError
from tests.support.http_servers import (
    OK_BODY,
    Behaviour,
    Farm,
    Proxy,
    Request,
    Server,
    answer,
    endless,
    parts,
    plain,
    redirect,
    sequence,
)
from tests.support.patience import PATIENCE

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
PROXY_NAMES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    running = Farm()
    yield running
    running.close()


def options(**changes: Any) -> HttpOptions:
    defaults: dict[str, Any] = {
        "allowed_hosts": ("127.0.0.1",),
        "total_timeout": 3.0,
        "connect_timeout": 1.0,
        "read_timeout": 1.0,
        "backoff": 0.02,
        "max_bytes": MIB,
    }
    return HttpOptions(**(defaults | changes))


def outcome(future: concurrent.futures.Future[bytes]) -> bytes | ImageError:
    error = future.exception(PATIENCE)
    if error is None:
        return future.result()
    assert isinstance(error, FetchError), repr(error)
    assert error.error.message.isprintable()
    return error.error


def fetch(url: str, fetcher: HttpFetcher | None = None, **changes: Any) -> bytes | ImageError:
    if fetcher is not None:
        return outcome(fetcher.submit(url))
    with HttpFetcher(options(**changes)) as own:
        return outcome(own.submit(url))


def code(result: bytes | ImageError) -> ErrorCode:
    assert isinstance(result, ImageError), "scored"
    return result.code


# --- what a server may do ------------------------------------------------------------------------


def bomb(size: int, kind: str) -> bytes:
    """`size` zero bytes, compressed; made piece by piece."""
    bits = {"gzip": 31, "deflate": 15, "raw": -15}[kind]
    packer = zlib.compressobj(9, wbits=bits)
    block = bytes(MIB)
    return b"".join([*(packer.compress(block) for _ in range(size // MIB)), packer.flush()])


def encoded(encoding: str, body: bytes) -> bytes:
    return answer(body, Content_Encoding=encoding)


@dataclass
class Case:
    """A server's behaviour and what has to become of it."""

    name: str
    behave: Behaviour
    expected: ErrorCode | bytes


async def silent(request: Request) -> None:
    await asyncio.sleep(60)


async def reset(request: Request) -> bool:
    sock = request.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    request.writer.transport.abort()
    return False


# One pixel; whether a body is an image as it is decides about odd encodings.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
FETCH_FAILED, HTTP_ERROR = ErrorCode.FETCH_FAILED, ErrorCode.HTTP_ERROR
TIMEOUT, TOO_LARGE = ErrorCode.FETCH_TIMEOUT, ErrorCode.FILE_TOO_LARGE
ZIPPED = gzip.compress(OK_BODY)
CASES = [
    Case("plain", plain(answer()), OK_BODY),
    Case(
        "chunked",
        plain(CHUNKED + b"3\r\nthe\r\n8;x=y\r\n picture\r\n0\r\nTrailer: x\r\n\r\n"),
        OK_BODY,
    ),
    Case("until the end", parts(b"HTTP/1.0 200 OK\r\n\r\n", OK_BODY), OK_BODY),
    Case("byte by byte", parts(*(bytes([b]) for b in answer()), pause=0.001), OK_BODY),
    Case(
        "with 100 and 103 before", plain(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + answer()), OK_BODY
    ),
    Case("gzip unasked", plain(encoded("gzip", ZIPPED)), OK_BODY),
    Case("x-gzip unasked", plain(encoded("X-GZip ", ZIPPED)), OK_BODY),
    Case("deflate unasked", plain(encoded("deflate", zlib.compress(OK_BODY))), OK_BODY),
    Case("raw deflate", plain(encoded("deflate", zlib.compress(OK_BODY, wbits=-15))), OK_BODY),
    Case("a header of 64 kB", plain(answer(X="y" * 65_000)), OK_BODY),
    Case(
        "a header of 64 kB in pieces",
        parts(answer(X="y" * 65_000)[:40_000], answer(X="y" * 65_000)[40_000:]),
        OK_BODY,
    ),
    Case("64 kB of headers", plain(answer(**{f"X{i}": "y" * 600 for i in range(107)})), OK_BODY),
    Case("exactly the limit", plain(answer(b"x" * MIB)), b"x" * MIB),
    # Encodings that are none
    *(
        Case(f"plain image as {name!r}", plain(answer(PNG, Content_Encoding=name)), PNG)
        for name in ("aws-chunked", "UTF-8", "base64", "binary", "none", "identity", "", "br")
    ),
    Case("plain text as none", plain(answer(Content_Encoding="none")), FETCH_FAILED),
    Case("plain text as nothing", plain(answer(Content_Encoding="")), OK_BODY),
    Case("base64", plain(answer(base64.b64encode(PNG), Content_Encoding="base64")), FETCH_FAILED),
    Case(
        "zipped and still chunked",
        plain(answer(gzip.compress(PNG), Content_Encoding="aws-chunked, gzip")),
        FETCH_FAILED,
    ),
    Case(
        "zipped twice in two headers",
        plain(answer(gzip.compress(ZIPPED), Content_Encoding="gzip", content_encoding="gzip")),
        FETCH_FAILED,
    ),
    # Other statuses
    *(
        Case(f"{status} with a picture", plain(answer(status=status)), HTTP_ERROR)
        for status in (
            "201 Created",
            "203 Other",
            "206 Partial Content",
            "300 Choices",
            "400 Bad",
            "401 Unauthorized",
            "403 Forbidden",
            "404 Not Found",
            "410 Gone",
            "416 Range",
            "451 Law",
            "500 Error",
            "503 Busy",
            "599 ?",
            "429 Slow down",
            "302 Found",
            "999 Odd",
        )
    ),
    Case("204", plain(b"HTTP/1.1 204 No Content\r\n\r\n"), HTTP_ERROR),
    Case("304", plain(b"HTTP/1.1 304 Not Modified\r\n\r\n"), HTTP_ERROR),
    Case(
        "101",
        plain(b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx"),
        HTTP_ERROR,
    ),
    Case("404 without end", endless(b"HTTP/1.1 404 No\r\n\r\n", b"x" * 1000), HTTP_ERROR),
    # Wrong lengths
    Case("empty", plain(answer(b"")), ErrorCode.EMPTY_FILE),
    Case("short", parts(answer(Content_Length="50")), FETCH_FAILED),
    Case("short chunked", parts(CHUNKED + b"32\r\nthe picture"), FETCH_FAILED),
    Case("chunked without end", parts(CHUNKED + b"b\r\nthe picture\r\n"), FETCH_FAILED),
    Case("bad chunk size", plain(CHUNKED + b"zz\r\nthe picture\r\n0\r\n\r\n"), FETCH_FAILED),
    Case("negative chunk", plain(CHUNKED + b"-1\r\nthe picture\r\n0\r\n\r\n"), FETCH_FAILED),
    Case("overlong at once", plain(answer(Content_Length="5")), FETCH_FAILED),
    Case("overlong closing", plain(answer(Content_Length="5", Connection="close")), FETCH_FAILED),
    Case("overlong body", parts(answer()[:-11], OK_BODY + b"x"), FETCH_FAILED),
    Case(
        "overlong closing body",
        parts(answer(Connection="close")[:-11], OK_BODY + b"x"),
        FETCH_FAILED,
    ),
    Case(
        "overlong large body", plain(answer(b"x" * 900_000, Content_Length="500000")), FETCH_FAILED
    ),
    Case("second answer", parts(answer()[:-11], OK_BODY + answer(b"poison")), FETCH_FAILED),
    Case("two answers", plain(answer() + answer(b"poison")), FETCH_FAILED),
    Case("more after chunks", plain(CHUNKED + b"3\r\nthe\r\n0\r\n\r\nx"), FETCH_FAILED),
    Case("two lengths", plain(answer(Content_length="5")), FETCH_FAILED),
    Case("negative length", plain(answer(Content_Length="-1")), FETCH_FAILED),
    Case("length and chunks", plain(answer(Transfer_Encoding="chunked")), FETCH_FAILED),
    # Too much
    Case("length over the limit", plain(answer(b"x", Content_Length=str(MIB + 1))), TOO_LARGE),
    Case("huge length", plain(answer(b"x", Content_Length="9" * 18)), TOO_LARGE),
    Case("length over 63 bits", plain(answer(b"x", Content_Length=str(1 << 63))), TOO_LARGE),
    Case("length of 64 bits", plain(answer(b"x", Content_Length=str((1 << 64) - 1))), TOO_LARGE),
    Case("length over 64 bits", plain(answer(b"x", Content_Length=str(1 << 64))), FETCH_FAILED),
    Case("length in thousands", plain(answer(b"x", Content_Length="9" * 5000)), FETCH_FAILED),
    Case("length as a float", plain(answer(b"x", Content_Length="1e400")), FETCH_FAILED),
    Case("chunk of 63 bits", parts(CHUNKED + b"7" + b"f" * 15 + b"\r\nx"), FETCH_FAILED),
    Case("chunk of 64 bits", parts(CHUNKED + b"f" * 16 + b"\r\nx"), FETCH_FAILED),
    Case("chunk over 64 bits", parts(CHUNKED + b"f" * 17 + b"\r\nx"), FETCH_FAILED),
    Case(
        "absurd range",
        plain(answer(status="206 Part", Content_Range=f"bytes 0-{1 << 64}/{'9' * 400}")),
        HTTP_ERROR,
    ),
    Case(
        "absurd numbers beside the length",
        plain(
            answer(
                Age="1e400",
                Date="Fri, 99 Dec 99999 99:99:99 GMT",
                Retry_After="1e400",
                Keep_Alive=f"timeout={'9' * 400}",
                Last_Modified="-1",
                Expires=str(1 << 64),
            )
        ),
        OK_BODY,
    ),
    Case("absurd length", plain(answer(b"x", Content_Length="9" * 300)), FETCH_FAILED),
    Case("endless", endless(HEAD + b"\r\n", b"x" * 65536), TOO_LARGE),
    Case("endless chunks", endless(CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"), TOO_LARGE),
    Case("one endless chunk", endless(CHUNKED + b"fffffff\r\n", b"x" * 65536), TOO_LARGE),
    Case("endless chunk extension", endless(CHUNKED + b"1;", b"x" * 65536), TIMEOUT),
    Case(
        "endless trailers", endless(CHUNKED + b"1\r\nx\r\n0\r\n", b"a: b\r\n" * 100), FETCH_FAILED
    ),
    # Slow
    Case("silent", silent, TIMEOUT),
    Case("silent in the headers", parts(HEAD, linger=60), TIMEOUT),
    Case("silent in the body", parts(answer(Content_Length="50"), linger=60), TIMEOUT),
    Case("trickling body", endless(HEAD + b"Content-Length: 5000\r\n\r\n", b"x", 0.2), TIMEOUT),
    Case("trickling headers", endless(HEAD, b"X: y\r\n", 0.2), TIMEOUT),
    Case("trickling one header", endless(HEAD + b"X: ", b"y", 0.2), TIMEOUT),
    Case("trickling 100s", endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.2), TIMEOUT),
    Case("a flood of 100s", endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), TIMEOUT),
    # No HTTP
    Case("endless headers", endless(HEAD, b"X: y\r\n" * 100), FETCH_FAILED),
    Case("an endless header", endless(HEAD + b"X: ", b"y" * 65536), FETCH_FAILED),
    Case("an endless status", endless(b"HTTP/1.1 200 ", b"y" * 65536), FETCH_FAILED),
    Case("giant header", plain(answer(X="y" * 100_000)), FETCH_FAILED),
    Case("garbage", plain(b"\x16\x03\x01\x02\0" * 50 + b"\r\n\r\n"), FETCH_FAILED),
    Case("old HTTP", parts(b"<html>the picture</html>\r\n\r\n"), FETCH_FAILED),
    Case("nothing", parts(b""), FETCH_FAILED),
    Case("reset", reset, FETCH_FAILED),
    Case("half a header", parts(b"HTTP/1.1 200 OK\r\nContent-"), FETCH_FAILED),
    # Compressed
    Case("gzip bomb", plain(encoded("gzip", bomb(64 * MIB, "gzip"))), TOO_LARGE),
    Case("deflate bomb", plain(encoded("deflate", bomb(64 * MIB, "deflate"))), TOO_LARGE),
    Case("raw bomb", plain(encoded("deflate", bomb(64 * MIB, "raw"))), TOO_LARGE),
    Case("gzip cut", plain(encoded("gzip", ZIPPED[:-9])), FETCH_FAILED),
    Case("gzip and more", plain(encoded("gzip", ZIPPED + b"x")), FETCH_FAILED),
    Case("gzip that is none", plain(encoded("gzip", OK_BODY)), FETCH_FAILED),
    *(
        Case(f"encoding {name}", plain(encoded(name, ZIPPED)), FETCH_FAILED)
        for name in ("br", "zstd", "gzip, gzip", "identity, gzip", "x" * 1000)
    ),
    # Redirects to nowhere
    *(
        Case(f"to {target}", redirect(target), ErrorCode.BAD_URL)
        for target in (
            "file:///etc/passwd",
            "ftp://127.0.0.1/",
            "data:image/png;base64,QUJD",
            "javascript:alert(1)",
            "http://127.0.0.1:99999/",
            "http://a b.example/",
        )
    ),
    *(
        Case(f"to {target}", redirect(target), ErrorCode.ADDRESS_NOT_ALLOWED)
        for target in (
            "http://127.0.0.2/",
            "http://0x7f000002/",
            "http://[::1]/",
            "//169.254.169.254/",
            "http://[::ffff:127.0.0.2]:8080/",
            "https://2130706434/",
            "http://localhost.localdomain@10.1/",
        )
    ),
    Case("redirect without target", plain(answer(b"", "302 Found")), HTTP_ERROR),
    Case("redirect with a loop", redirect("?x"), ErrorCode.TOO_MANY_REDIRECTS),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_whatever_a_server_does(
    farm: Farm, case: Case, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    server = farm.start(Server({"*": case.behave}))
    with caplog.at_level(logging.INFO), HttpFetcher(options()) as fetcher:
        future = fetcher.submit(server.url("/a.jpg"))
        result = outcome(future)
        # The same fetcher serves another host as if nothing had been.
        other = farm.start(Server({"*": plain(answer(b"other"))}))
        assert outcome(fetcher.submit(other.url())) == b"other"
    size = getattr(future.exception(), "size", None)
    assert size is None or 0 <= size < 1 << 63  # a row can hold it
    if isinstance(case.expected, bytes):
        assert result == case.expected
    else:
        assert code(result) == case.expected
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_the_body_cap_holds_on_the_wire(farm: Farm) -> None:
    sent = 0

    async def pour(request: Request) -> bool:
        nonlocal sent
        await request.send(CHUNKED)
        while sent < 100 * MIB:
            await request.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            sent += 65536
        return False

    server = farm.start(Server({"*": pour}))
    with HttpFetcher(options()) as fetcher:
        assert code(fetch(server.url(), fetcher)) == TOO_LARGE
        time.sleep(0.3)
        # What the kernel's buffers took does not count against the client.
        assert sent < 20 * MIB


def test_a_bomb_of_a_gigabyte_takes_no_memory(farm: Farm) -> None:
    server = farm.start(Server({"*": plain(encoded("gzip", bomb(1 << 30, "gzip")))}))
    with HttpFetcher(options(max_bytes=10 * MIB, total_timeout=20.0)) as fetcher:
        tracemalloc.start()
        try:
            assert code(fetch(server.url(), fetcher)) == TOO_LARGE
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 50 * MIB


def test_a_size_that_is_known_is_told(farm: Farm) -> None:
    server = farm.start(Server({"*": plain(answer(b"x", Content_Length="5000000"))}))
    with HttpFetcher(options()) as fetcher, pytest.raises(FetchError) as caught:
        fetcher.submit(server.url()).result(PATIENCE)
    assert caught.value.size == 5_000_000


def test_what_is_asked(farm: Farm) -> None:
    server = farm.start(Server({"*": plain(answer())}))
    assert fetch(server.url("/ä%2F?q=%20#x", user="us%40er:p%C3%A4ss@")) == OK_BODY
    request = server.requests[0]
    assert request.target == "/%C3%A4%2F?q=%20"
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"].startswith("moderate/")
    assert request.headers["authorization"] == "Basic dXNAZXI6cMOkc3M="
    assert "cookie" not in request.headers


# --- connections ---------------------------------------------------------------------------------


def test_connections_are_kept(farm: Farm) -> None:
    server = farm.start(Server({"*": plain(answer())}))
    with HttpFetcher(options(concurrency_per_host=1)) as fetcher:
        futures = [fetcher.submit(server.url(f"/{i}")) for i in range(20)]
        assert {outcome(future) for future in futures} == {OK_BODY}
    assert server.connections == 1


@pytest.mark.parametrize("pause", [0.0, 0.001, 0.05])
def test_a_poisoned_connection_is_not_used_again(farm: Farm, pause: float) -> None:
    """An answer that nobody asked for, before the next request goes out on that connection."""
    poison = parts(answer(b"first"), answer(b"poison"), pause=pause, linger=0.5)
    server = farm.start(Server({"/first": poison, "/second": plain(answer(b"second"))}))
    with HttpFetcher(options(concurrency_per_host=1)) as fetcher:
        for _ in range(5):
            first = fetch(server.url("/first"), fetcher)
            assert first == b"first" or code(first) == FETCH_FAILED
            time.sleep(pause + 0.05)
            assert fetch(server.url("/second"), fetcher) == b"second"


def test_a_kept_connection_that_the_server_closed_is_replaced(farm: Farm) -> None:
    server = farm.start(Server({"*": plain(answer(), keep=False)}))
    # The one that is closed may be found out by an attempt; that one costs no wait.
    with HttpFetcher(options(attempts=2, backoff=60.0)) as fetcher:
        for _ in range(10):
            assert fetch(server.url(), fetcher) == OK_BODY


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        result = fetch(f"http://127.0.0.1:{free.getsockname()[1]}/")
    assert code(result) == FETCH_FAILED
    assert "Connection refused" in str(result)


def test_a_port_that_never_answers() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(4):
            fillers.append(filler := socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        result = fetch(f"http://127.0.0.1:{full.getsockname()[1]}/")
        for filler in fillers:
            filler.close()
    assert code(result) == TIMEOUT


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors by /proc")
def test_no_descriptor_is_left_behind(farm: Farm) -> None:
    names = ("/ok", "/reset", "/endless", "/silent", "/long", "/404")
    behaviours = (plain(answer()), reset, endless(HEAD + b"\r\n", b"x" * 65536), silent)
    behaviours += (plain(answer(Content_Length="5")), plain(answer(status="404 No")))
    server = farm.start(Server(dict(zip(names, behaviours, strict=True))))
    before = len(os.listdir("/proc/self/fd"))
    with HttpFetcher(options(read_timeout=0.2, attempts=1)) as fetcher:
        futures = [fetcher.submit(server.url(name)) for name in names * 20]
        for future in futures:
            outcome(future)
        held = len(os.listdir("/proc/self/fd"))
    # Each connection has an end at the server, too.
    assert held - before < 60
    deadline = time.monotonic() + 60
    while len(os.listdir("/proc/self/fd")) > before + 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= before + 20  # the server sleeps in /silent


# --- names ---------------------------------------------------------------------------------------


def lookup(*answers: list[str] | BaseException | float) -> Any:
    """A resolver that gives one answer after the other, the last one for good; and its calls."""
    left = list(answers)
    calls: list[str] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        calls.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, float):
            time.sleep(found)
            found = ["127.0.0.1"]
        if isinstance(found, BaseException):
            raise found
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (a, port, 0, 0))
            if ":" in a
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port))
            for a in found
        ]

    getaddrinfo.calls = calls  # type: ignore[attr-defined]
    return getaddrinfo


def test_a_name_whose_address_is_fine(farm: Farm) -> None:
    server = farm.start(Server({"*": plain(answer())}))
    with HttpFetcher(options(), getaddrinfo=lookup(["127.0.0.1"])) as fetcher:
        assert fetch(server.url(host="good.example"), fetcher) == OK_BODY
    assert server.requests[0].headers["host"] == f"good.example:{server.port}"


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.2"],
        ["127.0.0.1", "127.0.0.2"],
        ["127.0.0.2", "127.0.0.1"],
        ["127.0.0.1", "::1"],
        ["::ffff:127.0.0.2"],
        ["fe80::1%lo"],
        ["93.184.216.34", "10.0.0.1"],
    ],
)
def test_one_bad_answer_refuses_the_name(farm: Farm, answers: list[str]) -> None:
    server = farm.start(Server({"*": plain(answer())}))
    with HttpFetcher(options(), getaddrinfo=lookup(answers)) as fetcher:
        result = fetch(server.url(host="mixed.example"), fetcher)
    assert code(result) == ErrorCode.ADDRESS_NOT_ALLOWED
    assert server.connections == 0


def test_rebinding_never_reaches_the_other_address(farm: Farm) -> None:
    """First an address that is fine, then one that is not: whatever is looked up how often."""
    good = farm.start(Server({"*": plain(answer(), keep=False)}))
    evil = farm.start(Server({"*": plain(answer(b"evil"))}, host="127.0.0.2", port=good.port))
    for _ in range(5):
        names = lookup(["127.0.0.1"], ["127.0.0.2"])
        with HttpFetcher(options(), getaddrinfo=names) as fetcher:
            futures = [fetcher.submit(good.url(f"/{i}", "a.example")) for i in range(20)]
            futures += [fetcher.submit(good.url(f"/{i}", "b.example")) for i in range(5)]
            results = {outcome(future) for future in futures}
        assert OK_BODY in results
        assert {code(r) for r in results - {OK_BODY}} == {ErrorCode.ADDRESS_NOT_ALLOWED}
    assert evil.connections == 0


def test_rebinding_by_redirect(farm: Farm) -> None:
    server = farm.start(
        Server({"/a": redirect("http://other.example:{port}/b"), "*": plain(answer())})
    )
    server.behaviours["/a"] = redirect(f"http://other.example:{server.port}/b")
    with HttpFetcher(options(), getaddrinfo=lookup(["127.0.0.1"], ["127.0.0.2"])) as fetcher:
        result = fetch(server.url("/a", "a.example"), fetcher)
    assert code(result) == ErrorCode.ADDRESS_NOT_ALLOWED
    assert server.paths() == ["/a"]


def test_the_socket_itself_is_guarded(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a checked answer exchanged behind the resolver, no connection would be made either."""
    from moderate.fetch.http_resolver import Resolver

    server = farm.start(Server({"*": plain(answer())}, host="127.0.0.2"))
    resolve = Resolver.resolve

    async def exchange(self: Any, host: str, port: int = 0, family: Any = 0) -> Any:
        return [
            found | {"host": "127.0.0.2"} for found in await resolve(self, host, port, family)
        ] * 3

    monkeypatch.setattr(Resolver, "resolve", exchange)
    with HttpFetcher(options(), getaddrinfo=lookup(["127.0.0.1"])) as fetcher:
        result = fetch(server.url(host="a.example"), fetcher)
    assert code(result) == ErrorCode.ADDRESS_NOT_ALLOWED
    assert server.connections == 0


def test_allowances(farm: Farm) -> None:
    server = farm.start(Server({"*": plain(answer())}))
    local = lookup(["127.0.0.1"])
    for allowance in (
        {"allow_private": True, "allowed_hosts": ()},
        {"allowed_hosts": ("127.0.0.0/8",)},
        {"allowed_hosts": ("a.example",)},
    ):
        with HttpFetcher(options(**allowance), getaddrinfo=local) as fetcher:
            assert fetch(server.url(host="A.example"), fetcher) == OK_BODY
            assert fetch(server.url(host="a.example."), fetcher) == OK_BODY
    seen = server.connections
    with HttpFetcher(options(allowed_hosts=("b.example",)), getaddrinfo=local) as fetcher:
        assert code(fetch(server.url(host="a.example"), fetcher)) == ErrorCode.ADDRESS_NOT_ALLOWED
        assert code(fetch(server.url(), fetcher)) == ErrorCode.ADDRESS_NOT_ALLOWED
    assert server.connections == seen


def test_names_without_address() -> None:
    missing = socket.gaierror(socket.EAI_NONAME, "no")
    names = lookup(missing)
    with HttpFetcher(options(), getaddrinfo=names) as fetcher:
        assert code(fetch("http://gone.example/", fetcher)) == FETCH_FAILED
    assert len(names.calls) == 1
    names = lookup(socket.gaierror(socket.EAI_AGAIN, "later"))
    with HttpFetcher(options(), getaddrinfo=names) as fetcher:
        assert code(fetch("http://later.example/", fetcher)) == FETCH_FAILED
    assert len(names.calls) == 3


def test_a_name_server_that_never_answers() -> None:
    started = time.monotonic()
    with HttpFetcher(options(), getaddrinfo=lookup(60.0)) as fetcher:
        assert code(fetch("http://slow.example/", fetcher)) == TIMEOUT
    assert time.monotonic() - started < 30


# --- redirects and headers -----------------------------------------------------------------------


def test_five_redirects_and_not_six(farm: Farm) -> None:
    steps = {
        f"/{i}": redirect(f"/{i + 1}", s)
        for i, s in enumerate(
            (
                "301 Moved",
                "302 Found",
                "303 See Other",
                "307 Temporary",
                "308 Permanent",
                "302 Found",
            )
        )
    }
    server = farm.start(Server({**steps, "/6": plain(answer())}))
    assert fetch(server.url("/1")) == OK_BODY
    assert server.paths() == ["/1", "/2", "/3", "/4", "/5", "/6"]
    server.requests.clear()
    assert code(fetch(server.url("/0"))) == ErrorCode.TOO_MANY_REDIRECTS
    assert server.paths() == ["/0", "/1", "/2", "/3", "/4", "/5"]


def test_headers_stay_with_their_host(farm: Farm) -> None:
    other = farm.start(Server({"*": plain(answer())}))
    server = farm.start(Server({"/away": redirect(other.url("/b")), "/home": redirect("/b")}))
    server.behaviours["/b"] = plain(answer())
    secret = (("x-api-key", "secret"), ("User-Agent", "mine"))
    with HttpFetcher(options(headers=secret)) as fetcher:
        for path in ("/away", "/home"):
            assert fetch(server.url(path, user="user:word@"), fetcher) == OK_BODY
    assert [r.headers.get("x-api-key") for r in server.requests] == ["secret"] * 3
    assert [r.headers["user-agent"] for r in server.requests] == ["mine"] * 3
    assert all("authorization" in r.headers for r in server.requests)
    assert "x-api-key" not in other.requests[0].headers
    assert "authorization" not in other.requests[0].headers
    assert "secret" not in repr(options(headers=secret))


@pytest.mark.parametrize(
    "header",
    [
        ("Host", "x"),
        ("range", "bytes=0-1"),
        ("Accept-Encoding", "br"),
        ("Transfer-Encoding", "x"),
        ("a b", "x"),
        ("", "x"),
        ("x", "secret\r\nHost: y"),
        ("x", "secret\x00"),
        ("x:", "y"),
        ("x", "ł"),
    ],
)
def test_headers_that_cannot_be(header: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^header") as caught:
        HttpFetcher(options(headers=(header,)))
    assert "secret" not in str(caught.value)


# --- attempts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [plain(answer(status=s)) for s in ("429 Slow", "500 Error", "503 Busy")]
    + [parts(b""), reset, parts(answer(Content_Length="50"))],
)
def test_a_third_attempt_can_succeed(farm: Farm, failure: Behaviour) -> None:
    server = farm.start(Server({"*": sequence(failure, failure, plain(answer()))}))
    assert fetch(server.url()) == OK_BODY
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "206 Part"])
def test_what_is_certain_is_not_tried_again(farm: Farm, status: str) -> None:
    server = farm.start(Server({"*": plain(answer(status=status))}))
    result = fetch(server.url())
    assert status[:3] in str(result)
    assert len(server.requests) == 1


BUSY = plain(answer(status="503 Busy"))
HALF_A_HEADER = parts(b"HTTP/1.1 200 OK\r\nContent-")
PASSING = {
    "500": plain(answer(status="500 Error")),
    "429": plain(answer(status="429 Slow")),
    "503 without keeping": plain(answer(status="503 Busy"), keep=False),
    "reset": reset,
    "closed": parts(b""),
    "half a header": HALF_A_HEADER,
    "half a body": parts(answer(Content_Length="50")),
    "silent": silent,
    "silent in the body": parts(answer(Content_Length="50"), linger=60),
}


def test_attempts_are_counted(farm: Farm) -> None:
    server = farm.start(Server({"*": BUSY}))
    result = fetch(server.url())
    assert result == ImageError(HTTP_ERROR, "the server answered 503 Service Unavailable")
    assert len(server.requests) == 3


@pytest.mark.parametrize("name", PASSING)
@pytest.mark.parametrize("attempts", [1, 3])
def test_attempts_are_requests(farm: Farm, name: str, attempts: int) -> None:
    """However a server fails, and whether the connection is new or was kept."""
    server = farm.start(Server({"/before": plain(answer()), "*": PASSING[name]}))
    with HttpFetcher(options(attempts=attempts, read_timeout=0.1)) as fetcher:
        for count in (1, 2):
            assert isinstance(fetch(server.url("/failing"), fetcher), ImageError)
            assert server.paths().count("/failing") == count * attempts
            if name == "503 without keeping":
                # A request that is sent before the fetcher sees the connection close is an attempt.
                time.sleep(0.3)
            assert fetch(server.url("/before"), fetcher) == OK_BODY
    assert server.paths().count("/before") == 2


def test_refused_connections_are_counted() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
        assert code(fetch(f"http://127.0.0.1:{address[1]}/")) == FETCH_FAILED
    assert _connected.count(address) == 3


_connected: list[Any] = []


def _on_connect(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        _connected.append(arguments[1])


sys.addaudithook(_on_connect)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(farm: Farm, form: str) -> None:
    times: list[float] = []

    async def busy(request: Request) -> bool:
        times.append(time.monotonic())
        late = email.utils.formatdate(time.time() + 2, usegmt=True)
        after = "1" if form == "seconds" else late
        await request.send(answer(status="503 Busy", Retry_After=after))
        return True

    server = farm.start(Server({"*": sequence(busy, plain(answer()))}))
    assert fetch(server.url(), total_timeout=8.0) == OK_BODY
    assert time.monotonic() - times[0] >= 0.9


@pytest.mark.parametrize("after", ["60", "999999999", "Fri, 31 Dec 2300 23:59:59 GMT"])
def test_retry_after_beyond_the_deadline_is_not_waited_for(farm: Farm, after: str) -> None:
    server = farm.start(Server({"*": plain(answer(status="429 Slow", Retry_After=after))}))
    started = time.monotonic()
    assert code(fetch(server.url())) == HTTP_ERROR
    assert time.monotonic() - started < 30
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "after",
    [
        "-1",
        "soon",
        "",
        "1e9",
        "1e400",
        "inf",
        "nan",
        "9" * 5000,
        "Fri, 31 Dec 1999 23:59:59 GMT",
        f"Fri, 31 Dec {'9' * 400} 23:59:59 GMT",
        f"Fri, 31 Dec 2300 23:59:59 +{'9' * 400}",
        "Fri, " * 10_000,
    ],
)
def test_retry_after_that_says_nothing(farm: Farm, after: str) -> None:
    server = farm.start(
        Server({"*": sequence(plain(answer(status="503 x", Retry_After=after)), plain(answer()))})
    )
    assert fetch(server.url()) == OK_BODY


# --- politeness ----------------------------------------------------------------------------------


def slowly(seconds: float) -> Behaviour:
    async def behave(request: Request) -> bool:
        await asyncio.sleep(seconds)
        await request.send(answer())
        return True

    return behave


def test_places_per_host_and_overall(farm: Farm) -> None:
    servers = [farm.start(Server({"*": slowly(0.02)})) for _ in range(2)]
    names = lookup(["127.0.0.1"])
    with HttpFetcher(options(concurrency_per_host=3, concurrency=5), getaddrinfo=names) as fetcher:
        futures = [
            fetcher.submit(server.url(f"/{i}", f"host{n}.example"))
            for i in range(40)
            for n, server in enumerate(servers)
        ]
        together = threading.Event()
        most = 0
        while not all(future.done() for future in futures):
            most = max(most, sum(server.now for server in servers))
            together.wait(0.001)
        assert {outcome(future) for future in futures} == {OK_BODY}
    assert [server.most for server in servers] == [3, 3]
    assert most <= 5


def test_waiting_for_a_place_is_not_on_the_clock(farm: Farm) -> None:
    server = farm.start(Server({"*": slowly(0.3)}))
    with HttpFetcher(options(concurrency_per_host=1, total_timeout=0.8)) as fetcher:
        futures = [fetcher.submit(server.url(f"/{i}")) for i in range(6)]
        assert {outcome(future) for future in futures} == {OK_BODY}


# --- hosts that do not answer --------------------------------------------------------------------

QUICKLY: dict[str, Any] = {
    "attempts": 1,
    "read_timeout": 0.5,
    "total_timeout": 5.0,
    "host_failures": 4,
    "host_patience": 0.0,
    "host_pause": 60.0,
    "concurrency_per_host": 2,
}


@pytest.mark.parametrize("failure", [silent, reset, parts(b""), parts(HEAD, linger=60)])
def test_a_host_that_does_not_answer_is_given_up(farm: Farm, failure: Behaviour) -> None:
    dead = farm.start(Server({"*": failure}))
    alive = farm.start(Server({"*": plain(answer())}))  # another port of the same host
    with HttpFetcher(options(**QUICKLY)) as fetcher:
        futures = [fetcher.submit(dead.url(f"/{i}")) for i in range(1000)]
        others = [fetcher.submit(alive.url(f"/{i}")) for i in range(20)]
        results = [outcome(future) for future in futures]
        assert {outcome(future) for future in others} == {OK_BODY}
    # Those under way when the host is given up come to their own end.
    assert 4 <= len(dead.requests) <= 6
    codes = [code(result) for result in results]
    assert codes.count(ErrorCode.HOST_UNREACHABLE) == 1000 - len(dead.requests)
    assert set(codes[:2]) <= {TIMEOUT, FETCH_FAILED}
    last = results[-1]
    assert isinstance(last, ImageError)
    assert f"127.0.0.1:{dead.port}" in last.message


def test_a_host_that_nobody_answers_for_is_given_up() -> None:
    with socket.socket() as free, HttpFetcher(options(**QUICKLY)) as fetcher:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        results = [outcome(future) for future in [fetcher.submit(url) for _ in range(1000)]]
        assert 4 <= _connected.count(free.getsockname()) <= 6
    assert code(results[-1]) == ErrorCode.HOST_UNREACHABLE
    assert "Connection refused" in str(results[-1])


def test_a_server_that_trickles_is_given_up(farm: Farm) -> None:
    trickle = endless(HEAD + b"Content-Length: 5000\r\n\r\n", b"x", 0.02)
    dead = farm.start(Server({"*": trickle}))
    with HttpFetcher(options(**QUICKLY | {"total_timeout": 0.2})) as fetcher:
        futures = [fetcher.submit(dead.url(f"/{i}")) for i in range(1000)]
        codes = [code(outcome(future)) for future in futures]
    assert len(dead.requests) <= 6
    assert codes[-1] == ErrorCode.HOST_UNREACHABLE


@pytest.mark.parametrize(
    "failure",
    [
        plain(answer(status="404 Not Found")),
        plain(answer(status="500 Error")),
        plain(answer(b"")),
        plain(answer(Content_Length="5")),
        plain(CHUNKED + b"zz\r\n"),
        redirect("http://127.0.0.2/"),
        plain(answer(b"x", Content_Length=str(MIB + 1))),
    ],
)
def test_a_host_that_answers_is_never_given_up(farm: Farm, failure: Behaviour) -> None:
    server = farm.start(Server({"*": failure}))
    patient = {"connect_timeout": 60.0, "read_timeout": 60.0, "total_timeout": 60.0}
    with HttpFetcher(options(**QUICKLY | patient)) as fetcher:
        futures = [fetcher.submit(server.url(f"/{i}")) for i in range(50)]
        codes = {code(outcome(future)) for future in futures}
    assert ErrorCode.HOST_UNREACHABLE not in codes
    assert len(server.requests) == 50


def test_an_answer_between_failures_keeps_a_host(farm: Farm) -> None:
    server = farm.start(Server({"/good": plain(answer()), "*": reset}))
    with HttpFetcher(options(**QUICKLY)) as fetcher:
        for i in range(30):
            assert code(fetch(server.url(f"/{i}"), fetcher)) == FETCH_FAILED
            if i % 3 == 2:
                assert fetch(server.url("/good"), fetcher) == OK_BODY


def test_a_host_that_recovers_is_used_again(farm: Farm) -> None:
    failing = threading.Event()
    failing.set()

    async def behave(request: Request) -> bool | None:
        return await (reset if failing.is_set() else plain(answer()))(request)

    server = farm.start(Server({"*": behave}))
    with HttpFetcher(options(**QUICKLY | {"host_pause": 0.2})) as fetcher:
        while code(fetch(server.url(), fetcher)) != ErrorCode.HOST_UNREACHABLE:
            pass
        asked = len(server.requests)
        # One request at a time finds out whether it still fails.
        while len(server.requests) < asked + 2:
            assert code(fetch(server.url(), fetcher)) in {ErrorCode.HOST_UNREACHABLE, FETCH_FAILED}
        failing.clear()
        while fetch(server.url(), fetcher) != OK_BODY:
            pass
        assert {outcome(fetcher.submit(server.url(f"/{i}"))) for i in range(20)} == {OK_BODY}


def test_a_short_outage_does_not_cost_a_host(farm: Farm) -> None:
    """Many requests that fail together are one event, however many they are."""
    server = farm.start(Server({"*": sequence(*[silent] * 20, plain(answer()))}))
    changes = QUICKLY | {"host_patience": 60.0, "total_timeout": 60.0, "concurrency_per_host": 20}
    with HttpFetcher(options(**changes)) as fetcher:
        futures = [fetcher.submit(server.url(f"/{i}")) for i in range(60)]
        results = [outcome(future) for future in futures]
    assert results.count(OK_BODY) == 40


def test_what_a_url_met_with_itself_is_what_its_row_says(farm: Farm) -> None:
    server = farm.start(Server({"*": reset}))
    with HttpFetcher(options(**QUICKLY | {"attempts": 3, "host_failures": 2})) as fetcher:
        result = fetch(server.url(), fetcher)
        assert len(server.requests) == 2
        assert code(result) == FETCH_FAILED
        assert code(fetch(server.url(), fetcher)) == ErrorCode.HOST_UNREACHABLE


def test_being_late_after_a_redirect_is_not_held_against_the_second_host(farm: Farm) -> None:
    second = farm.start(Server({"/late": silent, "*": plain(answer())}))

    async def lead_there_late(request: Request) -> bool | None:
        await asyncio.sleep(0.4)
        return await redirect(second.url("/late"))(request)

    first = farm.start(Server({"*": lead_there_late}))
    changes = QUICKLY | {"read_timeout": 5.0, "total_timeout": 0.6, "concurrency_per_host": 20}
    with HttpFetcher(options(**changes)) as fetcher:
        futures = [fetcher.submit(first.url(f"/{i}")) for i in range(20)]
        assert {code(outcome(future)) for future in futures} == {TIMEOUT}
        assert fetch(second.url("/other"), fetcher) == OK_BODY


def test_a_slow_host_does_not_hold_up_another(farm: Farm) -> None:
    slow = farm.start(Server({"*": silent}))
    quick = farm.start(Server({"*": plain(answer())}))
    names = lookup(["127.0.0.1"])
    with HttpFetcher(options(concurrency_per_host=2, concurrency=3), getaddrinfo=names) as fetcher:
        waiting = [fetcher.submit(slow.url(f"/{i}", "slow.example")) for i in range(50)]
        done = [fetcher.submit(quick.url(f"/{i}", "quick.example")) for i in range(50)]
        assert {outcome(future) for future in done} == {OK_BODY}
        assert not any(future.done() for future in waiting)


# --- TLS and proxies -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_server(farm: Farm, authority: trustme.CA, name: str, behave: Behaviour) -> Server:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return farm.start(Server({"*": behave}, tls=context))


def test_unknown_certificates_are_refused(farm: Farm, authority: trustme.CA) -> None:
    server = tls_server(farm, authority, "127.0.0.1", plain(answer()))
    result = fetch(server.url())
    assert code(result) == FETCH_FAILED
    assert "certificate" in str(result)
    assert not server.requests


def test_known_certificates_are_checked_for_their_name(
    farm: Farm, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    with authority.cert_pem.tempfile() as path:
        monkeypatch.setenv("SSL_CERT_FILE", path)
        server = tls_server(farm, authority, "good.example", plain(answer()))
        with HttpFetcher(options(), getaddrinfo=lookup(["127.0.0.1"])) as fetcher:
            assert fetch(server.url(host="good.example"), fetcher) == OK_BODY
            assert fetch(server.url(host="good.example."), fetcher) == OK_BODY
            assert code(fetch(server.url(host="other.example"), fetcher)) == FETCH_FAILED


def test_an_endless_body_over_tls_ends(
    farm: Farm, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0

    async def pour(request: Request) -> bool:
        nonlocal sent
        await request.send(HEAD + b"\r\n")
        while sent < 200 * MIB:
            await request.send(b"x" * 65536)
            sent += 65536
        return False

    with authority.cert_pem.tempfile() as path:
        monkeypatch.setenv("SSL_CERT_FILE", path)
        server = tls_server(farm, authority, "127.0.0.1", pour)
        with HttpFetcher(options()) as fetcher:
            assert code(fetch(server.url(), fetcher)) == TOO_LARGE
            time.sleep(0.3)
            assert sent < 20 * MIB


def test_plain_text_where_tls_is_expected(farm: Farm) -> None:
    server = farm.start(Server({"*": plain(answer())}))
    result = fetch(server.url().replace("http:", "https:"))
    assert code(result) in {FETCH_FAILED, TIMEOUT}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxies(
    farm: Farm, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    with authority.cert_pem.tempfile() as path:
        monkeypatch.setenv("SSL_CERT_FILE", path)
        secure = scheme == "https"
        server = (
            tls_server(farm, authority, "good.example", plain(answer()))
            if secure
            else farm.start(Server({"*": plain(answer(), keep=False)}))
        )
        proxy = Proxy(server.port)
        front = farm.start(Server({}))
        front.behaviours = _Any(proxy.behave)
        monkeypatch.setenv(f"{scheme}_proxy", f"http://me:word@127.0.0.1:{front.port}")
        # The proxy's own address needs no allowance; 93.184.216.34 is only ever a claim.
        names = lookup(["93.184.216.34"])
        with HttpFetcher(options(allowed_hosts=()), getaddrinfo=names) as fetcher:
            assert fetch(f"{scheme}://good.example:{server.port}/a", fetcher) == OK_BODY
        assert proxy.asked == [
            f"good.example:{server.port}" if secure else f"http://good.example:{server.port}/a"
        ]
        assert proxy.authorizations == ["Basic bWU6d29yZA=="]


@pytest.mark.parametrize(
    ("host", "answers", "expected"),
    [
        ("10.0.0.1", ["93.184.216.34"], ErrorCode.ADDRESS_NOT_ALLOWED),
        ("0x7f.1", ["93.184.216.34"], ErrorCode.ADDRESS_NOT_ALLOWED),
        ("[::1]", ["93.184.216.34"], ErrorCode.ADDRESS_NOT_ALLOWED),
        ("intern.example", ["10.0.0.1"], ErrorCode.ADDRESS_NOT_ALLOWED),
        ("mixed.example", ["93.184.216.34", "10.0.0.1"], ErrorCode.ADDRESS_NOT_ALLOWED),
        ("gone.example", socket.gaierror(socket.EAI_NONAME, "no"), ErrorCode.FETCH_FAILED),
    ],
)
def test_proxies_are_not_asked_for_what_is_not_public(
    farm: Farm,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    answers: list[str] | BaseException,
    expected: ErrorCode,
) -> None:
    front = farm.start(Server({"*": plain(answer())}))
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", f"127.0.0.1:{front.port}")
    with HttpFetcher(options(allowed_hosts=()), getaddrinfo=lookup(answers)) as fetcher:
        assert code(fetch(f"http://{host}/", fetcher)) == expected
        assert code(fetch(f"https://{host}/", fetcher)) == expected
    assert front.connections == 0


def test_redirects_through_a_proxy_are_checked(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    front = farm.start(Server({}))
    front.behaviours = _Any(redirect("http://169.254.169.254/latest/meta-data/"))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{front.port}")
    with HttpFetcher(options(allowed_hosts=()), getaddrinfo=lookup(["93.184.216.34"])) as fetcher:
        assert code(fetch("http://good.example/", fetcher)) == ErrorCode.ADDRESS_NOT_ALLOWED
    assert len(front.requests) == 1


def test_no_proxy(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    server = farm.start(Server({"*": plain(answer())}))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch(server.url()) == OK_BODY


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:1080", "http://", "http://[", "http://:word@"]
)
def test_proxies_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    result = fetch("http://127.0.0.1/")
    assert code(result) == FETCH_FAILED
    assert "HTTP_PROXY" in str(result)
    assert "word" not in str(result)


def test_a_proxy_that_refuses(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    front = farm.start(Server({}))
    front.behaviours = _Any(plain(answer(b"no", "407 Proxy Authentication Required"), keep=False))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{front.port}")
    result = fetch("https://127.0.0.1/")
    assert code(result) == FETCH_FAILED
    assert "407" in str(result)


class _Any(dict[str, Behaviour]):
    """One behaviour for every path."""

    def __init__(self, behave: Behaviour) -> None:
        super().__init__({"*": behave})

    def get(self, path: str, default: Any = None) -> Any:
        return self["*"]


# --- beginning and end ---------------------------------------------------------------------------


def fetch_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "moderate-fetch"]


def test_nothing_starts_before_it_is_needed() -> None:
    with HttpFetcher(options()):
        assert not fetch_threads()
    fetcher = HttpFetcher(options())
    fetcher.close()
    fetcher.close()
    assert fetcher.submit("http://127.0.0.1/").cancelled()


def test_bad_urls_come_back_as_errors() -> None:
    with HttpFetcher(options()) as fetcher:
        for url in ("", "nonsense", "ftp://x/", "http://[", "data:,x", "http://x/\udcff y"):
            assert code(fetch(url, fetcher)) == ErrorCode.BAD_URL


@pytest.mark.parametrize(
    "behave",
    [silent, endless(HEAD + b"Content-Length: 9999\r\n\r\n", b"x", 0.05), parts(HEAD, linger=60)],
)
def test_close_cancels_whatever_servers_do(farm: Farm, behave: Behaviour) -> None:
    server = farm.start(Server({"*": behave}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fetcher = HttpFetcher(options(total_timeout=60.0, read_timeout=60.0))
        futures = [fetcher.submit(server.url(f"/{i}")) for i in range(200)]
        hanging = HttpFetcher(options(connect_timeout=60.0), getaddrinfo=lookup(60.0))
        futures.append(hanging.submit("http://hanging.example/"))
        time.sleep(0.3)
        started = time.monotonic()
        fetcher.close()
        hanging.close()
        assert time.monotonic() - started < 30  # half of what the servers and names take
    for future in futures:
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(0)
    assert not fetch_threads()


def test_a_future_can_be_cancelled(farm: Farm) -> None:
    server = farm.start(Server({"/slow": silent, "*": plain(answer())}))
    with HttpFetcher(
        options(concurrency_per_host=1, total_timeout=60.0, read_timeout=60.0)
    ) as fetcher:
        slow = fetcher.submit(server.url("/slow"))
        time.sleep(0.2)
        assert slow.cancel()
        assert fetch(server.url(), fetcher) == OK_BODY


def test_submitting_from_many_threads_while_closing(farm: Farm) -> None:
    server = farm.start(Server({"*": plain(answer())}))
    fetcher = HttpFetcher(options())
    futures: list[concurrent.futures.Future[bytes]] = []

    def submit() -> None:
        for i in range(100):
            futures.append(fetcher.submit(server.url(f"/{i}")))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    fetcher.close()
    for thread in threads:
        thread.join()
    assert len(futures) == 800
    for future in futures:
        with contextlib.suppress(concurrent.futures.CancelledError):
            assert future.result(PATIENCE) == OK_BODY


PROGRAM = """
import sys, time
from moderate.fetch.http import HttpFetcher
from moderate.fetch.options import HttpOptions
fetcher = HttpFetcher(HttpOptions(allow_private=True, total_timeout=60, read_timeout=60))
futures = [fetcher.submit(f"{sys.argv[1]}{i}") for i in range(20)]
futures += [fetcher.submit("http://127.0.0.1:1/"), fetcher.submit("https" + sys.argv[1][4:])]
time.sleep(0.5)
"""


def test_a_process_that_forgets_to_close_ends_quietly(farm: Farm) -> None:
    server = farm.start(Server({"*": silent}))
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", PROGRAM, server.url()],
        capture_output=True,
        timeout=PATIENCE,
        env=os.environ | {"PYTHONWARNINGS": "default"},
        check=False,
    )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert time.monotonic() - started < 50  # before any of them is out of time
