"""Requests for URLs inside an event loop: attempts, redirects, politeness, and the address guard.

aiohttp asks `socket_factory` for a socket once for each address it is about to connect to, whether
that came from a name, from a number in any spelling, from a redirect or from a race between IPv4
and IPv6. The address guard sits there, so nothing can change between the check and the connection.
"""

from __future__ import annotations

import asyncio
import base64
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

import aiohttp
from yarl import URL

from moderate.fetch.address import AddressRefused, Guard
from moderate.fetch.breaker import Breaker
from moderate.fetch.http_errors import (
    BrokenOffError,
    HostRefusedError,
    NoAnswerError,
    RetryableError,
    error_of,
)
from moderate.fetch.http_resolver import GetAddrInfo, Resolver
from moderate.fetch.http_response import Response, read_body, send_once
from moderate.fetch.local import FetchError
from moderate.fetch.options import HttpOptions
from moderate.fetch.url import HttpUrl, join, parse_url
from moderate.types import ErrorCode, ImageError

CLOSE_SECONDS = 2.0
"""How long closing may take; connections that are open then are dropped."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADER_BYTES = 1 << 16  # of one header line; aiohttp's own limit is 8,190


class _HostPlaces:
    """The places of one host. users are the requests that hold a place or wait for one."""

    def __init__(self, places: int) -> None:
        self.places = asyncio.Semaphore(places)
        self.users = 0


class _Clock:
    """The seconds left for one URL. The clock stands still while the URL waits for its turn."""

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


class Client:
    """Fetches URLs. Lives in one event loop; only `begin` and `stop.set` are called from outside.

    Others call these two through `call_soon_threadsafe`, so that no state here needs a lock.
    """

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
        self._hosts: dict[str, _HostPlaces] = {}
        self._breaker = Breaker(
            failures=options.host_failures,
            patience=min(options.host_patience, options.total_timeout),
            pause=options.host_pause,
        )
        self._checked_names = Resolver(getaddrinfo, options.connect_timeout, guard)
        tls = ssl.create_default_context()
        tls.set_alpn_protocols(["http/1.1"])
        self._guarded = self._session(tls, self._checked_names, self._guarded_socket)
        # For hosts that are trusted by name, and for the proxy.
        all_names = Resolver(getaddrinfo, options.connect_timeout, None)
        self._trusted = self._session(tls, all_names, None)

    def _session(
        self,
        tls: ssl.SSLContext,
        resolver: Resolver,
        socket_factory: Callable[[Any], socket.socket] | None,
    ) -> aiohttp.ClientSession:
        options = self._options
        connector = aiohttp.TCPConnector(
            ssl=tls, resolver=resolver, limit=0, socket_factory=socket_factory
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=Response,
            auto_decompress=False,
            middlewares=(send_once,),
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
            await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS / 2)
        await self._guarded.close()
        await self._trusted.close()

    def begin(self, url: str, future: Future[bytes]) -> None:
        """Start fetching; the body or the error goes into `future`."""
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
                # A new one: the traceback of this one keeps the part of the body that was read.
                future.set_exception(FetchError(error.error, error.size))
            else:
                future.set_exception(error)

        def cancel_task(future: Future[bytes]) -> None:
            if future.cancelled():  # by the caller, on the caller's thread
                with suppress(RuntimeError):  # the loop has ended already
                    loop.call_soon_threadsafe(task.cancel)

        task.add_done_callback(deliver)
        future.add_done_callback(cancel_task)

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
            except HostRefusedError as refusal:
                # This URL's own failure says more than those of others.
                raise FetchError((previous or refusal).error) from None
            except RetryableError as failure:
                previous = failure
                wait = self._wait_before(attempt, failure.after)
                if attempt == 1 and isinstance(failure, BrokenOffError):
                    wait = 0.0  # perhaps a kept connection that the server had closed by then
                if attempt >= self._options.attempts or wait >= clock.left:
                    raise FetchError(failure.error) from None
            clock.left -= wait
            attempt += 1
            await asyncio.sleep(wait)

    def _wait_before(self, attempt: int, asked: float | None) -> float:
        # Half fixed, half random, so that many URLs of one host do not retry all at once.
        backoff = self._options.backoff * 2.0 ** (attempt - 1)
        backoff *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret
        return backoff if asked is None else asked + backoff / 4

    async def _follow(self, first: HttpUrl, clock: _Clock) -> bytes:
        url = first
        for _ in range(self._options.max_redirects + 1):
            async with self._turn(url.host):
                # Checked in the turn: the host may stop answering while this URL waits for it.
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
            raise HostRefusedError(ImageError(ErrorCode.HOST_UNREACHABLE, message))

    @contextmanager
    def _watched(self, url: HttpUrl, clock: _Clock) -> Iterator[None]:
        """Tell the breaker about a request that got no answer."""
        began, allowed = self._breaker.now(), clock.left
        try:
            yield
        except FetchError as error:
            # A timeout says nothing about a host to which a redirect left little time.
            is_late = error.error.code is ErrorCode.FETCH_TIMEOUT and allowed >= clock.total / 2
            if is_late or isinstance(error, NoAnswerError):
                self._breaker.failed((url.host, url.port), began, error.error.message)
            raise

    @asynccontextmanager
    async def _turn(self, host: str) -> AsyncIterator[None]:
        # A place at the host comes first: waiting there must not keep other hosts waiting.
        turn = self._hosts.setdefault(host, _HostPlaces(self._options.concurrency_per_host))
        turn.users += 1
        try:
            async with turn.places, self._places:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._hosts[host]

    async def _request(self, url: HttpUrl, first: HttpUrl) -> bytes | HttpUrl:
        """Send one request; returns the body of a 200, or the URL that a redirect leads to."""
        try:
            proxy = self._proxy(url)
            if proxy is not None:
                await self._check_before_proxy(url)
            is_trusted = proxy is not None or self._guard.trusts(url.host)
            session = self._trusted if is_trusted else self._guarded
            async with session.get(
                URL(url.text, encoded=True),
                headers=self._headers(url, first),
                proxy=proxy,
                allow_redirects=False,
            ) as response:
                assert isinstance(response, Response)
                try:
                    outcome = self._redirect(url, response) or await read_body(
                        response, self._options.max_bytes
                    )
                except FetchError:  # the host answered all the same
                    self._breaker.succeeded((url.host, url.port))
                    raise
                finally:
                    response.give_back()
                self._breaker.succeeded((url.host, url.port))
                return outcome
        except FetchError:
            raise
        except Exception as error:  # noqa: BLE001 - no server may cost more than its own URL
            raise error_of(error, self._options) from None

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
        """Refuse what is not public, as far as this machine can tell, before a proxy is used.

        The proxy looks the name up itself and may get another address: only its own rules can
        prevent that. Raises AddressRefused, or FetchError where the name has no address here.
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

    def _redirect(self, url: HttpUrl, response: Response) -> HttpUrl | None:
        location = response.headers.get("Location")
        if response.status not in _REDIRECTS or not location:
            return None
        target = join(url, location)
        if isinstance(target, ImageError):
            raise FetchError(ImageError(target.code, f"after a redirect: {target.message}"))
        return target


def _is_upgrade(first: HttpUrl, url: HttpUrl) -> bool:
    plain = (first.scheme, first.port) == ("http", 80)
    return plain and url.origin == ("https", first.host, 443)
