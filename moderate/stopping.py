"""A signal that ends the command: raised wherever the command is, and noted for when it is lost.

What a handler raises is an exception like any other: where it arrives amid an import or in a
library's callback, it comes out as an ordinary error, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_noted: int | None = None
_too_late = False


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived; a BaseException, so that no handler for errors takes it for one.

    Its argument is the signal's number.
    """


def note(number: int) -> bool:
    """A signal has arrived; whether it is the first, and not too late to stop anything."""
    global _noted
    if _too_late or _noted is not None:
        return False
    _noted = number
    return True


def check() -> None:
    """Raises Stopped where a signal has arrived: for handlers of errors it may have turned into."""
    if _noted is not None:
        raise Stopped(_noted)


@contextmanager
def finishing() -> Iterator[None]:
    """Signals come too late from here on, unless this fails: what was asked for is being put down.

    For what ends within moments, so that it is done as a whole or not at all.
    """
    global _too_late
    _too_late = True
    try:
        yield
    except BaseException:
        _too_late = False
        raise


def begin() -> None:
    """Nothing has arrived yet."""
    global _noted, _too_late
    _noted, _too_late = None, False
