"""Results in an object store: what they are called, and how a whole file gets there and back."""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading

from moderate.errors import InputError
from moderate.text import path_text, printable
from moderate.types import ErrorCode

_PIECE = 4 << 20  # bytes

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_remote(target: str) -> bool:
    """Whether a target is a URI and no local file."""
    return bool(_URI.match(target))


def target_name(target: str) -> str:
    """The part of a target that ends in its suffix: a URI may have options behind it."""
    return target.partition("?")[0] if is_remote(target) else target


def shown_target(target: str) -> str:
    """A target as messages name it: without credentials, fit for a terminal."""
    from moderate.fetch.naming import shown

    exact = shown(os.fsencode(target)) if is_remote(target) else os.fsencode(target)
    return printable(path_text(exact))


def receive(uri: str, path: str) -> None:
    """Download an object to a new local file. Raises InputError, FileNotFoundError for none."""
    from moderate.fetch.local import FetchError
    from moderate.fetch.store import open_input

    try:
        with open_input(uri) as source, open(path, "xb") as target:
            shutil.copyfileobj(source, target, _PIECE)
    except FetchError as error:
        if error.error.code == ErrorCode.NOT_FOUND:
            raise FileNotFoundError(errno.ENOENT, error.error.message) from None
        raise InputError(f"cannot read {shown_target(uri)}: {error.error.message}") from None
    except OSError as error:
        raise InputError(f"cannot read {shown_target(uri)}: {error.strerror or error}") from None


def send(descriptor: int, uri: str) -> None:
    """Upload the whole of an open local file, ready to be interrupted by a signal at any time.

    Raises OutputError.
    """
    from moderate.fetch.store import upload

    failed: list[BaseException] = []
    # Its own: where a signal ends the wait, the caller closes the file while the thread reads on.
    duplicate = os.dup(descriptor)
    os.lseek(duplicate, 0, os.SEEK_SET)

    def work() -> None:
        try:
            upload(duplicate, uri)
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            failed.append(error)

    # The store's client waits where Python's signal handlers do not run.
    thread = threading.Thread(target=work, name="upload", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if failed:
        raise failed[0]
