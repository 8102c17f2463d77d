"""Bytes behind http and https URLs, fetched concurrently on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any
from urllib.request import getproxies_environment

from moderate.errors import ConfigError
from moderate.fetch.address import make_guard
from moderate.fetch.http_client import CLOSE_SECONDS, Client
from moderate.fetch.http_resolver import GetAddrInfo
from moderate.fetch.options import HttpOptions
from moderate.text import one_line

_LOG = logging.getLogger(__name__)

# Configuration must not set what frames the message or changes what a 200 means.
_OWN_HEADER = re.compile(
    r"accept-encoding|connection|content-length|expect|host|keep-alive|proxy-.*|range|te|trailer"
    r"|transfer-encoding|upgrade",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class HttpFetcher:
    """Fetches URLs concurrently, on a thread that starts with the first one.

    A context manager. `submit` may be called from any thread. At most `options.concurrency` bodies
    of up to `options.max_bytes` are held while they arrive. Complete ones are held until their
    future is dropped, so the caller has to bound how many futures it keeps.

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
        self._running: tuple[threading.Thread, asyncio.AbstractEventLoop, Client] | None = None

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
        """Start fetching `url`; the future's result is the body of a 200, which is never empty.

        result() raises FetchError with one of `bad_url`, `address_not_allowed`, `fetch_timeout`,
        `fetch_failed`, `host_unreachable`, `http_error`, `too_many_redirects`, `file_too_large` and
        `empty_file`, and CancelledError where the fetcher was closed first. Cancelling the future
        ends the fetch.
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
        """Cancel what is under way and end the thread, within 2 seconds. May be called again."""
        with self._lock:
            self._closed = True
            running = self._running
            if running is None:
                return
            thread, loop, client = running
            with suppress(RuntimeError):  # the loop has ended already
                loop.call_soon_threadsafe(client.stop.set)
        thread.join(CLOSE_SECONDS)

    def _start(self) -> tuple[threading.Thread, asyncio.AbstractEventLoop, Client]:
        started: Future[tuple[asyncio.AbstractEventLoop, Client]] = Future()
        thread = threading.Thread(
            target=self._run, args=(started,), name="moderate-fetch", daemon=True
        )
        thread.start()
        return (thread, *started.result())

    def _run(self, started: Future[tuple[asyncio.AbstractEventLoop, Client]]) -> None:
        try:
            asyncio.run(self._serve(started))
        except Exception as error:  # noqa: BLE001 - raised where `_start` waits
            if not started.done():
                started.set_exception(error)

    async def _serve(self, started: Future[tuple[asyncio.AbstractEventLoop, Client]]) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_quietly)
        client = Client(self._options, self._guard, self._proxies, self._getaddrinfo)
        started.set_result((loop, client))
        try:
            await client.stop.wait()
        finally:
            await client.close()


def _log_quietly(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Rows report broken connections; asyncio would also print their tracebacks.
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
    proxies = getproxies_environment()
    return {kind: url for kind, url in proxies.items() if kind in {"http", "https", "no"}}
