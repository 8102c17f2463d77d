"""Hosts that have stopped answering are not waited for again and again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass(slots=True)
class _Streak:
    """Requests to one host that failed in a row. Times are those of the breaker's clock.

    `next_try` is when another request may be sent to the host; None while the circuit is closed.
    """

    count: int
    began: float
    reason: str
    next_try: float | None = None


class Breaker:
    """A circuit breaker per host. Any thread may call it.

    The circuit of a host opens after `failures` failed requests in a row, if these took at least
    `patience` seconds from the start of the first to the end of the last: many requests that are
    under way together and fail in one short outage are not enough. While it is open, `refusal`
    lets one request through every `pause` seconds; the first success closes it.

    The `capacity` hosts that failed most recently are kept; hosts that answer take no memory.
    """

    def __init__(
        self,
        *,
        failures: int,
        patience: float,
        pause: float,
        capacity: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures
        self._patience = patience
        self._pause = pause
        self._capacity = capacity
        self._clock = clock
        self._lock = threading.Lock()
        self._streaks: OrderedDict[Hashable, _Streak] = OrderedDict()

    def now(self) -> float:
        """The time, as `failed` wants it."""
        return self._clock()

    def refusal(self, host: Hashable) -> str | None:
        """Why no request may go to `host` now; None where one may, which then has to be sent."""
        with self._lock:
            streak = self._streaks.get(host)
            if streak is None or streak.next_try is None:
                return None
            now = self._clock()
            if now >= streak.next_try:
                # Should this request never end, another one may try after the same pause.
                streak.next_try = now + self._pause
                return None
            return f"{streak.count} requests in a row failed, the last one with: {streak.reason}"

    def succeeded(self, host: Hashable) -> None:
        """The host gave an answer, whichever."""
        with self._lock:
            self._streaks.pop(host, None)

    def failed(self, host: Hashable, began: float, reason: str) -> None:
        """The host gave no answer to a request that was sent at `began`."""
        with self._lock:
            now = self._clock()
            streak = self._streaks.setdefault(host, _Streak(0, began, reason))
            self._streaks.move_to_end(host)
            streak.count += 1
            streak.reason = reason
            lasted = now - streak.began
            if streak.count >= self._failures and lasted >= self._patience:
                streak.next_try = now + self._pause
            while len(self._streaks) > self._capacity:
                self._streaks.popitem(last=False)
