"""Guards the terminal: control characters from files never reach it."""

from __future__ import annotations

import codecs
import io
import select
import sys
from typing import IO, TextIO, cast

from moderate.text import for_terminal


class GuardedTerminal(io.TextIOWrapper):
    """A text stream to `terminal` in which control characters arrive as escapes.

    What is written to its `buffer` passes the same way, so results on standard output do, too.
    """

    def __init__(self, terminal: TextIO, kept: str = "\t\n") -> None:
        self.terminal = terminal
        super().__init__(
            cast(IO[bytes], _GuardedBytes(terminal, kept)),
            encoding=terminal.encoding,
            errors="backslashreplace",
            newline="",
            write_through=True,
        )


class _GuardedBytes(io.BufferedIOBase):
    """The bytes of a `GuardedTerminal`, read in the encoding that the terminal has."""

    def __init__(self, terminal: TextIO, kept: str) -> None:
        self._terminal = terminal
        self._kept = kept
        self._decoder = codecs.getincrementaldecoder(terminal.encoding)("backslashreplace")

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._terminal.isatty()

    def fileno(self) -> int:
        return self._terminal.fileno()

    def write(self, data: bytes) -> int:  # type: ignore[override]
        # Part of a character waits for the rest of it.
        self._terminal.write(for_terminal(self._decoder.decode(data), self._kept))
        return len(data)

    def flush(self) -> None:
        self._terminal.flush()


def guard_terminals() -> None:
    """Put the guard before standard output and standard error where they are terminals."""
    if sys.stdout is not None and sys.stdout.isatty():
        sys.stdout = GuardedTerminal(sys.stdout)
    if sys.stderr is not None and sys.stderr.isatty():
        # Progress bars of libraries, which go there, draw a line anew after a carriage return.
        sys.stderr = GuardedTerminal(sys.stderr, kept="\t\n\r")


def output_has_no_reader() -> bool:
    """Whether standard output or standard error is a pipe that its reader has closed."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def unguarded(stream: IO[str]) -> IO[str]:
    """The stream behind the guard, for a writer that makes escape sequences of its own."""
    return stream.terminal if isinstance(stream, GuardedTerminal) else stream
