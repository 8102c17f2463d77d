"""A signal that ends the command: raised wherever the command is, and noted for when it is lost.

What a handler raises is an exception like any other: where it arrives amid an import or in a
library's callback, it comes out as an ordinary error, or not at all.
"""

from __future__ import annotations

_noted: int | None = None


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived; a BaseException, so that no handler for errors takes it for one.

    Its argument is the signal's number.
    """


def note(number: int) -> None:
    """A signal has arrived."""
    global _noted
    _noted = number


def check() -> None:
    """Raises Stopped where a signal has arrived: for handlers of errors it may have turned into."""
    if _noted is not None:
        raise Stopped(_noted)
