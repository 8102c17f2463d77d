"""The bytes of an image, wherever it is: at once where they are near, in the future where not."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from moderate.fetch.local import FetchError, read_file
from moderate.fetch.options import HttpOptions
from moderate.types import ErrorCode, ImageError, ImageRef, Inline, Limits, Url

if TYPE_CHECKING:
    from moderate.fetch.http import HttpFetcher
    from moderate.fetch.store import StoreFetcher

STORE_THREADS = 16
"""Objects read at once from object stores."""


class Fetcher:
    """A context manager that holds the connections. `fetch` is called from one thread."""

    def __init__(self, limits: Limits, http: HttpOptions) -> None:
        self._limits = limits
        self._options = http
        self._http: HttpFetcher | None = None
        self._stores: StoreFetcher | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    def __enter__(self) -> Self:
        """Nothing is opened before the first image that needs it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give up whatever is still on its way."""
        self._closed = True
        if self._http:
            self._http.close()
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)

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
        if self._stores is None or self._threads is None:
            from moderate.fetch.store import StoreFetcher

            self._stores = StoreFetcher()
            self._threads = ThreadPoolExecutor(STORE_THREADS, "store")
        return self._threads.submit(self._stores.fetch, uri, self._limits.max_file_bytes)
