"""How URLs are fetched: limits, politeness, headers, and which addresses are fine."""

from __future__ import annotations

from dataclasses import dataclass, field

from moderate.version import __version__


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """What fetching a URL may cost and where it may lead. Times are in seconds.

    `total_timeout` is for one URL with its redirects, retries and the waits between them, counted
    from its turn on: waiting for a free place at its host is not part of it. `read_timeout` is the
    longest silence. `attempts` counts the first one. `headers` go with every URL of the input, but
    after a redirect only to the host it started from, and are never shown. `allowed_hosts` holds
    host names, addresses and networks (10.1.0.0/16) that may be reached although not public.
    """

    max_bytes: int = 10 * 1024 * 1024
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
    allow_private: bool = False
    allowed_hosts: tuple[str, ...] = ()
