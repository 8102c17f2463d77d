"""How URLs are fetched: limits, politeness, headers, and which addresses are fine."""

from __future__ import annotations

from dataclasses import dataclass, field

from moderate.types import Limits
from moderate.version import __version__


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """What fetching a URL may cost and where it may lead. Times are in seconds.

    `total_timeout` is for one URL with its redirects, retries and the waits between them, counted
    from its turn on: waiting for a free place at its host is not part of it. `read_timeout` is the
    longest silence. `attempts` is how many requests are sent at most for a URL whose failure may
    pass (no connection, a connection that breaks off, silence, 429, 5xx), the first one included;
    each redirect followed is one more request. `headers` go with every URL of the input, but
    after a redirect only to the host it started from, and are never shown. `allowed_hosts` holds
    host names, addresses and networks (10.1.0.0/16) that may be reached although not public.

    A host and port that gave no answer to `host_failures` requests in a row, over at least
    `host_patience` seconds (or `total_timeout`, where that is less), is not asked any more: its
    URLs fail at once. One request every `host_pause` seconds finds out whether it answers again.
    """

    max_bytes: int = Limits().max_file_bytes
    total_timeout: float = 20.0
    connect_timeout: float = 5.0
    read_timeout: float = 10.0
    concurrency: int = 64
    concurrency_per_host: int = 32
    max_redirects: int = 5
    attempts: int = 3
    backoff: float = 0.5
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    user_agent: str = f"moderate/{__version__}"
    host_failures: int = 8
    host_patience: float = 20.0
    host_pause: float = 30.0
    allow_private: bool = False
    allowed_hosts: tuple[str, ...] = ()
