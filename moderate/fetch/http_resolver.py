"""Looks up host names on threads that nobody waits for, and checks the addresses."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from moderate.fetch.address import AddressRefused, Guard

GetAddrInfo = Callable[..., list[tuple[Any, ...]]]
"""`socket.getaddrinfo`, or a stand-in with its parameters and return value."""


class Resolver(AbstractResolver):
    """Resolves names for aiohttp. guard checks every address; None lets all of them pass."""

    def __init__(self, getaddrinfo: GetAddrInfo, timeout: float, guard: Guard | None) -> None:
        self._getaddrinfo = getaddrinfo
        self._timeout = timeout
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Every address of a name. Raises AddressRefused where the guard refuses one of them.

        Raises what getaddrinfo does, and TimeoutError.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[tuple[Any, ...]]] = loop.create_future()

        def settle(set_outcome: Callable[[Any], None], outcome: Any) -> None:
            if not answer.done():  # it is after a timeout
                set_outcome(outcome)

        def look_up() -> None:
            set_outcome: Callable[[Any], None] = answer.set_result
            outcome: Any
            try:
                outcome = self._getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
            except Exception as error:  # noqa: BLE001 - raised where the answer is awaited
                set_outcome, outcome = answer.set_exception, error
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, set_outcome, outcome)

        # Not the loop's thread pool: its threads are joined at the end, and a lookup can hang for
        # minutes.
        threading.Thread(target=look_up, name="moderate-resolve", daemon=True).start()
        async with asyncio.timeout(self._timeout):
            infos = await answer
        addresses = [str(info[4][0]) for info in infos]
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
            for address, info in zip(addresses, infos, strict=True)
        ]

    async def close(self) -> None:
        """See aiohttp. There is nothing to close."""
