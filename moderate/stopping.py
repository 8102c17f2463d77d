"""Signals that end the command: raised as an exception, and noted in case that exception is lost.

What a handler raises is an exception like any other: where it arrives amid an import or in a
library's callback, it comes out as an ordinary error, or not at all.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_noted: int | None = None
_too_late = False


class Stopped(BaseException):
    """SIGHUP, SIGINT or SIGTERM arrived; its argument is the signal's number.

    A BaseException, so that no handler for errors takes it for one.
    """


def signals() -> list[signal.Signals]:
    """The signals that stop the command.

    SIGHUP, the end of the terminal, is not among them where whoever started the command had it
    ignored, as nohup does: the command is to outlive the terminal then.
    """
    stopping = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        stopping.remove(signal.SIGHUP)
    return stopping


def exit_code(number: int) -> int:
    """The exit code after a signal, as shells have it: 129, 130 or 143."""
    return 128 + number


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
    """From here on signals no longer stop the command: its results are being written.

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
    """Reset: no signal has arrived yet."""
    global _noted, _too_late
    _noted, _too_late = None, False
