"""A file that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import BinaryIO

from moderate.errors import OutputError
from moderate.text import printable


class AtomicFile:
    """Written beside its target, fsynced, then renamed over it.

    Raises OutputError where the folder cannot be written to.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        folder, name = os.path.split(os.path.abspath(target))
        self._folder = folder
        # A name too long for a suffix of ours would fail late; the token alone is unique enough.
        self._temporary = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(4)}.part")
        try:
            if os.path.isdir(target):
                raise OutputError(f"cannot write {printable(target)}: it is a folder")
            self.file: BinaryIO = open(self._temporary, "xb")  # noqa: SIM115 - closed by commit or discard
        except OSError as error:
            raise output_error(target, error) from error

    def commit(self) -> None:
        """Put the file under its name. Raises OutputError and leaves the old file as it was."""
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self._temporary, self.target)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            self.discard()
            raise output_error(self.target, error) from error

    def discard(self) -> None:
        """Remove what was written, unless it was committed."""
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)


def write_atomic(target: str, data: bytes) -> None:
    """The whole of a small file at once. Raises OutputError."""
    atomic = AtomicFile(target)
    try:
        atomic.file.write(data)
    except OSError as error:
        atomic.discard()
        raise output_error(target, error) from error
    atomic.commit()


def output_error(target: str, error: OSError) -> OutputError:
    """The line for a file that the system would not let us write."""
    return OutputError(f"cannot write {printable(target)}: {error.strerror or error}")
