"""Bytes behind http and https URLs, fetched concurrently on a thread of its own.

aiohttp asks `socket_factory` for a socket once for each address it is about to connect to, whether
that came from a name, from a number in any spelling, from a redirect or from a race between IPv4
and IPv6. The address guard sits there, so nothing can change between the check and the connection.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import http
import logging
import os
import random
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Any
from urllib.request import (  # type: ignore[attr-defined]
    getproxies_environment,
    proxy_bypass_environment,
)

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http import HttpProcessingError
from yarl import URL

from moderate.decode.sniff import HEAD_BYTES, sniff
from moderate.errors import ConfigError
from moderate.fetch.address import AddressRefused, Guard, make_guard
from moderate.fetch.breaker import Breaker
from moderate.fetch.local import FetchError
from moderate.fetch.options import HttpOptions
from moderate.fetch.url import HttpUrl, join, parse_url
from moderate.text import one_line
from moderate.types import ErrorCode, ImageError

_LOG = logging.getLogger(__name__)

GetAddrInfo = Callable[..., list[tuple[Any, ...]]]
"""`socket.getaddrinfo`, or a stand-in with its parameters and answers."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CLOSE_SECONDS = 2.0
_HEADER_BYTES = 1 << 16  # of one header line; aiohttp's own limit is 8,190
# What frames the message or changes what a 200 means is not for configuration to set.
_OWN_HEADER = re.compile(
    r"accept-encoding|connection|content-length|expect|host|keep-alive|proxy-.*|range|te|trailer"
    r"|transfer-encoding|upgrade",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# Answers of getaddrinfo that another try will not change.
_NO_SUCH_NAME = frozenset(
    code
    for name in ("EAI_NONAME", "EAI_NODATA", "EAI_FAIL")
    if (code := getattr(socket, name, None)) is not None
)


class HttpFetcher:
    """Fetches URLs concurrently, on a thread that starts with the first one.

    A context manager. `submit` may be called from any thread. At most `options.concurrency` bodies
    of up to `options.max_bytes` are held while they arrive; finished ones until their future is
    dropped, so the caller bounds how many URLs are out at once.

    Raises ConfigError for headers or allowed hosts that cannot be used. Proxies are taken from
    HTTP_PROXY, HTTPS_PROXY and NO_PROXY as they are now.
    """

    def __init__(
        self, options: HttpOptions, *, getaddrinfo: GetAddrInfo = socket.getaddrinfo
    ) -> None:
        _check_headers(options.headers)
        self._options = options
        self._guard = make_guard(options.allow_private, options.allowed_hosts)
        self._proxies = _environment_proxies()
        self._getaddrinfo = getaddrinfo
        self._lock = threading.Lock()  # held only to start or to stop
        self._closed = False
        self._running: tuple[threading.Thread, asyncio.AbstractEventLoop, _Client] | None = None

    def __enter__(self) -> HttpFetcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def submit(self, url: str) -> Future[bytes]:
        """Start fetching `url`; the future gives the body, which is never empty.

        Only the body of a 200 is ever given. result() raises FetchError with one of `bad_url`,
        `address_not_allowed`, `fetch_timeout`, `fetch_failed`, `host_unreachable`, `http_error`,
        `too_many_redirects`, `file_too_large` and `empty_file`; CancelledError where the fetcher
        was closed first.
        Cancelling the future ends the fetch.
        """
        future: Future[bytes] = Future()
        with self._lock:
            if self._closed:
                future.cancel()
                return future
            if self._running is None:
                self._running = self._start()
            _, loop, client = self._running
            loop.call_soon_threadsafe(client.begin, url, future)
        return future

    def close(self) -> None:
        """Cancel what is under way and end the thread, within 2 seconds; more calls do nothing."""
        with self._lock:
            self._closed = True
            running = self._running
            if running is None:
                return
            thread, loop, client = running
            with suppress(RuntimeError):  # the loop has ended already
                loop.call_soon_threadsafe(client.stop.set)
        thread.join(_CLOSE_SECONDS)

    def _start(self) -> tuple[threading.Thread, asyncio.AbstractEventLoop, _Client]:
        started: Future[tuple[asyncio.AbstractEventLoop, _Client]] = Future()
        thread = threading.Thread(
            target=self._run, args=(started,), name="moderate-fetch", daemon=True
        )
        thread.start()
        return (thread, *started.result())

    def _run(self, started: Future[tuple[asyncio.AbstractEventLoop, _Client]]) -> None:
        try:
            asyncio.run(self._serve(started))
        except Exception as error:  # noqa: BLE001 - handed to whoever submits
            if not started.done():
                started.set_exception(error)

    async def _serve(self, started: Future[tuple[asyncio.AbstractEventLoop, _Client]]) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_quietly)
        client = _Client(self._options, self._guard, self._proxies, self._getaddrinfo)
        started.set_result((loop, client))
        try:
            await client.stop.wait()
        finally:
            await client.close()


