"""Times of a run as the state keeps them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=4096)  # of a run, many rows have the same
def moment(seconds: int) -> datetime | None:
    """The time so many seconds after 1970; None for what no clock can have said."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
