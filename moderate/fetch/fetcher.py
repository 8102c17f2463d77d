"""The bytes of an image, wherever it is: at once where they are near, in the future where not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

from moderate.fetch.breaker import Breaker
from moderate.fetch.local import FetchError, read_file
from moderate.fetch.options import HttpOptions
from moderate.text import one_line
from moderate.types import ErrorCode, ImageError, ImageRef, Inline, Limits, Url

if TYPE_CHECKING:
    from moderate.fetch.http import HttpFetcher
    from moderate.fetch.store import StoreFetcher

STORE_CONCURRENCY = 16
"""Objects read at once from object stores."""

_NO_ANSWER = frozenset({ErrorCode.FETCH_TIMEOUT, ErrorCode.FETCH_FAILED})
"""Codes that speak against a store, not only against one of its objects."""


class Fetcher:
    """A context manager that holds the connections. `fetch` is called from one thread."""

    def __init__(self, limits: Limits, http: HttpOptions) -> None:
        self._limits = limits
        self._options = http
        self._http: HttpFetcher | None = None
        self._stores: StoreFetcher | None = None
        self._turns = threading.Semaphore(STORE_CONCURRENCY)
        self._breaker = Breaker(
            failures=http.host_failures,
            patience=min(http.host_patience, http.total_timeout),
            pause=http.host_pause,
        )
        self._closed = False

    def __enter__(self) -> Self:
        """Nothing is opened before the first image that needs it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel all fetches that are under way."""
        self._closed = True
        if self._http:
            self._http.close()
        self._turns.release()  # a waiting thread has to see that the run is over

    def fetch(self, ref: ImageRef) -> bytes | Future[bytes]:
        """The bytes of `ref`, or their future. Either raises FetchError."""
        where = ref.location
        if self._closed:
            raise FetchError(ImageError(ErrorCode.FETCH_FAILED, "the run is over"))
        if where is None:
            limit = self._limits.max_file_bytes
            return read_file(ref.path, limit, follow_symlinks=ref.follow_symlinks)
        if isinstance(where, Inline):
            return where.data
        if isinstance(where, Url):
            return self._http_fetcher().submit(where.url)
        return self._submit_object(where.uri)

    def _http_fetcher(self) -> HttpFetcher:
        if self._http is None:
            from moderate.fetch.http import HttpFetcher

            self._http = HttpFetcher(self._options)
        return self._http

    def _submit_object(self, uri: str) -> Future[bytes]:
        """Read on a thread of its own, which is given up when it takes too long.

        The stores' clients know silence, but no end to a trickle, and cannot be interrupted.
        """
        from moderate.fetch.store import StoreFetcher, parse_store_uri

        if self._stores is None:
            self._stores = StoreFetcher()
        stores, seconds = self._stores, self._options.total_timeout
        parsed = parse_store_uri(uri)
        bucket = (parsed.scheme, parsed.place, parsed.options)
        breaker = self._breaker
        coming: Future[bytes] = Future()
        first = threading.Lock()

        def settle(put: Callable[[Any], None], value: Any) -> None:
            if not first.acquire(blocking=False):
                return
            if isinstance(value, FetchError) and value.error.code in _NO_ANSWER:
                breaker.failed(bucket, began, value.error.message)
            else:
                breaker.succeeded(bucket)
            put(value)
            self._turns.release()

        def read() -> None:
            try:
                data = stores.fetch(uri, self._limits.max_file_bytes)
            except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
                settle(coming.set_exception, error)
            else:
                settle(coming.set_result, data)
            timer.cancel()

        too_late = (
            f"the store did not deliver within {seconds:g} s; raise the limit with --url-timeout"
        )
        late = FetchError(ImageError(ErrorCode.FETCH_TIMEOUT, too_late))
        self._turns.acquire()
        if reason := breaker.refusal(bucket):
            self._turns.release()
            message = f"{parsed.with_key('').shown} is not asked again for now: {reason}"
            raise FetchError(ImageError(ErrorCode.HOST_UNREACHABLE, one_line(message)))
        began = breaker.now()
        timer = threading.Timer(seconds, settle, (coming.set_exception, late))
        timer.daemon = True
        thread = threading.Thread(target=read, name="store", daemon=True)
        try:
            timer.start()
            thread.start()
        except RuntimeError as error:  # the system has no room for another thread
            timer.cancel()
            if first.acquire(blocking=False):
                self._turns.release()
            raise FetchError(ImageError(ErrorCode.FETCH_FAILED, f"not read: {error}")) from None
        return coming