class _RetryableError(FetchError):
    """A failure that another attempt may mend; `after` is what the server asked to wait."""

    def __init__(self, error: ImageError, after: float | None = None) -> None:
        super().__init__(error)
        self.after = after


class _NoAnswerError(_RetryableError):
    """A failure that speaks against the host: no connection, or no answer, or not in time."""


class _BrokenOffError(_NoAnswerError):
    """A connection that broke off before an answer came."""


class _HostRefusedError(FetchError):
    """A request that was not sent because its host has stopped answering."""


class _BrokenConnectionError(aiohttp.ClientConnectionError):
    """A connection that broke off, in a form that aiohttp does not try again by itself."""


async def _send_once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Middleware that keeps aiohttp from sending a request twice: attempts are counted here."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _BrokenConnectionError from error


class _Response(aiohttp.ClientResponse):
    """A response that keeps hold of its connection until its end has been looked at.

    aiohttp gives a connection back as soon as the body is complete, and gives it out again even
    where the server has sent more than it was asked for.
    """

    def _response_eof(self) -> None:
        pass

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        if protocol is not None and len(protocol):
            # An answer from before the question was asked: another connection has to be made.
            connection.close()
            raise aiohttp.ServerDisconnectedError
        return await super().start(connection)

    def is_overlong(self) -> bool:
        """Whether more has arrived than this answer."""
        protocol = self.connection.protocol if self.connection else None
        if protocol is None:
            return False
        return bool(len(protocol)) or isinstance(protocol.exception(), HttpProcessingError)

    def give_back(self) -> None:
        """Keep the connection for the next request only if this answer has ended cleanly.

        Else drop it at once, without a farewell that the server could draw out.
        """
        if self.content.is_eof() and not self.is_overlong():
            return
        if self.connection is not None and self.connection.transport is not None:
            transport = self.connection.transport
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
        self.close()


class _Resolver(AbstractResolver):
    """Name resolution on threads that nobody waits for, with every answer checked."""

    def __init__(self, getaddrinfo: GetAddrInfo, timeout: float, guard: Guard | None) -> None:
        self._getaddrinfo = getaddrinfo
        self._timeout = timeout
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Every address of a name; raises AddressRefused if the guard refuses one of them."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[tuple[Any, ...]]] = loop.create_future()

        def settle(give: Callable[[Any], None], outcome: Any) -> None:
            if not answer.done():
                give(outcome)

        def look_up() -> None:
            give: Callable[[Any], None] = answer.set_result
            outcome: Any
            try:
                outcome = self._getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
            except Exception as error:  # noqa: BLE001 - handed to whoever waits
                give, outcome = answer.set_exception, error
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, give, outcome)

        # Not the loop's own pool: its threads are waited for, and a lookup can hang for minutes.
        threading.Thread(target=look_up, name="moderate-resolve", daemon=True).start()
        async with asyncio.timeout(self._timeout):
            found = await answer
        addresses = [str(info[4][0]) for info in found]
        for address in addresses:
            if self._guard is not None and not self._guard.allows(address):
                raise AddressRefused(address)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=info[0],
                proto=info[2],
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address, info in zip(addresses, found, strict=True)
        ]

    async def close(self) -> None:
        """Nothing to let go of."""


class _HostTurn:
    """How many requests to a host are under way or waiting, and the places there are."""

    def __init__(self, places: int) -> None:
        self.places = asyncio.Semaphore(places)
        self.users = 0


class _Clock:
    """Seconds left for one URL; runs only while its turn lasts."""

    def __init__(self, seconds: float) -> None:
        self.total = seconds
        self.left = seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Count the time spent inside; raises FetchError `fetch_timeout` when it is used up."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.left) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            message = f"not there after {self.total:g} seconds, retries and redirects included"
            raise FetchError(ImageError(ErrorCode.FETCH_TIMEOUT, message)) from None
        finally:
            self.left -= time.monotonic() - started


class _Client:
    """What lives inside the event loop: sessions, places, and the fetches under way."""

    def __init__(
        self,
        options: HttpOptions,
        guard: Guard,
        proxies: dict[str, str],
        getaddrinfo: GetAddrInfo,
    ) -> None:
        self.stop = asyncio.Event()
        self._options = options
        self._guard = guard
        self._proxies = proxies
        self._tasks: set[asyncio.Task[bytes]] = set()
        self._places = asyncio.Semaphore(options.concurrency)
        self._hosts: dict[str, _HostTurn] = {}
        self._breaker = Breaker(
            failures=options.host_failures,
            patience=min(options.host_patience, options.total_timeout),
            pause=options.host_pause,
        )
        self._checked_names = _Resolver(getaddrinfo, options.connect_timeout, guard)
        tls = ssl.create_default_context()
        tls.set_alpn_protocols(["http/1.1"])
        self._guarded = self._session(tls, self._checked_names, self._guarded_socket)
        # For hosts that are trusted by name, and for the proxy.
        open_names = _Resolver(getaddrinfo, options.connect_timeout, None)
        self._trusted = self._session(tls, open_names, None)

    def _session(
        self,
        tls: ssl.SSLContext,
        resolver: _Resolver,
        socket_factory: Callable[[Any], socket.socket] | None,
    ) -> aiohttp.ClientSession:
        options = self._options
        connector = aiohttp.TCPConnector(
            ssl=tls, resolver=resolver, limit=0, socket_factory=socket_factory
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=_Response,
            auto_decompress=False,
            middlewares=(_send_once,),
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            trust_env=False,  # it would send what ~/.netrc holds
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=options.connect_timeout, sock_read=options.read_timeout
            ),
        )

    def _guarded_socket(self, address_info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = address_info
        if not self._guard.allows(address[0]):
            raise AddressRefused(address[0])
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        """Cancel every fetch and close every connection."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS / 2)
        await self._guarded.close()
        await self._trusted.close()

    def begin(self, url: str, future: Future[bytes]) -> None:
        """Start fetching; the outcome goes into `future`."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._fetch(url))
        self._tasks.add(task)

        def deliver(done: asyncio.Task[bytes]) -> None:
            self._tasks.discard(done)
            if done.cancelled():
                future.cancel()
            if not future.set_running_or_notify_cancel():
                return
            error = done.exception()
            if error is None:
                future.set_result(done.result())
            elif isinstance(error, FetchError):
                # A fresh one, as the frames of this one keep what was read of the body.
                future.set_exception(FetchError(error.error, error.size))
            else:
                future.set_exception(error)

        def give_up(future: Future[bytes]) -> None:
            if future.cancelled():
                with suppress(RuntimeError):  # the loop has ended already
                    loop.call_soon_threadsafe(task.cancel)

        task.add_done_callback(deliver)
        future.add_done_callback(give_up)

    async def _fetch(self, text: str) -> bytes:
        url = parse_url(text)
        if isinstance(url, ImageError):
            raise FetchError(url)
        clock = _Clock(self._options.total_timeout)
        attempt = 1
        previous: FetchError | None = None
        while True:
            try:
                return await self._follow(url, clock)
            except _HostRefusedError as refusal:
                # What this URL itself met with says more than what others did.
                raise FetchError((previous or refusal).error) from None
            except _RetryableError as failure:
                previous = failure
                wait = self._wait_before(attempt, failure.after)
                if attempt == 1 and isinstance(failure, _BrokenOffError):
                    wait = 0.0  # perhaps one that was kept, which the server closed meanwhile
                if attempt >= self._options.attempts or wait >= clock.left:
                    raise FetchError(failure.error) from None
            clock.left -= wait
            attempt += 1
            await asyncio.sleep(wait)

    def _wait_before(self, attempt: int, asked: float | None) -> float:
        # Half fixed, half random, so that many URLs of one host do not come back together.
        backoff = self._options.backoff * 2.0 ** (attempt - 1)
        backoff *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret
        return backoff if asked is None else asked + backoff / 4

    async def _follow(self, first: HttpUrl, clock: _Clock) -> bytes:
        url = first
        for _ in range(self._options.max_redirects + 1):
            async with self._turn(url.host):
                # Not before: the host may stop answering while others wait for their turn.
                self._refuse_dead_host(url)
                with self._watched(url, clock):
                    async with clock.running():
                        outcome = await self._request(url, first)
            if isinstance(outcome, bytes):
                return outcome
            url = outcome
        message = f"more than {self._options.max_redirects} redirects"
        raise FetchError(ImageError(ErrorCode.TOO_MANY_REDIRECTS, message))

    def _refuse_dead_host(self, url: HttpUrl) -> None:
        reason = self._breaker.refusal((url.host, url.port))
        if reason is not None:
            host = f"[{url.host}]" if ":" in url.host else url.host
            message = f"{host}:{url.port} is not asked again for now: {reason}"
            raise _HostRefusedError(ImageError(ErrorCode.HOST_UNREACHABLE, message))

    @contextmanager
    def _watched(self, url: HttpUrl, clock: _Clock) -> Iterator[None]:
        """Tell the breaker about a request that got no answer."""
        began, allowed = self._breaker.now(), clock.left
        try:
            yield
        except FetchError as error:
            # Where a redirect left little time for this host, being late says nothing about it.
            late = error.error.code is ErrorCode.FETCH_TIMEOUT and allowed >= clock.total / 2
            if late or isinstance(error, _NoAnswerError):
                self._breaker.failed((url.host, url.port), began, error.error.message)
            raise

    @asynccontextmanager
    async def _turn(self, host: str) -> AsyncIterator[None]:
        # A place at the host comes first: waiting there must not keep other hosts waiting.
        turn = self._hosts.setdefault(host, _HostTurn(self._options.concurrency_per_host))
        turn.users += 1
        try:
            async with turn.places, self._places:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._hosts[host]

    async def _request(self, url: HttpUrl, first: HttpUrl) -> bytes | HttpUrl:
        """One exchange: the body of a 200, or where a redirect leads."""
        try:
            proxy = self._proxy(url)
            if proxy is not None:
                await self._check_before_proxy(url)
            is_open = proxy is not None or self._guard.trusts(url.host)
            session = self._trusted if is_open else self._guarded
            async with session.get(
                URL(url.text, encoded=True),
                headers=self._headers(url, first),
                proxy=proxy,
                allow_redirects=False,
            ) as response:
                assert isinstance(response, _Response)
                try:
                    outcome = self._redirect(url, response) or await self._body(response)
                except FetchError:  # an answer, if not the one hoped for
                    self._breaker.succeeded((url.host, url.port))
                    raise
                finally:
                    response.give_back()
                self._breaker.succeeded((url.host, url.port))
                return outcome
        except FetchError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a server does costs only its own URL
            raise _explain(error, self._options) from None

    def _headers(self, url: HttpUrl, first: HttpUrl) -> dict[str, str]:
        headers = {"User-Agent": self._options.user_agent, "Accept": "*/*"}
        if url.origin == first.origin or _is_upgrade(first, url):
            headers |= {name.title(): value for name, value in self._options.headers}
        user_info = url.user_info
        if user_info is None and url.origin == first.origin:
            user_info = first.user_info
        if user_info is not None:
            pair = ":".join(user_info).encode("utf-8", "surrogateescape")
            headers["Authorization"] = "Basic " + base64.b64encode(pair).decode("ascii")
        return headers | {"Accept-Encoding": "identity"}

    def _proxy(self, url: HttpUrl) -> URL | None:
        proxy = self._proxies.get(url.scheme)
        host = f"{url.host}:{url.port}"
        if proxy is None or proxy_bypass_environment(host, self._proxies):
            return None
        try:
            parsed = URL(proxy if "://" in proxy else f"http://{proxy}")
        except ValueError:
            parsed = URL()
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            message = f"{url.scheme.upper()}_PROXY is not the URL of an http proxy"
            raise FetchError(ImageError(ErrorCode.FETCH_FAILED, message))
        return parsed

    async def _check_before_proxy(self, url: HttpUrl) -> None:
        """Refuse what is not public before a proxy is asked, as far as this machine can tell.

        The proxy looks the name up for itself and may get another answer: only its own rules can
        stop that. Raises AddressRefused, or FetchError where the name has no address here.
        """
        if self._guard.trusts(url.host):
            return
        if ":" in url.host or url.host.replace(".", "").isdigit():
            if not self._guard.allows(url.host):
                raise AddressRefused(url.host)
            return
        try:
            await self._checked_names.resolve(url.host, url.port)
        except socket.gaierror:
            message = (
                "the host has no address that this machine can see, so it cannot be checked "
                "before the proxy is asked; --allow-private-network leaves that to the proxy"
            )
            raise FetchError(ImageError(ErrorCode.FETCH_FAILED, message)) from None

    def _redirect(self, url: HttpUrl, response: _Response) -> HttpUrl | None:
        location = response.headers.get("Location")
        if response.status not in _REDIRECTS or not location:
            return None
        target = join(url, location)
        if isinstance(target, ImageError):
            raise FetchError(ImageError(target.code, f"after a redirect: {target.message}"))
        return target

    async def _body(self, response: _Response) -> bytes:
        if response.status != 200:
            raise _status_error(response)
        limit = self._options.max_bytes
        length = response.content_length
        if length is not None and length > limit:
            raise _too_large(limit, length)
        encoding = ", ".join(response.headers.getall("Content-Encoding", ()))
        inflate = _decoder(encoding)
        parts = []
        received = size = 0
        async for chunk in response.content.iter_any():
            received += len(chunk)
            if received > limit:
                raise _too_large(limit)
            if inflate is not None:
                chunk = inflate(chunk, limit - size)
            size += len(chunk)
            parts.append(chunk)
        if inflate is not None:
            inflate(b"", 0)
        await asyncio.sleep(0)  # what came in the same breath is seen
        if response.is_overlong():
            raise _failed("the server sent more than it announced")
        if not size:
            raise FetchError(ImageError(ErrorCode.EMPTY_FILE, "the server sent no bytes"), 0)
        body = b"".join(parts)
        if inflate is None:
            _check_plain(encoding, body)
        return body


def _log_quietly(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Broken connections are told in rows; asyncio would print tracebacks of them.
    _LOG.debug("%s: %r", context.get("message"), context.get("exception"))


def _check_headers(headers: Iterable[tuple[str, str]]) -> None:
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            # Never the value, which may be a secret.
            raise ConfigError(
                f"header {one_line(name, 60)!r}: not a valid name, or its value is not"
            )
        if _OWN_HEADER.fullmatch(name):
            raise ConfigError(f"header {one_line(name, 60)!r} cannot be set")


def _environment_proxies() -> dict[str, str]:
    found = getproxies_environment()
    return {kind: url for kind, url in found.items() if kind in {"http", "https", "no"}}


def _is_upgrade(first: HttpUrl, url: HttpUrl) -> bool:
    plain = (first.scheme, first.port) == ("http", 80)
    return plain and url.origin == ("https", first.host, 443)


def _decoder(encoding: str) -> Callable[[bytes, int], bytes] | None:
    """What undoes a Content-Encoding that was not asked for; None for one that it does not know.

    Takes a chunk and how many bytes may still come out; raises FetchError beyond that, and for an
    empty chunk before the end of the stream.
    """
    encoding = encoding.strip().lower()
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        return None
    stream: Any = None

    def inflate(chunk: bytes, room: int) -> bytes:
        nonlocal stream
        if not chunk:
            if stream is None or not stream.eof:
                raise _retry("the compressed body ends too early")
            return b""
        if stream is None:
            stream = zlib.decompressobj(_window_bits(encoding, chunk))
        try:
            data: bytes = stream.decompress(chunk, room + 1)
        except zlib.error:
            raise _failed("the compressed body cannot be decompressed") from None
        if len(data) > room:
            raise FetchError(
                ImageError(
                    ErrorCode.FILE_TOO_LARGE,
                    "decompresses to more than the limit; raise it with --max-file-size",
                )
            )
        if stream.unused_data:
            raise _failed("the compressed body is followed by something else")
        return data

    return inflate


def _check_plain(encoding: str, body: bytes) -> None:
    """Refuse a body in an encoding that is not undone, unless it is an image as it is.

    Servers label images `aws-chunked` (S3, after the chunks are gone), `utf-8`, `base64`, `binary`
    or `none` although nothing was done to them: the bytes decide. Raises FetchError.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"} or sniff(body[:HEAD_BYTES]):
        return
    raise _failed(f"the server sent {one_line(name, 40)} encoding, which was not asked for")


def _window_bits(encoding: str, start: bytes) -> int:
    if encoding != "deflate":
        return 16 + zlib.MAX_WBITS
    # `deflate` means zlib's format (RFC 9110, 8.4.1.2), but some servers send it without a header.
    return zlib.MAX_WBITS if start[0] & 0x0F == 8 else -zlib.MAX_WBITS


def _status_error(response: _Response) -> FetchError:
    phrase = response.reason or ""
    with suppress(ValueError):
        phrase = http.HTTPStatus(response.status).phrase
    error = ImageError(
        ErrorCode.HTTP_ERROR,
        f"the server answered {response.status} {one_line(phrase, 60)}".strip(),
    )
    if response.status == 429 or response.status >= 500:
        return _RetryableError(error, _retry_after(response.headers.get("Retry-After")))
    return FetchError(error)


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header (RFC 9110, 10.2.3): a number or a date."""
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _too_large(limit: int, size: int | None = None) -> FetchError:
    what = "more than the limit" if size is None else f"{size} bytes is over the limit"
    message = f"{what} of {limit} bytes; raise it with --max-file-size"
    return FetchError(ImageError(ErrorCode.FILE_TOO_LARGE, message), size)


def _failed(message: str) -> FetchError:
    return FetchError(ImageError(ErrorCode.FETCH_FAILED, message))


def _retry(message: str) -> _RetryableError:
    return _RetryableError(ImageError(ErrorCode.FETCH_FAILED, message))


def _no_answer(message: str) -> _NoAnswerError:
    return _NoAnswerError(ImageError(ErrorCode.FETCH_FAILED, message))


def _explain(error: Exception, options: HttpOptions) -> FetchError:
    """The row's error for what the client raised. Never the exception's text, which may quote."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, AddressRefused):
        message = f"{cause.address} is not a public address; --allow-private-network permits it"
        return FetchError(ImageError(ErrorCode.ADDRESS_NOT_ALLOWED, message))
    match error:
        case aiohttp.SocketTimeoutError():
            message = f"the server fell silent for {options.read_timeout:g} seconds"
            return _NoAnswerError(ImageError(ErrorCode.FETCH_TIMEOUT, message))
        case TimeoutError():
            message = f"no connection within {options.connect_timeout:g} seconds"
            return _NoAnswerError(ImageError(ErrorCode.FETCH_TIMEOUT, message))
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or "not valid"
            return _failed(f"the server's certificate: {one_line(reason, 100)}")
        case aiohttp.ClientSSLError():
            reason = getattr(cause, "reason", None) or "handshake failed"
            return _failed(f"TLS: {one_line(str(reason), 100)}")
        case aiohttp.ClientConnectorDNSError():
            if isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_NAME:
                return _failed("the host name has no address")
            return _no_answer("the host name cannot be looked up")
        case aiohttp.ClientHttpProxyError():
            return _failed(f"the proxy answered {error.status}")
        case aiohttp.ClientProxyConnectionError():
            return _no_answer(f"cannot connect to the proxy: {_reason(cause)}")
        case aiohttp.ClientConnectorError():
            return _no_answer(f"cannot connect: {_reason(cause)}")
        case aiohttp.ClientPayloadError():
            return _retry("the body broke off or is not framed as announced")
        case aiohttp.ClientResponseError():
            return _failed("the server's answer is not valid HTTP")
        case aiohttp.ClientConnectionError() | OSError():
            message = "the connection broke off"
            return _BrokenOffError(ImageError(ErrorCode.FETCH_FAILED, message))
        case _:
            return _failed(f"cannot be fetched ({type(error).__name__})")


def _reason(error: BaseException) -> str:
    code = getattr(error, "errno", None)
    return os.strerror(code) if code else one_line(str(error) or type(error).__name__, 100)
